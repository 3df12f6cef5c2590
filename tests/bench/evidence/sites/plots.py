"""The figure of docs/evidence-2.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.evidence.plots import BLUE, GREY, ORANGE, PALE, dots, pyplot, save
from tests.bench.evidence.sites.arms import ON_POLICY, WAYS
from tests.bench.evidence.sites.routers import ROUTED

GREEN = "#2f7d4f"
TITLES = {"all": "all questions", "new": "new wordings", "seen": "seen wordings"}
KINDS = {
    "needed": ("needed fact", BLUE),
    "needed, not as it is": ("needed fact, but wrong", PALE),
    "several": ("several facts", GREEN),
    "another": ("another fact", ORANGE),
    "guess": ("guess of the answer", "#8a4fa0"),
    "letter": ("form letter", "#b9b9b9"),
    "none of them": ("something else", "#e3e3e3"),
}
"""The kinds of a draft that `run.said` tells apart: their names in the figure and colours."""
UNFED = ("self_scored", "shuffled")
"""Arms that train the policy without the collaboration's feedback, or with it dealt at random."""


def systems(found: Mapping[str, Any], names: Mapping[str, str], path: Path) -> None:
    """Draws every system's share of right answers by wording, and the kinds of its drafts."""
    plt = pyplot()
    rows = list(found["systems"]["all"])
    figure, axes = plt.subplots(
        1, 4, figsize=(13.5, 1.2 + 0.25 * len(rows)), sharey=True, layout="constrained"
    )
    for axis, (wording, title) in zip(axes[:3], TITLES.items(), strict=True):
        estimates = [found["systems"][wording][name] for name in rows]
        dots(axis, estimates, [colour(name) for name in rows], ("t_low", "t_high"))
        axis.set(xlim=(-0.03, 1.03), title=title, xlabel="right answers")
        axis.grid(axis="x", color="#e3e3e3", lw=0.7)
    _says(axes[3], found["says"], rows)
    shown = [names[name].replace("**", "").replace("`", "") for name in rows]
    axes[0].set_yticks(range(len(rows)), shown[::-1])
    save(figure, path)


def colour(name: str) -> str:
    """The colour of a system, by the use that it makes of feedback."""
    if name in UNFED:
        return ORANGE
    if name in ROUTED:
        return GREEN
    return BLUE if name in WAYS or name in ON_POLICY else GREY


def _says(axis: Any, says: Mapping[str, Mapping[str, float]], rows: list[str]) -> None:
    labelled = set()
    for number, name in enumerate(rows):
        left, place = 0.0, len(rows) - 1 - number
        for kind, (label, shade) in KINDS.items():
            share = says.get(name, {}).get(kind, 0.0)
            if not share:
                continue
            shown = None if kind in labelled else label
            labelled.add(kind)
            axis.barh(place, share, 0.7, left, color=shade, label=shown)
            left += share
    axis.set(xlim=(0, 1), title="drafts, by what they say", xlabel="share of the drafts")
    if labelled:
        axis.legend(
            frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2
        )
