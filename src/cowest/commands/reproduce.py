"""Runs `dvc repro` for a turn, and ends with it: no stage outlives the turn that began it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cowest import stages
from cowest.errors import CoWestError

PATIENCE = 40
"""Seconds that stages have to stop after an interruption.

They wait for calls that may have to be paid for.
"""
GRACE = 5
"""Seconds that are given to what was killed, such as a process in the middle of a write."""


def reproduce(force: bool, lock: int) -> None:
    """Runs `dvc repro` on this terminal. Raises CoWestError that names the stage that failed."""
    arguments = ["repro"]
    if force:
        arguments.append("--force")
    if _dvc(arguments, lock) != 0:
        stage = _first_unfinished()
        failed = f"stage {stage}" if stage else "dvc repro"
        raise CoWestError(
            f"{failed} failed, for the reason above; what was made before it is whole, and every "
            "answer is kept: mend it and run `cowest turn` again to go on"
        )


def _command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command line of this environment's DVC, and the variables that it runs with."""
    # The stages that DVC starts find their `cowest` by PATH, and it must be this one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return [sys.executable, "-m", "dvc", *arguments], os.environ | {"PATH": path}


def _dvc(arguments: list[str], lock: int) -> int:
    """Runs DVC and returns its exit status. Raises KeyboardInterrupt if we were to end.

    DVC holds the project's lock too, since it and its stage live on if we are killed.
    """
    command, environment = _command(*arguments)
    sys.stdout.flush()
    # A process group of its own, so that an interruption reaches DVC and its stage once, from us,
    # however we are ended.
    process = subprocess.Popen(  # noqa: S603
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        process_group=0,
        pass_fds=(lock,),
    )
    with _passing_on(process.pid) as ended:
        while True:
            try:
                code = process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                if ended and time.monotonic() - ended[0] > PATIENCE:
                    os.killpg(process.pid, signal.SIGKILL)
        if ended:
            # DVC ends at once at SIGTERM, and its stage has calls to wait for.
            _outlive(process.pid, ended[0])
            raise KeyboardInterrupt
    return code


def _outlive(group: int, since: float) -> None:
    """Waits until no process of a group is left; kills what is after PATIENCE from `since` on."""
    for most in (PATIENCE, PATIENCE + GRACE):
        while _lives(group):
            if time.monotonic() - since > most:
                break
            time.sleep(0.1)
        else:
            return
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _lives(group: int) -> bool:
    """True if there are processes in a group that have not ended."""
    # In a container we may be the first process, whose children are all that lost their parents.
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    # The first process of a container may reap nothing, and ended ones stay in the group for ever.
    states = _states(group)
    return not states or not states <= {"Z", "X"}


def _states(group: int) -> set[str]:
    """The states of a group's processes, as Linux names them; none where that can't be read."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        # It may end meanwhile.
        with suppress(OSError):
            # A process's own name is in brackets, and may hold anything.
            text = file.read_text(encoding="utf-8", errors="replace")
            state, _, its_group = text.rpartition(")")[2].split()[:3]
            if int(its_group) == group:
                found.add(state)
    return found


@contextmanager
def _passing_on(group: int) -> Iterator[list[float]]:
    """Passes the signals that end us on to a group of processes.

    Gives a list that gets the time of each.
    """
    ended: list[float] = []

    def end(number: int, _: object) -> None:
        # A terminal that closes may say so twice, and the second time would cut calls short. Only
        # Ctrl-C is given twice by somebody who does not want to wait.
        again = bool(ended) and number != signal.SIGINT
        ended.append(time.monotonic())
        if not again:
            with suppress(ProcessLookupError):
                # What a stage runs beside itself may know nothing of SIGHUP.
                os.killpg(group, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    kept = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup` has us ignore SIGHUP, and that stays so.
        if signal.getsignal(number) != signal.SIG_IGN:
            kept[number] = signal.signal(number, end)
    try:
        yield ended
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _first_unfinished() -> str | None:
    """The first stage that DVC would run now."""
    command, environment = _command("status", "--json")
    asked = subprocess.run(  # noqa: S603
        command,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    try:
        changed = json.loads(asked.stdout)
    except ValueError:
        return None
    for stage in stages.STAGES:
        if stage in changed:
            return stage
    return None
