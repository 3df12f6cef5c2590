"""Every setting has its help: the docstring below it, which some `--help` prints."""

import contextlib
import importlib
import io
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import get_args

import pytest

import cowest
from cowest import cli
from cowest.commands import settings_help
from cowest.config import Config, Sampling
from cowest.scorers.judge import JudgeConfig
from cowest.stages import STAGES
from cowest_serving.__main__ import parser

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


ELSEWHERE = (
    "cowest.commands.harvest",
    "cowest.distributed.trainjob",
    "cowest.domains.invent_sites",
    "cowest.profiles",
)
"""Modules whose settings stand in no params.yaml."""
UNWRITTEN = ("Judging", "ValidateConfig")
"""Settings that nobody writes: `turn.json` holds the first, and `validate.pairs` is the second."""


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    """The help of every stage, of `turn` and of the service, by name."""
    found = {name: said_by(cli.main, [name, "--help"]) for name in (*STAGES, "turn")}
    return found | {"serve": said_by(parser().parse_args, ["serve", "--help"])}


def said_by(main: Callable[[list[str]], object], argv: list[str]) -> str:
    """All that a command prints before it exits."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        main(argv)
    return said.getvalue()


def line_of(text: str, setting: str) -> str:
    """The one line of a help that explains a setting."""
    (found,) = (line for line in text.splitlines() if line.startswith(f"  {setting}: "))
    return found


@pytest.mark.slow
def test_every_setting_of_params_yaml_is_explained_by_some_help(printed: dict[str, str]) -> None:
    said = "".join(printed.values())
    lacking = []
    for kind in every_setting():
        name = kind.__name__
        if kind.__module__ in ELSEWHERE or name in UNWRITTEN or name.startswith("_"):
            continue
        for setting, field in kind.model_fields.items():
            words = " ".join((field.description or "").split())
            # One that picks its class is told with its value, at the head of the others.
            if words and not re.search(rf"[ .]{setting}: {re.escape(words)}", said):
                lacking.append(f"{name}.{setting}")
    assert not lacking


def test_the_endpoints_settings_are_explained_with_their_defaults(
    printed: dict[str, str],
) -> None:
    said = printed["refine"]
    assert "  strong (provider: openai): " in said and "  strong (provider: hf): " in said
    for setting, default in (
        ("concurrency", "16"),
        ("retries", "5"),
        ("backoff", "0.5"),
        ("patience", "300"),
        ("hedge", "null"),
        ("egress.unmask", "true"),
        ("batch.discount", "0.5"),
    ):
        assert line_of(said, f"strong.{setting}").endswith(f"(default {default})")
    assert line_of(said, "strong.price.prompt").endswith("(required)")
    # Three providers have a `model`, and each line of theirs stands below its own.
    endpoints = said.partition("  strong (provider: openai): ")[2]
    assert line_of(endpoints.partition("  strong (provider: ")[0], "strong.timeout").endswith(
        "(default 120)"
    )


@pytest.mark.parametrize(
    ("stage", "setting", "default"),
    [
        ("draft", "sampling.temperature", "0.9; 0.0 where `sampling` is given without it"),
        ("draft", "sampling.n", "8; 1 where `sampling` is given without it"),
        ("draft", "sampling.max_tokens", "128; 256 where `sampling` is given without it"),
        ("draft", "sampling.top_p", "1.0"),
        ("evaluate", "drafting.max_tokens", "128; 256 where `drafting` is given without it"),
        ("evaluate", "refining.max_tokens", "256"),
        ("serve", "drafting.max_tokens", "128; 256 where `drafting` is given without it"),
        ("validate@pairs", "private.secrets", '"report"'),
        ("dpo", "label_smoothing", "0.0"),
        ("compare", "gates[].metric", '"score"'),
        ("turn", "rev", "null"),
    ],
)
def test_a_default_is_the_one_in_force(
    stage: str, setting: str, default: str, printed: dict[str, str]
) -> None:
    assert line_of(printed[stage], setting).endswith(f"default {default})")


def test_the_default_of_one_of_several_kinds_is_named(printed: dict[str, str]) -> None:
    said = printed["evaluate"]
    assert "  probe.scorer (scorer: contains): " in said
    assert "1 where `probe.scorer` is given without it" in line_of(said, "probe.scorer.rule")


def test_what_stands_in_several_places_is_told_once(printed: dict[str, str]) -> None:
    said = printed["evaluate"]
    assert said.count("Maximum number of calls at once.") == 1
    assert line_of(said, "strong").endswith("(required; its settings: as policy)")
    # The same kind with another default is told again, since its lines differ.
    assert "refining.max_tokens: " in said and "drafting.max_tokens: " in said


def test_a_setting_with_names_for_values_lists_them(printed: dict[str, str]) -> None:
    said = line_of(printed["sft"], "training.schedule")
    assert "(one of linear, cosine, constant_with_warmup; default" in said
    assert line_of(printed["compare"], "gates[].over").count("null") == 2


def test_a_section_that_is_the_default_of_another_has_its_defaults() -> None:
    said = settings_help.settings(JudgeConfig, "judge")
    of_a_grade = "8; 256 where `sampling` is given without it)"
    assert line_of(said, "sampling.max_tokens").endswith(of_a_grade)
    assert line_of(settings_help.settings(Sampling, "s"), "max_tokens").endswith("(default 256)")
