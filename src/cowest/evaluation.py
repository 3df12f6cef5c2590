"""Systems compared: means, paired differences and gates, with intervals that resample groups. Pure, and no file is opened here.

Every quantity is a ratio of two sums over queries (a mean is a sum of scores over a count; the share of the gap closed
is a sum of improvements over a sum of rooms for improvement), so one resampling serves them all: each draw takes as many
groups as there are, with replacement, and forms each ratio anew. The interval is the 2.5th to the 97.5th percentile.
(The percentile cluster bootstrap: Efron & Tibshirani 1993, chapter 13; Cameron, Gelbach & Miller 2008, section II.)
With few groups such intervals are somewhat too narrow; `Estimate.groups` is there to be looked at.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from cowest.errors import ContractError
from cowest.gates import BEST, Gate, System, judged
from cowest.records import Comparison, Estimate, EvalReport, Slice, Transitions, Trial

Floats = NDArray[np.float64]

SYSTEMS: tuple[str, ...] = get_args(System)
"""In the order of a report."""
COLLABORATIONS: tuple[str, ...] = ("before", "after", "champion", "ideal")
SINGLES: tuple[str, ...] = ("policy_before", "policy_after", "strong")

RIGHT = 0.5
"""A score from here on counts as a right answer in `Transitions`."""
REASONS = 20
"""Reasons of failure kept apart, a system."""
_CELLS = 2_500_000  # draws x groups resampled at once: 20 MB of counts


@dataclass(slots=True)
class Scores:
    """What is kept of the trials: a float a query and system, None where there is none; a query's texts are dropped."""

    groups: list[str] = field(default_factory=list)
    tags: list[tuple[str, ...]] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(
        default_factory=lambda: {name: [] for name in SYSTEMS}
    )
    transitions: dict[str, Counter[str]] = field(default_factory=dict)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    scorers: set[str] = field(default_factory=set)
    strongs: set[str] = field(default_factory=set)
    policies: dict[str, set[str]] = field(default_factory=dict)

    @property
    def failures(self) -> int:
        """Rows that failed."""
        return sum(reasons.total() for reasons in self.failed.values())


def gather(queries: Iterable[list[Trial]]) -> Scores:
    """Reduces trials, query by query, to scores. A failed row is left out whole and counted by its reason.

    A system with several rows of a query has their mean. Raises ContractError for a system that is not known.
    """
    scores = Scores()
    for rows in queries:
        scores.groups.append(rows[0].group)
        scores.tags.append(rows[0].tags)
        found: dict[str, list[float | None]] = {name: [] for name in SYSTEMS}
        for row in rows:
            _note(row, scores)
            if row.failed is None:
                for system, value in _scores_of(row).items():
                    found[system].append(value)
        for system, values in found.items():
            known = [value for value in values if value is not None]
            scores.values[system].append(sum(known) / len(known) if known else None)
    return scores


def _scores_of(row: Trial) -> dict[str, float | None]:
    scores: dict[str, float | None] = {row.system: row.score}
    if (
        row.system != "champion"
    ):  # whose prompts may be older: that the strong model alone did worse with them says nothing
        scores["strong"] = row.solo_score
    return (
        scores | {f"policy_{row.system}": row.draft_score}
        if row.system in ("before", "after")
        else scores
    )


def _note(row: Trial, scores: Scores) -> None:
    """Counts a row: its names, its failure or its transition."""
    if row.system not in COLLABORATIONS:
        raise ContractError(
            f"query {row.id} has a trial of system {row.system!r}: the systems are {', '.join(COLLABORATIONS)}"
        )
    scores.rows[row.system] += 1
    scores.scorers.add(row.scorer)
    scores.strongs.add(row.strong)
    scores.policies.setdefault(row.system, set()).add(row.policy)
    if row.failed is not None:
        scores.failed.setdefault(row.system, Counter())[row.failed[:200]] += 1
        return
    counts = scores.transitions.setdefault(row.system, Counter())
    if row.score is not None and row.solo_score is not None:
        words = {True: "right", False: "wrong"}
        counts[f"{words[row.solo_score >= RIGHT]}_to_{words[row.score >= RIGHT]}"] += 1
    counts.update(adoption(row.draft or "", row.refinement or "", row.solo or ""))


