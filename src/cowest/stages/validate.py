"""Rows in, fit rows and a page out: before anything is spent on queries, before anything is trained on pairs."""

import json
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cowest import expectations, io
from cowest.config import Config
from cowest.errors import ContractError
from cowest.expectations import Finding, Rule
from cowest.ports import In, Out
from cowest.records import PreferencePair, Query, Split

SHOWN = 200
"""Rows that the page names one by one, at most."""
NAMED = 3
"""Rows that an error names."""
OF_QUERIES = {"splits"}
OF_PAIRS = {"min_pairs", "min_margin", "max_length_ratio", "max_pairs_per_query"}


class ValidateConfig(Config):
    """What rows must meet."""

    kind: Literal["queries", "pairs"]
    """Which records, and so which suite."""
    max_chars: int = Field(default=20_000, ge=1)
    """Characters of a prompt, or of a side of a pair; longer rows are set aside."""
    splits: tuple[Split, ...] = ("train", "test")
    """Queries: which splits may not be empty."""
    min_pairs: int = Field(default=1, ge=1)
    """Pairs: how many must be left, or the turn fails."""
    min_margin: float = Field(default=0.001, gt=0)
    """Pairs: closer ones are set aside."""
    max_length_ratio: float = Field(default=20.0, ge=1)
    """Pairs: of the longer side to the shorter; pairs over it are set aside."""
    max_pairs_per_query: int = Field(default=16, ge=1)
    """Pairs: more of one query are set aside."""

    def model_post_init(self, _: Any) -> None:
        wrong = sorted(self.model_fields_set & (OF_PAIRS if self.kind == "queries" else OF_QUERIES))
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: no setting of {self.kind}")


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a file of rows fared."""

    findings: list[Finding]
    aside: dict[int, list[Rule]]
    """Rows left out, counted from 0, with the rules that they don't meet."""
    total: int
    splits: dict[str, int]
    """Rows that are left, by split."""

    @property
    def broken(self) -> list[Finding]:
        """What fails the turn."""
        return [finding for finding in self.findings if finding.rule.severity == "critical" and not finding.met]


def main(rows: In, valid: Out, page: Out, config: ValidateConfig) -> None:
    """Writes the page, and the rows that meet every rule, byte for byte as they were.

    rows in = rows out + rows set aside. Raises ContractError, and writes no rows, where a critical rule is not met.
    """
    judged = _judged(rows, config)
    places = _places(rows, {*sorted(judged.aside)[:SHOWN], *(row for finding in judged.broken for row in finding.rows[:SHOWN])})
    said = _said(config.kind, judged)
    io.write_text(page, _page(rows, config.kind, said, judged, places))
    if judged.broken:
        complaints = "; ".join(_complaint(finding, places) for finding in judged.broken)
        raise ContractError(f"{rows} is not fit: {complaints}. The page: {page}")
    with io.replacing(valid) as temporary, temporary.open("wb") as file:
        file.writelines(line + b"\n" for number, line in enumerate(io.lines(rows)) if number not in judged.aside)
    print(f"{said}; the page: {page}", file=sys.stderr)


def _judged(rows: Path, config: ValidateConfig) -> Judgement:
    """Rules about the whole see the rows that the warnings leave."""
    if config.kind == "queries":
        frame = expectations.query_frame(io.read(rows, Query))
        rules = expectations.query_rules(config.splits, config.max_chars)
    else:
        frame = expectations.pair_frame(io.read(rows, PreferencePair))
        rules = expectations.pair_rules(
            config.min_pairs, config.min_margin, config.max_length_ratio, config.max_pairs_per_query, config.max_chars
        )
    findings = expectations.judge(frame, [rule for rule in rules if rule.on_rows])
    aside: dict[int, list[Rule]] = {}
    for finding in findings:
        if finding.rule.severity == "warning":
            for row in finding.rows:
                aside.setdefault(row, []).append(finding.rule)
    left = frame.drop(list(aside))
    findings += expectations.judge(left, [rule for rule in rules if not rule.on_rows])
    return Judgement(findings, aside, len(frame), left["split"].value_counts().to_dict())


def _places(rows: Path, wanted: Collection[int]) -> dict[int, str]:
    """`file:line` of the rows asked for, and where each came from."""
    places = {}
    for number, line in enumerate(io.lines(rows) if wanted else ()):
        if number in wanted:
            row = json.loads(line)
            origin = row.get("source") or f"query {row['query']}, samples {row['samples'][0]} and {row['samples'][1]}"
            places[number] = f"{rows}:{number + 1} ({origin})"
    return places


def _said(kind: str, judged: Judgement) -> str:
    """rows in = rows out + set aside, with the reasons."""
    reasons = [
        f"{len(finding.rows)}: {finding.rule.says}" for finding in judged.findings if finding.rule.severity == "warning" and finding.rows
    ]
    why = f" (expected, and not met by {'; by '.join(reasons)})" if reasons else ""
    left = judged.total - len(judged.aside)
    return f"validate {kind}: {judged.total} rows in = {left} out + {len(judged.aside)} set aside{why}"


def _complaint(finding: Finding, places: dict[int, str]) -> str:
    first = ", ".join(places[row] for row in finding.rows[:NAMED])
    more = f" and {len(finding.rows) - NAMED} more" if len(finding.rows) > NAMED else ""
    return f"expected that {finding.rule.says}: {finding.found}{f', {first}{more}' if first else ''}: {finding.rule.mend}"


def _page(rows: Path, kind: str, said: str, judged: Judgement, places: dict[int, str]) -> str:
    """One self-contained HTML page; everything that came from data is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("cowest.stages", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    html: str = environment.get_template("validate.html.jinja").render(
        kind=kind,
        rows=rows,
        said=said,
        findings=judged.findings,
        splits=judged.splits,
        broken=[(finding.rule.says, places[row]) for finding in judged.broken for row in finding.rows[:SHOWN]],
        aside=[("; ".join(rule.says for rule in judged.aside[row]), places[row]) for row in sorted(judged.aside)[:SHOWN]],
        fit=not judged.broken,
        more=max(len(judged.aside) - SHOWN, 0),
    )
    return html
