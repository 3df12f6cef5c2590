"""1 if the answer is one of the targets, after normalisation; else 0."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.sametext import normalise
from cowest.scorers.marker import after, named


class ExactMatchConfig(Config):
    """Scores 1 if the answer is a target, whatever its case, articles and punctuation; else 0."""

    scorer: Literal["exact_match"] = "exact_match"
    marker: str | None = None
    """The words before the answer, such as `Answer:`. Only the text after their last occurrence, up
    to the end of the line, is scored; an answer without them is scored whole."""

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield ExactMatch(self.marker)


class ExactMatch:
    """Exact match (EM) as in SQuAD, best over the targets."""

    def __init__(self, marker: str | None = None) -> None:
        self.name = named("exact_match", marker)
        self._marker = marker

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 per (query, answer), in order, lazily."""
        for query, answer in answers:
            yield _score(query, normalise(after(answer, self._marker)))


def _score(query: Query, words: str) -> Score:
    for target in query.targets:
        if normalise(target) == words:
            return Score(1.0, f"is {target!r}")
    return Score(0.0, "is no target")
