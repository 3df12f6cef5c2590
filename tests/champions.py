"""A project whose registry has real versions, made in seconds: adapters of the tiny model that are
drawn at random, and no turn.
"""

from pathlib import Path
from typing import Any

import yaml

from cowest import version
from cowest.config import load, parse, section
from cowest.models.hf import HFConfig
from cowest.online.live import ServeConfig
from cowest.protocols import Registry
from cowest.registry import acts
from cowest.registry.mlflow import RegistryConfig
from tests import tiny
from tests.factories import PROMPTS
from tests.registries import empty_registry

STRONG = {
    "provider": "scripted",
    "rules": [
        {"match": r"(?s)^Notes: (.*)\nQuestion", "replies": ["So it is said: {1}"]},
        {"match": "", "replies": ["no idea"]},
    ],
}


def make_project(folder: Path, registry: RegistryConfig | None = None, **more: Any) -> ServeConfig:
    """A project that serves version 1: the answer of its strong model holds the draft.

    Its registry is a file in its folder, or another that is given. `more` is of its settings.
    """
    registry = registry or empty_registry(folder)
    serve = {
        "registry": registry.model_dump(),
        "policy": policy().model_dump(),
        "strong": STRONG,
        "drafting": {"max_tokens": 12},
        "refining": {"max_tokens": 200},
        "watch": 0.5,
        "drain": 0.1,
        **more,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump({"serve": serve}))
    promote(folder)
    return settings(folder)


def policy() -> HFConfig:
    return HFConfig(model=str(tiny.model()))


def settings(folder: Path) -> ServeConfig:
    return parse(ServeConfig, section(load(folder / "params.yaml"), "serve"), "serve")


def promote(folder: Path) -> int:
    """Makes another version the champion."""
    registry = opened(folder)
    number = len(registry.log()) + 1
    made = folder / "versions" / str(number)
    tiny.make_adapter(made / "adapter", seed=number)
    base = policy().base_name(tiny.model())
    version.write(made, base=base, prompts=PROMPTS, trained=f"version {number}")
    decision = registry.decide(
        made,
        turn=f"turn{number}",
        promote=True,
        against=registry.champion(),
        reason="better",
        tags={"base": base},
    )
    assert decision.promoted
    return decision.version


def roll_back(folder: Path) -> int:
    """Makes the champion before the champion again."""
    registry = opened(folder)
    return registry.enter(acts.rollback(registry.log(), None, "a customer complained")).version


def opened(folder: Path) -> Registry:
    return settings(folder).registry.open()
