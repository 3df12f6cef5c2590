"""One scorer scores refinements, the strong model alone, and drafts alone: the feedback."""

from collections.abc import Iterator

from pydantic import Field

from cowest import collaboration, io
from cowest.config import Config
from cowest.failures import Failures
from cowest.models.estimate import announce
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.protocols import Scorer
from cowest.records import Feedback, Refinement
from cowest.scorers import AnyScorer
from cowest.scorers.judge import JudgeConfig


class ScoreConfig(Config):
    """The scorer of answers."""

    scorer: AnyScorer
    """The scorer of refinements, of the strong model alone, and of drafts alone."""
    max_failed: int | None = Field(default=0, ge=0)
    """Rows that may fail in this stage: with more, it fails at its end. null for any number. Failed
    rows stay in the file, and are left out of pairs and comparisons."""


def main(
    refinements: list[In], feedback: Out, config: ScoreConfig, shard: io.Shard | None = None
) -> None:
    """Writes one row per refinement, for failed ones too."""
    failures = Failures("score")
    # Rows that failed in a stage before were allowed there, and are not judged again here.
    earlier = 0
    for group in io.groups(refinements, Refinement, shard):
        earlier += sum(row.failed is not None for row in group)

    def scored(scorer: Scorer) -> Iterator[Feedback]:
        return collaboration.score(io.groups(refinements, Refinement, shard), scorer)

    judge = config.scorer
    if isinstance(judge, JudgeConfig):
        announce("score", judge.model, lambda model: scored(judge.over(model)))
    with config.scorer.open() as scorer:
        io.write(feedback, failures.counted(watch(scored(scorer), "score")))
    failures.judge(config.max_failed, earlier)
