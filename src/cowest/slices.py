"""Quantities of the queries with one tag, and Holm's procedure over many of them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from cowest.gates import Gate, Quantity
from cowest.intervals import ALPHA, Floats, Ratio, estimates
from cowest.records import Estimate, Slice


def members_of(tags: Sequence[tuple[str, ...]]) -> dict[str, list[int]]:
    """By tag, in alphabetical order, the numbers of the queries that have it."""
    members: dict[str, list[int]] = {}
    for number, tags_of_query in enumerate(tags):
        # A query may name a tag twice.
        for tag in set(tags_of_query):
            members.setdefault(tag, []).append(number)
    return {tag: members[tag] for tag in sorted(members)}


def means_by_tag(
    members: Mapping[str, Sequence[int]], values: Mapping[str, Floats]
) -> dict[str, dict[str, Slice]]:
    """By tag and system, the mean over the queries that have the tag."""
    found: dict[str, dict[str, Slice]] = {}
    for tag, numbers in members.items():
        for name, scores in values.items():
            known = scores[numbers]
            known = known[~np.isnan(known)]
            if known.size:
                mean = round(float(known.mean()), 6)
                found.setdefault(tag, {})[name] = Slice(mean=mean, queries=int(known.size))
    return found


def sliced(ratio: Ratio, members: Sequence[int]) -> Ratio:
    """The ratio over some of its queries alone."""
    inside = np.zeros(len(ratio.there), dtype=np.bool_)
    inside[list(members)] = True
    return replace(
        ratio,
        top=ratio.top * inside,
        bottom=ratio.bottom * inside,
        there=ratio.there & inside,
    )


def corrected(
    gate: Gate, ratios: Mapping[Quantity, Ratio], groups: Sequence[str], min_groups: int
) -> dict[Quantity, Estimate]:
    """The slices that a guard can judge, each with the interval at which it is judged.

    Holm's step-down procedure: the first intervals are as wide as all slices together ask. Where
    some are worse even so, those are found, and the others are judged as if they were all. So the
    chance that any slice which is not worse is found stays that of one gate. (Holm 1979)
    """
    waiting = dict(ratios)
    for quantity, estimate in _estimated(ratios, groups, ALPHA).items():
        if estimate is None or estimate.low is None or estimate.groups < min_groups:
            del waiting[quantity]
    found: dict[Quantity, Estimate] = {}
    while waiting:
        worse = []
        for quantity, estimate in _estimated(waiting, groups, ALPHA / len(waiting)).items():
            assert estimate is not None, "a slice that has an interval has a wider one too"
            found[quantity] = estimate
            end = estimate.low if gate.bound.end == "lower" else estimate.high
            if end is not None and not gate.bound.met(end):
                worse.append(quantity)
        if not worse:
            break
        for quantity in worse:
            del waiting[quantity]
    return found


def _estimated(
    ratios: Mapping[Quantity, Ratio], groups: Sequence[str], alpha: float
) -> dict[Quantity, Estimate | None]:
    """Each ratio with an interval that misses with probability `alpha`."""
    return dict(zip(ratios, estimates(groups, list(ratios.values()), alpha), strict=True))