def adoption(draft: str, refinement: str, solo: str) -> tuple[str, ...]:
    """`("adopted",)`, `("adopted", "copied")` or `("ignored",)`.

    Adopted: the draft changed the answer (refinement and solo differ), or the answer stands word for word in the draft.
    Case, punctuation and spacing do not count. A change may also come of the other prompt that a draft is shown with,
    and a long free text differs almost always: this is an upper bound of use, `copied` is a lower one.
    """
    said = _plain(refinement)
    copied = bool(said) and f" {said} " in f" {_plain(draft)} "
    if copied:
        return "adopted", "copied"
    return ("ignored",) if said == _plain(solo) else ("adopted",)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


@dataclass(frozen=True, slots=True)
class Ratio:
    """sum(top) / sum(bottom) over the queries that are `there`; one value a query, 0 where it is not."""

    top: Floats
    bottom: Floats
    there: NDArray[np.bool_]


def mean_of(values: Floats) -> Ratio:
    """The mean of a system's scores (NaN: none)."""
    there = ~np.isnan(values)
    return Ratio(np.nan_to_num(values), there.astype(np.float64), there)


def gap_closed(before: Floats, after: Floats, ideal: Floats) -> Ratio:
    """(after - before) / (ideal - before), each summed over the queries that have all three scores."""
    there = ~np.isnan(before + after + ideal)
    return Ratio(
        np.nan_to_num(after - before) * there, np.nan_to_num(ideal - before) * there, there
    )


