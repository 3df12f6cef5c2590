"""The description of a version on MLflow's pages, in Markdown."""

from collections.abc import Mapping

from cowest.records import DataSet, Decision, EvalReport
from cowest.report.words import NAMES, headline, interval, score

LONGEST = 5000
"""Characters of a description that MLflow keeps."""
REASON = 1500
"""Characters of the decision's reason; the report has all of it."""
VERDICTS = {
    "promoted": "Promoted",
    "refused": "Refused",
    "late": "Too late",
    "waiting": "Waiting for approval",
}


def of_version(made: Decision, report: EvalReport, data: Mapping[str, DataSet]) -> str:
    """Says what was decided and why, how the systems scored, and what the version rests on."""
    against = "no champion" if made.against is None else f"version {made.against}"
    verdict = VERDICTS.get(made.verdict, made.verdict)
    parts = [
        f"**{verdict}**, judged against {against}: {as_text(_clip(made.reason, REASON))}",
        _plain(headline(report)),
        systems_table(report),
        data_table(data),
        f"Turn {made.turn[:8]}. Base: {as_text(made.tags.get('base', 'unknown'))}.",
    ]
    return _clip("\n\n".join(parts), LONGEST)


def systems_table(report: EvalReport) -> str:
    """The systems with their scores and intervals, as a table."""
    lines = ["| system | score | 95 % interval | queries |", "|---|---|---|---|"]
    for name, one in report.systems.items():
        cells = [NAMES.get(name, name), score(one.mean), interval(one), str(one.queries)]
        lines.append(row(cells))
    return "\n".join(lines)


def data_table(data: Mapping[str, DataSet], whole: bool = False) -> str:
    """The data sets as a table, with their digests whole or cut short."""
    lines = ["| data | path | kept by | rows | digest |", "|---|---|---|---|---|"]
    for name, one in data.items():
        revision = f"{one.kept} at {one.rev[:12]}" if one.rev else one.kept
        rows = "" if one.rows is None else str(one.rows)
        digest = one.digest if whole else one.digest[:12]
        lines.append(row([name, one.path, revision, rows, digest]))
    return "\n".join(lines)


def row(cells: list[str]) -> str:
    """One row of a table."""
    return f"| {' | '.join(as_text(_plain(cell)) for cell in cells)} |"


def as_text(text: str) -> str:
    """A text as Markdown shows it letter for letter, on one line: it may quote anything."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\`*_[]|#":
        escaped = escaped.replace(mark, f"\\{mark}")
    return " ".join(escaped.split())


def _plain(text: str) -> str:
    """The text with spaces and a minus that can be searched for."""
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def _clip(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return text[: most - 4] + " ..."
