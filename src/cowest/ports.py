"""Ports: the files and folders that a stage reads and writes, named in the signature of its `main`.

From these come the flags of the command line, DVC's deps and outs, KFP's inputs and outputs, and
the errors for an input that is missing.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cowest.config import Config
from cowest.errors import ConfigError, InputError

In = Annotated[Path, "in"]
"""A file or folder that a stage reads.

`list[In]` is one file in parts, read in their order. `In | None` may be left out.
"""
Out = Annotated[Path, "out"]
"""A file or folder that a stage writes, whole or not at all. `Out | None` may be left out."""


@dataclass(frozen=True, slots=True)
class Port:
    """One file or folder that a stage reads or writes."""

    name: str
    direction: Literal["in", "out"]
    many: bool = False
    """True if the port takes a list of files."""
    optional: bool = False
    """True if the port may be left out; the stage is then given None."""


def ports_of(main: Callable[..., object]) -> list[Port]:
    """The ports of a stage's `main`, in the order of its signature."""
    hints = get_type_hints(main, include_extras=True)
    ports = []
    for name in inspect.signature(main).parameters:
        port = _port(name, hints[name])
        if port is not None:
            ports.append(port)
    return ports


def _port(name: str, hint: Any) -> Port | None:
    """The port that a parameter with this annotation is; None if it is no port."""
    optional = NoneType in get_args(hint)
    if optional:
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    many = get_origin(hint) is list
    if many:
        hint = get_args(hint)[0]
    if get_origin(hint) is not Annotated or get_args(hint)[1] not in ("in", "out"):
        return None
    return Port(name, get_args(hint)[1], many, optional)


def config_of(main: Callable[..., object]) -> type[Config]:
    """The class of a stage's settings."""
    found: type[Config] = get_type_hints(main)["config"]
    return found


def takes_shard(main: Callable[..., object]) -> bool:
    """True if a stage can do a part of the queries."""
    return "shard" in inspect.signature(main).parameters


def connect(main: Callable[..., object], given: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Returns the paths for all ports of `main`, None for an optional port that is not given.

    Raises ConfigError for a port that is unknown or lacks its path, InputError for an input that
    does not exist.
    """
    ports = ports_of(main)
    _check_names(ports, given, stage)
    paths: dict[str, Any] = {}
    for port in ports:
        value = given.get(port.name)
        if value is None:
            paths[port.name] = None
            continue
        parts = [Path(part) for part in (value if isinstance(value, list | tuple) else [value])]
        if port.direction == "in":
            _check_inputs(port, parts, stage)
        paths[port.name] = parts if port.many else parts[0]
    return paths


def _check_names(ports: list[Port], given: Mapping[str, Any], stage: str) -> None:
    names = [port.name for port in ports]
    wrong = [f"{name!r} is no port" for name in given if name not in names]
    for port in ports:
        if given.get(port.name) is None and not port.optional:
            wrong.append(f"{port.name!r} is not given")
    if wrong:
        raise ConfigError(f"{stage}: {', '.join(wrong)}; its ports are {', '.join(names)}")


def _check_inputs(port: Port, parts: list[Path], stage: str) -> None:
    for part in parts:
        if not part.exists():
            raise InputError(
                f"{stage}: {port.name}: {part} does not exist: is it written by a stage before "
                "this one that has not run?"
            )
