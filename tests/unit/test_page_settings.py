"""Settings that a page shows are settings that there are, and so are the flags of our modules."""

import re
import shlex
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

import cowest_pipelines.__main__
import cowest_serving.__main__
from cowest.domains import DomainPrompts
from cowest.gates import Gate
from cowest.lineage import TurnConfig
from cowest.models import AnyProvider
from cowest.online.live import ServeConfig
from cowest.ports import config_of
from cowest.profiles import Profile
from cowest.registry.mlflow import RegistryConfig
from cowest.stages import STAGES, main_of
from tests import lines
from tests.pages import PAGES

YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULE = re.compile(r"python -m (cowest_pipelines|cowest_serving) ([^`\n]*)")
PARSERS = {
    "cowest_pipelines": cowest_pipelines.__main__.parser,
    "cowest_serving": cowest_serving.__main__.parser,
}
MODELS = {
    "strong": AnyProvider,
    "policy": AnyProvider,
    "prompts": DomainPrompts,
    "registry": RegistryConfig,
    "align": Literal,
}
"""Settings below `models`, where a project keeps what several stages share."""


def blocks() -> list[tuple[str, str]]:
    """Every block of YAML on the pages, with its page and number."""
    found = []
    for page in PAGES:
        texts = YAML.findall((lines.ROOT / page).read_text(encoding="utf-8"))
        found += [(f"{page}-{number}", text) for number, text in enumerate(texts)]
    return found


def loaded(text: str) -> dict[str, Any]:
    """Returns the settings of a block; those from elsewhere, by an alias, are left empty."""
    named = set(re.findall(r"&(\w+)", text))
    taken = sorted(set(re.findall(r"\*(\w+)", text)) - named)
    given = "".join(f"_{name}: &{name} {{}}\n" for name in taken)
    found = yaml.safe_load(given + text)
    return {name: value for name, value in found.items() if not name.startswith("_")}


def kinds() -> dict[str, Any]:
    """The class of each section of params.yaml and of a profile."""
    found: dict[str, Any] = {"turn": TurnConfig, "serve": ServeConfig, "gates": tuple[Gate, ...]}
    for name in STAGES:
        stage, _, part = name.partition("@")
        kind = config_of(main_of(name))
        found[stage] = found.get(stage, {}) | {part: kind} if part else kind
    found["models"] = MODELS
    return found | {name: field.annotation for name, field in Profile.model_fields.items()}


def classes(kind: Any) -> Iterator[type[BaseModel]]:
    """The classes of settings that an annotation allows."""
    if isinstance(kind, tuple):
        for part in kind:
            yield from classes(part)
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    elif get_origin(kind) in (Union, types.UnionType, Annotated, tuple):
        for part in get_args(kind):
            yield from classes(part)


def unknown(kind: Any, value: Any, where: str) -> Iterator[str]:
    """Paths of a value for which its class, or each of several, has no setting."""
    if isinstance(kind, tuple) and len(kind) == 1:
        (kind,) = kind
    if isinstance(value, list):
        for part in value:
            yield from unknown(kind, part, where)
    if not isinstance(value, Mapping):
        return
    if isinstance(kind, Mapping):
        for name, child in value.items():
            if name not in kind:
                yield f"{where}.{name}"
            else:
                yield from unknown(kind[name], child, f"{where}.{name}")
        return
    if get_origin(kind) is dict:
        for name, child in value.items():
            yield from unknown(get_args(kind)[1], child, f"{where}.{name}")
        return
    fields: dict[str, list[Any]] = {}
    for one in classes(kind):
        for name, field in one.model_fields.items():
            fields.setdefault(name, []).append(field.annotation)
    if "suite" in fields:
        yield from unknown(tuple(fields["suite"]), value, where)
        return
    for name, child in value.items():
        # The pages leave settings out with `...`; an annotation without fields takes any key.
        if name == "..." or not fields:
            continue
        if name not in fields:
            yield f"{where}.{name}"
        else:
            yield from unknown(tuple(fields[name]), child, f"{where}.{name}")


@pytest.mark.parametrize(("place", "text"), blocks(), ids=[place for place, _ in blocks()])
def test_settings_on_a_page_exist(place: str, text: str) -> None:
    assert list(unknown(kinds(), loaded(text), place)) == []


def test_a_setting_that_is_none_is_found() -> None:
    text = "dpo:\n  grpo: {kl: 1, kll: 2}\n  rouds: 3\nserve: {log: {maks: true}}\nsevre: {}\n"
    found = list(unknown(kinds(), loaded(text), "p"))
    assert found == ["p.dpo.grpo.kll", "p.dpo.rouds", "p.serve.log.maks", "p.sevre"]


def module_lines() -> list[tuple[Path, str, str]]:
    """Every `python -m cowest_...` of the pages: page, module, words."""
    found = []
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            for module, words in MODULE.findall((lines.ROOT / page).read_text(encoding="utf-8")):
                found.append((page, module, words.partition("  #")[0].strip()))
    return sorted(set(found))


@pytest.mark.parametrize(("page", "module", "words"), module_lines(), ids=lambda one: str(one)[:60])
def test_commands_of_our_modules_are_understood(page: Path, module: str, words: str) -> None:
    # A sentence may name a command without what it needs.
    if not re.fullmatch(r"[a-z]+ .+", words):
        return
    try:
        PARSERS[module]().parse_args(shlex.split(words))
    except SystemExit as ended:
        # So argparse ends after its help.
        if ended.code != 0:
            pytest.fail(f"{page}: `python -m {module} {words}` is not understood")
