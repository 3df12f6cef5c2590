"""Finds what is wrong with a turn's settings and data, before anything is spent.

`cowest doctor` uses these checks too, and adds what this machine lacks.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cowest import stages
from cowest.aligning.settings import DPOConfig
from cowest.config import Config, digest, load, parse, section
from cowest.errors import ConfigError, CoWestError, RegistryError
from cowest.gates import OF_CHOICES, Metric
from cowest.models import hf
from cowest.models.chat import TRIED
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.models.vllm import VLLMConfig
from cowest.online.live import ServeConfig
from cowest.ports import config_of
from cowest.probing import probe_problems
from cowest.prompts import expect_candidates
from cowest.rawdata import raw_data_problems
from cowest.records import Message
from cowest.registry.mlflow import RegistryConfig
from cowest.scorers.judge import JudgeConfig
from cowest.stages.draft import DraftConfig
from cowest.stages.evaluate import EvaluateConfig
from cowest.stages.pin import PinConfig
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
    "trainjob": ("kubeflow", "s3fs"),
    "serve": ("bentoml", "prometheus_client"),
}  # fmt: skip
"""The modules of each extra."""
Model = HFConfig | VLLMConfig | OpenAIConfig
"""A model that is checked before a turn."""
OF_A_TURN = ("validate", "train", "track", "report", "dvc")
BESIDE_STAGES = {"models", "registry", "turn", "serve"}
"""Sections of params.yaml that are no stage: `models` holds anchors."""


def preflight(params: Path) -> list[Config]:
    """Returns the settings; raises one CoWestError with everything that would stop a turn later.

    Checks settings, extras, raw data, models and keys in about a second; local models take a few
    seconds more, since their tokenizers are loaded. Relative paths start at the current folder.
    """
    settings, problems = stage_settings(params)
    problems += raw_data_problems(params) + probe_problems(params, settings)
    raise_all(problems + problems_of(settings, OF_A_TURN))
    return settings


def problems_of(settings: Sequence[Config], extras: Sequence[str]) -> list[CoWestError]:
    """Returns what is wrong with the extras, registries and models of a turn.

    All problems are collected: a person should not mend one, wait, and find the next.
    """
    problems: list[CoWestError] = []
    for extra in extras:
        missing = missing_modules(extra)
        if missing:
            names = ", ".join(missing)
            mend = f"install CoWest's extra `{extra}` (README, Install)"
            problems.append(ConfigError(f"{names} can't be imported: {mend}"))
    problems += registry_problems(settings)
    for model in models_of(settings):
        try:
            check_model(model, settings)
        except CoWestError as error:
            problems.append(error)
    return problems


def raise_all(problems: Sequence[CoWestError]) -> None:
    """Raises one CoWestError that names all problems, each once, if there are any."""
    # Two checks may meet the same thing, as a registry that is out of reach.
    problems = list({str(one): one for one in problems}.values())
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise CoWestError(f"{len(problems)} things to mend before the turn starts:{lines}")


def stage_settings(params: Path) -> tuple[list[Config], list[CoWestError]]:
    """Returns the settings of every stage and of `serve` that are valid, and what is wrong with
    the others.

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
    kinds: dict[str, type[Config]] = {}
    for stage in stages.STAGES:
        kinds[stage] = config_of(stages.main_of(stage))
    if "serve" in values:
        # No stage reads this section, so a slip in it would only be found by the service.
        kinds["serve"] = ServeConfig
    for name, kind in kinds.items():
        try:
            found[name] = parse(kind, section(values, name, str(params)), f"{params}: {name}")
        except CoWestError as error:
            problems.append(error)
    try:
        agree(found, str(params))
        serves_as_judged(found.get("serve"), found.get("evaluate"), str(params))
    except ConfigError as error:
        problems.append(error)
    return list(found.values()), problems


