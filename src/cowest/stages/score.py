"""Refinements, the strong model alone, and drafts alone are scored by one scorer: the collaborative feedback."""

from cowest import collaboration, io
from cowest.config import Config
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.records import Refinement
from cowest.scorers import AnyScorer


class ScoreConfig(Config):
    """What says how good an answer is."""

    scorer: AnyScorer


def main(refinements: list[In], feedback: Out, config: ScoreConfig, shard: io.Shard | None = None) -> None:
    """Writes one row for each refinement, the failed ones too."""
    with config.scorer.open() as scorer:
        io.write(feedback, watch(collaboration.score(io.groups(refinements, Refinement, shard), scorer), "score"))
