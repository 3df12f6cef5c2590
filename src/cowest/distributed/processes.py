"""Several processes of this machine run one stage together.

    this process -> agent (torchrun) -> rank 0, rank 1, ...

This process and its ranks end together. Each rank reads from a pipe that this process alone holds
open, so that no rank is left over, whichever process is killed.
"""

import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from cowest import environment, io
from cowest.distributed.task import Task, error_of
from cowest.errors import CoWestError
from cowest.ledger import account

PATIENCE = 20
"""Seconds that ranks have to end after they were asked to, before they are killed."""


def train(task: Task, count: int) -> None:
    """Runs a stage in `count` processes. Raises the stage's error, and CoWestError if one dies.

    A signal that ends this process ends them too.
    """
    with tempfile.TemporaryDirectory(prefix="cowest-") as scratch:
        folder = Path(scratch)
        _write(folder / "task.json", task)
        command = [sys.executable, "-m", "cowest.distributed.agent", str(folder), str(count)]
        # A session of its own: what is typed in a terminal reaches the agent by us alone.
        agent = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, env=_surroundings(count), start_new_session=True
        )
        assert agent.stdin is not None
        try:
            status = agent.wait()
        except BaseException:
            agent.terminate()
            raise
        finally:
            # The ranks read its end, should the agent have died without them.
            _end(agent)
        if status != 0:
            raise _reason(folder, task.stage, count)
    # The largest process did the work; this one waited.
    account.current().peak_memory = account.peak(resource.RUSAGE_CHILDREN)


def _write(path: Path, task: Task) -> None:
    """Writes a task as JSON for the ranks."""
    values = {
        "stage": task.stage,
        "config": task.config.model_dump(mode="json"),
        "ports": {name: str(at) for name, at in {**task.inputs, **task.outputs}.items()},
    }
    io.write_text(path, json.dumps(values))


def _surroundings(count: int) -> dict[str, str]:
    """Returns the environment of the ranks."""
    found = dict(os.environ)
    allowed = environment.allowed_cores()
    # `environment.settle` sets what a container allows, for this process alone. Left out, torchrun
    # would give each process one thread.
    if found.get("OMP_NUM_THREADS") in (None, str(allowed)):
        here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        found["OMP_NUM_THREADS"] = str(max(1, (allowed or here or 1) // count))
    if platform.system() == "Linux":
        # What they tell each other stays on this machine, also where its own name has no address.
        found.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return found


def _end(agent: "subprocess.Popen[bytes]") -> None:
    """Ends the agent if it still runs. Closing the pipe ends the ranks."""
    try:
        agent.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()
    assert agent.stdin is not None
    agent.stdin.close()


def _reason(folder: Path, stage: str, count: int) -> CoWestError:
    """Returns the error of the first rank that wrote one down."""
    for rank in range(count):
        place = folder / f"error-{rank}.json"
        if place.is_file():
            return error_of(place.read_bytes())
    try:
        failures: dict[str, int] = json.loads((folder / "failures.json").read_text())
    except FileNotFoundError:
        return CoWestError(
            f"{stage}: torchrun was ended from outside, and its {count} processes with it: "
            "run the stage again"
        )
    for name, status in failures.items():
        if status < 0:
            return CoWestError(
                f"{stage}: process {int(name) + 1} of {count} was ended by "
                f"{signal.Signals(-status).name} (SIGKILL is often the system, out of memory), "
                "and the others were stopped: run the stage again"
            )
    first = int(next(iter(failures))) + 1
    return CoWestError(
        f"{stage}: process {first} of {count} failed for the reason above, and the others "
        "were stopped"
    )
