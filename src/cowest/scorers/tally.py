"""Counts of a system's answers beyond one score. Pure.

`Tally` counts the answers to a multiple choice: right, wrong and unparseable, with macro F1 over
the classes and its difference between systems. An unparseable answer scores 0 as a wrong one does,
but it means that the model did not answer as it was asked.

`Matching` measures short answers by exact match and by token F1, whichever of the two decides.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cowest.evaluation import Pair, answers_of
from cowest.intervals import ALPHA, Floats, few, interval, numbered
from cowest.protocols import Scorer
from cowest.records import Estimate, Trial
from cowest.report_parts import Choices, Matches
from cowest.scorers import choice
from cowest.scorers.exact_match import ExactMatch
from cowest.scorers.marker import parted
from cowest.scorers.squad import SquadEM, SquadF1
from cowest.scorers.token_f1 import TokenF1

Measure = Callable[[str | None], Scorer]
"""Makes a scorer for a marker."""
MEASURED: dict[str, tuple[Measure, Measure]] = {
    "exact_match": (ExactMatch, TokenF1),
    "token_f1": (ExactMatch, TokenF1),
    "exact_match:2": (partial(ExactMatch, rule=2), partial(TokenF1, rule=2)),
    "token_f1:2": (partial(ExactMatch, rule=2), partial(TokenF1, rule=2)),
    "exact_match:3": (partial(ExactMatch, rule=3), partial(TokenF1, rule=3)),
    "token_f1:3": (partial(ExactMatch, rule=3), partial(TokenF1, rule=3)),
    "squad_em": (SquadEM, SquadF1),
    "squad_f1": (SquadEM, SquadF1),
}
"""By the name of a scorer of short answers, exact match and token F1 by the same rule."""
UNPARSEABLE = -1
"""In the place of a class: the answer names no option, or several."""
Places = NDArray[np.intp]


@dataclass(slots=True)
class Answers:
    """One system's answers to a multiple choice, in the order of the queries: 12 bytes each."""

    query: "array[int]" = field(default_factory=lambda: array("i"))
    """The place of each answer's query."""
    right: "array[int]" = field(default_factory=lambda: array("i"))
    """The class of the query's target: its place among the choices."""
    named: "array[int]" = field(default_factory=lambda: array("i"))
    """The class that the answer names, or UNPARSEABLE. An answer that names one of several right
    options names the target's class."""

    def add(self, query: int, right: int, named: int) -> None:
        self.query.append(query)
        self.right.append(right)
        self.named.append(named)

    def counts(self, keys: Places, size: int, classes: int) -> Floats:
        """Answers by key and class, size x 3 x classes: hits, misses, false alarms.

        `keys` has the key of each query, which is below `size`; a negative one leaves it out.
        """
        key = keys[np.asarray(self.query)]
        right, named = np.asarray(self.right), np.asarray(self.named)
        found = np.zeros((size, 3, classes))
        kept, hit = key >= 0, named == right
        np.add.at(found, (key[kept & hit], 0, right[kept & hit]), 1)
        np.add.at(found, (key[kept & ~hit], 1, right[kept & ~hit]), 1)
        false = kept & ~hit & (named != UNPARSEABLE)
        np.add.at(found, (key[false], 2, named[false]), 1)
        return found


