"""The form of the rows in docs/bench/*.json."""

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]


def row(
    name: str,
    value: float,
    unit: str,
    better: str,
    target: float | None = None,
    peers: Mapping[str, float] | None = None,
) -> Row:
    """Makes a row. `peers` has what others took for the same in the same run."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "better": better,
        "target": target,
        "peers": dict(peers or {}),
    }
