"""Rows in, fit rows and a page out.

It runs before anything is spent on queries, learned from the corpus, preferred by feedback, or
trained on pairs.
"""

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import model_validator

from cowest import io
from cowest.config import Config
from cowest.errors import ContractError, CoWestError
from cowest.expectations import AnySuite, contract
from cowest.expectations.contract import Judgement
from cowest.expectations.rules import JudgedRule
from cowest.ports import In, Out
from cowest.records import Validation
from cowest.report import contracts
from cowest.report.difference import clip

SHOWN = 200
"""Rows that the page shows with the places that they came from. The page has only the line numbers
of further rows."""
NAMED = 3
"""Rows that an error names."""
LONGEST = 300
"""Characters of a row's place in an error."""


class ValidateConfig(Config):
    """The kind of records, `kind`, and beside it the rules that they must meet."""

    suite: AnySuite
    """The kind of records and the rules that they must meet."""

    @model_validator(mode="before")
    @classmethod
    def _beside(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "suite" not in values:
            return {"suite": values}
        return values


def main(
    rows: list[In],
    against: In,
    valid: Out,
    page: Out,
    config: ValidateConfig,
    findings: Out | None = None,
) -> None:
    """Writes the rows that meet every rule, a page for people, and the findings as JSON.

    Rows are written byte for byte as they were, except masked ones. They are compared with
    `against`: the raw folder for queries (benchmarks lie there), the champion for feedback, the
    fit queries for corpus and pairs. rows in = rows out + rows set aside. Raises ContractError,
    and writes no rows, if a rule fails the turn.
    """
    judgement = contract.judge(rows, against, config.suite)
    places = _places(rows, _shown(judgement), judgement.seen.remarks)
    # Both are written before the error is raised: they say why the turn stops.
    io.write_text(page, _page(rows, judgement, places))
    if findings is not None:
        io.write_document(findings, judgement.found)
    else:
        _drop_findings(page.with_suffix(".json"))
    if judgement.broken:
        complaints = "; ".join(_complaint(one, places) for one in judgement.broken)
        raise ContractError(f"{_names(rows)} is not fit: {complaints}. The page: {page}")
    contract.write_valid(rows, valid, judgement)
    print(f"{_summary(judgement.found)}; the page: {page}", file=sys.stderr)


def _drop_findings(path: Path) -> None:
    """Removes the findings of an earlier run: the report would show them beside this run's page."""
    with suppress(CoWestError):
        io.read_document(path, Validation)
        path.unlink()


def _shown(judgement: Judgement) -> set[int]:
    """The rows that the page shows with their places."""
    shown = set(sorted(judgement.aside)[:SHOWN])
    for one in judgement.judged:
        shown.update(one.rows[:SHOWN])
    return shown


def _places(
    rows: Sequence[Path], wanted: Collection[int], remarks: Mapping[int, str]
) -> dict[int, str]:
    """Returns `file:line` of the rows asked for, with their origin and the remarks on them."""
    places: dict[int, str] = {}
    # Without rows to show, the files need not be read once more.
    if not wanted:
        return places
    for number, (path, at, line) in enumerate(io.placed(rows)):
        if number in wanted:
            remark = f", {remarks[number]}" if number in remarks else ""
            places[number] = f"{path}:{at} ({_origin(json.loads(line))}){remark}"
    return places


def _origin(row: dict[str, Any]) -> str:
    """The raw row that a row comes from; for a pair, its query and the two drafts."""
    if "source" not in row:
        first, second = row["samples"]
        return f"query {row['query']}, samples {first} and {second}"
    if "sample" in row:
        return f"{row['source']}, sample {row['sample']}"
    return str(row["source"])


def _summary(found: Validation) -> str:
    """Says that rows in = rows out + set aside, with the reasons."""
    reasons, notes = [], []
    for rule in found.rules:
        if rule.severity == "aside" and rule.rows:
            reasons.append(f"{rule.rows}: {rule.says}")
        if rule.severity == "note" and not rule.met:
            notes.append(f"{rule.says}: {rule.found} ({rule.mend})")
    words = (
        f"validate {found.kind}: {found.taken} rows in = {found.left} out + {found.aside} set aside"
    )
    if reasons:
        words += f" (expected, and not met by {'; by '.join(reasons)})"
    if notes:
        words += f"; to note: expected that {'; that '.join(notes)}"
    return words


def _complaint(judged: JudgedRule, places: dict[int, str]) -> str:
    words = f"expected that {judged.rule.says}: {judged.found}"
    # The origin of a row is data, which could move a terminal's cursor.
    named = [clip(places[row], LONGEST) for row in judged.rows[:NAMED]]
    if named:
        words += f", {', '.join(named)}"
    if len(judged.rows) > NAMED:
        words += f" and {len(judged.rows) - NAMED} more"
    return f"{words}: {judged.rule.mend}"


def _page(rows: Sequence[Path], judgement: Judgement, places: dict[int, str]) -> str:
    pointed: dict[str, list[tuple[str, str]]] = {"fail": [], "note": [], "aside": []}
    many = []
    for one in judgement.judged:
        if not one.rows:
            continue
        # Rows set aside are listed once each, below, with all the rules that they do not meet.
        if one.rule.severity != "aside":
            for row in one.rows[:SHOWN]:
                pointed[one.rule.severity].append((one.rule.says, places[row]))
        if len(one.rows) > SHOWN or len(judgement.aside) > SHOWN:
            many.append((one.rule.says, lines(one.rows)))
    for row in sorted(judgement.aside)[:SHOWN]:
        pointed["aside"].append(("; ".join(judgement.aside[row]), places[row]))
    return contracts.page(_names(rows), judgement.found, **pointed, lines=many)


def _names(rows: Sequence[Path]) -> str:
    return ", ".join(map(str, rows))


def lines(rows: Collection[int]) -> str:
    """The lines of rows, counted from 1, in order: `1, 4-17`."""
    spans: list[list[int]] = []
    for row in rows:
        line = row + 1
        if spans and line == spans[-1][1] + 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    words = []
    for first, last in spans:
        words.append(str(first) if first == last else f"{first}-{last}")
    return ", ".join(words)
