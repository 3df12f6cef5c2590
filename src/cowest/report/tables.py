"""Small files of an evaluation, for `dvc metrics` and `dvc plots`: JSON and CSV."""

import csv
import io as text
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cowest.errors import InputError
from cowest.io import write_text
from cowest.records import EvalReport

SHOWN = ("strong", "before", "after", "champion")
"""Systems among the metrics: more would not fit 100 characters on a terminal."""


def write_metrics(path: Path, report: EvalReport) -> None:
    """Writes the few numbers of a report that a terminal shows side by side."""
    found: dict[str, float | bool] = {}
    for name in SHOWN:
        if name in report.systems:
            found[name] = round(report.systems[name].mean, 3)
    change = report.comparisons.get("after_minus_before")
    if change is not None:
        found["change"] = round(change.mean, 3)
        if change.low is not None:
            found["low"] = round(change.low, 3)
    if report.probe is not None and "after" in report.probe.systems:
        known = report.probe.systems["after"].score
        if known is not None:
            found["probe"] = round(known, 3)
    found["passed"] = report.passed
    write_text(path, json.dumps(found, indent=2) + "\n")


def write_systems(path: Path, report: EvalReport) -> None:
    """Writes one row per system: its mean score with the ends of the interval."""
    rows = []
    for name, one in report.systems.items():
        rows.append([name, one.mean, one.low, one.high, one.queries])
    _write(path, ["system", "score", "low", "high", "queries"], rows)


def write_curve(path: Path, folder: Path, stage: str) -> None:
    """Writes what training logged in a version's folder, one row per step of a stage.

    The file has its head alone if nothing was trained. Raises InputError.
    """
    steps = [row for row in _logged(folder / "curves.jsonl") if row.get("stage") == stage]
    names = ["step", "loss"]
    for row in steps:
        for name in row:
            if name not in ("stage", *names):
                names.append(name)
    _write(path, names, [[row.get(name) for name in names] for row in steps])


def _logged(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number} is not a step of a curve: train again")
        rows.append(row)
    return rows


def _write(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    written = text.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    write_text(path, written.getvalue())
