"""When to prefer the router: the same feedback, with and without training of the policy, by the
kind of wording, from measured numbers alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bench.evidence import pool
from tests.bench.evidence.tables import cell

ROUTER, HEADLINE = "ridge", "aligned_joined"
ARMS = (HEADLINE, ROUTER, "table", "best_prompt", "sft_on_chosen")
"""Arms that have the joined feedback."""


def of(found: Mapping[str, Any]) -> dict[str, Any]:
    """By arm, the score on seen wordings less that on new ones, over the runs' own means; and the
    same of its gain over the unaligned policy.
    """
    lost = {}
    for arm in ARMS:
        if arm not in found["systems"]["seen"]:
            continue
        each = _lost_by_run(found, arm)
        of_gain = each - _lost_by_run(found, "policy")
        lost[arm] = {**_mean(each), "of gain": _mean(of_gain)}
    return lost


def _lost_by_run(found: Mapping[str, Any], arm: str) -> NDArray[np.float64]:
    seen, new = (np.asarray(found["systems"][kind][arm]["runs"]) for kind in ("seen", "new"))
    less: NDArray[np.float64] = seen - new
    return less


def _mean(each: NDArray[np.float64]) -> dict[str, float]:
    mean = float(each.mean())
    return {"mean": round(mean, 4), **pool.student(mean, each - mean)}


def lines(found: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """The table, and who is ahead where; before all runs are made, the numbers without words."""
    said = f"{found['finished']} of {found['planned']} runs"
    heads = "seen wordings | new wordings | lost on new ones | lost of the gain over unaligned"
    rows = [f"| {said} | {heads} |"]
    rows.append("| --- | --- | --- | --- | --- |")
    for arm, lost in found["prefer"].items():
        cells = [cell(found["systems"][wording][arm]) for wording in ("seen", "new")]
        cells += [_lost(lost), _lost(lost["of gain"])]
        rows.append(f"| {names[arm]} | {' | '.join(cells)} |")
    if ROUTER not in found["differences"]["all"]:
        return rows
    rows.append("")
    for wording in ("seen", "new", "all"):
        less = _turned(found["differences"][wording][ROUTER])
        line = f"- {wording}: {ROUTER} less {HEADLINE} {cell(less, '+')}"
        done = found["finished"] == found["planned"]
        rows.append(f"{line}: **{_ahead(less)}**" if done else line)
    return rows + _costs(found["costs"])


def _turned(difference: Mapping[str, Any]) -> dict[str, float]:
    """The same difference from the other side."""
    turned = {"mean": 0 - difference["mean"]}
    for low, high in (("low", "high"), ("t_low", "t_high")):
        if low in difference:
            turned |= {low: 0 - difference[high], high: 0 - difference[low]}
    return turned


def _ahead(less: Mapping[str, Any]) -> str:
    if less["t_low"] > 0:
        return "the router is ahead"
    if less["t_high"] < 0:
        return "the aligned policy is ahead"
    return "they can't be told apart"


def _lost(lost: Mapping[str, Any]) -> str:
    text = f"{lost['mean']:+.3f}"
    return f"{text} t [{lost['t_low']:+.3f}, {lost['t_high']:+.3f}]" if "t_low" in lost else text


def _costs(costs: Mapping[str, Any]) -> list[str]:
    found = []
    for arm in (ROUTER, HEADLINE):
        if arm in costs:
            once, use = costs[arm]["cpu_seconds"], costs[arm]["drafting_cpu_seconds"]
            found.append(f"- {arm}: {once:,.0f} CPU seconds once, {use:,.0f} to draft")
    return found
