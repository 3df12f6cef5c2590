"""1 where the answer is one of the targets, after normalisation; else 0."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.scorers.normal import after, normalise


class ExactMatchConfig(Config):
    """The answer is a target."""

    scorer: Literal["exact_match"] = "exact_match"
    marker: str | None = None
    """What announces the answer, `Answer:` say: what follows its last one is scored, and an answer without one whole."""

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield ExactMatch(self.marker)


class ExactMatch:
    """Exact match (EM) as in SQuAD, best over the targets."""

    def __init__(self, marker: str | None = None) -> None:
        self.name = "exact_match" if marker is None else f"exact_match after {marker}"
        self._marker = marker

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 for each (query, answer), in order, lazily."""
        for query, answer in answers:
            said = normalise(after(answer, self._marker))
            found = next((target for target in query.targets if normalise(target) == said), None)
            yield Score(0.0, "is no target") if found is None else Score(1.0, f"is {found!r}")
