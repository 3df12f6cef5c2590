"""One of several processes that run a stage together, as torchrun starts it.

`python -m cowest.rank PLACE --processes N`: PLACE is the folder of a task of this machine, or the
address of a task in a store (`distributed.parcels`). Fewer or more processes than N are an error.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cowest import checkpoints, environment, io, stages
from cowest.config import parse
from cowest.distributed import sent
from cowest.distributed.parcels import Parcels
from cowest.distributed.processes import PATIENCE
from cowest.distributed.task import described
from cowest.errors import ConfigError, CoWestError
from cowest.ports import config_of, connect


def main() -> int:
    """0: done; 1: failed, for a reason that is written down or was printed; 130: ended."""
    environment.settle()
    given = _parser().parse_args()
    if given.launched:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    signal.signal(signal.SIGTERM, _interrupt)
    is_address = "://" in given.place
    run, complain = (_run_sent, _complain_far) if is_address else (_run_here, _complain_here)
    try:
        with _quiet():
            _expect(given.processes)
            run(given.place)
    except CoWestError as error:
        complain(given.place, error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cowest.rank", description=__doc__)
    parser.add_argument("place", help="folder or address of the task")
    parser.add_argument("--processes", type=int, required=True, help="how many were asked for")
    parser.add_argument(
        "--launched", action="store_true", help="end when standard input ends: the launcher has"
    )
    return parser


def _run_here(folder: str) -> None:
    """Runs the task of a folder of this machine."""
    task = json.loads((Path(folder) / "task.json").read_text(encoding="utf-8"))
    _run(task["stage"], task["config"], task["ports"])


def _complain_here(folder: str, error: CoWestError) -> None:
    io.write_text(Path(folder) / f"error-{os.environ['RANK']}.json", described(error))


def _run_sent(place: str) -> None:
    """Runs the task of an address. The first process sends back what it made."""
    store, key = _store_of(place)
    folder = environment.cache() / "tasks" / key
    task, ports = sent.receive(store, key, folder)
    _run(task["stage"], task["config"], ports)
    if checkpoints.is_first():
        sent.answer(store, key, {name: Path(ports[name]) for name in task["outputs"]})


def _complain_far(place: str, error: CoWestError) -> None:
    print(f"cowest: {error}", file=sys.stderr)
    sent.complain(*_store_of(place), error)


def _store_of(place: str) -> tuple[Parcels, str]:
    """Splits ADDRESS/tasks/KEY into the store and the key. Raises ConfigError."""
    address, is_task, key = place.partition("/tasks/")
    if not is_task or not key.isalnum():
        raise ConfigError(f"{place!r} is no address of a task: ADDRESS/tasks/KEY")
    return Parcels(address), key


def _run(stage: str, values: dict[str, Any], ports: dict[str, str]) -> None:
    """Runs a stage without an account: who launched this process counts."""
    run = stages.main_of(stage)
    config = parse(config_of(run), values, f"settings of {stage}")
    _expect_gpus(config)
    run(**connect(run, ports, stage), config=config)


def _expect(count: int) -> None:
    """Raises ConfigError for another number of processes than asked for."""
    if checkpoints.processes() != count:
        raise ConfigError(
            f"{count} processes were asked for and {checkpoints.processes()} started: a training "
            "by fewer would only be slower, so it ends here; is it torchrun that starts them?"
        )


def _expect_gpus(config: object) -> None:
    """Raises ConfigError where this machine has fewer GPUs than processes."""
    device = getattr(getattr(config, "policy", None), "device", "cpu")
    if device == "cpu":
        return
    import torch

    there, here = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if there < here:
        raise ConfigError(
            f"{here} processes were asked for on this machine, one per GPU, and torch sees "
            f"{there} GPUs: ask for {there} (COWEST_NPROC), or for more GPUs"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lets the first process alone speak: what the others would say is the same."""
    if checkpoints.is_first():
        yield
        return
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        yield


def _end_with_launcher() -> None:
    """Ends this process when its launcher has ended, which closes the pipe that it holds open."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # A process that waits for another in a library's own code hears no signal.
    time.sleep(PATIENCE / 2)
    os._exit(1)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
