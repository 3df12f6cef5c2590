"""Sends a training task to an address, where other machines take it up and leave its outputs.

    tasks/<id>/task.json   stage, settings, inputs, base        written by who sends it
    tasks/<id>/done.json   outputs                              written by who ran it, last
    tasks/<id>/error.json  the error that it ended with

The id is a digest of everything that decides the outputs, so that no task is done twice.
"""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cowest import lineage
from cowest.config import digest
from cowest.distributed.parcels import Parcels, stays_below
from cowest.distributed.task import Task, described, error_of
from cowest.errors import ConfigError, CoWestError, InputError
from cowest.io import replacing_folder, write_text
from cowest.models import hf


def send(task: Task, store: Parcels, place: Mapping[str, Any]) -> str:
    """Sends all that a task needs, and returns its id. `place` says where it will run, as far as
    that may change its outputs.
    """
    policy = task.config.policy  # type: ignore[attr-defined]
    config = task.config.model_dump(mode="json")
    # Where the base lay here says nothing of it.
    config["policy"]["model"] = Path(policy.model).name
    inputs = {}
    for name, path in task.inputs.items():
        inputs[name] = store.send(path)
    # Its name and these files are what a base is known by.
    base = store.send(policy.folder(), hf.IDENTITY)
    values = {
        "stage": task.stage,
        "config": config,
        "inputs": inputs,
        "outputs": sorted(task.outputs),
        "base": {Path(policy.model).name: base},
        "code": lineage.code_digest(),
    }
    key = digest([values, dict(place)])[:16]
    store.write(f"tasks/{key}/task.json", json.dumps(values, indent=2))
    return key


def receive(store: Parcels, key: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fetches a task into a folder; returns its stage, settings and ports.

    Processes of one machine that want it at the same time fetch it once. Raises ConfigError if the
    sender's CoWest is another than this one, and InputError for names that lead out of the folder.
    """
    text = store.read(f"tasks/{key}/task.json")
    if text is None:
        raise InputError(
            f"{store.address}/tasks/{key}/task.json: there is no such task: "
            "the step that trains sends it, and gives the address to its pods"
        )
    values: dict[str, Any] = json.loads(text)
    if values["code"] != lineage.code_digest():
        raise ConfigError(
            f"{values['stage']}: the image of the training runtime holds another CoWest than the "
            "step that sent the task: use images of one build"
        )
    for name in (*values["inputs"], *values["base"], *values["outputs"]):
        if not stays_below(name) or "/" in name:
            raise InputError(
                f"{store.address}/tasks/{key}/task.json names a port or base {name!r}, which leads "
                "out of its folder: remove the task, and run the stage again"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").is_file():
            for name, parcel in values["inputs"].items():
                store.fetch(parcel, folder / "in" / name)
            for name, parcel in values["base"].items():
                store.fetch(parcel, folder / "base" / name)
            write_text(folder / "whole", key)
    (name,) = values["base"]
    values["config"]["policy"]["model"] = str(folder / "base" / name)
    ports = {name: str(folder / "in" / name) for name in values["inputs"]}
    ports |= {name: str(folder / "out" / name) for name in values["outputs"]}
    return values, ports


def answer(store: Parcels, key: str, outputs: Mapping[str, Path]) -> None:
    """Sends a task's outputs, and then the note that it is done."""
    made = {}
    for name, path in outputs.items():
        made[name] = store.send(path)
    store.write(f"tasks/{key}/done.json", json.dumps({"outputs": made}, indent=2))


def complain(store: Parcels, key: str, error: CoWestError) -> None:
    """Sends the error that a task ended with."""
    store.write(f"tasks/{key}/error.json", described(error))


def forget_error(store: Parcels, key: str) -> None:
    """Removes the error of an earlier attempt."""
    store.remove(f"tasks/{key}/error.json")


def error(store: Parcels, key: str) -> CoWestError | None:
    """Returns the error that a task ended with."""
    text = store.read(f"tasks/{key}/error.json")
    return None if text is None else error_of(text)


def collect(store: Parcels, key: str, outputs: Mapping[str, Path]) -> bool:
    """Fetches a task's outputs, each whole or not at all. False if it is not done.

    A result of which a file is gone is none: it is forgotten, and the task is to be done again.
    """
    text = store.read(f"tasks/{key}/done.json")
    if text is None:
        return False
    made = json.loads(text)["outputs"]
    if not all(store.holds(made[name]) for name in outputs):
        store.remove(f"tasks/{key}/done.json")
        return False
    for name, path in outputs.items():
        with replacing_folder(path) as folder:
            store.fetch(made[name], folder)
    return True
