"""Token F1: the share of words that answer and target have in common, best over the targets."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.sametext import normalise
from cowest.scorers.marker import after, named


class TokenF1Config(Config):
    """Scores, from 0 to 1, how many words the answer shares with the target that is nearest."""

    scorer: Literal["token_f1"] = "token_f1"
    marker: str | None = None
    """The words before the answer, such as `Answer:`. Only the text after their last occurrence, up
    to the end of the line, is scored; an answer without them is scored whole."""

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield TokenF1(self.marker)


class TokenF1:
    """Token F1, best over the targets."""

    def __init__(self, marker: str | None = None) -> None:
        self.name = named("token_f1", marker)
        self._marker = marker

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """From 0 to 1 per (query, answer), in order, lazily."""
        for query, answer in answers:
            yield _score(query, after(answer, self._marker))


def _score(query: Query, answer: str) -> Score:
    """The score of the best target; of equally good ones, the first is named."""
    best, nearest = 0.0, ""
    for target in query.targets:
        shared = f1(answer, target)
        if shared > best:
            best, nearest = shared, target
    if best:
        return Score(best, f"shares words with {nearest!r}")
    return Score(0.0, "shares no word with a target")


def f1(answer: str, target: str) -> float:
    """2 * shared / (words of the answer + words of the target).

    A word is shared as often as both texts have it.
    The harmonic mean of precision and recall of Rajpurkar et al. 2016 (SQuAD), section 6.1.
    """
    given, wanted = Counter(normalise(answer).split()), Counter(normalise(target).split())
    return 2 * (given & wanted).total() / max(1, given.total() + wanted.total())
