"""What must be there before a turn: asked of the machine (`cowest doctor`), and of the settings before anything is spent."""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cowest import stages
from cowest.config import Config, digest, load, parse, section
from cowest.errors import ConfigError, CoWestError, InputError
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.ports import config_of

EXTRAS = {
    "validate": (
        "great_expectations",
        "pandas",
        "jinja2",
        "rensa",
        "py3langid",
        "tokenizers",
        "phonenumbers",
        "stdnum",
    ),
    "train": ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "gguf"),
    "track": ("mlflow",),
    "report": ("matplotlib", "jinja2"),
    "parquet": ("pyarrow",),
    "dvc": ("dvc", "ruamel.yaml"),
    "privacy": ("phonenumbers", "stdnum"),
    "strong": ("uvloop", "orjson"),
    "pipeline": ("kfp",),
    "serve": ("bentoml",),
}
"""The modules of each extra."""
OF_A_TURN = ("validate", "train", "track", "report", "dvc")
BESIDE_STAGES = {"models", "registry", "turn", "serve"}
"""Sections of params.yaml that are no stage: `models` holds anchors."""


def preflight(params: Path) -> None:
    """Raises one CoWestError with all that would stop a turn later: settings, extras, raw data, models, keys.

    Takes about a second; relative paths are those of the current folder.
    """
    settings, problems = settings_and_problems(params)
    problems += raw_problems(params)
    models = {digest(model): model for config in settings for model in providers(config)}
    problems += [
        ConfigError(f"{', '.join(missing)} can't be imported: pip install 'cowest[{extra}]'")
        for extra in OF_A_TURN
        if (missing := missing_modules(extra))
    ]
    for model in models.values():
        try:
            _check_model(model)
        except CoWestError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise CoWestError(
            f"{len(problems)} things to mend before the turn starts:"
            + "".join(f"\n  - {problem}" for problem in problems)
        )


def settings_and_problems(params: Path) -> tuple[list[Config], list[CoWestError]]:
    values = load(params)
    known = {stage.partition("@")[0] for stage in stages.STAGES} | BESIDE_STAGES
    problems: list[CoWestError] = [
        ConfigError(
            f"{params} has an unknown section {name!r}: they are {', '.join(sorted(known))}"
        )
        for name in values
        if name not in known
    ]
    found: dict[str, Any] = {}
    for stage in stages.STAGES:
        try:
            found[stage] = parse(
                config_of(stages.main_of(stage)),
                section(values, stage, str(params)),
                f"{params}: {stage}",
            )
        except CoWestError as error:
            problems.append(error)
    try:
        agree(found, str(params))
    except ConfigError as error:
        problems.append(error)
    return list(found.values()), problems


def agree(settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError where the corpus has another contract of the queries than the queries: what one masks the other would teach."""
    queries, corpus = settings.get("validate@queries"), settings.get("validate@corpus")
    if queries is not None and corpus is not None and corpus.suite.queries != queries.suite:
        raise ConfigError(
            f"{where}: validate.corpus.queries is not validate.queries, so what is masked or set aside there would be learned: "
            "write `queries: &contract {...}` and `corpus: {kind: corpus, queries: *contract}`"
        )


def raw_problems(params: Path) -> list[CoWestError]:
    turn = load(params).get("turn")
    raw = turn.get("raw") if isinstance(turn, dict) else None
    if not isinstance(raw, str):
        return [ConfigError(f"{params}: turn.raw should name the raw data")]
    path, named = Path(raw), isinstance(turn, dict) and turn.get("rev")
    if not path.exists() and (named or path.with_name(f"{path.name}.dvc").is_file()):
        how = (
            "`cowest turn` brings what turn.rev names"
            if named
            else f"`dvc pull {raw}.dvc` brings the version that git names"
        )
        return [InputError(f"{raw}: the raw data are not here yet: {how}")]
    if not path.exists() or (path.is_dir() and not any(part.is_file() for part in path.rglob("*"))):
        return [
            InputError(
                f"{raw}: no raw data there: put them there, or name their place in turn.raw of {params}"
            )
        ]
    return []


def missing_modules(extra: str) -> list[str]:
    """Modules of an extra that are not installed; none is imported."""
    return [name for name in EXTRAS[extra] if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it is not there
        return False


def providers(config: BaseModel) -> Iterator[HFConfig | OpenAIConfig]:
    """Every model that a stage's settings name, however deep."""
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, HFConfig | OpenAIConfig):
            yield value
        elif isinstance(value, BaseModel):
            waiting += (getattr(value, name) for name in type(value).model_fields)
        elif isinstance(value, list | tuple):
            waiting += value


def _check_model(model: HFConfig | OpenAIConfig) -> None:
    if isinstance(model, HFConfig):
        model.folder()
    elif model.key_env and not os.environ.get(model.key_env):
        raise ConfigError(
            f"model {model.model!r} at {model.base_url} needs a key in the environment variable {model.key_env}, which is not set"
        )