def estimates(
    groups: Sequence[str], ratios: Sequence[Ratio], draws: int, seed: int
) -> list[Estimate | None]:
    """Each ratio with its 95 % interval over groups; None where the sum below the line is not positive.

    Queries are resampled only through their groups, and all ratios in the same draws.
    Memory: two floats a ratio and group, and 20 MB of counts (or one draw of all groups, where that is more).
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    size = int(group.max()) + 1
    columns = [
        np.bincount(group, weights=side, minlength=size)
        for ratio in ratios
        for side in (ratio.top, ratio.bottom)
    ]
    sums = _resampled(np.stack(columns, axis=1).astype(np.float64), draws, seed)
    found = []
    for number, ratio in enumerate(ratios):
        number_of_groups = len(np.unique(group[ratio.there]))
        found.append(
            _estimate(ratio, number_of_groups, sums[:, 2 * number], sums[:, 2 * number + 1])
        )
    return found


def _resampled(sums: Floats, draws: int, seed: int) -> Floats:
    """Sums of the columns (groups x columns) over `draws` resamples of the groups: draws x columns."""
    size, rng = len(sums), np.random.default_rng(seed)
    step, parts = max(1, _CELLS // size), []
    for start in range(0, draws, step):
        count = min(step, draws - start)
        picks = rng.integers(0, size, size=(count, size)) + np.arange(count)[:, None] * size
        times = np.bincount(picks.ravel(), minlength=count * size).reshape(count, size)
        parts.append(times.astype(np.float64) @ sums)
    return np.concatenate(parts)


def _estimate(ratio: Ratio, groups: int, tops: Floats, bottoms: Floats) -> Estimate | None:
    bottom = ratio.bottom.sum()
    if bottom <= 0:
        return None
    # Rounded, so that the last bits of another machine's sums do not make another report.
    mean, low, high, note = round(float(ratio.top.sum() / bottom), 6), None, None, None
    good = bottoms > 1e-9
    if groups < 2:
        note = "no interval: all queries are of one group, which says nothing of how groups differ"
    elif good.mean() < 0.99:
        note = "no interval: in too many resamples there is nothing to divide by"
    else:
        low, high = (
            round(float(edge), 6) for edge in np.percentile(tops[good] / bottoms[good], [2.5, 97.5])
        )
    return Estimate(
        mean=mean, low=low, high=high, queries=int(ratio.there.sum()), groups=groups, note=note
    )


def compare(scores: Scores, gates: Sequence[Gate], *, draws: int, seed: int) -> EvalReport:
    """The whole report. Raises ContractError when there is nothing to compare or the rows do not belong together."""
    _comparable(scores)
    values = {
        name: np.array([np.nan if v is None else v for v in found], dtype=np.float64)
        for name, found in scores.values.items()
    }
    best = max(
        (name for name in SINGLES if not np.isnan(values[name]).all()),
        key=lambda name: np.nanmean(values[name]),
        default="strong",
    )
    pairs = _pairs(gates, best)
    ratios = [mean_of(value) for value in values.values()] + [
        mean_of(values[of] - values[over]) for of, over in pairs
    ]
    ratios.append(gap_closed(values["before"], values["after"], values["ideal"]))
    found = estimates(scores.groups, ratios, draws, seed)
    systems = {name: one for name, one in zip(values, found, strict=False) if one is not None}
    differences = dict(zip(pairs, found[len(values) : -1], strict=True))
    return EvalReport(
        queries=len(scores.groups), groups=len(set(scores.groups)), scorer=min(scores.scorers), strong=min(scores.strongs),
        policies={name: min(scores.policies[name]) for name in COLLABORATIONS if name in scores.policies}, draws=draws,
        systems=systems, comparisons=_comparisons(differences, best, len(scores.groups)), gap_closed=found[-1],
        transitions={name: Transitions(**scores.transitions[name]) for name in COLLABORATIONS if name in scores.transitions},
        tags=_slices(scores.tags, values), failed={name: _folded(scores.failed[name]) for name in COLLABORATIONS if name in scores.failed},
        **judged(gates, best, differences, scores.rows["champion"] > 0),
    )  # fmt: skip


def _pairs(gates: Sequence[Gate], best: str) -> list[tuple[str, str]]:
    """What is compared with what, each pair once: `of` less `over`."""
    usual: list[tuple[str, str]] = [
        ("after", over) for over in ("before", best, "strong", "champion")
    ]
    asked = [(gate.of, best if gate.over == BEST else gate.over) for gate in gates]
    return list(dict.fromkeys([*usual, ("ideal", "after"), *asked]))


def _comparisons(
    differences: Mapping[tuple[str, str], Estimate | None], best: str, queries: int
) -> dict[str, Comparison]:
    found = {
        f"{of}_minus_{over}": Comparison(
            **one.model_dump(), of=of, over=over, left_out=queries - one.queries
        )
        for (of, over), one in differences.items()
        if one is not None
    }
    if (same := found.get(f"after_minus_{best}")) is not None:
        found[f"after_minus_{BEST}"] = same
    return found


def _slices(
    tags: Sequence[tuple[str, ...]], values: Mapping[str, Floats]
) -> dict[str, dict[str, Slice]]:
    """The mean of each system on the queries of each tag."""
    members: dict[str, list[int]] = {}
    for number, its in enumerate(tags):
        for tag in its:
            members.setdefault(tag, []).append(number)
    found: dict[str, dict[str, Slice]] = {}
    for tag in sorted(members):
        for name, scores in values.items():
            known = scores[members[tag]]
            known = known[~np.isnan(known)]
            if known.size:
                found.setdefault(tag, {})[name] = Slice(
                    mean=round(float(known.mean()), 6), queries=int(known.size)
                )
    return found


def _comparable(scores: Scores) -> None:
    """Rows of one scorer and one strong model, and at least one good row before and after alignment."""
    for what, names in (("scorers", scores.scorers), ("strong models", scores.strongs)):
        if len(names) > 1:
            raise ContractError(
                f"the trials are of {len(names)} {what} ({', '.join(sorted(names))}): run evaluate again, whole, with one"
            )
    for system, names in scores.policies.items():
        if len(names) > 1 and system != "ideal":
            said = ", ".join(sorted(names))
            raise ContractError(
                f"the trials of {system} are of {len(names)} policies ({said}): run evaluate again, whole"
            )
    for system in ("before", "after"):
        good = scores.rows[system] - scores.failed.get(system, Counter()).total()
        if good < 1:
            said = (
                f"all {scores.rows[system]} of them failed"
                if scores.rows[system]
                else "there are none at all"
            )
            raise ContractError(
                f"no good trial of system {system!r} to compare: {said}; run evaluate again"
            )


def _folded(reasons: Counter[str]) -> dict[str, int]:
    """The most frequent reasons apart, the rest under one name."""
    common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    kept, rest = dict(common[:REASONS]), sum(count for _, count in common[REASONS:])
    return {**kept, "other reasons": rest} if rest else kept
