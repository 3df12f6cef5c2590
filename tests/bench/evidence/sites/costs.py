"""Adds up the cost of each arm, before its use and to draft what is asked, without SFT, which all
share.

`refine_train` and `draft_train` are one step for all arms that have the run's feedback. An arm that
has a part of it is charged that part of the refinements' time and tokens, by its calls; the time of
drafts and scores is charged whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.evidence import pool, tables
from tests.bench.evidence.pool import Run
from tests.bench.evidence.sites.arms import ON_POLICY, WAYS
from tests.bench.evidence.sites.free import FREE
from tests.bench.evidence.sites.routers import ROUTED

FED = ("draft_train", "refine_train", "score_train")
ON_DEV = ("draft_dev", "refine_dev", "score_dev")
READINGS = "held_likelihood"
"""A step whose every call is the strong model's, and not in the store."""
COLUMNS = (
    ("right", "right", ".3f"),
    *tables.COLUMNS,
    ("strong calls to draft", "drafting_calls", ",.0f"),
    ("strong tokens to draft", "drafting_tokens", ",.0f"),
    ("CPU seconds to draft", "drafting_cpu_seconds", ",.0f"),
)


def arms() -> tuple[str, ...]:
    """All arms that draft."""
    return ("policy", *WAYS, *ON_POLICY, *FREE, *ROUTED)


def before(arm: str) -> tuple[str, ...]:
    """The steps that an arm needs once, before it is asked anything."""
    if arm in WAYS:
        fed = FED if WAYS[arm].arm.calls else ("draft_train", "score_train")
        return (*fed, f"train_{arm}")
    if arm in ON_POLICY:
        return (f"train_{arm}",)
    if arm in ROUTED:
        return (*FED, *ON_DEV) if arm == "ridge" else FED
    return (*ON_DEV, "everything_dev") if arm == "confident" else ()


def drafting(arm: str) -> tuple[str, ...]:
    """The steps that make an arm's drafts of the held-out questions."""
    if arm in WAYS or arm in ON_POLICY:
        return (f"held_policy_{arm}",)
    needs_replies = arm in (*FREE, *ROUTED) and arm != "record"
    return ("held_direct", f"held_{arm}") if needs_replies else (f"held_{arm}",)


def of(runs: Sequence[Run], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Means over the runs that have the arm, of those arms whose steps are all there."""
    found = {}
    for arm in names:
        some = [run for run in runs if arm in run["scores"]]
        steps = (*before(arm), *drafting(arm))
        if not some or not all(_is_whole(run, step) for run in some for step in steps):
            continue
        row = {"runs": len(some), "right": pool.difference(some, arm)["mean"]}
        for field in ("strong_calls", "strong_tokens", "cpu_seconds"):
            row[field] = _mean([_took(run, arm, before(arm), field) for run in some])
            row[f"drafting_{field.removeprefix('strong_')}"] = _mean(
                [_took(run, arm, drafting(arm), field) for run in some]
            )
        row["pairs"] = _mean([run["pairs"].get(arm, {"pairs": 0})["pairs"] for run in some])
        found[arm] = row
    return found


def _is_whole(run: Run, step: str) -> bool:
    """True for a step whose cost was noted when it ended."""
    return "cpu_seconds" in run["costs"].get(step, {})


def cut(runs: Sequence[Run]) -> list[str]:
    """The steps that were begun more than once, whose CPU time is that since the last time."""
    found = []
    for run in runs:
        for step, cost in run["costs"].items():
            if cost.get("begun", 1) > 1:
                found.append(f"{run['settings']['seed']} {step}")
    return found


def table(found: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """A row for each arm. One that not all runs have says how many."""
    said = {}
    for arm, cost in found["costs"].items():
        some = cost["runs"] < found["finished"]
        said[arm] = f"{names[arm]} ({cost['runs']} of the runs)" if some else names[arm]
    lines = tables.of_costs(found["costs"], said, COLUMNS)
    if found["cut"]:
        lines += ["", f"CPU time since a step was begun again: {', '.join(found['cut'])}."]
    return lines


def _took(run: Run, arm: str, steps: Sequence[str], field: str) -> float:
    """Adds up the cost of steps in one run; of the refinements, an arm's share by its calls."""
    total = 0.0
    for step in steps:
        cost = run["costs"][step]
        took = cost[field]
        if step == READINGS and field == "strong_calls":
            took = cost["calls"]
        elif step == READINGS and field == "strong_tokens":
            took = cost["prompt_tokens"]
        if step == "refine_train" and arm in run["pairs"]:
            took *= run["pairs"][arm]["calls"] / cost["strong_calls"]
        total += took
    return total


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 1)
