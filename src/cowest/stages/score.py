"""Refinements, the strong model alone, and drafts alone are scored by one scorer: the collaborative feedback."""

from collections.abc import Iterator

from cowest import collaboration, io
from cowest.config import Config
from cowest.models.estimate import announce
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.protocols import Scorer
from cowest.records import Feedback, Refinement
from cowest.scorers import AnyScorer
from cowest.scorers.judge import JudgeConfig


class ScoreConfig(Config):
    """What says how good an answer is."""

    scorer: AnyScorer


def main(refinements: list[In], feedback: Out, config: ScoreConfig, shard: io.Shard | None = None) -> None:
    """Writes one row for each refinement, the failed ones too."""

    def scored(scorer: Scorer) -> Iterator[Feedback]:
        return collaboration.score(io.groups(refinements, Refinement, shard), scorer)

    if isinstance(judge := config.scorer, JudgeConfig):
        announce("score", judge.model, lambda model: scored(judge.over(model)))
    with config.scorer.open() as scorer:
        io.write(feedback, watch(scored(scorer), "score"))
