"""Finds what does not answer, or can't be written, before a turn depends on it.

Unlike `preflight`, it calls: endpoints (which costs nothing), and the registry's server.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence

from pydantic import BaseModel

from cowest.config import digest
from cowest.errors import CallError, CoWestError, RegistryError
from cowest.models.openai import OpenAIConfig
from cowest.preflight import models_of
from cowest.registry.mlflow import RegistryConfig
from cowest.registry.runs import folder_of, location_of

Say = Callable[[str], object]
"""Takes what is to note."""


def _print(note: str) -> None:
    print(f"note: {note}", file=sys.stderr)


def problems(
    settings: Sequence[BaseModel], write: bool = False, say: Say = _print
) -> list[CoWestError]:
    """Returns what can't be reached. With `write`, the registries are tried by writing to them."""
    return endpoint_problems(settings, say) + registry_problems(settings, write)


def endpoint_problems(settings: Sequence[BaseModel], say: Say = _print) -> list[CoWestError]:
    """Returns the endpoints that do not answer or refuse their key; says what is to note."""
    found: list[CoWestError] = []
    for model in models_of(settings):
        if not isinstance(model, OpenAIConfig):
            continue
        try:
            model.key()
        except CallError:
            # That is said by who looks at the settings.
            continue
        try:
            note = model.answers()
        except CoWestError as error:
            found.append(error)
            continue
        if note is not None:
            say(note)
    return found


def registry_problems(settings: Sequence[BaseModel], write: bool) -> list[CoWestError]:
    """Returns the registries that do not answer or, with `write`, take nothing."""
    registries: dict[str, RegistryConfig] = {}
    for config in settings:
        registry = getattr(config, "registry", None)
        if isinstance(registry, RegistryConfig):
            registries[digest(registry)] = registry
    found: list[CoWestError] = []
    for registry in registries.values():
        # A registry in a file that is not there yet is made by the first turn.
        if not write and not registry.begun():
            continue
        try:
            runs = registry.runs()
            if write:
                runs.writable()
                _takes_files(registry)
        except CoWestError as error:
            found.append(error)
    return found


def _takes_files(registry: RegistryConfig) -> None:
    """Raises RegistryError if the files of a version could not be put where they belong."""
    # A server has its own place for them.
    if registry.uri.startswith(("http://", "https://")):
        return
    place = registry.artifacts
    if place.startswith("s3://") and importlib.util.find_spec("boto3") is None:
        raise RegistryError(
            f"the registry's files go to {place}, and boto3 can't be imported: "
            "install CoWest's extra `s3` (README, Install)"
        )
    folder = folder_of(location_of(place))
    if folder is None:
        return
    there = folder
    # `Path.exists` raises where a folder above may not be entered.
    while not os.access(there, os.F_OK):
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise RegistryError(
            f"the registry's files go to {folder}, and {there} is no folder that we may write to: "
            "mend that, or set register.registry.artifacts to another place"
        )
