"""1 where the answer is one of the targets, after normalisation; else 0."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.scorers.normal import normalise


class ExactMatchConfig(Config):
    """The answer is a target."""

    scorer: Literal["exact_match"] = "exact_match"

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield ExactMatch()


class ExactMatch:
    """Exact match (EM) as in SQuAD, best over the targets."""

    name = "exact_match"

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 for each (query, answer), in order, lazily."""
        for query, answer in answers:
            said = normalise(answer)
            found = next((target for target in query.targets if normalise(target) == said), None)
            yield Score(0.0, "is no target") if found is None else Score(1.0, f"is {found!r}")
