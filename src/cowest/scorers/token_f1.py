"""How many words answer and target share: token F1, best over the targets."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.scorers.normal import after, normalise


class TokenF1Config(Config):
    """The answer shares words with a target."""

    scorer: Literal["token_f1"] = "token_f1"
    marker: str | None = None
    """What announces the answer, `Answer:` say: what follows its last one is scored, and an answer without one whole."""

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield TokenF1(self.marker)


class TokenF1:
    """Token F1, best over the targets."""

    def __init__(self, marker: str | None = None) -> None:
        self.name = "token_f1" if marker is None else f"token_f1 after {marker}"
        self._marker = marker

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """From 0 to 1 for each (query, answer), in order, lazily."""
        for query, answer in answers:
            said = after(answer, self._marker)
            best, target = max(
                ((f1(said, target), target) for target in query.targets), key=lambda found: found[0]
            )
            yield Score(
                best, f"shares words with {target!r}" if best else "shares no word with a target"
            )


def f1(answer: str, target: str) -> float:
    """2 * shared / (words of the answer + words of the target), words counted as often as both have them.

    The harmonic mean of precision and recall of Rajpurkar et al. 2016 (SQuAD), section 6.1.
    """
    said, meant = Counter(normalise(answer).split()), Counter(normalise(target).split())
    return 2 * (said & meant).total() / max(1, said.total() + meant.total())
