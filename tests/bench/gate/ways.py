"""Ways to make an interval, each for many evaluations at once: ours, and those that it is held
against.

All take the sums above and below the line, sims x clusters, and give the lower and upper ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from cowest.intervals import FARTHEST, FEWEST
from tests.bench.gate.world import Floats

Ends = tuple[Floats, Floats]
DRAWS = 1000
"""Resamples behind the bootstraps."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The quantities that all ways share."""

    value: Floats
    """The ratio of the sums, per evaluation."""
    without: Floats
    """The same without each cluster."""
    freedom: Floats
    """Effective clusters less one."""
    off: Floats
    """What each cluster's sum lies above its share of the whole."""


def parts_of(tops: Floats, bottoms: Floats, sizes: Floats) -> Parts:
    above, below = tops.sum(1, keepdims=True), bottoms.sum(1, keepdims=True)
    value = above / below
    with np.errstate(all="ignore"):
        without = (above - tops) / (below - bottoms)
    freedom = sizes.sum(1) ** 2 / (sizes**2).sum(1) - 1
    return Parts(value[:, 0], without, freedom, tops - value * bottoms)


def ours(parts: Parts, alpha: float = 0.05) -> Ends:
    """t on the cluster jackknife, or the same corrected for skewness, whichever is farther."""
    reach = t.ppf(1 - alpha / 2, np.maximum(parts.freedom, 1))
    error, skew = _error(parts), _skew(parts)
    below = np.clip(_hall(reach, skew), reach, FARTHEST * reach)
    above = np.clip(-_hall(-reach, skew), reach, FARTHEST * reach)
    return parts.value - error * below, parts.value + error * above


def all_ways(parts: Parts, tops: Floats, bottoms: Floats, seed: int) -> Mapping[str, Ends]:
    """The ends by every way, 95 %."""
    alpha = 0.05
    error, skew = _error(parts), _skew(parts)
    reach = t.ppf(1 - alpha / 2, np.maximum(parts.freedom, 1))
    found = {
        "ours": ours(parts),
        "jackknife t": (parts.value - error * reach, parts.value + error * reach),
        "Hall": (
            parts.value - error * _hall(reach, skew),
            parts.value - error * _hall(-reach, skew),
        ),
        "CR2, Bell-McCaffrey": _cr2(parts, bottoms, alpha),
    }
    return found | _bootstraps(parts, tops, bottoms, alpha, seed)


def _error(parts: Parts) -> Floats:
    count = parts.without.shape[1]
    pulls = parts.without - parts.without.mean(1, keepdims=True)
    return np.sqrt((count - 1) / count * (pulls**2).sum(1))


def _skew(parts: Parts) -> Floats:
    pulls = parts.without.mean(1, keepdims=True) - parts.without
    with np.errstate(all="ignore"):
        return np.nan_to_num((pulls**3).sum(1) / (pulls**2).sum(1) ** 1.5)


def _hall(reach: Floats, skew: Floats) -> Floats:
    bent = np.where(np.abs(skew) < 1e-6, 1e-6, skew)
    return 3 / bent * (np.cbrt(1 + bent * (reach - bent / 6)) - 1)


def _cr2(parts: Parts, bottoms: Floats, alpha: float) -> Ends:
    """The CR2 variance with Bell and McCaffrey's degrees of freedom, of a mean."""
    whole = bottoms.sum(1, keepdims=True)
    share = bottoms / whole
    lifted = 1 / (1 - share)
    error = np.sqrt((parts.off**2 * lifted).sum(1)) / whole[:, 0]
    weight = lifted * share**2
    freedom = 1 / ((share**2).sum(1) + weight.sum(1) ** 2 - (weight**2).sum(1))
    reach = t.ppf(1 - alpha / 2, freedom)
    return parts.value - reach * error, parts.value + reach * error


def _bootstraps(
    parts: Parts, tops: Floats, bottoms: Floats, alpha: float, seed: int
) -> dict[str, Ends]:
    """The percentile bootstrap, BCa, and bootstrap-t, from the same resamples of clusters."""
    count = tops.shape[1]
    rng = np.random.default_rng([seed, count])
    times = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    above, below = times @ tops.T, times @ bottoms.T
    drawn = above / below
    tails = [100 * alpha / 2, 100 - 100 * alpha / 2]
    low, high = np.percentile(drawn, tails, axis=0)
    found = {"percentile bootstrap": (low, high)}
    # Each draw's own variance is a sum over the clusters that it holds, of squares that expand.
    squares = times @ (tops**2).T - 2 * drawn * (times @ (tops * bottoms).T)
    squares = np.maximum(squares + drawn**2 * (times @ (bottoms**2).T), 0)
    error = np.sqrt((parts.off**2).sum(1)) / bottoms.sum(1)
    with np.errstate(all="ignore"):
        ratios = (drawn - parts.value) / (np.sqrt(squares) / below)
    # A draw of alike clusters has no variance, and lies infinitely far off.
    flat = squares / below**2 < 1e-14
    ratios = np.where(flat, np.sign(drawn - parts.value) * 1e6, ratios)
    least, most = np.percentile(ratios, tails, axis=0)
    found["bootstrap-t"] = (parts.value - most * error, parts.value - least * error)
    found["BCa"] = _bca(parts, drawn, alpha)
    return found


def _bca(parts: Parts, drawn: Floats, alpha: float) -> Ends:
    below = (drawn < parts.value).mean(0) + 0.5 * (drawn == parts.value).mean(0)
    bias = norm.ppf(np.clip(below, 1e-4, 1 - 1e-4))
    bend = _skew(parts) / 6
    ordered = np.sort(drawn, axis=0)
    ends = []
    for tail in (alpha / 2, 1 - alpha / 2):
        moved = bias + norm.ppf(tail)
        place = norm.cdf(bias + moved / (1 - bend * moved))
        index = np.clip((place * (DRAWS - 1)).round().astype(int), 0, DRAWS - 1)
        ends.append(ordered[index, np.arange(drawn.shape[1])])
    return ends[0], ends[1]


def open_to_judge(differ: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]") -> Floats:
    """True where enough clusters differ for an interval."""
    return differ.sum(1) >= FEWEST
