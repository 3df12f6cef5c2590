"""95 % intervals that resample groups of queries. Pure.

Every quantity is a ratio of two sums over queries. A mean is a sum of scores over a count; the
share of the gap closed is a sum of improvements over a sum of possible improvements. So one
resampling serves all quantities: each draw takes as many groups as there are, with replacement,
and forms each ratio anew. The interval is the 2.5th to the 97.5th percentile.

(The percentile cluster bootstrap: Efron & Tibshirani 1993, chapter 13; Cameron, Gelbach & Miller
2008, section II.) With few groups, such intervals are somewhat too narrow; `Estimate.groups` shows
how many there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cowest.records import Estimate

Floats = NDArray[np.float64]

CELLS = 2_500_000
"""Draws times groups that are resampled at once: 20 MB of counts."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """sum(top) / sum(bottom) over the queries that are `there`.

    All three have one value per query; top and bottom are 0 where a query is not there.
    """

    top: Floats
    bottom: Floats
    there: NDArray[np.bool_]


def mean_of(values: Floats) -> Ratio:
    """The mean of a system's scores; NaN is a query without a score."""
    there = ~np.isnan(values)
    return Ratio(np.nan_to_num(values), there.astype(np.float64), there)


def gap_closed(before: Floats, after: Floats, ideal: Floats) -> Ratio:
    """(after - before) / (ideal - before), each summed over the queries with all three scores."""
    there = ~np.isnan(before + after + ideal)
    return Ratio(
        np.nan_to_num(after - before) * there, np.nan_to_num(ideal - before) * there, there
    )


def estimates(
    groups: Sequence[str], ratios: Sequence[Ratio], draws: int, seed: int
) -> list[Estimate | None]:
    """Each ratio with its 95 % interval over groups; None where the sum below the line is <= 0.

    `groups` has the group of each query. Memory: two floats per ratio and group, and 20 MB of
    counts (or one draw of all groups, if that is more).
    """
    # Queries of one group are right or wrong together, so they are summed first and resampled only
    # as a group: resampling queries would make the intervals too narrow.
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    size = int(group.max()) + 1
    columns = []
    for ratio in ratios:
        columns.append(np.bincount(group, weights=ratio.top, minlength=size))
        columns.append(np.bincount(group, weights=ratio.bottom, minlength=size))
    # All ratios share the draws, so that a mean and a difference of the same systems move together.
    sums = resampled(np.stack(columns, axis=1).astype(np.float64), draws, seed)
    found = []
    for number, ratio in enumerate(ratios):
        tops, bottoms = sums[:, 2 * number], sums[:, 2 * number + 1]
        found.append(_estimate(ratio, len(np.unique(group[ratio.there])), tops, bottoms))
    return found


def resampled(sums: Floats, draws: int, seed: int) -> Floats:
    """Sums of columns (groups x columns) over `draws` resamples of the groups: draws x columns."""
    size = len(sums)
    rng = np.random.default_rng(seed)
    at_once = max(1, CELLS // size)
    parts = []
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        # All that matters of a resample is how often it holds each group. The groups that draw
        # number k picks are shifted by k * size, so that each draw counts into bins of its own and
        # a single bincount does them all.
        shifts = np.arange(count)[:, None] * size
        picks = rng.integers(0, size, size=(count, size)) + shifts
        times = np.bincount(picks.ravel(), minlength=count * size).reshape(count, size)
        # The sum over a resample is its counts times the sums of the groups. One matrix product
        # does this for all draws and columns, and never holds draws x groups x columns.
        parts.append(times.astype(np.float64) @ sums)
    return np.concatenate(parts)


def _estimate(ratio: Ratio, groups: int, tops: Floats, bottoms: Floats) -> Estimate | None:
    """A ratio with its interval; `tops` and `bottoms` are its two sums in each draw."""
    bottom = ratio.bottom.sum()
    if bottom <= 0:
        return None
    # A draw may hold none of the groups that a ratio has, and then there is nothing to divide by.
    drawn = np.full(len(tops), np.nan)
    np.divide(tops, bottoms, out=drawn, where=bottoms > 1e-9)
    low, high, note = percentiles(drawn, groups)
    # Rounded, so that the last bits of another machine's sums do not make another report.
    mean = round(float(ratio.top.sum() / bottom), 6)
    queries = int(ratio.there.sum())
    return Estimate(mean=mean, low=low, high=high, queries=queries, groups=groups, note=note)


def percentiles(drawn: Floats, groups: int) -> tuple[float | None, float | None, str | None]:
    """The 95 % interval of a quantity from its value in each draw, NaN where a draw has none.

    (low, high, None), or (None, None, the reason why there is no interval).
    """
    if groups < 2:
        note = "no interval: all queries are of one group, which says nothing of how groups differ"
        return None, None, note
    # A few draws without a value are left out; where there are many, the percentiles of the rest
    # would be those of other data.
    good = ~np.isnan(drawn)
    if good.mean() < 0.99:
        return None, None, "no interval: in too many resamples there is nothing to divide by"
    low, high = np.percentile(drawn[good], [2.5, 97.5])
    return round(float(low), 6), round(float(high), 6), None
