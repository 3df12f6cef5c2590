"""Histories of weekly challengers, none of them better, that are judged by the same queries."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from tests.bench.gate.ways import open_to_judge, ours, parts_of
from tests.bench.gate.world import SIZES, WITHIN, Floats

RIGHT = 0.6
"""The true mean of every version."""
KNOWN = 0.7
"""The share of the variance of an answer that the query decides, whoever answers."""
AT_ONCE = 100
"""Histories that are simulated at once."""


@dataclass(frozen=True, slots=True)
class Told:
    """The course of a number of histories."""

    promoted: float
    """The share of histories that promote at least once."""
    risen: float
    """The mean rise of the score that the champion is reported with."""


def histories(
    clusters: int, changing: float, spending: float, *, sims: int, weeks: int = 50, seed: int = 0
) -> Told:
    """Runs weekly challengers of which a share of the answers differ from the champion's.

    `spending` is the power of compare.spend: 0 leaves every week's level as it is.
    """
    rng = np.random.default_rng([seed, clusters, round(100 * changing)])
    promoted, risen = [], []
    for start in range(0, sims, AT_ONCE):
        count = min(AT_ONCE, sims - start)
        ever, rise = _some(clusters, changing, spending, count, weeks, rng)
        promoted.append(ever)
        risen.append(rise)
    return Told(
        float(np.concatenate(promoted).mean()),
        float(np.concatenate(risen).mean()),
    )


def _some(
    clusters: int,
    changing: float,
    spending: float,
    sims: int,
    weeks: int,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """For each history, whether it ever promotes, and how far the champion's score rises."""
    counts = rng.integers(SIZES[0], SIZES[1] + 1, size=(sims, clusters))
    flat = counts.ravel()
    starts = np.concatenate([[0], np.cumsum(flat)[:-1]])
    sizes = counts.astype(np.float64)
    hard = _hidden(flat, rng)
    champion = _answers(hard, flat, rng)
    began = _sums(champion, starts, counts.shape).sum(1) / sizes.sum(1)
    ever = np.zeros(sims, dtype=bool)
    for week in range(weeks):
        changed = rng.random(len(champion)) < changing
        challenger = np.where(changed, _answers(hard, flat, rng), champion)
        gains = _sums(challenger - champion, starts, counts.shape)
        unlike = _sums((challenger != champion).astype(np.float64), starts, counts.shape) > 0
        alpha = 0.05 / (1 + week) ** spending
        with np.errstate(all="ignore"):
            low, _ = ours(parts_of(gains, sizes, sizes), alpha)
        won = (low >= 0) & open_to_judge(unlike)
        ever |= won
        champion = np.where(np.repeat(won, counts.sum(1)), challenger, champion)
    return ever, _sums(champion, starts, counts.shape).sum(1) / sizes.sum(1) - began


def _hidden(sizes: Floats, rng: np.random.Generator) -> Floats:
    luck = np.repeat(rng.standard_normal(len(sizes), dtype=np.float32), sizes)
    own = rng.standard_normal(int(sizes.sum()), dtype=np.float32)
    return np.sqrt(WITHIN) * luck + np.sqrt(1 - WITHIN) * own


def _answers(hard: Floats, sizes: Floats, rng: np.random.Generator) -> Floats:
    """A version's scores: what the query decides, and luck of the version's own."""
    hidden = np.sqrt(KNOWN) * hard + np.sqrt(1 - KNOWN) * _hidden(sizes, rng)
    return (hidden < norm.ppf(RIGHT)).astype(np.float64)


def _sums(values: Floats, starts: Floats, shape: tuple[int, ...]) -> Floats:
    return np.add.reduceat(values, starts).reshape(shape)
