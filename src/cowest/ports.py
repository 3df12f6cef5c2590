"""Ports: the files and folders a stage reads and writes, said once, in the signature of its `main`.

Flags, DVC's deps and outs, KFP's inputs and outputs and the "input missing" errors all come from them.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cowest.config import Config
from cowest.errors import ConfigError, InputError

In = Annotated[Path, "in"]
"""A file or folder that a stage reads. `list[In]` is one file in parts, read in their order."""
Out = Annotated[Path, "out"]
"""A file or folder that a stage writes, whole or not at all."""


@dataclass(frozen=True, slots=True)
class Port:
    name: str
    direction: Literal["in", "out"]
    many: bool = False


def ports_of(main: Callable[..., object]) -> list[Port]:
    """The ports of a stage's `main`, in the order of its signature."""
    hints = get_type_hints(main, include_extras=True)
    found = []
    for name in inspect.signature(main).parameters:
        hint, many = hints[name], False
        if get_origin(hint) is list:
            hint, many = get_args(hint)[0], True
        if get_origin(hint) is Annotated and get_args(hint)[1] in ("in", "out"):
            found.append(Port(name, get_args(hint)[1], many))
    return found


def config_of(main: Callable[..., object]) -> type[Config]:
    """The class of a stage's settings."""
    found: type[Config] = get_type_hints(main)["config"]
    return found


def takes_shard(main: Callable[..., object]) -> bool:
    """Whether a stage can do a part of the queries."""
    return "shard" in inspect.signature(main).parameters


def connect(main: Callable[..., object], given: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Paths for every port of `main`. Raises ConfigError for a port not given or not there, InputError for a missing input."""
    ports = ports_of(main)
    names = [port.name for port in ports]
    wrong = [f"{name!r} is no port" for name in given if name not in names] + [
        f"{name!r} is not given" for name in names if given.get(name) is None
    ]
    if wrong:
        raise ConfigError(f"{stage}: {', '.join(wrong)}; its ports are {', '.join(names)}")
    paths: dict[str, Any] = {}
    for port in ports:
        value = given[port.name]
        parts = [Path(part) for part in (value if isinstance(value, list | tuple) else [value])]
        if port.direction == "in":
            for part in parts:
                if not part.exists():
                    raise InputError(
                        f"{stage}: {port.name}: {part} does not exist: is it written by a stage before this one that has not run?"
                    )
        paths[port.name] = parts if port.many else parts[0]
    return paths
