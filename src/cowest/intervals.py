"""Confidence intervals of quantities over groups of queries. Pure.

Queries of one group are right or wrong together, so the groups are what varies: a quantity is
computed again without each group in turn (the cluster jackknife), and the spread of these values
is its standard error. The interval is Student's t on that error, with (sum n)^2 / sum n^2 - 1
degrees of freedom, where n are the queries per group: unequal groups say less than equal ones.

Where the groups' values are skewed, as near the ceiling, t alone is too short on the long side. So
each end is the farther one of t and of t corrected for skewness (Hall 1992, the cubic
transformation), at most FARTHEST times as far as t: where nearly all groups are at one end of what
there can be, the transformation alone would leave the range of what is possible.

(Jackknife over clusters: MacKinnon, Nielsen & Webb 2023; degrees of freedom: Kish's effective
sample size. `python -m tests.bench.gate` measures how often the ends miss, beside the percentile
bootstrap, bootstrap-t, BCa and CR2.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cowest.records import Estimate

Floats = NDArray[np.float64]

ALPHA = 0.05
"""The share of truths that both ends of an interval miss together: 95 % intervals."""
FEWEST = 5
"""Fewest groups that must differ for an interval from their spread."""
FARTHEST = 2.0
"""How many times as far as t an end may be for skewness: 1.5 misses up to 6 % of truths that lie
near an end of the range, 2 at most 3 %."""
GRID = 5_000
"""Steps of the integral behind a quantile of Student's t."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """sum(top) / sum(bottom) over the queries that are `there`.

    All three have one value per query; top and bottom are 0 where a query is not there.
    """

    top: Floats
    bottom: Floats
    there: NDArray[np.bool_]
    within: tuple[float, float] | None = None
    """The lowest and the highest value that a query can have, if there are such."""
    paired: bool = False
    """True for the difference of two systems' scores: where fewer than FEWEST groups have any
    difference, there is no interval."""
    share: bool = False
    """True for a share of a difference: where all groups have the same, there is no interval, since
    nothing bounds the share of another group."""


def mean_of(values: Floats, within: tuple[float, float] | None = None) -> Ratio:
    """The mean of a system's values; NaN is a query without one."""
    there = ~np.isnan(values)
    return Ratio(np.nan_to_num(values), there.astype(np.float64), there, within)


def difference_of(values: Floats, others: Floats) -> Ratio:
    """The mean difference of two systems' scores, over the queries where both have one."""
    difference = values - others
    there = ~np.isnan(difference)
    bottom = there.astype(np.float64)
    return Ratio(np.nan_to_num(difference), bottom, there, within=(-1.0, 1.0), paired=True)


def gap_closed(before: Floats, after: Floats, ideal: Floats) -> Ratio:
    """(after - before) / (ideal - before), each summed over the queries with all three scores."""
    there = ~np.isnan(before + after + ideal)
    top, bottom = np.nan_to_num(after - before) * there, np.nan_to_num(ideal - before) * there
    return Ratio(top, bottom, there, share=True)


def estimates(
    groups: Sequence[str], ratios: Sequence[Ratio], alpha: float = ALPHA
) -> list[Estimate | None]:
    """Each ratio with its interval over groups; None where the sum below the line is <= 0.

    `groups` has the group of each query. Each end of an interval misses the truth with probability
    alpha / 2.
    """
    group = numbered(groups)
    return [_estimate(ratio, group, alpha) for ratio in ratios]


def numbered(groups: Sequence[str]) -> NDArray[np.intp]:
    """The number of each name among all names in alphabetical order."""
    # An array of names would give each as much room as the longest, and drop a NUL at the end.
    places = {name: place for place, name in enumerate(sorted(set(groups)))}
    return np.array([places[name] for name in groups], dtype=np.intp)


def _estimate(ratio: Ratio, group: NDArray[np.intp], alpha: float) -> Estimate | None:
    """A ratio with its interval; `group` has the number of each query's group."""
    whole = ratio.bottom.sum()
    if whole <= 0:
        return None
    # Groups without a query that is there say nothing, so they are no groups of this ratio.
    _, group = np.unique(group[ratio.there], return_inverse=True)
    sizes = np.bincount(group).astype(np.float64)
    top, bottom = ratio.top[ratio.there], ratio.bottom[ratio.there]
    tops, bottoms = np.bincount(group, weights=top), np.bincount(group, weights=bottom)
    mean = float(tops.sum() / whole)
    low, high, note = _ends(ratio, group, alpha)
    if note is None and low is None:
        left = whole - bottoms
        without = np.full(len(sizes), np.nan)
        np.divide(tops.sum() - tops, left, out=without, where=left > 1e-9)
        low, high, note = interval(mean, without, sizes, alpha, ratio.within)
        if ratio.share and low is not None and low == high:
            low, high, note = None, None, "no interval: all groups have the same share"
    # Rounded, so that the last bits of another machine's sums do not make another report.
    return Estimate(
        mean=round(mean, 6),
        low=low,
        high=high,
        queries=len(group),
        groups=len(sizes),
        note=note,
    )


Ends = tuple[float | None, float | None, str | None]
"""The ends of an interval, and None; or twice None and the reason why there is no interval."""


