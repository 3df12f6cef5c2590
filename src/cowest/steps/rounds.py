"""Later rounds of alignment as steps of a pipeline; each drafts, refines and scores in shards.

A round is the stages from `draft` to `dpo` once more, with the settings that `dpo.ask` gives them.
It makes the same rows, and at the end the same challenger, as the stage `dpo` does when all rounds
run inside it (`aligning.rounds`). A round that leaves too few pairs is not trained, and each step
after it hands on what it was given.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cowest import environment, fanout, io, version
from cowest.aligning import rounds
from cowest.aligning.settings import DPOConfig
from cowest.config import Config, parse
from cowest.records import Query
from cowest.stages.draft import DraftConfig
from cowest.stages.pair import PairConfig
from cowest.stages.refine import RefineConfig
from cowest.stages.score import ScoreConfig
from cowest.stages.sft import SFTConfig
from cowest.stages.validate import ValidateConfig


def settings(number: int, parsed: Mapping[str, Any]) -> dict[str, Config]:
    """The settings of each stage of a round, from those of the turn by stage.

    For the first round, only those of `dpo`: the stages before it have made its drafts.
    """
    aligning: DPOConfig = parsed["dpo"]
    found: dict[str, Config] = {"dpo": aligning.model_copy(update={"round": number})}
    if number == 1:
        return found
    drafted: DraftConfig = parsed["draft"]
    trained: SFTConfig = parsed["sft"]
    ask = aligning.asking()
    # The prompts that the policy was trained with are in every version, and are those of a round.
    prompts, align = trained.prompts.model_dump(), aligning.align
    # Too few pairs are no error: the round before is the last.
    suite = ask.pairs.model_copy(update={"min_pairs": 0})
    given: dict[str, tuple[type[Config], dict[str, Any]]] = {
        "draft": (
            DraftConfig,
            {
                "policy": aligning.policy.model_dump(),
                "sampling": ask.drafting.model_dump(),
                "candidates": None if ask.candidates is None else ask.candidates.model_dump(),
                "split": drafted.split,
            },
        ),
        "refine": (
            RefineConfig,
            {
                "strong": ask.strong.model_dump(),
                "prompts": prompts,
                "sampling": ask.refining.model_dump(),
                "align": align,
            },
        ),
        "score": (ScoreConfig, {"scorer": ask.scorer.model_dump()}),
        "pair": (PairConfig, {"rule": ask.rule.model_dump(), "prompts": prompts, "align": align}),
        "validate@pairs": (ValidateConfig, {"suite": suite.model_dump()}),
    }
    for stage, (kind, values) in given.items():
        found[stage] = parse(kind, values, f"round {number}, {stage}")
    return found


def begin(number: int, feedback: str, challenger: str, shards: int, queries: str) -> list[str]:
    """Writes the queries that a round makes new drafts of, and names its shards.

    They are those of the first round's `feedback`. Where the rounds are over, as the challenger
    tells, there are none, in one shard.
    """
    environment.settle()
    if rounds.trained(version.expect(Path(challenger))) < number - 1:
        none: list[Query] = []
        io.write(Path(queries), none)
        return fanout.shards(1)
    io.write(Path(queries), rounds.queries_of(Path(feedback)))
    return fanout.shards(shards)
