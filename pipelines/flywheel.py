"""The turn as a KFP v2 pipeline: the same stages, names and edges as `cowest turn`, from pin to register.

Settings are compiled in, each stage with its own section, so that a step's cache knows what it rests on; data are an input.
"""

from pathlib import Path
from typing import Any

from kfp import dsl

from components.compare import compare
from components.dpo import dpo
from components.draft import draft
from components.evaluate import evaluate
from components.pair import pair
from components.pin import pin
from components.prepare import prepare
from components.refine import refine
from components.register import register
from components.score import score
from components.settings import settings
from components.sft import sft
from components.validate import validate
from cowest import preflight
from cowest.config import load, parse, section
from cowest.ports import config_of
from cowest.stages import STAGES, main_of


def flywheel(params: Path) -> Any:
    """The pipeline of one turn with the settings of a params.yaml. Raises ConfigError."""
    sections = load(params)
    config = {stage: section(sections, stage, str(params)) for stage in STAGES}
    # now, and not on the cluster an hour later
    preflight.agree(
        {
            stage: parse(config_of(main_of(stage)), values, f"{params}: {stage}")
            for stage, values in config.items()
        },
        str(params),
    )
    text = params.read_text(encoding="utf-8")

    @dsl.pipeline(name="flywheel", description="One turn of the wheel, from pin to register.")
    def turn(raw: str, raw_digest: str) -> None:
        # The address says where the raw data are and the digest what they are: a cache must not take new rows for old ones.
        data = dsl.importer(
            artifact_uri=raw, artifact_class=dsl.Dataset, metadata={"digest": raw_digest}
        )
        given = settings(text=text)
        pinned = pin(raw=data.output, params=given.output, config=config["pin"])
        pinned.set_caching_options(False)  # it reads who is champion now

        made = prepare(raw=data.output, config=config["prepare"])
        queries = validate(
            rows=made.outputs["queries"],
            against=data.output,
            stage="validate@queries",
            config=config["validate@queries"],
        )
        queries.set_display_name("validate@queries")
        corpus = validate(
            rows=made.outputs["corpus"],
            against=queries.outputs["valid"],
            stage="validate@corpus",
            config=config["validate@corpus"],
        )
        corpus.set_display_name("validate@corpus")
        trained = sft(
            corpus=corpus.outputs["valid"], start=pinned.outputs["start"], config=config["sft"]
        )
        policy = trained.outputs["policy"]
        drafted = draft(queries=queries.outputs["valid"], policy=policy, config=config["draft"])
        refined = refine(drafts=drafted.outputs["drafts"], config=config["refine"])
        scored = score(refinements=refined.outputs["refinements"], config=config["score"])
        fed = validate(
            rows=scored.outputs["feedback"],
            against=pinned.outputs["champion"],
            stage="validate@feedback",
            config=config["validate@feedback"],
        )
        fed.set_display_name("validate@feedback")
        paired = pair(feedback=fed.outputs["valid"], config=config["pair"])
        pairs = validate(
            rows=paired.outputs["pairs"],
            against=queries.outputs["valid"],
            stage="validate@pairs",
            config=config["validate@pairs"],
        )
        pairs.set_display_name("validate@pairs")
        aligned = dpo(
            pairs=pairs.outputs["valid"],
            feedback=fed.outputs["valid"],
            policy=policy,
            config=config["dpo"],
        )
        challenger = aligned.outputs["challenger"]
        tried = evaluate(
            queries=queries.outputs["valid"],
            policy=policy,
            challenger=challenger,
            champion=pinned.outputs["champion"],
            config=config["evaluate"],
        )
        judged = compare(trials=tried.outputs["trials"], config=config["compare"])

        def decided(name: str) -> None:
            decision = register(
                turn=pinned.outputs["turn"],
                params=given.output,
                report=judged.outputs["report"],
                policy=policy,
                challenger=challenger,
                queries=queries.outputs["valid"],
                corpus=corpus.outputs["valid"],
                pairs=pairs.outputs["valid"],
                config=config["register"],
            )
            decision.set_display_name(name)
            decision.set_caching_options(False)  # its effect is outside

        with dsl.If(judged.outputs["passed"] == True, name="passed"):  # noqa: E712 (KFP's condition, not Python's)
            decided("promote")
        with dsl.Else(name="failed"):
            decided("refuse")

    return turn
