"""Measures of each answer beside its score, for the gates that ask for them. Pure.

Accuracy, the unparseable share of a multiple choice, the refused share, length and tokens: each is
a mean over queries, as the score is.
"""

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np

from cowest.evaluation import SYSTEMS, Given, answers_of
from cowest.intervals import Floats
from cowest.records import Trial
from cowest.scorers import choice

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
