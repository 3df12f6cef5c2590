"""1 if the answer says one of the targets as whole words, and no other answer beside it; else 0."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from cowest.config import Config, digest
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.sametext import comparable, normalise
from cowest.scorers.choice import rights
from cowest.scorers.mentions import is_affirmed, mentions, name_of, words_of
from cowest.scorers.rules import named, remind


class ContainsConfig(Config):
    """Scores 1 if the answer says a target as whole words, and 0 otherwise.

    By rule 2, a target that is denied (`certainly not Italy`) or part of another name (New York for
    York) does not count, and an answer that says one of the query's `choices` or of `candidates`
    beside it scores 0. Without either, an answer that lists everything scores 1: keep completions
    short.
    """

    scorer: Literal["contains"] = "contains"
    rule: Literal[1, 2] = 1
    """Rule by which answers are read. 2 looks at negations, longer names and other answers, folds
    forms of letters and letters that can't be seen, and takes each letter of a script without
    spaces for a word; 1 is the rule before, and the default for one release."""
    candidates: tuple[str, ...] = ()
    """Answers that any query may have, such as all countries: an answer that says one that is no
    target scores 0. Where one name is part of another, the longest counts. Needs `rule: 2`."""

    def model_post_init(self, _: Any) -> None:
        if self.candidates and self.rule == 1:
            raise ValueError("candidates: rule 1 looks for targets alone: set `rule: 2`")

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        remind(self.scorer, self.rule)
        yield Contains() if self.rule == 1 else ContainsAlone(self.candidates)


class Contains:
    """Looks for the targets among the words of the answer, whatever else it says."""

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


class ContainsAlone:
    """Looks for a target that the answer affirms, and for other answers beside it."""

    def __init__(self, candidates: tuple[str, ...] = ()) -> None:
        self.name = named("contains", 2)
        if candidates:
            self.name += f":{digest(candidates)[:8]}"
        self._candidates = {name_of(text): text for text in candidates}

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 per (query, answer), in order, lazily."""
        for query, answer in answers:
            yield self._score(query, answer)

    def _score(self, query: Query, answer: str) -> Score:
        # A target may consist of marks alone, or of a negation, and is right as it stands.
        for target in query.targets:
            if comparable(target) == comparable(answer):
                return Score(1.0, f"is {target!r}")
        targets = {name_of(text): text for text in query.targets}
        others = self._others(query, targets)
        words = words_of(answer)
        found = mentions(words, [*targets, *others])
        affirmed = {one.name for one in found if is_affirmed(words, one)}
        right = [text for name, text in targets.items() if name in affirmed]
        wrong = [text for name, text in others.items() if name in affirmed]
        if right and wrong:
            return Score(0.0, f"says {right[0]!r} and {wrong[0]!r}")
        if right:
            return Score(1.0, f"contains {right[0]!r}")
        denied = [targets[one.name] for one in found if one.name in targets]
        if denied:
            return Score(0.0, f"says {denied[0]!r} only to deny it, or in another name")
        return Score(0.0, "contains no target")

    def _others(
        self, query: Query, targets: dict[tuple[str, ...], str]
    ) -> dict[tuple[str, ...], str]:
        """The answers of this query that are not right, by their words."""
        right = rights(query, 2)
        others = dict(self._candidates)
        for number, choice in enumerate(query.choices):
            if number not in right:
                others[name_of(choice)] = choice
        for number in right:
            others.pop(name_of(query.choices[number]), None)
        for name in targets:
            others.pop(name, None)
        return others
