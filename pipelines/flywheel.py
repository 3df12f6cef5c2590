"""The turn as a KFP v2 pipeline: the stages, names and edges of `cowest turn`, pin to register.

Each stage has its own section of the settings compiled in, so a step's cache key holds the settings
of that step and no others. Raw data are an input of the pipeline.
"""

from pathlib import Path
from typing import Any

from kfp import dsl

from cowest import preflight
from cowest.config import load, parse, section
from cowest.ports import config_of
from cowest.stages import STAGES, main_of
from cowest_components.compare import compare
from cowest_components.dpo import dpo
from cowest_components.draft import draft
from cowest_components.evaluate import evaluate
from cowest_components.pair import pair
from cowest_components.pin import pin
from cowest_components.prepare import prepare
from cowest_components.refine import refine
from cowest_components.register import register
from cowest_components.score import score
from cowest_components.settings import settings
from cowest_components.sft import sft
from cowest_components.validate import validate

Sections = dict[str, dict[str, Any]]
"""The settings of each stage."""


def flywheel(params: Path) -> Any:
    """The pipeline of one turn with the settings of a params.yaml. Raises ConfigError."""
    sections = load(params)
    config = {stage: section(sections, stage, str(params)) for stage in STAGES}
    # Settings of two stages that disagree are found here, and not on the cluster an hour later.
    parsed = {}
    for stage, values in config.items():
        parsed[stage] = parse(config_of(main_of(stage)), values, f"{params}: {stage}")
    preflight.agree(parsed, str(params))
    return _turn(params.read_text(encoding="utf-8"), config)


def _turn(text: str, config: Sections) -> Any:
    @dsl.pipeline(name="flywheel", description="One turn of the wheel, from pin to register.")
    def turn(raw: str, raw_digest: str) -> None:
        # KFP's cache compares inputs, and new rows may lie at the old address. So the digest of the
        # rows is an input too.
        metadata = {"digest": raw_digest}
        data = dsl.importer(artifact_uri=raw, artifact_class=dsl.Dataset, metadata=metadata)
        given = settings(text=text)
        pinned = pin(raw=data.output, params=given.output, config=config["pin"])
        # The registry is no input, and pin reads from it who is champion now.
        pinned.set_caching_options(False)
        start, champion, looks = (pinned.outputs[name] for name in ("start", "champion", "looks"))

        made = prepare(raw=data.output, config=config["prepare"])
        queries = _valid(config, "queries", made.outputs["queries"], data.output)
        corpus = _valid(config, "corpus", made.outputs["corpus"], queries)
        policy = sft(corpus=corpus, start=start, config=config["sft"]).outputs["policy"]

        drafted = draft(queries=queries, policy=policy, config=config["draft"])
        refined = refine(drafts=drafted.outputs["drafts"], config=config["refine"])
        scored = score(refinements=refined.outputs["refinements"], config=config["score"])
        feedback = _valid(config, "feedback", scored.outputs["feedback"], champion)
        paired = pair(feedback=feedback, config=config["pair"])
        pairs = _valid(config, "pairs", paired.outputs["pairs"], queries)
        aligned = dpo(pairs=pairs, feedback=feedback, policy=policy, config=config["dpo"])
        challenger = aligned.outputs["challenger"]
        tried = evaluate(
            queries=queries,
            policy=policy,
            challenger=challenger,
            champion=champion,
            config=config["evaluate"],
        )
        judged = compare(
            trials=tried.outputs["trials"],
            agreement=tried.outputs["agreement"],
            policy=policy,
            challenger=challenger,
            looks=looks,
            config=config["compare"],
        )
        registering = {
            "turn": pinned.outputs["turn"],
            "params": given.output,
            "report": judged.outputs["report"],
            "policy": policy,
            "challenger": challenger,
            "queries": queries,
            "corpus": corpus,
            "pairs": pairs,
            "trials": tried.outputs["trials"],
            "looks": looks,
        }
        # The comparison makes a condition for the cluster, so it is not Python's truth.
        with dsl.If(judged.outputs["passed"] == True, name="passed"):  # noqa: E712
            _decide(config, "promote", registering)
        with dsl.Else(name="failed"):
            _decide(config, "refuse", registering)

    return turn


def _valid(config: Sections, kind: str, rows: Any, against: Any) -> Any:
    """The rows that meet the contract of their kind."""
    stage = f"validate@{kind}"
    task = validate(rows=rows, against=against, stage=stage, config=config[stage])
    task.set_display_name(stage)
    return task.outputs["valid"]


def _decide(config: Sections, name: str, ports: dict[str, Any]) -> None:
    task = register(**ports, config=config["register"])
    task.set_display_name(name)
    # A cached step would write nothing into the registry.
    task.set_caching_options(False)
