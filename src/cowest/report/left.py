"""Files that another turn left: a turn that stops half way leaves the later ones where they were.

Each stage removes what it makes before it begins, so the first file that is missing says how far
the turn has come.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cowest import io, version
from cowest.errors import CoWestError
from cowest.records import Decision, EvalReport, Record, Trial
from cowest.wear import Looks, worn

R = TypeVar("R", bound=Record)

REPORT = "reports/eval.json"
LINE = (
    "data/queries.raw.jsonl",
    "data/quarantine.jsonl",
    "data/queries.jsonl",
    "data/corpus.jsonl",
    "models/policy/version.json",
    "data/drafts.jsonl",
    "data/refinements.jsonl",
    "data/feedback.raw.jsonl",
    "data/feedback.jsonl",
    "data/pairs.raw.jsonl",
    "data/pairs.jsonl",
    "models/challenger/version.json",
    "data/trials.jsonl",
    REPORT,
)
"""The files of a turn in the order in which its stages make them."""


def of_another(root: Path, turn: Mapping[str, Any]) -> dict[str, str]:
    """By file of LINE that another turn made, the reason why it is not shown as this one's.

    None is named of a turn that is decided: then all of them are its own.
    """
    decided = _read(root / "reports/decision.json", Decision)
    if decided is not None and decided.turn == turn.get("key"):
        return {}
    before = "" if decided is None else f" (the last that was decided is turn {decided.turn[:8]})"
    why = f"this turn has not come so far; what lies there is left of another{before}"
    for place, name in enumerate(LINE):
        if not (root / name).exists():
            later = [one for one in LINE[place + 1 :] if (root / one).exists()]
            return dict.fromkeys(later, why)
    # All are there: either the turn has come to its end and is not decided, or it has not begun.
    report = _read(root / REPORT, EvalReport)
    if report is None or _is_of(report, root, turn):
        return {}
    return dict.fromkeys(LINE, why)


def _read(path: Path, kind: type[R]) -> R | None:
    """A document; None if it can't be read, which its own part of the page says."""
    try:
        return io.read_document(path, kind)
    except CoWestError:
        return None


def _is_of(report: EvalReport, root: Path, turn: Mapping[str, Any]) -> bool:
    """True if a report judges the versions that lie here and the champion that was pinned, and
    counts the earlier decisions that were, as the registry asks of it.
    """
    judged = {}
    try:
        for system, folder in (("before", "models/policy"), ("after", "models/challenger")):
            judged[system] = version.expect(root / folder).digest
        if turn.get("champion_digest") is not None:
            judged["champion"] = turn["champion_digest"]
        if report.versions != judged:
            return False
        looks = _read(root / "looks.json", Looks)
        if looks is None or report.wear is None:
            return True
        ids = [rows[0].id for rows in io.groups(root / "data/trials.jsonl", Trial)]
        return report.wear == worn(looks, ids)
    except CoWestError:
        return False
