"""Exact match and token F1 by the rule of SQuAD's own script, so that figures compare with papers.

The rule folds case, drops ASCII punctuation and then the words a, an and the, and parts words at
white space (`evaluate-v2.0.py`; Rajpurkar et al. 2018). It spoils some short answers, as papers do:
`-5` is 5 and `C++` is C. `exact_match` and `token_f1` don't.
"""

import re
import string
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.scorers.marker import Marker, after, named
from cowest.scorers.token_f1 import f1, nearest

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SquadEMConfig(Config):
    """Scores 1 if the answer is a target by SQuAD's rule, and 0 otherwise."""

    scorer: Literal["squad_em"] = "squad_em"
    marker: Marker | None = None
    """The words before the answer, such as `Answer:`. Only the text after their last occurrence, up
    to the end of the line, is scored; an answer without them is scored whole."""

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield SquadEM(self.marker)


class SquadF1Config(Config):
    """Scores, from 0 to 1, how many words answer and nearest target share, by SQuAD's rule."""

    scorer: Literal["squad_f1"] = "squad_f1"
    marker: Marker | None = None
    """The words before the answer, such as `Answer:`. Only the text after their last occurrence, up
    to the end of the line, is scored; an answer without them is scored whole."""

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield SquadF1(self.marker)


class SquadEM:
    """SQuAD's exact match, best over the targets."""

    def __init__(self, marker: str | None = None) -> None:
        self.name = named("squad_em", marker)
        self._marker = marker

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 per (query, answer), in order, lazily."""
        for query, answer in answers:
            said = squad_form(after(answer, self._marker))
            yield _exact(query, said)


class SquadF1:
    """SQuAD's token F1, best over the targets."""

    def __init__(self, marker: str | None = None) -> None:
        self.name = named("squad_f1", marker)
        self._marker = marker

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """From 0 to 1 per (query, answer), in order, lazily."""
        for query, answer in answers:
            yield nearest(query, after(answer, self._marker), squad_shared)


def squad_form(text: str) -> str:
    """SQuAD's `normalize_answer`."""
    bare = text.lower().translate(WITHOUT_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def squad_shared(answer: str, target: str) -> float:
    """SQuAD's `compute_f1`: a text without words is as good as another without, and no other."""
    given, wanted = squad_form(answer).split(), squad_form(target).split()
    if not given or not wanted:
        return float(given == wanted)
    return f1(given, wanted)


def _exact(query: Query, said: str) -> Score:
    for target in query.targets:
        if squad_form(target) == said:
            return Score(1.0, f"is {target!r}")
    return Score(0.0, "is no target")
