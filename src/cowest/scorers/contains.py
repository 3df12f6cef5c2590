"""1 if one of the targets stands in the answer as whole words, after normalisation; else 0."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.sametext import normalise


class ContainsConfig(Config):
    """Scores 1 if the answer contains a target as whole words, and 0 otherwise.

    An answer that names every possibility scores 1, so keep completions short.
    """

    scorer: Literal["contains"] = "contains"

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield Contains()


class Contains:
    """Looks for the targets among the words of the answer."""

    name = "contains"

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 per (query, answer), in order, lazily."""
        for query, answer in answers:
            yield _score(query, f" {normalise(answer)} ")


def _score(query: Query, words: str) -> Score:
    # Words and targets have a space on either side, so that a target is found as whole words only.
    for target in query.targets:
        if f" {normalise(target)} " in words:
            return Score(1.0, f"contains {target!r}")
    return Score(0.0, "contains no target")
