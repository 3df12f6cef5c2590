"""Rows are held to the contract of their kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cowest import io
from cowest.expectations import AnySuite, engine
from cowest.expectations.rules import JudgedRule, Seen
from cowest.records import RuleOutcome, Validation


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome of all rules on a file of rows."""

    found: Validation
    judged: list[JudgedRule]
    aside: dict[int, list[str]]
    """Rows left out, counted from 0, each with the rules that it does not meet."""
    seen: Seen

    @property
    def broken(self) -> list[JudgedRule]:
        """The rules that fail the turn."""
        return [one for one in self.judged if one.rule.severity == "fail" and not one.met]


def judge(rows: Sequence[Path], against: Path, suite: AnySuite) -> Judgement:
    """Holds rows to a suite. `against` is what the suite compares them with."""
    seen = suite.see(rows, against)
    rules = suite.rules()
    judged = engine.judge(seen.frame, [rule for rule in rules if not rule.whole])
    aside: dict[int, list[str]] = {}
    for one in judged:
        if one.rule.severity == "aside":
            for row in one.rows:
                aside.setdefault(row, []).append(one.rule.says)
    # Rules about the whole judge only the rows that are left.
    left = seen.frame.drop(list(aside)) if aside else seen.frame
    judged += engine.judge_whole(suite.whole(left, seen), [rule for rule in rules if rule.whole])
    found = Validation(
        kind=suite.kind,
        taken=len(seen.frame),
        left=len(left),
        aside=len(aside),
        rules=tuple(map(_outcome, judged)),
        facts=suite.facts(left, seen),
    )
    return Judgement(found, judged, aside, seen)


def _outcome(judged: JudgedRule) -> RuleOutcome:
    rule = judged.rule
    return RuleOutcome(
        name=rule.name,
        says=rule.says,
        mend=rule.mend,
        severity=rule.severity,
        met=judged.met,
        found=judged.found,
        rows=len(judged.rows),
    )


def write_valid(rows: Sequence[Path], valid: Path, judgement: Judgement) -> None:
    """Writes the rows that were not set aside, byte for byte, except masked ones."""
    seen = judgement.seen
    with io.replacing(valid) as temporary, temporary.open("wb") as file:
        for number, (_, _, line) in enumerate(io.placed(rows)):
            if number in judgement.aside:
                continue
            if number in seen.changed:
                line = seen.change(line)
            file.write(line + b"\n")
