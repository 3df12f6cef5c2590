"""The figure of the intervals: one-sided misses by clusters, coverage, and power."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = {
    "ours": "#1b5e9b",
    "jackknife t": "#5fa7d9",
    "percentile bootstrap": "#c0392b",
    "bootstrap-t": "#e08e45",
    "BCa": "#8e6bb0",
}


def draw(
    misses: Mapping[tuple[str, int], Mapping[str, tuple[float, float, float]]],
    cases: Sequence[str],
    power: Sequence[Mapping[str, Any]],
    path: Path,
) -> None:
    """Writes the figure as SVG."""
    plt = _pyplot()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    clusters = sorted({count for _, count in misses})
    for name, colour in COLOURS.items():
        worst, least = [], []
        for count in clusters:
            shares = [misses[case, count][name] for case in cases]
            worst.append(100 * max(below for below, _, _ in shares))
            least.append(min(within for _, _, within in shares))
        left.plot(clusters, worst, color=colour, label=name, marker=".")
        middle.plot(clusters, least, color=colour, marker=".")
    left.axhline(2.5, color="#999999", linewidth=0.8)
    left.axvline(10, color="#cccccc", linewidth=0.8, linestyle="--")
    left.set(title="lower end above the truth, worst case", ylabel="% of simulations", ylim=(0, 10))
    middle.axhline(0.95, color="#999999", linewidth=0.8)
    middle.set(title="coverage of 95 % intervals, worst case", ylim=(0.75, 1))
    _power(right, power)
    for axis in (left, middle, right):
        axis.set_xscale("log")
        axis.set_xticks([2, 5, 10, 20, 50, 100, 200], ["2", "5", "10", "20", "50", "100", "200"])
        axis.set_xlabel("clusters")
    left.legend(fontsize=7)
    right.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


def _power(axis: Any, power: Sequence[Mapping[str, Any]]) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for one in power:
        _, truth, clusters = one["name"].split(", ")
        lines.setdefault(truth, []).append((int(clusters.split()[0]), one["value"]))
    for name, points in lines.items():
        axis.plot(*zip(*points, strict=True), marker=".", label=name)
    axis.set(title="power of one gate", ylabel="% of simulations", ylim=(0, 102))


def _pyplot() -> Any:
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
