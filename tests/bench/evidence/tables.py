"""Parts of the pages of both evidences: a mean with its intervals, and the table of costs."""

from collections.abc import Mapping, Sequence
from typing import Any

Column = tuple[str, str, str]
"""Heading, field of an arm's costs, format."""
COLUMNS: tuple[Column, ...] = (
    ("strong calls", "strong_calls", ",.0f"),
    ("strong tokens", "strong_tokens", ",.0f"),
    ("pairs", "pairs", ".0f"),
    ("CPU seconds", "cpu_seconds", ",.0f"),
)


def cell(estimate: Mapping[str, Any], sign: str = "") -> str:
    """The mean with both intervals: resampled, and Student's, which one run has not."""
    text = f"{estimate['mean']:{sign}.3f} "
    text += f"[{estimate['low']:{sign}.3f}, {estimate['high']:{sign}.3f}]"
    if "t_low" in estimate:
        text += f" t [{estimate['t_low']:{sign}.3f}, {estimate['t_high']:{sign}.3f}]"
    return text


def of_costs(
    costs: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
    columns: Sequence[Column] = COLUMNS,
) -> list[str]:
    """A row for each arm, under its name."""
    heads = " | ".join(heading for heading, _, _ in columns)
    lines = [f"| | {heads} |", "| --- " * (len(columns) + 1) + "|"]
    for arm, cost in costs.items():
        cells = [f"{cost[field]:{form}}" for _, field, form in columns]
        lines.append(f"| {names[arm]} | {' | '.join(cells)} |")
    return lines
