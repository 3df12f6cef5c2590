"""Rules: what is expected of rows, or of all that is left of them, and what comes of one that is not met."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Severity = Literal["fail", "aside", "note"]
"""What a rule that is not met does. fail: the turn stops; aside: its rows are left out; note: the page says so, and no more."""


MOST_REMARKS = 2000
SHARE = "{:.1%}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation: the values of a column lie between two bounds, both of which belong to it."""

    name: str
    """What settings and documents call it."""
    says: str
    """What is expected, a full sentence without its stop."""
    mend: str
    """What to do when it is not met."""
    severity: Severity
    column: str
    low: float | None = None
    high: float | None = None
    whole: bool = False
    """Whether it speaks of all rows that are left together; the others speak of each row."""
    shown: str = "there are {:.0f}"
    """How a number of the whole is said."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How a rule fared."""

    rule: Rule
    met: bool
    rows: tuple[int, ...]
    """Which rows don't meet it, counted from 0; empty for a rule about the whole."""
    found: str
    """What was found, in words."""


class Remarks(dict[int, str]):
    """What else there is to say of a row, for the page: of the first rows alone, by their numbers."""

    def say(self, row: int, words: str) -> None:
        """One thing more."""
        if row in self:
            self[row] += f", {words}"
        elif len(self) < MOST_REMARKS:
            self[row] = words


@dataclass(slots=True)
class Seen:
    """Rows, as a suite saw them stream by."""

    frame: Any
    """A pandas frame, a row a record, numbers alone."""
    remarks: "Remarks"
    changed: set[int] = field(default_factory=set)
    """Rows that go out otherwise than they came in,"""
    change: Callable[[bytes], bytes] = bytes
    """and what makes of such a row's line the new one."""
    beside: Any = None
    """What they are held against, as far as `whole` and `facts` need it."""

    def share(self, left: Any) -> float:
        """How many of the rows are left; all, where there were none."""
        return len(left) / len(self.frame) if len(self.frame) else 1.0


def graded(rules: Iterable[Rule], severity: Mapping[str, Severity]) -> list[Rule]:
    """The rules with the severities that settings give them. Raises ValueError for a rule that is not there."""
    found = list(rules)
    known = {rule.name: rule for rule in found}
    for name, wanted in severity.items():
        if name not in known:
            raise ValueError(f"severity: {name!r} is no rule here: they are {', '.join(known)}")
        if wanted == "aside" and known[name].whole:
            raise ValueError(
                f"severity: {name} speaks of all rows together, and sets none aside: give fail or note"
            )
    return [replace(rule, severity=severity.get(rule.name, rule.severity)) for rule in found]


def share_left(max_aside: float) -> Rule:
    """A rule that all suites have: one that is wrong for the data shows in what it sets aside."""
    return Rule(
        "left",
        f"{1 - max_aside:.0%} or more of the rows are left",
        "see what the rows were set aside for: are they unfit, or is a rule wrong for them? Then change it, or raise max_aside",
        "fail", "left", low=1 - max_aside, whole=True, shown=SHARE,
    )  # fmt: skip


def commonest(values: Sequence[Any] | Any) -> float | None:
    """The share of the commonest value; None where there is none."""
    import numpy

    if not len(values):
        return None
    counts = numpy.unique(numpy.asarray(values), return_counts=True)[1]
    return float(counts.max() / counts.sum())
