"""Simulated evaluations whose truth is known.

Queries lie in clusters of 2 to 40. A system's score of a query follows from a normal number: partly
of the cluster, partly of the query, and both partly shared with the other systems. Its share below
a threshold is the system's mean, so every mean and every difference is known exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]

SIZES = (2, 40)
"""The fewest and the most queries of a cluster."""
WITHIN = 0.2
"""The share of the variance that a cluster's queries have in common."""
CLUSTERS_ALIKE, QUERIES_ALIKE = 0.7, 0.6
"""Correlations of two systems: of what clusters share, and of the rest of each query."""
AT_ONCE = 400_000
"""Queries that are simulated at once."""


@dataclass(frozen=True, slots=True)
class Case:
    """The true means of the systems, and the kind of score."""

    name: str
    means: tuple[float, ...]
    """Of the system before, and of those that are compared with it."""
    graded: bool = False
    """True for scores of 0, 1/4, 1/2, 3/4 and 1; else they are 0 or 1."""

    @property
    def amid(self) -> bool:
        """True if all means lie between .1 and .9."""
        return all(0.1 <= mean <= 0.9 for mean in self.means)


@dataclass(frozen=True, slots=True)
class Sample:
    """Simulated evaluations: sims x clusters, of each system."""

    sums: list[Floats]
    """By system, the sum of its scores."""
    sizes: Floats
    """Queries per cluster."""
    differ: list[NDArray[np.bool_]]
    """By system, true where any score in the cluster is not that of the first system."""


def samples(
    case: Case, clusters: int, sims: int, seed: int, sizes: tuple[int, int] = SIZES
) -> Sample:
    """So many evaluations with so many clusters each."""
    rng = np.random.default_rng([seed, clusters])
    # In parts, since 4,000 evaluations with 200 clusters are 17 million queries.
    most = max(1, AT_ONCE // (clusters * sizes[1]))
    parts = []
    for start in range(0, sims, most):
        parts.append(_part(case, clusters, min(most, sims - start), rng, sizes))
    systems = range(len(case.means))
    return Sample(
        [np.concatenate([part.sums[one] for part in parts]) for one in systems],
        np.concatenate([part.sizes for part in parts]),
        [np.concatenate([part.differ[one] for part in parts]) for one in systems],
    )


def _part(
    case: Case, clusters: int, sims: int, rng: np.random.Generator, sizes: tuple[int, int]
) -> Sample:
    counts = rng.integers(sizes[0], sizes[1] + 1, size=(sims, clusters))
    flat = counts.ravel()
    starts = np.concatenate([[0], np.cumsum(flat)[:-1]])
    sums, differ, first = [], [], None
    for values in scores(case, flat, rng):
        first = values if first is None else first
        sums.append(np.add.reduceat(values, starts).reshape(counts.shape))
        unlike = np.add.reduceat((values != first).astype(np.int64), starts) > 0
        differ.append(unlike.reshape(counts.shape))
    return Sample(sums, counts.astype(np.float64), differ)


def scores(case: Case, sizes: NDArray[np.int64], rng: np.random.Generator) -> Iterator[Floats]:
    """Yields the scores of each system, query by query, for clusters of these sizes."""
    total = int(sizes.sum())
    shared, rest = _normal(rng, len(sizes)), _normal(rng, total)
    for number, mean in enumerate(case.means):
        luck, own = shared, rest
        if number:
            luck = _mixed(shared, _normal(rng, len(sizes)), CLUSTERS_ALIKE)
            own = _mixed(rest, _normal(rng, total), QUERIES_ALIKE)
        hidden = np.repeat(np.sqrt(WITHIN) * luck, sizes) + np.sqrt(1 - WITHIN) * own
        yield _scored(hidden, mean, case.graded)


def _normal(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    return rng.standard_normal(count, dtype=np.float32)


def _mixed(
    one: NDArray[np.float32], other: NDArray[np.float32], alike: float
) -> NDArray[np.float32]:
    return alike * one + np.float32(np.sqrt(1 - alike**2)) * other


def _scored(hidden: NDArray[np.float32], mean: float, graded: bool) -> Floats:
    """The scores: their mean over all that could be drawn is `mean`."""
    steps = [mean] * 4
    if graded:
        spread = 0.9 * min(mean, 1 - mean)
        steps = [mean - spread, mean - spread / 2, mean + spread / 2, mean + spread]
    found = np.zeros(len(hidden))
    for step in steps:
        found += hidden < norm.ppf(step)
    return found / 4
