"""Every setting has its help: the docstring below it."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import get_args

import pytest

import cowest
from cowest.config import Config

KINDS = ("kind", "scorer", "provider", "domain")
"""Settings that pick their class, which has a docstring of its own."""


def every_setting() -> list[type[Config]]:
    """The shipped classes of settings, by name."""
    for module in pkgutil.walk_packages(cowest.__path__, "cowest."):
        if ".scaffold" not in module.name:
            importlib.import_module(module.name)
    found = {one for one in below(Config) if one.__module__.startswith("cowest.")}
    return sorted(found, key=lambda one: f"{one.__module__}.{one.__name__}")


def below(parent: type[Config]) -> Iterator[type[Config]]:
    for child in parent.__subclasses__():
        yield child
        yield from below(child)


@pytest.mark.slow
def test_every_setting_says_what_it_is_for() -> None:
    lacking = []
    for settings in every_setting():
        if settings.__name__.startswith("_"):
            continue
        for name, field in settings.model_fields.items():
            picks = name in KINDS and len(get_args(field.annotation)) == 1
            if not picks and not (field.description or "").strip():
                lacking.append(f"{settings.__name__}.{name}")
    assert not lacking
