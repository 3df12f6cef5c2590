"""A training stage that other processes run, and the error that they write down if it fails."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cowest import errors
from cowest.config import Config
from cowest.errors import CoWestError


class Task(NamedTuple):
    """A stage that trains, its settings, and the paths of its ports."""

    stage: str
    config: Config
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]


def described(error: CoWestError) -> str:
    """Returns an error as JSON, from which `error_of` makes the same one in another process."""
    return json.dumps({"kind": type(error).__name__, "words": str(error)})


def error_of(text: str | bytes) -> CoWestError:
    """Returns the error that another process wrote down."""
    said: dict[str, Any] = json.loads(text)
    for kind in vars(errors).values():
        if isinstance(kind, type) and kind.__name__ == said["kind"]:
            return kind(said["words"])  # type: ignore[no-any-return]
    return CoWestError(said["words"])
