"""Token F1: the share of words that answer and target have in common, best over the targets."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.scorers.marker import Marker, after, named
from cowest.scorers.rules import FORMS, RuleNumber, remind
from cowest.scorers.rules import named as ruled


class TokenF1Config(Config):
    """Scores, from 0 to 1, how many words the answer shares with the target that is nearest."""

    scorer: Literal["token_f1"] = "token_f1"
    marker: Marker | None = None
    """The words before the answer, such as `Answer:`. Only the text after their last occurrence, up
    to the end of the line, is scored; an answer without them is scored whole."""

    rule: RuleNumber = 1
    """Rule by which texts are compared. 2 folds forms of letters and letters that can't be seen,
    and takes each letter of a script without spaces for a word; 3 also reads a marker that Markdown
    parts (`**Answer**:`) and an answer on the line after it; 1 is the rule before, and the default
    for one release."""

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        remind(self.scorer, self.rule)
        yield TokenF1(self.marker, self.rule)


class TokenF1:
    """Token F1, best over the targets."""

    def __init__(self, marker: str | None = None, rule: RuleNumber = 1) -> None:
        self.name = named(ruled("token_f1", rule), marker)
        self._marker, self._rule = marker, rule
        self._form = FORMS[rule]

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """From 0 to 1 per (query, answer), in order, lazily."""
        for query, answer in answers:
            yield nearest(query, after(answer, self._marker, self._rule), self._shared)

    def _shared(self, answer: str, target: str) -> float:
        return f1(self._form(answer).split(), self._form(target).split())


def nearest(query: Query, answer: str, measure: Callable[[str, str], float]) -> Score:
    """The score of the best target; of equally good ones, the first is named."""
    best, words_of = 0.0, ""
    for target in query.targets:
        shared = measure(answer, target)
        if shared > best:
            best, words_of = shared, target
    if best:
        return Score(best, f"shares words with {words_of!r}")
    return Score(0.0, "shares no word with a target")


def f1(answer: Sequence[str], target: Sequence[str]) -> float:
    """2 * shared / (words of the answer + words of the target).

    A word is shared as often as both texts have it.
    The harmonic mean of precision and recall of Rajpurkar et al. 2016 (SQuAD), section 6.1.
    """
    given, wanted = Counter(answer), Counter(target)
    return 2 * (given & wanted).total() / max(1, given.total() + wanted.total())