def agree(settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError for settings of two stages that contradict each other.

    If `validate` held corpus and queries to different contracts, the policy would learn from the
    corpus what the contract of the queries masks or sets aside. And the score on queries that a
    policy was aligned on says nothing about other queries.
    """
    draft, evaluate = settings.get("draft"), settings.get("evaluate")
    if draft is not None and evaluate is not None and draft.split == evaluate.split:
        raise ConfigError(
            f"{where}: evaluate.split and draft.split are both {draft.split}, so the challenger "
            "would be judged by the very queries that it is aligned on: set evaluate.split to "
            "test, or to another split than draft.split"
        )
    trained = settings.get("sft")
    if draft is not None and trained is not None:
        expect_candidates(draft.candidates, trained.prompts, where)
    _one_objective(settings, where)
    _rounds_draft_alike(draft, settings.get("dpo"), where)
    _stops_by_the_pairs_rule(settings, where)
    compare = settings.get("compare")
    if compare is not None and evaluate is not None:
        for gate in compare.gates:
            _is_measured(gate.metric, evaluate, where)
    queries, corpus = settings.get("validate@queries"), settings.get("validate@corpus")
    if queries is not None and corpus is not None and corpus.suite.queries != queries.suite:
        raise ConfigError(
            f"{where}: validate.corpus.queries is not the same as validate.queries, so the policy "
            "would learn what the queries' contract masks or sets aside: write "
            "`queries: &contract {...}` and "
            "`corpus: {kind: corpus, queries: *contract}`"
        )


def _one_objective(settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError if the stages that share an objective name different ones."""
    given = {}
    for stage in ("refine", "pair", "dpo"):
        if stage in settings:
            given[stage] = settings[stage].align
    if len(set(given.values())) > 1:
        said = ", ".join(f"{stage}.align is {align}" for stage, align in given.items())
        raise ConfigError(
            f"{where}: {said}: name the objective once, as `align: &align kto` under `models`, and "
            "write `align: *align` in all three"
        )
    pairs = settings.get("validate@pairs")
    if pairs is not None and given.get("dpo") == "grpo" and pairs.suite.min_pairs > 0:
        raise ConfigError(
            f"{where}: `align: grpo` makes no pairs, and validate.pairs.min_pairs asks for "
            f"{pairs.suite.min_pairs}: set it to 0"
        )


def _stops_by_the_pairs_rule(settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError if `refine` would stop by other scores or pairs than are made."""
    refine, score, pair = (settings.get(name) for name in ("refine", "score", "pair"))
    if refine is None or refine.select is None:
        return
    stop = refine.select.stop
    if stop is None:
        if pair is not None and pair.rule.allow_cut != refine.select.allow_cut:
            raise ConfigError(
                f"{where}: refine.select.allow_cut is {_yaml(refine.select.allow_cut)} and "
                f"pair.rule.allow_cut is {_yaml(pair.rule.allow_cut)}, so drafts would be asked "
                "about of which no pair is made, or left out that could make one: set both to the "
                "same"
            )
        return
    for name, mine, theirs in (
        ("scorer", stop.scorer, None if score is None else score.scorer),
        ("rule", stop.rule, None if pair is None else pair.rule),
    ):
        if theirs is not None and mine != theirs:
            stage = "score" if name == "scorer" else "pair"
            raise ConfigError(
                f"{where}: refine.select.stop.{name} is not the same as {stage}.{name}, so that "
                f"answers would be left out which {stage} needs: write `{name}: &{name} {{...}}` "
                f"at the place that comes first in the file, and `{name}: *{name}` at the other"
            )


def _yaml(value: bool) -> str:
    return str(value).lower()


def _rounds_draft_alike(draft: DraftConfig | None, dpo: DPOConfig | None, where: str) -> None:
    """Raises ConfigError if later rounds would draft with other prompts than the first."""
    if draft is None or dpo is None:
        return
    if dpo.round is not None:
        raise ConfigError(f"{where}: only the pipeline sets dpo.round: take it out")
    if dpo.rounds > 1 and dpo.asking().candidates != draft.candidates:
        raise ConfigError(
            f"{where}: draft.candidates and dpo.ask.candidates differ, and later rounds draft as "
            "the first did: write `candidates: &candidates {...}` in draft, and `candidates: "
            "*candidates` in dpo.ask"
        )


def _is_measured(metric: Metric, evaluate: EvaluateConfig, where: str) -> None:
    """Raises ConfigError for a gate on a metric that `evaluate` does not measure."""
    if metric in OF_CHOICES and evaluate.scorer.scorer != "choice":
        raise ConfigError(
            f"{where}: compare.gates has a gate on {metric}, which only `scorer: choice` has, and "
            f"evaluate.scorer is {evaluate.scorer.scorer}: take the gate out"
        )
    if metric == "probe" and evaluate.probe is None:
        raise ConfigError(
            f"{where}: compare.gates has a gate on probe, and evaluate.probe names no general "
            "questions: name their file there, or take the gate out"
        )


def serves_as_judged(
    serve: ServeConfig | None, evaluate: EvaluateConfig | None, where: str
) -> None:
    """Raises ConfigError if `serve.policy` can't load the adapter that `evaluate` judges.

    An adapter is loaded on the base that it was trained on, in the same number format and with the
    same chat template; device and rows may be others, and the model may lie elsewhere there.
    """
    if serve is None or evaluate is None:
        return
    served, judged = serve.policy, evaluate.policy
    if not isinstance(judged, HFConfig | VLLMConfig):
        return
    if isinstance(served, OpenAIConfig) and served.adapters_of is not None:
        served = served.adapters_of
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
                "served only on the base that it was judged on: write `policy: *policy` in both"
            )


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


def models_of(settings: Sequence[BaseModel]) -> list[Model]:
    """Returns every model that the settings name, each once."""
    found = {}
    for config in settings:
        for model in _models_in(config):
            found[digest(model)] = model
    return list(found.values())


def _models_in(config: BaseModel) -> Iterator[Model]:
    """Yields the models in the settings of a stage, at any depth, and those that belong to them."""
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Model):
            yield value
        if isinstance(value, OpenAIConfig):
            waiting.append(value.adapters_of)
        elif isinstance(value, Model):
            continue
        elif isinstance(value, BaseModel):
            waiting += (getattr(value, name) for name in type(value).model_fields)
        elif isinstance(value, list | tuple):
            waiting += value


def check_model(model: Model, settings: Sequence[BaseModel]) -> None:
    """Raises a CoWestError for a model that can't do what these settings ask of it."""
    if isinstance(model, VLLMConfig):
        model.base().folder()
        model.has_vllm()
        if not missing_modules("train"):
            chat = hf.open_writing(model.base(), model.model).chat
            for prompt in _prompts_for(model, settings):
                chat.asked(prompt)
    elif isinstance(model, HFConfig):
        model.folder()
        # Without its libraries no more can be said of a model; that they are missing is said.
        if not missing_modules("train"):
            _try_chat(model, settings)
    else:
        model.key()
        # What is served does not count for the turn.
        asked = models_of([one for one in settings if not isinstance(one, ServeConfig)])
        for config in settings:
            if isinstance(config, PinConfig) and model in asked:
                model.can_keep(config.budget)


def missing_keys(params: Path) -> list[str]:
    """Returns a line for each key that is not set, without which a turn does not begin."""
    settings, _ = stage_settings(params)
    asking = {}
    for model in models_of(settings):
        if isinstance(model, OpenAIConfig) and model.key_env:
            asking[model.key_env] = model.model
    return [
        f"note: {key} is not set, and {model} needs it: export it, or no turn will begin"
        for key, model in sorted(asking.items())
        if not os.environ.get(key, "").strip()
    ]


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
            if one.candidates is not None:
                yield one.candidates.stop
        elif isinstance(one, EvaluateConfig):
            yield one.drafting.stop


def _prompts_for(model: Model, settings: Sequence[BaseModel]) -> Iterator[tuple[Message, ...]]:
    """Yields an example of each prompt that a local model is asked with."""
    for prompts in [one.prompts for one in settings if isinstance(one, SFTConfig | RefineConfig)]:
        for one in settings:
            # A stage that drafts or refines takes its prompts from the version.
            if getattr(one, "policy", None) == model:
                yield prompts.draft.render(TRIED)
                for template in prompts.candidates.values():
                    yield template.render(TRIED, group="?")
            if getattr(one, "strong", None) == model:
                yield prompts.solo.render(TRIED)
                yield prompts.refine.render(TRIED, "?")
    for one in settings:
        judge = getattr(one, "scorer", None)
        if isinstance(judge, JudgeConfig) and judge.model == model:
            yield judge.prompt.render(TRIED, ("?",), "?")
