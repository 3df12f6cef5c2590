"""Quantities of an evaluation as ratios over its queries. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cowest.gates import COUNTS, Gate, Quantity
from cowest.intervals import Floats, Ratio, difference_of, mean_of
from cowest.slices import sliced

ELSEWHERE = ("macro_f1", "distinct", "probe")
"""Metrics that are no mean over the held-out queries: others measure them."""
RIGHT = 0.5
"""The lowest score that counts as a right answer."""


def quantities(
    gates: Sequence[Gate], best: str, systems: Sequence[str], tags: Collection[str]
) -> list[Quantity]:
    """Everything that is estimated of the trials, each once: the quantities of every report, then
    those of the gates. `best` is the best single model.
    """
    asked = [Quantity("score", name, None) for name in systems]
    for over in ("before", best, "strong", "champion"):
        asked.append(Quantity("score", "after", over))
    asked.append(Quantity("score", "ideal", "after"))
    for gate in gates:
        if gate.metric not in ELSEWHERE:
            asked += gate.quantities(best, tags)
    return list(dict.fromkeys(asked))


def ratios(
    asked: Sequence[Quantity],
    measured: Mapping[str, Mapping[str, Floats]],
    members: Mapping[str, Sequence[int]],
) -> dict[Quantity, Ratio]:
    """The quantities as ratios over the queries.

    `measured` has the value of each query by metric and system, `members` the numbers of the
    queries by tag.
    """
    found = {}
    for quantity in asked:
        ratio = _ratio(quantity, measured)
        if quantity.tag is not None:
            ratio = sliced(ratio, members[quantity.tag])
        found[quantity] = ratio
    return found


def guarded(
    gates: Sequence[Gate], best: str, found: Mapping[Quantity, Ratio]
) -> dict[Quantity, Ratio]:
    """The differences of scores that guards look at, as ratios that have an interval where fewer
    groups differ than could be chance: that of a count.

    A gate that asks for proof has none there, and is closed. A guard asks whether anything is
    surely worse, and where hardly anything differs nothing is.
    """
    held = {}
    for gate in gates:
        if not gate.guards:
            continue
        asked = gate.quantity(best)
        for quantity, ratio in found.items():
            if ratio.paired and quantity._replace(tag=None) == asked:
                held[quantity] = replace(ratio, paired=False)
    return held


def _ratio(quantity: Quantity, measured: Mapping[str, Mapping[str, Floats]]) -> Ratio:
    """The quantity over all queries; one that nothing was measured of has no query."""
    metric, of, over, _ = quantity
    unknown = np.full_like(measured["score"]["after"], np.nan)
    values = measured.get("score" if metric == "right_to_wrong" else metric, {})
    one = values.get(of, unknown)
    if over is None:
        return mean_of(one, None if metric in COUNTS else (0.0, 1.0))
    other = values.get(over, unknown)
    if metric == "right_to_wrong":
        turned = (other >= RIGHT) & (one < RIGHT)
        return mean_of(np.where(np.isnan(one + other), np.nan, turned), (0.0, 1.0))
    if metric in ("score", "accuracy"):
        return difference_of(one, other)
    return mean_of(one - other, None if metric in COUNTS else (-1.0, 1.0))
