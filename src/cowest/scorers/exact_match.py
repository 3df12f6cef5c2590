"""1 if the answer is one of the targets, after normalisation; else 0."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.scorers.marker import Marker, after, named
from cowest.scorers.rules import FORMS, RuleNumber, remind
from cowest.scorers.rules import named as ruled


class ExactMatchConfig(Config):
    """Scores 1 if the answer is a target, whatever its case, articles and punctuation; else 0."""

    scorer: Literal["exact_match"] = "exact_match"
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
        yield ExactMatch(self.marker, self.rule)


class ExactMatch:
    """Exact match (EM) as in SQuAD, best over the targets."""

    def __init__(self, marker: str | None = None, rule: RuleNumber = 1) -> None:
        self.name = named(ruled("exact_match", rule), marker)
        self._marker, self._rule = marker, rule
        self._form = FORMS[rule]

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 per (query, answer), in order, lazily."""
        for query, answer in answers:
            yield self._score(query, self._form(after(answer, self._marker, self._rule)))

    def _score(self, query: Query, words: str) -> Score:
        for target in query.targets:
            if self._form(target) == words:
                return Score(1.0, f"is {target!r}")
        return Score(0.0, "is no target")
