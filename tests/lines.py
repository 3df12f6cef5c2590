"""The line of a turn as the repository's own files tell it: every stage with the path of each of
its ports.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from cowest.commands import turn
from cowest.ports import Port, ports_of
from cowest.stages import STAGES, main_of

ROOT = Path(__file__).resolve().parent.parent
AROUND = ("pin", "register")
"""The stages that `cowest turn` runs itself: what they do is outside."""
Edge = tuple[str, str, str, str]
"""From a stage and its port to a stage and its port."""


def _raw(folder: Path) -> str:
    raw: str = yaml.safe_load((folder / "params.yaml").read_text())["turn"]["raw"]
    return raw


RAW = _raw(ROOT)


def entries(folder: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The entries of a folder's dvc.yaml by name, each item of a `foreach` as its own entry."""
    raw = {"turn.raw": _raw(folder)}
    found: dict[str, dict[str, Any]] = {}
    for name, entry in yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].items():
        if "foreach" not in entry:
            found[name] = _filled(entry, raw)
        for key, item in entry.get("foreach", {}).items():
            places = {"key": key}
            for field, value in _filled(item, raw).items():
                places[f"item.{field}"] = value
            found[f"{name}@{key}"] = _filled(entry["do"], places)
    return found


def _filled(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {_filled(key, places): _filled(child, places) for key, child in value.items()}
    if isinstance(value, list):
        return [_filled(child, places) for child in value]
    return (
        re.sub(r"\$\{([\w.]+)\}", lambda place: places[place[1]], value)
        if isinstance(value, str)
        else value
    )


def flags(command: str) -> list[tuple[str, str]]:
    """The flags of `cowest <stage> --port path ...`, in their order."""
    words = shlex.split(command)[2:]
    return [
        (flag.removeprefix("--"), path) for flag, path in zip(words[::2], words[1::2], strict=True)
    ]


def paths() -> dict[str, dict[str, str]]:
    """The path of every port of every stage, in the order of STAGES."""
    around: dict[str, dict[str, object]] = {
        "pin": {
            "raw": RAW,
            "params": turn.PARAMS,
            "turn": turn.TURN,
            "start": turn.START,
            "champion": turn.CHAMPION,
            "looks": turn.LOOKS,
        },
        "register": {
            "turn": turn.TURN,
            "params": turn.PARAMS,
            "report": turn.REPORT,
            "policy": turn.POLICY,
            "challenger": turn.CHALLENGER,
            "queries": turn.QUERIES,
            "corpus": turn.CORPUS,
            "pairs": turn.PAIRS,
            "trials": turn.TRIALS,
            "decision": turn.DECISION,
            "looks": turn.LOOKS,
        },
    }
    known = {name: dict(flags(entry["cmd"])) for name, entry in entries().items()}
    known |= {
        stage: {port: str(path) for port, path in ports.items()} for stage, ports in around.items()
    }
    return {stage: known[stage] for stage in STAGES if stage in known}


def edges() -> set[Edge]:
    """Who writes what who reads: two ports with one path."""
    ends = [
        (stage, port, path)
        for stage, given in paths().items()
        for port in ports(stage)
        if (path := given.get(port.name))
    ]
    written = {path: (stage, port.name) for stage, port, path in ends if port.direction == "out"}
    return {
        (*written[path], stage, port.name)
        for stage, port, path in ends
        if port.direction == "in" and path in written
    }


def ports(stage: str) -> list[Port]:
    """The ports of a stage, from the signature of its `main`."""
    return ports_of(main_of(stage))