class Tally:
    """Counts the answers in trials whose scorer is `choice`.

    A class is a place among the choices: A, B, C.
    """

    def __init__(self) -> None:
        self._queries = 0
        self._classes = 0
        self._answers: dict[str, Answers] = {}

    def watch(self, queries: Iterable[list[Trial]]) -> Iterator[list[Trial]]:
        """Passes trials through and counts them; failed rows are left out."""
        for rows in queries:
            good = [row for row in rows if row.failed is None and choice.rule_of(row.scorer)]
            self._add_strong(good)
            for row in good:
                for given in answers_of(row):
                    if given.system != "strong":
                        self._add(given.system, row, given.answer)
            self._queries += 1
            yield rows

    def choices(self) -> dict[str, Choices]:
        """By system, the counts and macro F1."""
        found = {}
        of_all = np.zeros(self._queries, np.intp)
        for system, answers in self._answers.items():
            (counts,) = answers.counts(of_all, 1, self._classes)
            hits, missed, _ = counts
            unparseable = answers.named.count(UNPARSEABLE)
            found[system] = Choices(
                right=int(hits.sum()),
                wrong=int(missed.sum()) - unparseable,
                unparseable=unparseable,
                macro_f1=round(float(_macro_f1(counts)), 6),
            )
        return found

    def differences(
        self,
        pairs: Iterable[Pair],
        groups: Sequence[str],
        alpha: float = ALPHA,
        fewest: int = 0,
    ) -> dict[Pair, Estimate | None]:
        """By pair of systems, the difference of macro F1 with its interval, which misses with
        probability `alpha`.

        Only queries that both have answered count; None where there is none. `groups` has the group
        of each query. Where fewer than `fewest` groups differ, there is no interval.
        """
        group = numbered(groups)
        found: dict[Pair, Estimate | None] = {}
        for of, over in pairs:
            found[of, over] = None
            one, other = self._answers.get(of, Answers()), self._answers.get(over, Answers())
            both = np.intersect1d(one.query, other.query)
            if both.size:
                keys = np.full(self._queries, -1)
                _, keys[both] = np.unique(group[both], return_inverse=True)
                found[of, over] = self._difference(one, other, keys, alpha, fewest)
        return found

    def _difference(
        self, one: Answers, other: Answers, keys: Places, alpha: float, fewest: int
    ) -> Estimate:
        """The difference of macro F1 on the queries that have a key: the number of their group."""
        sizes = np.bincount(keys[keys >= 0])
        ours = one.counts(keys, len(sizes), self._classes)
        theirs = other.counts(keys, len(sizes), self._classes)
        whole = float(_macro_f1(ours.sum(axis=0)) - _macro_f1(theirs.sum(axis=0)))
        without = _macro_f1(ours.sum(axis=0) - ours) - _macro_f1(theirs.sum(axis=0) - theirs)
        low, high, note = interval(whole, without, sizes.astype(np.float64), alpha, (-1.0, 1.0))
        differing = int((ours != theirs).any(axis=(1, 2)).sum())
        if differing < fewest:
            low, high, note = None, None, few(differing)
        return Estimate(
            mean=round(whole, 6),
            low=low,
            high=high,
            queries=int(sizes.sum()),
            groups=len(sizes),
            note=note,
        )

    def _add_strong(self, rows: list[Trial]) -> None:
        """Counts the strong model alone, which answered a query once for all its trials."""
        for row in rows:
            for given in answers_of(row):
                if given.system == "strong":
                    self._add("strong", row, given.answer)
                    return

    def _add(self, system: str, row: Trial, answer: str | None) -> None:
        rule = choice.rule_of(row.scorer) or 1
        right = choice.rights(row, rule)
        if answer is None or not right:
            return
        answers = self._answers.setdefault(system, Answers())
        self._classes = max(self._classes, len(row.choices))
        named = choice.parse(answer, row.choices, rule)
        if isinstance(named, str):
            answers.add(self._queries, min(right), UNPARSEABLE)
        elif named in right:
            answers.add(self._queries, named, named)
        else:
            answers.add(self._queries, min(right), named)


def _macro_f1(counts: Floats) -> Floats:
    """The mean of 2 tp / (2 tp + fp + fn) over the classes that are a target, of counts whose last
    two axes are (hits, misses, false alarms) and classes; NaN where nothing was answered.

    An unparseable answer is a miss of its target's class and a false alarm of none. (van Rijsbergen
    1979, chapter 7; the mean of Fs, not the F of means: Opitz & Burst 2019.)
    """
    hits, missed, false = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    asked = hits + missed > 0
    scores = np.where(asked, 2 * hits / np.where(asked, 2 * hits + missed + false, 1), 0.0)
    classes = asked.sum(axis=-1)
    return np.where(classes > 0, scores.sum(axis=-1) / np.maximum(classes, 1), np.nan)


@dataclass(slots=True)
class Sums:
    """The sums behind one system's `Matches`."""

    exact: float = 0.0
    shared: float = 0.0
    queries: int = 0


class Matching:
    """Sums both measures of short answers, in trials whose scorer is one of them.

    Keeps three numbers per system, and no row.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Sums] = defaultdict(Sums)

    def watch(self, queries: Iterable[list[Trial]]) -> Iterator[list[Trial]]:
        """Passes trials through and measures them; failed rows are left out.

        Several rows of a query count with their mean, as their scores do in the report.
        """
        for rows in queries:
            found: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for row in rows:
                if row.failed is not None or parted(row.scorer)[0] not in MEASURED:
                    continue
                for given in answers_of(row):
                    if given.answer is not None:
                        found[given.system].append(_measures(row, given.answer))
            for system, measures in found.items():
                sums = self._sums[system]
                sums.exact += sum(exact for exact, _ in measures) / len(measures)
                sums.shared += sum(shared for _, shared in measures) / len(measures)
                sums.queries += 1
            yield rows

    def matches(self) -> dict[str, Matches]:
        """The means of each system."""
        found = {}
        for system, sums in self._sums.items():
            found[system] = Matches(
                exact_match=round(sums.exact / sums.queries, 6),
                token_f1=round(sums.shared / sums.queries, 6),
                queries=sums.queries,
            )
        return found


def _measures(row: Trial, answer: str) -> tuple[float, float]:
    """Exact match and token F1 of an answer to the query of a trial."""
    scorer, marker = parted(row.scorer)
    exactly, partly = MEASURED[scorer]
    (exact,) = exactly(marker).score([(row, answer)])
    (shared,) = partly(marker).score([(row, answer)])
    return exact.value or 0.0, shared.value or 0.0
