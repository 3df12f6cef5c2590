"""What one score does not say of a system's answers. Pure.

How those of a multiple choice fell: right, wrong, unparseable, and macro F1 over the classes; and how near short answers came, by
exact match and by token F1, whichever of the two decides.

An unparseable answer scores 0 as a wrong one does, but it says another thing: that the model did not answer as it was asked.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from cowest.records import Choices, Matches, Trial
from cowest.scorers import choice
from cowest.scorers.exact_match import ExactMatch
from cowest.scorers.token_f1 import TokenF1

AFTER = " after "
"""What stands in a scorer's name before its marker."""


class Tally:
    """Counts the answers of trials that pass by, where their scorer is `choice`; keeps a count a system and class, and no row."""

    def __init__(self) -> None:
        self._right: dict[str, Counter[int]] = defaultdict(Counter)
        self._missed: dict[str, Counter[int]] = defaultdict(Counter)
        self._false: dict[str, Counter[int]] = defaultdict(Counter)
        self._unparseable: Counter[str] = Counter()

    def watch(self, queries: Iterable[list[Trial]]) -> Iterator[list[Trial]]:
        """The same trials, counted. Failed rows are left out; the strong model alone is counted once a query."""
        for rows in queries:
            good = [row for row in rows if row.failed is None and row.scorer == choice.Choice.name]
            if good:
                self._add("strong", good[0], good[0].solo)
            for row in good:
                self._add(row.system, row, row.refinement)
                if row.system in ("before", "after"):
                    self._add(f"policy_{row.system}", row, row.draft)
            yield rows

    def choices(self) -> dict[str, Choices]:
        """The counts of each system, and its macro F1: the mean over the classes among the targets of 2 tp / (2 tp + fp + fn).

        An unparseable answer is a miss of its target's class and a false alarm of none. (van Rijsbergen 1979, chapter 7; the
        mean of Fs, not the F of means: Opitz & Burst 2019.) A class is a place among the choices: A, B, C ...
        """
        return {system: self._of(system) for system in self._right}

    def _add(self, system: str, row: Trial, answer: str | None) -> None:
        right = choice.rights(row)
        if answer is None or not right:
            return
        said, hits = choice.parse(answer, row.choices), self._right[system]
        if isinstance(said, str):
            self._unparseable[system] += 1
            self._missed[system][min(right)] += 1
        elif said in right:
            hits[said] += 1
        else:
            self._missed[system][min(right)] += 1
            self._false[system][said] += 1

    def _of(self, system: str) -> Choices:
        hits, missed, false = self._right[system], self._missed[system], self._false[system]
        classes = sorted({*hits, *missed})
        scores = [2 * hits[one] / (2 * hits[one] + missed[one] + false[one]) for one in classes]
        unparseable = self._unparseable[system]
        return Choices(
            right=hits.total(),
            wrong=missed.total() - unparseable,
            unparseable=unparseable,
            macro_f1=round(sum(scores) / len(scores), 6),
        )


class Matching:
    """Sums both measures of short answers, where the scorer of trials is one of them; keeps three numbers a system, and no row."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])

    def watch(self, queries: Iterable[list[Trial]]) -> Iterator[list[Trial]]:
        """The same trials, measured. Failed rows are left out; several rows of a query count by their mean, as its score does."""
        for rows in queries:
            found: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for row in rows:
                if row.failed is None and row.scorer.partition(AFTER)[0] in (
                    "exact_match",
                    "token_f1",
                ):
                    for system, answer in _answers(row):
                        found[system].append(_near(row, answer))
            for system, its in found.items():
                sums = self._sums[system]
                for place in (0, 1):
                    sums[place] += sum(pair[place] for pair in its) / len(its)
                sums[2] += 1
            yield rows

    def matches(self) -> dict[str, Matches]:
        """The means of each system."""
        return {
            system: Matches(
                exact_match=round(exact / count, 6),
                token_f1=round(shared / count, 6),
                queries=int(count),
            )
            for system, (exact, shared, count) in self._sums.items()
        }


def _answers(row: Trial) -> Iterator[tuple[str, str]]:
    """What a trial says of each system: as `evaluation` counts scores."""
    told: dict[str, str | None] = {row.system: row.refinement}
    if row.system != "champion":
        told["strong"] = row.solo
    if row.system in ("before", "after"):
        told[f"policy_{row.system}"] = row.draft
    return ((system, answer) for system, answer in told.items() if answer is not None)


def _near(row: Trial, answer: str) -> tuple[float, float]:
    marker = row.scorer.partition(AFTER)[2] or None
    exact, shared = (
        next(scorer.score([(row, answer)])).value
        for scorer in (ExactMatch(marker), TokenF1(marker))
    )
    return exact or 0.0, shared or 0.0
