"""The figures of docs/evidence.md, and the parts that those of docs/evidence-2.md share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.evidence.report import NAMES

BLUE, ORANGE, GREY, PALE = "#1f5fa8", "#c2571a", "#555555", "#7fa6d3"


def systems(found: Mapping[str, Any], path: Path) -> None:
    """Every system's share of right answers: each run a dot, all runs the bar with its interval."""
    plt = pyplot()
    figure, axes = plt.subplots(
        1, 2, figsize=(9.2, 3.9), sharey=True, sharex=True, layout="constrained"
    )
    rows = list(NAMES)
    for axis, mode in zip(axes, ("greedy", "sampled"), strict=True):
        estimates = [found["systems"][mode][name] for name in rows]
        dots(axis, estimates, [_colour(name) for name in rows])
        axis.set(xlim=(-0.03, 1.03), xlabel="right answers", title=f"{mode} drafts")
        axis.grid(axis="x", color="#e3e3e3", lw=0.7)
    axes[0].set_yticks(range(len(rows)), [NAMES[name] for name in reversed(rows)])
    save(figure, path)


def dots(
    axis: Any,
    estimates: Sequence[Mapping[str, Any]],
    colours: Sequence[str],
    ends: tuple[str, str] = ("low", "high"),
) -> None:
    """Draws estimates from the top down: each run a dot, all runs a bar with its interval.

    `ends` names the two ends of the interval; an estimate that has none, as Student's of one run,
    gets no bar.
    """
    low, high = ends
    for number, (one, colour) in enumerate(zip(estimates, colours, strict=True)):
        place = len(estimates) - 1 - number
        dot = {"ms": 4, "color": colour, "alpha": 0.35, "mew": 0}
        axis.plot(one["runs"], [place] * len(one["runs"]), "o", **dot)
        if low in one:
            bar = {"color": colour, "lw": 2.2, "solid_capstyle": "butt"}
            axis.plot([one[low], one[high]], [place, place], **bar)
        axis.plot([one["mean"]], [place], "|", ms=13, mew=2.4, color=colour)


def _colour(name: str) -> str:
    if name == "aligned":
        return BLUE
    return ORANGE if name.startswith(("self", "shuf", "sft")) else GREY


def curves(found: Mapping[str, Any], path: Path) -> None:
    """What the gain depends on: pairs, samples, rounds, and what the policy learnt to say."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 4, figsize=(11.2, 3.1), sharey=True, layout="constrained")
    said = {
        "pairs": "pairs (from a quarter, half\nand all of the queries)",
        "samples": "drafts of each query",
        "rounds": "rounds, each on its own policy's drafts",
        "answers": "final answers among the replies\nthat the policy learnt from",
    }
    for axis, (name, label) in zip(axes, said.items(), strict=True):
        points = found["curves"][name]
        arms = ("aligned", "self_scored") if name == "answers" else ("aligned", "sampled")
        for side, arm, colour in zip(
            (-1, 1), arms, (BLUE, ORANGE if name == "answers" else PALE), strict=True
        ):
            _line(axis, points, arm, colour, side=side, categories=name == "answers")
        if name == "rounds":
            axis.set_xticks([0, 1, 2])
        axis.axhline(0, color=GREY, lw=0.8)
        axis.set(xlabel=label)
        axis.grid(axis="y", color="#e3e3e3", lw=0.7)
        if name in ("pairs", "samples"):
            axis.set_xlim(left=0)
        if points and name in ("pairs", "answers"):
            axis.legend(frameon=False, fontsize=8, loc="lower right")
        if not points:
            axis.text(0.5, 0.5, "not run", transform=axis.transAxes, ha="center", color=GREY)
    axes[0].set_ylabel("gain over no alignment")
    axes[0].set_ylim(bottom=-0.7)  # room for the legends
    save(figure, path)


def _line(
    axis: Any,
    points: Sequence[Mapping[str, Any]],
    arm: str,
    colour: str,
    *,
    side: int,
    categories: bool,
) -> None:
    if not points:
        return
    label = {
        "aligned": "collaborative feedback",
        "sampled": "the same, drafts sampled",
        "self_scored": "self-scored",
    }[arm]
    where = list(range(len(points))) if categories else [point["x"] for point in points]
    # Side by side, so that one interval does not hide the other.
    places = [
        place + side * 0.012 * (max(where) or 1) * (2 if categories else 1) for place in where
    ]
    means = [point[arm]["mean"] for point in points]
    errors = [
        [point[arm]["mean"] - point[arm]["low"] for point in points],
        [point[arm]["high"] - point[arm]["mean"] for point in points],
    ]
    axis.errorbar(
        places,
        means,
        yerr=errors,
        fmt="o-" if not categories else "o",
        color=colour,
        lw=1.6,
        ms=5,
        capsize=2.5,
        label=label,
    )
    if categories:
        names = [
            f"{point['x']:.0%}" if isinstance(point["x"], float) else "the answer\nis the fact"
            for point in points
        ]
        axis.set_xticks(where, names)
        axis.margins(x=0.15)


def pyplot() -> Any:
    """Matplotlib, set up so that equal figures are equal bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {
        "svg.hashsalt": "cowest",
        "svg.fonttype": "path",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    import matplotlib.pyplot as plt

    return plt


def save(figure: Any, path: Path) -> None:
    """Writes a figure without the time of day."""
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
