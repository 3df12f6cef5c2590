"""Runs a training stage in several processes instead of this one, if the environment asks for it.

    COWEST_NPROC=4        four processes on this machine, one per GPU (`processes`)
    COWEST_TRAINJOB={..}  processes on several nodes of a cluster (`trainjob`)

Neither is a setting of params.yaml nor a part of the turn's key. Like the device, they say where a
training is computed, and they change its result by rounding alone.
"""

import os

from cowest.distributed.task import Task
from cowest.errors import ConfigError


def elsewhere(task: Task, alone: str | None = None) -> bool:
    """Returns True if other processes have run the stage, and False if the caller should train.

    The caller trains if it is one of those processes, or if nobody asked for more than one. `alone`
    is a setting for which the stage needs one process, with what it does: one that asks models
    while it trains claims and counts the calls. Raises ConfigError where fewer processes were
    started than asked for, or might be. Raises what the stage raises in the other processes.
    """
    asked = processes_asked()
    if alone is not None:
        _expect_one(alone)
    if "WORLD_SIZE" in os.environ:
        expect(asked)
        return False
    # Kubeflow Trainer sets these for torchrun alone: a training without it would run once on each
    # node, every copy believing that it is the only one.
    if "PET_NNODES" in os.environ or "PET_NPROC_PER_NODE" in os.environ:
        raise ConfigError(
            f"{task.stage}: Kubeflow Trainer started this container for torchrun, and its command "
            "runs without it: begin the command with `torchrun -m`"
        )
    from cowest.distributed import trainjob

    nodes = trainjob.asked()
    if nodes is not None:
        if asked not in (None, 1):
            raise ConfigError(
                f"{task.stage}: COWEST_NPROC={asked} asks for processes on this machine, and "
                "COWEST_TRAINJOB for nodes of a cluster, whose processes are its `processes`: "
                "unset one of them"
            )
        trainjob.train(task, nodes)
        return True
    if asked in (None, 1):
        return False
    from cowest.distributed import processes

    processes.train(task, asked)
    return True


def _expect_one(reason: str) -> None:
    """Raises ConfigError if several processes were asked for or started."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    on_nodes = bool(os.environ.get("COWEST_TRAINJOB"))
    if started > 1 or processes_asked() not in (None, 1) or on_nodes:
        raise ConfigError(
            f"{reason}, and needs a single process for that: unset COWEST_NPROC and "
            "COWEST_TRAINJOB for this stage (`nproc: 1` in a profile)"
        )


def processes_asked() -> int | None:
    """Returns the number of processes that COWEST_NPROC asks for; None if it is unset."""
    text = os.environ.get("COWEST_NPROC", "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"COWEST_NPROC={text}: set it to the number of processes that train on this machine, "
            "one per GPU: 1 or more"
        )
    return int(text)


def expect(count: int | None) -> None:
    """Raises ConfigError if torchrun started another number of processes here than asked for."""
    started = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if count is not None and started != count:
        raise ConfigError(
            f"COWEST_NPROC asks for {count} processes on this machine, and torchrun started "
            f"{started}: give both the same number"
        )
