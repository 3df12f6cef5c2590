"""Finds what a turn's settings lack, before anything is spent.

What this machine lacks is the business of `cowest doctor`, which uses these checks too.
"""

import importlib.util
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cowest import stages
from cowest.config import Config, digest, load, parse, section
from cowest.errors import ConfigError, CoWestError, InputError, RegistryError
from cowest.gates import OF_CHOICES
from cowest.models import AnyProvider, hf
from cowest.models.chat import TRIED
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.ports import config_of
from cowest.raw import vcs
from cowest.records import Message
from cowest.registry.mlflow import RegistryConfig
from cowest.scorers.judge import JudgeConfig
from cowest.stages.dpo import DPOConfig
from cowest.stages.draft import DraftConfig
from cowest.stages.evaluate import EvaluateConfig
from cowest.stages.refine import RefineConfig
from cowest.stages.sft import SFTConfig

EXTRAS = {
    "validate": (
        "great_expectations", "pandas", "jinja2", "rensa", "py3langid", "tokenizers",
        "phonenumbers", "stdnum",
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
}  # fmt: skip
"""The modules of each extra."""
SHELL = frozenset('"$`\\\n')
"""Letters that a shell takes for its own even in double quotes."""
UNQUOTED = r"--(?:raw|against) +(\$\{(?:turn\.raw|item\.against)\})"
"""The raw data in a command of dvc.yaml, without quotes."""
OF_A_TURN = ("validate", "train", "track", "report", "dvc")
BESIDE_STAGES = {"models", "registry", "turn", "serve"}
"""Sections of params.yaml that are no stage: `models` holds anchors."""


class ServedPolicy(Config):
    """The policy in the section `serve`."""

    policy: AnyProvider


def preflight(params: Path) -> None:
    """Raises one CoWestError with everything that would stop a turn later.

    Checks settings, extras, raw data, models and keys in about a second; local models take a few
    seconds more, since their tokenizers are loaded. Relative paths start at the current folder.
    """
    settings, problems = stage_settings(params)
    problems += raw_data_problems(params)
    for extra in OF_A_TURN:
        missing = missing_modules(extra)
        if missing:
            names = ", ".join(missing)
            problems.append(
                ConfigError(f"{names} can't be imported: pip install 'cowest[{extra}]'")
            )
    problems += registry_problems(settings)
    # All problems are collected: a person should not mend one, wait, and find the next.
    for model in models_of(settings):
        try:
            check_model(model, settings)
        except CoWestError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise CoWestError(f"{len(problems)} things to mend before the turn starts:{lines}")


def stage_settings(params: Path) -> tuple[list[Config], list[CoWestError]]:
    """Returns the settings of every stage that are valid, and what is wrong with the others.

    Raises ConfigError for a file that is not there or is not YAML.
    """
    values = load(params)
    known = {stage.partition("@")[0] for stage in stages.STAGES} | BESIDE_STAGES
    problems: list[CoWestError] = []
    for name in values:
        if name not in known:
            names = ", ".join(sorted(known))
            problems.append(
                ConfigError(f"{params} has an unknown section {name!r}: they are {names}")
            )
    found: dict[str, Any] = {}
    for stage in stages.STAGES:
        kind = config_of(stages.main_of(stage))
        try:
            found[stage] = parse(kind, section(values, stage, str(params)), f"{params}: {stage}")
        except CoWestError as error:
            problems.append(error)
    try:
        agree(found, str(params))
        serves_as_judged(values.get("serve"), found.get("evaluate"), str(params))
    except ConfigError as error:
        problems.append(error)
    return list(found.values()), problems


def agree(settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError for settings of two stages that can't both be meant.

    If `validate` held the corpus and the queries to different contracts, what the contract of the
    queries masks or sets aside would be learned from the corpus. And a policy that is judged by the
    queries that it was aligned on says nothing about others.
    """
    draft, evaluate = settings.get("draft"), settings.get("evaluate")
    if draft is not None and evaluate is not None and draft.split == evaluate.split:
        raise ConfigError(
            f"{where}: evaluate.split and draft.split are both {draft.split}, so the challenger "
            "would be judged by the very queries that it is aligned on: set evaluate.split to "
            "test, or to another split that is not drafted on"
        )
    compare = settings.get("compare")
    if compare is not None and evaluate is not None and evaluate.scorer.scorer != "choice":
        for gate in compare.gates:
            if gate.metric in OF_CHOICES:
                raise ConfigError(
                    f"{where}: compare.gates has a gate on {gate.metric}, which only `scorer: "
                    f"choice` has, and evaluate.scorer is {evaluate.scorer.scorer}: take the gate "
                    "out"
                )
    queries, corpus = settings.get("validate@queries"), settings.get("validate@corpus")
    if queries is not None and corpus is not None and corpus.suite.queries != queries.suite:
        raise ConfigError(
            f"{where}: validate.corpus.queries is not validate.queries, so what is masked or set "
            "aside there would be learned: write `queries: &contract {...}` and "
            "`corpus: {kind: corpus, queries: *contract}`"
        )


def serves_as_judged(serve: Any, evaluate: EvaluateConfig | None, where: str) -> None:
    """Raises ConfigError for a policy in `serve` that could not take what `evaluate` judges.

    An adapter is loaded on the base that it was trained on, in the same number format and with the
    same chat template; device and rows may be others, and the model may lie elsewhere there.
    """
    if not isinstance(serve, dict) or "policy" not in serve or evaluate is None:
        return
    served = parse(ServedPolicy, {"policy": serve["policy"]}, f"{where}: serve").policy
    judged = evaluate.policy
    if not isinstance(judged, HFConfig):
        return
    if not isinstance(served, HFConfig):
        raise ConfigError(
            f"{where}: serve.policy has provider {served.provider}, which takes no adapter: name "
            "the base as evaluate does (`policy: *policy`); a server of your own that holds the "
            "challenger is compared in evaluate.agreement.served"
        )
    for name in ("dtype", "chat_template"):
        if getattr(served, name) != getattr(judged, name):
            raise ConfigError(
                f"{where}: serve.policy has another {name} than evaluate.policy, and an adapter is "
                "served on the base that it was judged on alone: name one base (`policy: *policy`)"
            )


def raw_data_problems(params: Path) -> list[CoWestError]:
    """Returns what is wrong with the raw data that the settings name."""
    turn = load(params).get("turn")
    if not isinstance(turn, dict) or not isinstance(turn.get("raw"), str):
        return [ConfigError(f"{params}: turn.raw should name the raw data")]
    raw, path = turn["raw"], Path(turn["raw"])
    problems = _shell_problems(raw, params)
    try:
        vcs.top(path.parent)
    except InputError as error:
        problems.append(error)
    return problems + _missing_data(turn, raw, path, params)


def _shell_problems(raw: str, params: Path) -> list[CoWestError]:
    """Returns what keeps a shell, which runs the commands of dvc.yaml, from reading `raw` whole."""
    if set(raw) & SHELL:
        letters = " ".join(sorted(set(raw) & SHELL))
        return [
            ConfigError(
                f"{params}: turn.raw {raw!r}: a shell, which runs the commands of dvc.yaml, takes "
                f"{letters!r} for its own even in quotes: give the data another name"
            )
        ]
    pipeline = params.with_name("dvc.yaml")
    if shlex.quote(raw) == raw or not pipeline.is_file():
        return []
    commands = re.findall(UNQUOTED, pipeline.read_text(encoding="utf-8", errors="replace"))
    if not commands:
        return []
    quoted = " and ".join(f'"{place}"' for place in commands)
    return [
        ConfigError(
            f"{pipeline}: turn.raw {raw!r} needs quotes in a shell, and the commands there give it "
            f"without: write {quoted}"
        )
    ]


def _missing_data(turn: Mapping[str, Any], raw: str, path: Path, params: Path) -> list[CoWestError]:
    """Returns what is wrong with the place of the raw data."""
    broken = _broken_link(path)
    if broken is not None:
        return [
            InputError(
                f"{broken} is a link to a file that is not there, as DVC's links are after a "
                f"project was moved: `dvc checkout --relink --force {shlex.quote(raw)}.dvc`"
            )
        ]
    if not path.exists():
        if turn.get("rev"):
            how = "`cowest turn` brings what turn.rev names"
            return [InputError(f"{raw}: the raw data are not here yet: {how}")]
        if path.with_name(f"{path.name}.dvc").is_file():
            how = f"`dvc pull {raw}.dvc` brings the version that git names"
            return [InputError(f"{raw}: the raw data are not here yet: {how}")]
    is_empty = path.is_dir() and not any(part.is_file() for part in path.rglob("*"))
    if is_empty or not path.exists():
        return [
            InputError(
                f"{raw}: no raw data there: put them there, "
                f"or name their place in turn.raw of {params}"
            )
        ]
    return []


def _broken_link(path: Path) -> Path | None:
    """The first file of the raw data that is a link to nothing."""
    for part in (path, *sorted(path.rglob("*"))):
        if part.is_symlink() and not part.exists():
            return part
    return None


def registry_problems(settings: Sequence[BaseModel]) -> list[CoWestError]:
    """Returns what would stop a turn at the registries that the settings name."""
    registries: dict[str, RegistryConfig] = {}
    for config in settings:
        registry = getattr(config, "registry", None)
        if isinstance(registry, RegistryConfig):
            registries[digest(registry)] = registry
    problems: list[CoWestError] = []
    for registry in registries.values():
        try:
            registry.ready()
        except RegistryError as error:
            problems.append(error)
    return problems


def missing_modules(extra: str) -> list[str]:
    """Returns the modules of an extra that are not installed, without importing any."""
    return [name for name in EXTRAS[extra] if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        # For `ruamel.yaml` the package around the module is looked up first.
        return False


def models_of(settings: Sequence[BaseModel]) -> list[HFConfig | OpenAIConfig]:
    """Returns every model that the settings name, each once."""
    found = {}
    for config in settings:
        for model in _models_in(config):
            found[digest(model)] = model
    return list(found.values())


def _models_in(config: BaseModel) -> Iterator[HFConfig | OpenAIConfig]:
    """Yields the models in the settings of a stage, at any depth."""
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, HFConfig | OpenAIConfig):
            yield value
        elif isinstance(value, BaseModel):
            waiting += (getattr(value, name) for name in type(value).model_fields)
        elif isinstance(value, list | tuple):
            waiting += value


def check_model(model: HFConfig | OpenAIConfig, settings: Sequence[BaseModel]) -> None:
    """Raises a CoWestError for a model that could not do what these settings ask of it."""
    if isinstance(model, HFConfig):
        model.folder()
        # Without its libraries no more can be said of a model; that they are missing is said.
        if not missing_modules("train"):
            _try_chat(model, settings)
    elif model.key_env and not os.environ.get(model.key_env):
        raise ConfigError(
            f"model {model.model!r} at {model.base_url} needs a key in the environment variable "
            f"{model.key_env}, which is not set"
        )


def _try_chat(model: HFConfig, settings: Sequence[BaseModel]) -> None:
    """Raises ModelError for a model that can't be asked with its prompts, or trained on them."""
    chat = hf.open_chat(model)
    for prompt in _prompts_for(model, settings):
        chat.asked(prompt)
    trained = [one for one in settings if isinstance(one, SFTConfig | DPOConfig)]
    if any(one.policy == model for one in trained):
        for stop in _stop_texts(settings):
            chat.ends_at(stop)


def _stop_texts(settings: Sequence[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Yields the stop texts of each stage that drafts."""
    for one in settings:
        if isinstance(one, DraftConfig):
            yield one.sampling.stop
        elif isinstance(one, EvaluateConfig):
            yield one.drafting.stop


def _prompts_for(model: HFConfig, settings: Sequence[BaseModel]) -> Iterator[tuple[Message, ...]]:
    """Yields an example of each prompt that a local model is asked with."""
    for prompts in [one.prompts for one in settings if isinstance(one, SFTConfig | RefineConfig)]:
        for one in settings:
            # A stage that drafts or refines takes its prompts from the version.
            if getattr(one, "policy", None) == model:
                yield prompts.draft.render(TRIED)
            if getattr(one, "strong", None) == model:
                yield prompts.solo.render(TRIED)
                yield prompts.refine.render(TRIED, "?")
    for one in settings:
        judge = getattr(one, "scorer", None)
        if isinstance(judge, JudgeConfig) and judge.model == model:
            yield judge.prompt.render(TRIED, ("?",), "?")
