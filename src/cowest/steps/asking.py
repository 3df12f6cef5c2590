"""Checks, before a pipeline is compiled, that its profile gives each step the keys it needs.

A step without its key would fail only after the steps before it have been paid for.
"""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from cowest.aligning.settings import DPOConfig
from cowest.config import Config
from cowest.errors import ConfigError
from cowest.models.openai import OpenAIConfig
from cowest.preferences import UNASKED
from cowest.preflight import models_of
from cowest.profiles import Profile, Step, StepName
from cowest.stages.dpo import one_process
from cowest.steps import rounds


def expect_keys(profile: Profile, parsed: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError for a step that lacks a key which the profile gives only to others.

    A key that the profile gives to no step is taken to be in every step's environment, as on this
    machine. Also raises for a key that the profile holds itself, for several processes in the step
    `dpo` where it takes one, and for devices of a step that has a TrainJob train.
    """
    problems = []
    given = {name: _variables(profile.step(name)) for name in get_args(StepName)}
    wired = set[str]().union(*given.values())
    for key, steps in sorted(_asking(parsed).items()):
        plain = [name for name in given if key in profile.step(name).env]
        if plain:
            problems.append(
                f"the profile writes {key} itself into env of {', '.join(plain)}, which is a key "
                f"by {where}, and many can read a compiled pipeline: put it into a Secret of the "
                "cluster, and name that Secret under `secrets`"
            )
        lacking = [name for name in steps if key in wired and key not in given[name]]
        if lacking:
            having = next(name for name, keys in given.items() if key in keys)
            problems.append(
                f"the profile gives {key} to the step {having} and not to {', '.join(lacking)}, "
                f"which need it too, by {where}: name its secret there as well, or under `every`"
            )
    problems += _process_problems(profile, parsed["dpo"])
    if problems:
        raise ConfigError("; ".join(problems))


def _process_problems(profile: Profile, aligning: DPOConfig) -> Iterator[str]:
    """Yields the trainings of a profile that would have other processes than they can use."""
    # In the pipeline other steps draft and ask for a later round, and each is trained by itself.
    alone_if_dpo = one_process(aligning.model_copy(update={"round": 1}))
    for name in ("sft", "dpo"):
        step = profile.step(name)
        on_nodes = _has_trainjob(step)
        several = (step.nproc or 1) > 1
        alone = alone_if_dpo if name == "dpo" else None
        if alone is not None and (several or on_nodes):
            yield (
                f"{alone}, and needs a single process for that: give the profile's step dpo "
                "`nproc: 1`, and no COWEST_TRAINJOB (an empty one in its `env` unsets that of "
                "`every`)"
            )
        elif on_nodes and (several or step.accelerator is not None):
            idle = "`nproc`" if several else "an `accelerator`"
            yield (
                f"the profile gives the step {name} {idle} and COWEST_TRAINJOB, which trains on "
                "nodes of its own while the step waits: leave one of them out"
            )


def _has_trainjob(step: Step) -> bool:
    """True if a step has a TrainJob train; an empty variable asks for none."""
    plain = step.env.get("COWEST_TRAINJOB")
    return "COWEST_TRAINJOB" in _variables(step) if plain is None else bool(plain)


def _variables(step: Step) -> set[str]:
    """The variables of a step's environment."""
    found = set(step.env)
    for keys in (*step.secrets.values(), *step.config_maps.values()):
        found.update(keys.values())
    return found


def _asking(parsed: Mapping[str, Any]) -> dict[str, list[str]]:
    """The steps that need each key, by the variable that holds it."""
    found: dict[str, list[str]] = {}
    for step, settings in _settings_by_step(parsed):
        for model in models_of([settings]):
            if isinstance(model, OpenAIConfig) and model.key_env:
                steps = found.setdefault(model.key_env, [])
                if step not in steps:
                    steps.append(step)
    # The pre-flight looks whether all are there, before anything is spent.
    return {key: ["preflight", *steps] for key, steps in found.items()}


def _settings_by_step(parsed: Mapping[str, Any]) -> Iterator[tuple[str, Config]]:
    """Each step that may ask a model, with the settings that name it."""
    aligning = parsed["dpo"]
    for stage in ("draft", "refine", "score", "evaluate"):
        if stage != "refine" or aligning.align not in UNASKED:
            yield stage, parsed[stage]
    if aligning.align == "grpo":
        yield "dpo", aligning.asking()
    if aligning.rounds > 1:
        again = rounds.settings(2, parsed)
        for stage in ("draft", "refine", "score"):
            if stage != "refine" or aligning.align not in UNASKED:
                yield stage, again[stage]
