"""Says what the finished runs show beside the two claims: comparisons without a number to reach,
what would speak against the method, and how far it goes for new wordings.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.bench.evidence import pool
from tests.bench.evidence.pool import Run
from tests.bench.evidence.sites.arms import AFTER
from tests.bench.evidence.tables import cell

HEADLINE = "aligned_joined"
ON_NEW = (
    ("policy", "table"),
    (HEADLINE, "nearest_table"),
    (HEADLINE, "ridge"),
    (HEADLINE, "policy"),
)
"""Differences on new wordings that stand beside the second claim."""
BY_WORDING = ("policy", HEADLINE, "ridge", *AFTER)


def word(difference: Mapping[str, Any]) -> str:
    """The verdict on a comparison that has no number to reach, by Student's interval."""
    if difference.get("t_low", -1) > 0:
        return "shown"
    return "refuted" if difference.get("t_high", 1) < 0 else "not shown"


def on_new(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Differences on new wordings; `runs` hold the questions in new wordings alone."""
    found = {}
    for of, over in ON_NEW:
        if all(of in run["scores"] and over in run["scores"] for run in runs):
            found[f"{of} less {over}"] = pool.difference(runs, of, over)
    return found


def by_wording(runs: Sequence[Run]) -> dict[str, Any]:
    """Means on each new wording over all runs, and the headline arm's mean differences with each
    wording left out in turn: the least and the greatest. Nothing for runs without wordings.

    `runs` hold the questions in new wordings alone.
    """
    if not all("wordings" in run for run in runs):
        return {}
    systems = [name for name in BY_WORDING if all(name in run["scores"] for run in runs)]
    values: dict[str, list[list[float]]] = defaultdict(list)
    for run in runs:
        for number, wording in enumerate(run["wordings"]):
            values[wording].append([run["scores"][name][number] for name in systems])
    arrays = {wording: np.asarray(rows) for wording, rows in sorted(values.items())}
    rows = {}
    for wording, array in arrays.items():
        means = dict(zip(systems, array.mean(axis=0).round(4).tolist(), strict=True))
        rows[wording] = {"questions": len(array), **means}
    left_out: dict[str, list[float]] = {}
    for name in systems:
        if name == HEADLINE:
            continue
        pair = [systems.index(HEADLINE), systems.index(name)]
        each = []
        for wording in arrays:
            rest = np.concatenate([array for other, array in arrays.items() if other != wording])
            first, second = rest[:, pair].mean(axis=0)
            each.append(float(first - second))
        left_out[name] = [round(min(each), 4), round(max(each), 4)]
    return {"systems": systems, "wordings": rows, "left out": left_out}


def wording_lines(found: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """The table of new wordings, the least right first."""
    part = found["by_wording"]
    if not part:
        return ["Not known yet: `python -m tests.bench.evidence.sites.after` keeps the wordings."]
    systems = part["systems"]
    said = f"{found['finished']} of {found['planned']} runs"
    lines = [f"| new wording ({said}) | questions | {' | '.join(names[one] for one in systems)} |"]
    lines.append("| --- " * (len(systems) + 2) + "|")
    order = sorted(part["wordings"], key=lambda wording: part["wordings"][wording][HEADLINE])
    for wording in order:
        row = part["wordings"][wording]
        cells = " | ".join(f"{row[name]:.2f}" for name in systems)
        lines.append(f"| {wording} | {row['questions']} | {cells} |")
    lines.append("")
    for name, (least, most) in part["left out"].items():
        line = f"- {HEADLINE} less {name}, with one wording left out in turn: {least:+.3f} to "
        lines.append(f"{line}{most:+.3f}")
    return lines


def new_lines(found: Mapping[str, Any]) -> list[str]:
    """The differences on new wordings beside the second claim."""
    return [f"- {name}: {cell(one, '+')}" for name, one in found["on_new"].items()]


def against(found: Mapping[str, Any]) -> list[str]:
    """Each sentence of the plan on what would speak against the method, and what came of it."""
    if found["finished"] < found["planned"]:
        return [f"{found['finished']} of {found['planned']} runs are made, and nothing is said."]
    overall, new = found["differences"]["all"], found["differences"]["new"]
    lines = [_as_good(f"The comparator ({found['comparator']})", overall["comparator"])]
    for name in ("shuffled", "self_scored", "sft_on_chosen"):
        if name in overall:
            lines.append(_as_good(name, overall[name]))
    for name in ("ridge", "table"):
        if name not in new:
            continue
        ahead = "so it is" if word(new[name]) == "refuted" else "not so"
        if word(new[name]) == "not shown":
            ahead = "they can't be told apart"
        line = f"- {name} is ahead on new wordings: **{ahead}** ({HEADLINE} less {name}"
        lines.append(f"{line} {cell(new[name], '+')})")
    lines += _kept(found["kept"])
    for domain, part in found.get("saved", {}).items():
        for name, one in part["less_random"].items():
            lines.append(_random(domain, name, one, part["whole"]))
    return lines


def _as_good(name: str, less: Mapping[str, Any]) -> str:
    verdict = {
        "shown": "not so",
        "refuted": "so it is, and better",
        "not shown": "so it is, as far as these runs can tell",
    }[word(less)]
    line = f"- {name} is as good as {HEADLINE}: **{verdict}**"
    return f"{line} ({HEADLINE} less this {cell(less, '+')})"


def _kept(kept: Mapping[str, Any]) -> list[str]:
    if HEADLINE not in kept:
        return []
    line = f"- The other strong model keeps {cell(kept[HEADLINE])} of the gain of {HEADLINE}"
    if "ideal" in kept:
        line += f"; of the gain of the needed fact itself it keeps {cell(kept['ideal'])}"
    return [line]


def _random(domain: str, name: str, less: Mapping[str, Any], whole: bool) -> str:
    verdict = {"shown": "not so", "refuted": "so it is, and more"}.get(
        word(less), "so it does, as far as these runs can tell"
    )
    line = f"- {domain}: random_half keeps as much as {name}"
    if not whole:
        verdict = "nothing is said, since not all of its runs are made"
    return f"{line}: **{verdict}** ({name} less random_half {cell(less, '+')})"
