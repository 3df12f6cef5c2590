"""Counts of a system's answers beyond one score. Pure.

`Tally` counts the answers to a multiple choice: right, wrong and unparseable, with macro F1 over
the classes. An unparseable answer scores 0 as a wrong one does, but it means that the model did
not answer as it was asked.

`Matching` measures short answers by exact match and by token F1, whichever of the two decides.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cowest.evaluation import answers_of
from cowest.records import Choices, Matches, Trial
from cowest.scorers import choice
from cowest.scorers.exact_match import ExactMatch
from cowest.scorers.marker import parted
from cowest.scorers.token_f1 import TokenF1

MEASURED = ("exact_match", "token_f1")
"""Scorers of short answers."""


class Tally:
    """Counts the answers in trials whose scorer is `choice`.

    Keeps a count per system and class, and no row. A class is a place among the choices: A, B, C.
    """

    def __init__(self) -> None:
        # By system, counts per class of: answers that named the right option (the class is the
        # target's), right options that an answer missed, and wrong options that an answer named.
        self._right: dict[str, Counter[int]] = defaultdict(Counter)
        self._missed: dict[str, Counter[int]] = defaultdict(Counter)
        self._false: dict[str, Counter[int]] = defaultdict(Counter)
        self._unparseable: Counter[str] = Counter()

    def watch(self, queries: Iterable[list[Trial]]) -> Iterator[list[Trial]]:
        """Passes trials through and counts them; failed rows are left out."""
        for rows in queries:
            good = [row for row in rows if row.failed is None and row.scorer == choice.Choice.name]
            self._add_strong(good)
            for row in good:
                for given in answers_of(row):
                    if given.system != "strong":
                        self._add(given.system, row, given.answer)
            yield rows

    def choices(self) -> dict[str, Choices]:
        """By system, the counts and macro F1: the mean of 2 tp / (2 tp + fp + fn) over classes.

        The classes are those among the targets. An unparseable answer is a miss of its target's
        class and a false alarm of none. (van Rijsbergen 1979, chapter 7; the mean of Fs, not the F
        of means: Opitz & Burst 2019.)
        """
        return {system: self._of(system) for system in self._right}

    def _add_strong(self, rows: list[Trial]) -> None:
        """Counts the strong model alone, which answered a query once for all its trials."""
        for row in rows:
            for given in answers_of(row):
                if given.system == "strong":
                    self._add("strong", row, given.answer)
                    return

    def _add(self, system: str, row: Trial, answer: str | None) -> None:
        right = choice.rights(row)
        if answer is None or not right:
            return
        # Asked for even if the answer misses, so that a system without a hit is reported too.
        hits = self._right[system]
        named = choice.parse(answer, row.choices)
        if isinstance(named, str):
            self._unparseable[system] += 1
            self._missed[system][min(right)] += 1
        elif named in right:
            hits[named] += 1
        else:
            self._missed[system][min(right)] += 1
            self._false[system][named] += 1

    def _of(self, system: str) -> Choices:
        hits, missed, false = self._right[system], self._missed[system], self._false[system]
        scores = []
        for one in sorted({*hits, *missed}):
            scores.append(2 * hits[one] / (2 * hits[one] + missed[one] + false[one]))
        unparseable = self._unparseable[system]
        return Choices(
            right=hits.total(),
            wrong=missed.total() - unparseable,
            unparseable=unparseable,
            macro_f1=round(sum(scores) / len(scores), 6),
        )


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
    _, marker = parted(row.scorer)
    (exact,) = ExactMatch(marker).score([(row, answer)])
    (shared,) = TokenF1(marker).score([(row, answer)])
    return exact.value or 0.0, shared.value or 0.0
