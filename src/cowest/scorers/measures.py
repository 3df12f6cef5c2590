"""Measures of answers and drafts beside the score, for the gates that ask for them. Pure.

Accuracy, the unparseable share of a multiple choice, the refused share, length and tokens: each is
a mean over queries, as the score is. `Variety` counts distinct drafts.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np

from cowest.evaluation import SYSTEMS, Given, answers_of
from cowest.intervals import Floats
from cowest.records import Estimate, Trial
from cowest.sametext import words_only
from cowest.scorers import choice
from cowest.thoughts import without_thoughts

FULL = 1 - 1e-9
"""The lowest score that counts as the full one; below 1 by what rounding may take."""
REFUSED = "refused"
"""Beginning of the reason, after the step's name, why a call that was refused has no answer."""


def _accuracy(given: Given, row: Trial) -> float | None:
    if row.failed is not None or given.score is None:
        return None
    return float(given.score >= FULL)


def _unparseable(given: Given, row: Trial) -> float | None:
    rule = choice.rule_of(row.scorer)
    if row.failed is not None or given.answer is None or rule is None:
        return None
    if not choice.rights(row, rule):
        return None
    return float(isinstance(choice.parse(given.answer, row.choices, rule), str))


def _length(given: Given, row: Trial) -> float | None:
    if row.failed is not None or given.answer is None:
        return None
    return float(len(given.answer))


def _tokens(given: Given, row: Trial) -> float | None:
    if row.failed is not None or given.tokens is None:
        return None
    return float(given.tokens)


def _refused(given: Given, row: Trial) -> float | None:
    """1 if this answer was refused, 0 if it was given, None where that is not known.

    A row holds its first failure alone: what comes after a step that failed is not known.
    """
    if row.failed is None:
        return 0.0
    step, _, reason = row.failed.partition(": ")
    if step == "score":
        return 0.0
    if given.system == "strong":
        stops = "solo"
    elif given.system.startswith("policy_"):
        stops = "draft"
    else:
        # Without a draft there is no answer either.
        stops = "draft" if step == "draft" else "refine"
    if step == stops:
        return 1.0 if reason.startswith(REFUSED) else None
    return None if given.answer is None else 0.0


MEASURES: Mapping[str, Callable[[Given, Trial], float | None]] = {
    "accuracy": _accuracy,
    "unparseable": _unparseable,
    "length": _length,
    "tokens": _tokens,
    "refused": _refused,
}
"""By metric, the value of one answer; None if it has none."""


class Measures:
    """Measures the answers in trials: one number per metric, system and query (8 bytes)."""

    def __init__(self, metrics: Collection[str]) -> None:
        self._values: dict[str, dict[str, array[float]]] = {}
        for metric in MEASURES:
            if metric in metrics:
                self._values[metric] = {system: array("d") for system in SYSTEMS}

    def watch(self, queries: Iterable[list[Trial]]) -> Iterator[list[Trial]]:
        """Passes trials through and measures them.

        Several rows of a query count with their mean, as their scores do in the report.
        """
        for rows in queries:
            for metric, by_system in self._values.items():
                self._add(rows, MEASURES[metric], by_system)
            yield rows

    def by_query(self) -> dict[str, dict[str, Floats]]:
        """By metric and system, the value of each query; NaN where there is none."""
        found: dict[str, dict[str, Floats]] = {}
        for metric, by_system in self._values.items():
            found[metric] = {name: np.asarray(values) for name, values in by_system.items()}
        return found

    def _add(
        self,
        rows: list[Trial],
        measure: Callable[[Given, Trial], float | None],
        by_system: dict[str, "array[float]"],
    ) -> None:
        """Adds the value of one query to each system."""
        known: dict[str, list[float]] = {system: [] for system in SYSTEMS}
        for row in rows:
            for given in answers_of(row):
                value = measure(given, row)
                if value is not None:
                    known[given.system].append(value)
        for system, values in known.items():
            by_system[system].append(sum(values) / len(values) if values else np.nan)


class Variety:
    """Counts the distinct drafts of each system, and what they are held against.

    Keeps a number per distinct text (8 bytes, in a set), and no text.
    """

    def __init__(self) -> None:
        self._drafts: dict[str, set[int]] = {}
        self._rows: Counter[str] = Counter()
        self._targets: set[int] = set()
        self._groups: set[str] = set()
        self._queries = 0

    def watch(self, queries: Iterable[list[Trial]]) -> Iterator[list[Trial]]:
        """Passes trials through and counts their drafts; rows without one are left out."""
        for rows in queries:
            self._queries += 1
            self._groups.add(rows[0].group)
            self._targets.add(_same(rows[0].targets[0]))
            for row in rows:
                if row.draft is not None:
                    self._rows[row.system] += 1
                    drafts = self._drafts.setdefault(row.system, set())
                    drafts.add(_same(without_thoughts(row.draft)))
            yield rows

    def found(self) -> dict[str, Estimate]:
        """By system, the variety of its drafts: 0 for one draft for all queries, 1 for as many
        distinct ones as may be expected.

        That is as many as there are before alignment, distinct targets, or groups, whichever are
        fewest: answers may be few because few are right, and a draft may serve all queries of a
        group.
        """
        before = len(self._drafts.get("before", ()))
        targets, groups = len(self._targets), len(self._groups)
        expected = min(before, targets, groups)
        found = {}
        for system, drafts in self._drafts.items():
            # Where no more than one is expected, one is all that can be asked for.
            variety = 1.0 if expected < 2 else min(1.0, (len(drafts) - 1) / (expected - 1))
            variety = round(variety, 6)
            note = (
                f"{len(drafts)} distinct drafts in {self._rows[system]}, for {targets} distinct "
                f"targets in {groups} groups, and {before} distinct drafts before alignment"
            )
            found[system] = Estimate(
                mean=variety,
                low=variety,
                high=variety,
                queries=self._queries,
                groups=groups,
                note=note,
            )
        return found


def _same(text: str) -> int:
    """A number that two texts share if they are the same but for case, punctuation and spacing."""
    return hash(words_only(text) or text)
