"""Reads a compiled pipeline: the file that `compile` wrote, and its parameters."""

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cowest.errors import ConfigError, InputError
from cowest.passwords import passwords
from cowest.profiles import MOST_SHARDS

LARGEST = 32 * 2**20
"""Size, in bytes, of the largest file that KFP takes."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader of libyaml, eight times as fast, where PyYAML was built with it."""
NUMBERS = {"NUMBER_INTEGER": "a whole number", "NUMBER_DOUBLE": "a number"}
SHAPES: dict[str, tuple[type, str]] = {
    "LIST": (list, "a list in JSON"),
    "STRUCT": (dict, "an object in JSON"),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter that an operator may give from run to run."""

    name: str
    kind: str
    """KFP's type: STRING, NUMBER_INTEGER, NUMBER_DOUBLE, BOOLEAN, LIST or STRUCT."""
    needed: bool
    """True if it has no default."""
    description: str


@dataclass(frozen=True)
class Package:
    """A compiled pipeline."""

    path: Path
    content: bytes
    name: str
    spec: dict[str, Any]
    """The pipeline as a run is given it, with the platform's settings if there are any."""
    parameters: dict[str, Parameter]

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def arguments(self, given: Iterable[str]) -> dict[str, Any]:
        """Reads `name=value` by the type of each parameter.

        Raises ConfigError for one that is unknown, unfit, given twice or missing, and for a
        password, which the server would keep for many to read; it is not shown.
        """
        values: dict[str, Any] = {}
        for text in given:
            name, equals, value = text.partition("=")
            is_known = name in self.parameters
            # Without the name of a parameter, the first `=` may be one of the password.
            if passwords(text if "://" in name else value):
                of = f" {name}" if is_known else ""
                raise ConfigError(
                    f"--set{of}: the address holds a password, and many can read a run's inputs: "
                    "leave it out, and give git a header by a secret of the profile "
                    "(docs/kubeflow.md)"
                )
            if not equals:
                raise ConfigError(f"--set {text}: write name=value")
            if name in values:
                raise ConfigError(f"--set {name} is given twice: give it once")
            if name not in self.parameters:
                raise ConfigError(self._unknown(name))
            values[name] = _value(self.parameters[name], value)
        missing = [
            f"{one.name}{f' ({one.description})' if one.description else ''}"
            for one in self.parameters.values()
            if one.needed and one.name not in values
        ]
        if missing:
            raise ConfigError(
                f"{self.path} needs --set for each of its parameters without a default: "
                + "; ".join(missing)
            )
        return values

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.parameters, n=1)
        takes = ", ".join(self.parameters) or "none"
        meant = f"did you mean {near[0]}?" if near else f"it takes {takes}"
        return f"--set {name}: {self.path} has no such parameter: {meant}"


def read(path: Path) -> Package:
    """Reads a compiled pipeline. Raises InputError."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}: name the file that "
            "`python -m cowest_pipelines compile --out FILE` wrote"
        ) from None
    if len(content) > LARGEST:
        raise InputError(
            f"{path} has more than {LARGEST >> 20} MiB, the most that KFP takes: "
            "is it the compiled file?"
        )
    try:
        documents = [one for one in yaml.load_all(content, LOADER) if one is not None]
        spec, *platforms = documents
        name = spec["pipelineInfo"]["name"]
        root = spec["root"]
        inputs = (root.get("inputDefinitions") or {}).get("parameters") or {}
        parameters = {str(key): _parameter(str(key), one) for key, one in inputs.items()}
        fits = isinstance(name, str) and str(spec["schemaVersion"]).startswith("2.")
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not YAML: {reason}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits or len(platforms) > 1 or not all("platforms" in one for one in platforms):
        raise InputError(
            f"{path} is no compiled pipeline: name the file that "
            "`python -m cowest_pipelines compile --out FILE` wrote"
        )
    whole = {"pipeline_spec": spec, "platform_spec": platforms[0]} if platforms else spec
    return Package(path, content, name, whole, parameters)


def _parameter(name: str, given: Mapping[str, Any]) -> Parameter:
    needed = not given.get("isOptional") and "defaultValue" not in given
    description = " ".join(str(given.get("description", "")).split())
    return Parameter(name, given["parameterType"], needed, description)


def _value(parameter: Parameter, text: str) -> Any:
    """The value that a text stands for. Raises ConfigError."""
    wrong = f"--set {parameter.name}={text}"
    if parameter.kind == "STRING":
        return text
    if parameter.kind == "BOOLEAN":
        if text not in ("true", "false"):
            raise ConfigError(f"{wrong}: write true or false")
        return text == "true"
    # JSON knows no NaN, which Python reads: what is no number becomes None.
    try:
        value = json.loads(text, parse_constant=_nothing)
    except (ValueError, RecursionError):
        value = None
    if parameter.kind in NUMBERS:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        finite = number and math.isfinite(value)
        if not finite or (parameter.kind == "NUMBER_INTEGER" and value != int(value)):
            raise ConfigError(f"{wrong}: {NUMBERS[parameter.kind]} is needed")
        if parameter.name == "shards" and not 1 <= value <= MOST_SHARDS:
            raise ConfigError(f"{wrong}: give a number from 1 to {MOST_SHARDS}")
        return value
    shape, words = SHAPES.get(parameter.kind, (dict, "a value that can't be given here"))
    if not isinstance(value, shape):
        raise ConfigError(f"{wrong}: {words} is needed")
    return value


def _nothing(_: str) -> None:
    """Reads NaN and Infinity."""