def _ends(ratio: Ratio, group: NDArray[np.intp], alpha: float) -> Ends:
    """The interval where the spread of the groups says too little; three times None elsewhere.

    Where all but a few groups are alike, those that differ in the truth may be missing from the
    sample: their spread would be too small, or 0.
    """
    top, bottom = ratio.top[ratio.there], ratio.bottom[ratio.there]
    if ratio.paired and _unlike(top, 0.0, group) < FEWEST:
        return None, None, few(_unlike(top, 0.0, group))
    sizes = np.bincount(group)
    if ratio.within is None or len(sizes) < FEWEST:
        return None, None, None
    values, counts = np.unique(top / bottom, return_counts=True)
    common = float(values[counts.argmax()])
    differing = _unlike(top / bottom, common, group)
    # Of a difference, five groups or more are known to differ from 0, so that only the case without
    # any spread is left.
    if differing >= (1 if ratio.paired else FEWEST):
        return None, None, None
    return _of_count(common, differing, sizes.astype(np.float64), alpha, ratio.within)


def _of_count(
    common: float, differing: int, sizes: Floats, alpha: float, within: tuple[float, float]
) -> Ends:
    """The interval where all groups but those that differ have one value in common."""
    least, most = within
    share = highest_share(differing, int(effective(sizes)), alpha / 2)
    low = common - share * (common - least)
    high = common + share * (most - common)
    return round(low, 6), round(high, 6), None


def _unlike(values: Floats, value: float, group: NDArray[np.intp]) -> int:
    """The number of groups with a query of another value."""
    return len(np.unique(group[values != value]))


def few(groups: int) -> str:
    """The note where too few groups differ."""
    return f"no interval: only {groups} groups differ, and fewer than {FEWEST} could be chance"


def interval(
    whole: float,
    without: Floats,
    sizes: Floats,
    alpha: float = ALPHA,
    within: tuple[float, float] | None = None,
) -> Ends:
    """The interval of a quantity from its value without each group.

    `without` is NaN where the quantity has no value without that group; `sizes` are the queries per
    group. No end lies beyond `within`, the lowest and the highest value that there can be.
    """
    count = len(sizes)
    if count < 2:
        note = "no interval: all queries are of one group, which says nothing of how groups differ"
        return None, None, note
    if count < FEWEST:
        return None, None, f"no interval: there are {count} groups, and {FEWEST} are the fewest"
    if np.isnan(without).any():
        return None, None, "no interval: without one of the groups there is nothing to divide by"
    freedom = effective(sizes) - 1
    if freedom < 1:
        return None, None, "no interval: one group has nearly all of the queries"
    # Above 0 for a group that raises the quantity.
    pulls = without.mean() - without
    squares = float((pulls**2).sum())
    error = math.sqrt((count - 1) / count * squares)
    if error < 1e-12:
        # All groups have one mean, also where their queries differ: a loss and a gain in each.
        if within is not None:
            return _of_count(whole, 0, sizes, alpha, within)
        return round(whole, 6), round(whole, 6), None
    skew = float((pulls**3).sum()) / squares**1.5
    reach = student(alpha / 2, freedom)
    below = max(reach, _corrected(reach, skew))
    above = max(reach, -_corrected(-reach, skew))
    low = whole - error * min(below, FARTHEST * reach)
    high = whole + error * min(above, FARTHEST * reach)
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    return round(low, 6), round(high, 6), None


def effective(sizes: Floats) -> float:
    """The number of equal groups that say as much as groups of these sizes."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _corrected(reach: float, skew: float) -> float:
    """Hall's transformation, turned around: the t that is as far out among skewed values.

    `skew` is the skewness of the groups over the root of their number.
    """
    if abs(skew) < 1e-6:
        return reach
    return 3 / skew * (float(np.cbrt(1 + skew * (reach - skew / 6))) - 1)


@lru_cache(maxsize=1000)
def student(tail: float, freedom: float) -> float:
    """The value that Student's t exceeds with probability `tail`, for `freedom` of 1 or more."""
    if freedom > 1000:
        # The first term of the expansion around the normal quantile: off by less than 1e-5.
        z = -NormalDist().inv_cdf(tail)
        return z + (z**3 + z) / (4 * freedom)
    # With t = sqrt(freedom) tan(angle), the density of the angle is cos(angle)^(freedom - 1) but
    # for a factor, which falls out of the ratio to the whole.
    angles = np.linspace(0.0, np.pi / 2, GRID + 1)
    density = np.maximum(np.cos(angles), 0.0) ** (freedom - 1)
    areas = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp(1 - 2 * tail, areas / areas[-1], angles)
    return math.sqrt(freedom) * math.tan(float(angle))


def highest_share(found: int, of: int, tail: float) -> float:
    """The largest share that `found` of `of` groups allow: a larger one would show as few with a
    probability below `tail`. (Clopper & Pearson 1934)
    """
    if found >= of:
        return 1.0
    below, above = 0.0, 1.0
    for _ in range(50):
        share = (below + above) / 2
        chance = 0.0
        for number in range(found + 1):
            chance += math.comb(of, number) * share**number * (1 - share) ** (of - number)
        if chance > tail:
            below = share
        else:
            above = share
    return above
