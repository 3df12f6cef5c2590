"""Training goes on where a kill interrupted it, and ends in the same bytes.

    .cowest/training/<digest of all that the training rests on>/
        checkpoint-40/       written by the Trainer
        checkpoint-40.whole  its digest, written when all of it is there

A folder is removed when its stage has ended. DVC deletes what a stage makes before it runs it
again, so checkpoints are no part of that.
"""

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cowest import io
from cowest.config import digest, file_digest
from cowest.errors import ConfigError, InputError

FOLDER = Path(".cowest/training")
WEEK = 7 * 24 * 3600
"""Seconds after which a training that was killed and never gone on with is removed."""


def is_first() -> bool:
    """Says whether this is the first of several processes that train together, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """Returns how many processes train together: torchrun says so."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def expect_all(trainer: Any) -> None:
    """Raises ConfigError if a trainer trains with other processes than were started together.

    A library that does not see them would train in each alone, and every one would be the first.
    """
    if trainer.accelerator.num_processes != processes():
        raise ConfigError(
            f"{processes()} processes were started to train together, and the trainer sees "
            f"{trainer.accelerator.num_processes}: start them with torchrun"
        )


@contextmanager
def made(path: Path) -> Iterator[Path]:
    """A folder that replaces `path` when the block ends without an error.

    Of several processes the first one writes it; the others get a folder that is thrown away.
    """
    if is_first():
        with io.replacing_folder(path) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cowest-") as scratch:
        yield Path(scratch)


@contextmanager
def kept(rests_on: Any) -> Iterator[Path]:
    """The folder of a training's checkpoints, which is removed when the block ends without error.

    `rests_on` is all that the trained weights follow from. Another process that trains the same at
    the same time has a folder of its own, as has one that may not write here. Several that train
    together need this one: raises InputError where they can't have it.
    """
    folder = FOLDER / digest(rests_on)
    if not is_first():
        yield folder
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if processes() > 1:
            raise InputError(
                f"{folder}: processes that train together keep their checkpoints here, and can't "
                f"({error.strerror}): does another start of this stage still train the same?"
            ) from None
        with tempfile.TemporaryDirectory(prefix="cowest-") as scratch:
            # GRPO names its policy after the folder: under another name no stored call is found.
            place = Path(scratch, folder.name)
            place.mkdir()
            yield place
        return
    with lock:
        # It may be older than a week itself.
        os.utime(folder)
        _remove_old()
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _remove_old() -> None:
    """Removes trainings that were killed and never gone on with, and leaves those that run."""
    for folder in FOLDER.iterdir():
        try:
            if time.time() - folder.stat().st_mtime > WEEK and not _is_locked(folder):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            # Another process removed it meanwhile, or it is not ours to remove.
            continue


def _is_locked(folder: Path) -> bool:
    """True if a process trains in a folder now."""
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def train(trainer: Any, folder: Path, minutes: float, stage: str) -> None:
    """Trains to the end, from the last whole checkpoint in the folder if it has one.

    A checkpoint is written every so many minutes. Where it goes on, it says so.
    """
    expect_all(trainer)
    trainer.add_callback(_saving(trainer, folder, minutes))
    found = None
    if is_first():
        found = _last_whole(folder)
    if processes() > 1:
        from accelerate.utils import broadcast_object_list

        # All go on from the same one, after the others were removed.
        found = broadcast_object_list([found])[0]
    if found is None:
        trainer.train()
        return
    if is_first():
        print(f"{stage}: training goes on after step {_step(found)}", file=sys.stderr)
    trainer.train(resume_from_checkpoint=str(found))


def _last_whole(folder: Path) -> Path | None:
    """Returns the newest checkpoint that is whole, and removes all others."""
    found = sorted(folder.glob("checkpoint-*/"), key=_step)
    whole = [path for path in found if _mark(path).is_file() and _is_whole(path)]
    for path in found:
        if path not in whole[-1:]:
            _remove(path)
    return whole[-1] if whole else None


def _is_whole(path: Path) -> bool:
    return _mark(path).read_text(encoding="utf-8") == file_digest(path)


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.whole")


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _remove(path: Path) -> None:
    """Removes a checkpoint, its mark first."""
    _mark(path).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _saving(trainer: Any, folder: Path, minutes: float) -> Any:
    """Returns a callback that has a checkpoint written, and marks it when it is whole."""
    from transformers import TrainerCallback

    class Saving(TrainerCallback):  # type: ignore[misc]
        saved = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # Between two rows of the log, the sums of the next row would be lost. From its last
            # step a training would go on, since the Trainer then forgets that it was to end.
            if state.global_step % args.logging_steps or control.should_training_stop:
                return
            due = time.monotonic() - self.saved >= 60 * minutes
            if processes() > 1:
                from accelerate.utils import broadcast_object_list

                # Their clocks differ, and all have to save the same step.
                due = broadcast_object_list([due])[0]
            control.should_save = due

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.saved = time.monotonic()
            # Every process writes a part of it.
            trainer.accelerator.wait_for_everyone()
            if not is_first():
                return
            path = folder / f"checkpoint-{state.global_step}"
            io.write_text(_mark(path), file_digest(path))
            for other in folder.glob("checkpoint-*/"):
                if other != path:
                    _remove(other)

    return Saving()
