"""Rows in, fit rows and a page out: before anything is spent on queries, learned from the corpus, preferred by feedback, or trained."""

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from cowest import io
from cowest.config import Config
from cowest.errors import ContractError
from cowest.expectations import AnySuite, engine
from cowest.expectations.rules import Finding, Seen
from cowest.ports import In, Out
from cowest.records import RuleOutcome, Validation
from cowest.report import contracts

SHOWN = 200
"""Rows that the page shows with where they came from; the lines of the others it counts up."""
NAMED = 3
"""Rows that an error names."""


class ValidateConfig(Config):
    """Which records, `kind`, and beside it what they must meet."""

    suite: AnySuite

    @model_validator(mode="before")
    @classmethod
    def _beside(cls, values: Any) -> Any:
        return (
            {"suite": values} if isinstance(values, Mapping) and "suite" not in values else values
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a file of rows fared."""

    found: Validation
    findings: list[Finding]
    aside: dict[int, list[str]]
    """Rows left out, counted from 0, with what was expected of them in vain."""
    seen: Seen

    @property
    def broken(self) -> list[Finding]:
        """What fails the turn."""
        return [
            finding
            for finding in self.findings
            if finding.rule.severity == "fail" and not finding.met
        ]


def main(rows: list[In], against: In, valid: Out, page: Out, config: ValidateConfig) -> None:
    """Writes the page, and the rows that meet every rule, byte for byte as they were, but for what is masked.

    `against` is what rows are held against: the raw folder for queries (benchmarks lie there), the champion for feedback, the
    fit queries for corpus and pairs. rows in = rows out + rows set aside. Raises ContractError, and writes no
    rows, where a rule fails the turn.
    """
    judged = _judged(rows, against, config.suite)
    pointed = {row for finding in judged.findings for row in finding.rows[:SHOWN]}
    places = _places(rows, pointed | {*sorted(judged.aside)[:SHOWN]}, judged.seen.remarks)
    said = _said(judged.found)
    io.write_text(page, _page(rows, judged, places))
    if judged.broken:
        complaints = "; ".join(_complaint(finding, places) for finding in judged.broken)
        raise ContractError(f"{_names(rows)} is not fit: {complaints}. The page: {page}")
    with io.replacing(valid) as temporary, temporary.open("wb") as file:
        for number, (_, _, line) in enumerate(io.placed(rows)):
            if number not in judged.aside:
                file.write(
                    (judged.seen.change(line) if number in judged.seen.changed else line) + b"\n"
                )
    print(f"{said}; the page: {page}", file=sys.stderr)


def _judged(rows: Sequence[Path], against: Path, suite: AnySuite) -> Judgement:
    """Rules about the whole see the rows that are left."""
    seen = suite.see(rows, against)
    rules = suite.rules()
    findings = engine.judge(seen.frame, [rule for rule in rules if not rule.whole])
    aside: dict[int, list[str]] = {}
    for finding in findings:
        if finding.rule.severity == "aside":
            for row in finding.rows:
                aside.setdefault(row, []).append(finding.rule.says)
    total, left = len(seen.frame), seen.frame.drop(list(aside)) if aside else seen.frame
    findings += engine.judge_whole(suite.whole(left, seen), [rule for rule in rules if rule.whole])
    found = Validation(
        kind=suite.kind,
        taken=total,
        left=len(left),
        aside=len(aside),
        rules=tuple(map(_outcome, findings)),
        facts=suite.facts(left, seen),
    )
    return Judgement(found, findings, aside, seen)


def _outcome(finding: Finding) -> RuleOutcome:
    rule = finding.rule
    return RuleOutcome(
        name=rule.name,
        says=rule.says,
        mend=rule.mend,
        severity=rule.severity,
        met=finding.met,
        found=finding.found,
        rows=len(finding.rows),
    )


def _places(
    rows: Sequence[Path], wanted: Collection[int], remarks: Mapping[int, str]
) -> dict[int, str]:
    """`file:line` of the rows asked for, where each came from, and what else there is to say of it."""
    places = {}
    for number, (path, at, line) in enumerate(io.placed(rows) if wanted else ()):
        if number in wanted:
            row = json.loads(line)
            sample = f", sample {row['sample']}" if "sample" in row else ""
            origin = (
                f"{row['source']}{sample}"
                if "source" in row
                else f"query {row['query']}, samples {row['samples'][0]} and {row['samples'][1]}"
            )
            remark = f", {remarks[number]}" if number in remarks else ""
            places[number] = f"{path}:{at} ({origin}){remark}"
    return places


def _said(found: Validation) -> str:
    """rows in = rows out + set aside, with the reasons."""
    reasons = [
        f"{rule.rows}: {rule.says}"
        for rule in found.rules
        if rule.severity == "aside" and rule.rows
    ]
    noted = [
        f"{rule.says}: {rule.found} ({rule.mend})"
        for rule in found.rules
        if rule.severity == "note" and not rule.met
    ]
    why = f" (expected, and not met by {'; by '.join(reasons)})" if reasons else ""
    more = f"; to note: expected that {'; that '.join(noted)}" if noted else ""
    return f"validate {found.kind}: {found.taken} rows in = {found.left} out + {found.aside} set aside{why}{more}"


def _complaint(finding: Finding, places: dict[int, str]) -> str:
    first = ", ".join(places[row] for row in finding.rows[:NAMED])
    more = f" and {len(finding.rows) - NAMED} more" if len(finding.rows) > NAMED else ""
    return f"expected that {finding.rule.says}: {finding.found}{f', {first}{more}' if first else ''}: {finding.rule.mend}"


def _page(rows: Sequence[Path], judged: Judgement, places: dict[int, str]) -> str:
    unmet = [finding for finding in judged.findings if finding.rows]
    pointed: dict[str, list[tuple[str, str]]] = {"fail": [], "note": [], "aside": []}
    for finding in unmet:
        if finding.rule.severity != "aside":
            pointed[finding.rule.severity] += [
                (finding.rule.says, places[row]) for row in finding.rows[:SHOWN]
            ]
    pointed["aside"] = [
        ("; ".join(judged.aside[row]), places[row]) for row in sorted(judged.aside)[:SHOWN]
    ]
    many = [
        (finding.rule.says, lines(finding.rows))
        for finding in unmet
        if len(finding.rows) > SHOWN or len(judged.aside) > SHOWN
    ]
    return contracts.page(_names(rows), judged.found, **pointed, lines=many)


def _names(rows: Sequence[Path]) -> str:
    return ", ".join(map(str, rows))


def lines(rows: Collection[int]) -> str:
    """The lines of rows, counted from 1, in order: `1, 4-17`."""
    found: list[list[int]] = []
    for row in rows:
        if found and row == found[-1][1]:
            found[-1][1] += 1
        else:
            found.append([row + 1, row + 1])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
