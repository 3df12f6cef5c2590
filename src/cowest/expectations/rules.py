"""Rules: conditions that rows, or all rows that are left of them, must meet, with their effect."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Severity = Literal["fail", "aside", "note"]
"""The effect of a rule that is not met. fail: the turn stops; aside: the rows that do not meet it
are left out; note: the page says so, and no more."""


MOST_REMARKS = 2000
"""Rows that have remarks. Further rows have none, so that memory stays bounded."""
SHARE = "{:.1%}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation: the values of a column lie between two bounds, which belong to it."""

    name: str
    """Name of the rule in settings and documents."""
    says: str
    """The expectation, a full sentence without its full stop: "expected that ..."."""
    mend: str
    """Advice for the case that the rule is not met."""
    severity: Severity
    column: str
    low: float | None = None
    high: float | None = None
    whole: bool = False
    """True for a rule about all rows together that are left; other rules are about each row."""
    shown: str = "there are {:.0f}"
    """The words for a number of the whole."""


@dataclass(frozen=True, slots=True)
class JudgedRule:
    """A rule with its outcome."""

    rule: Rule
    met: bool
    rows: tuple[int, ...]
    """Rows that do not meet it, counted from 0; empty for a rule about the whole."""
    found: str
    """The outcome in words."""


class Remarks(dict[int, str]):
    """Further words on rows, for the page, by the number of the row."""

    def say(self, row: int, words: str) -> None:
        """Adds a remark."""
        if row in self:
            self[row] += f", {words}"
        elif len(self) < MOST_REMARKS:
            self[row] = words


@dataclass(slots=True)
class Seen:
    """All that a suite keeps of rows that streamed by."""

    frame: Any
    """A pandas frame, one row per record, numbers alone."""
    remarks: Remarks
    changed: set[int] = field(default_factory=set)
    """Rows that are written otherwise than they came in."""
    change: Callable[[bytes], bytes] = bytes
    """Makes the new line of such a row."""
    beside: Any = None
    """The data that rows are compared with, as far as `whole` and `facts` need them."""

    def share(self, left: Any) -> float:
        """The share of the rows that are left; 1 if there were none."""
        return len(left) / len(self.frame) if len(self.frame) else 1.0


def graded(rules: Iterable[Rule], severity: Mapping[str, Severity]) -> list[Rule]:
    """Returns the rules with the severities of the settings.

    Raises ValueError for a rule that does not exist, or that can't set rows aside.
    """
    found = list(rules)
    known = {rule.name: rule for rule in found}
    for name, wanted in severity.items():
        if name not in known:
            raise ValueError(f"severity: {name!r} is no rule here: they are {', '.join(known)}")
        if wanted == "aside" and known[name].whole:
            raise ValueError(
                f"severity: {name} is about all rows together, and sets none aside: give fail or "
                "note"
            )
    return [replace(rule, severity=severity.get(rule.name, rule.severity)) for rule in found]


def share_left(max_aside: float) -> Rule:
    """A rule that all suites have: a rule that is wrong for the data sets too many rows aside."""
    return Rule(
        "left",
        f"{1 - max_aside:.0%} or more of the rows are left",
        "see why rows were set aside: if a rule is wrong for these data, change it or raise "
        "max_aside",
        "fail",
        "left",
        low=1 - max_aside,
        whole=True,
        shown=SHARE,
    )


def commonest(values: Sequence[Any] | Any) -> float | None:
    """The share of the most frequent value; None if there are no values."""
    import numpy

    if not len(values):
        return None
    counts = numpy.unique(numpy.asarray(values), return_counts=True)[1]
    return float(counts.max() / counts.sum())
