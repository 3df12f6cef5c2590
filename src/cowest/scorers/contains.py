"""1 where one of the targets stands in the answer as whole words, after normalisation; else 0."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.scorers.normal import normalise


class ContainsConfig(Config):
    """The answer contains a target. An answer that names every possibility scores 1: keep completions short."""

    scorer: Literal["contains"] = "contains"

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield Contains()


class Contains:
    """Whole words of the answer are a target, best over the targets."""

    name = "contains"

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 for each (query, answer), in order, lazily."""
        for query, answer in answers:
            said = f" {normalise(answer)} "
            found = next(
                (target for target in query.targets if f" {normalise(target)} " in said), None
            )
            yield (
                Score(0.0, "contains no target")
                if found is None
                else Score(1.0, f"contains {found!r}")
            )
