"""Gates: the conditions under which a challenger is promoted, and the outcome of each. Pure.

A gate looks at one paired difference of the evaluation, such as the score after alignment minus
the score before it, and asks that even the lower end of its 95 % interval is high enough. A gate
on macro F1 is a guard against answers that name one class for all: it asks that the interval does
not lie below what is asked as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, model_validator

from cowest.config import Config
from cowest.records import Collaboration, Estimate, GateResult

System = Literal["policy_before", "policy_after", "strong", Collaboration]
Pair = tuple[str, str]
"""Two systems of which the first is compared with the second."""
Differences = Mapping[Pair, Estimate | None]
"""The paired difference of each pair of systems; None where no query has both."""

BEST = "best_single"
"""The best single model: of the policies and the strong model, each alone, the one with the highest
mean over the queries that it has a score for."""


class Gate(Config):
    """Passes if `of` beats `over` by `at_least`, even at the lower end of the 95 % interval."""

    of: System = "after"
    """The system that must be better."""
    over: Literal[System, "best_single"]
    """The system that it is compared with. `best_single` is the best of the policies alone and the
    strong model alone. A gate on `champion` does not apply before there is one."""
    metric: Literal["score", "macro_f1"] = "score"
    """The measure compared. `macro_f1` is of answers to a multiple choice; its gate is closed only
    where the whole interval lies below `at_least`."""
    at_least: float = 0.0
    """Smallest difference, on the scale of 0 to 1, that passes. Below zero, it is how much worse
    `of` may be."""

    @model_validator(mode="after")
    def _two_systems(self) -> "Gate":
        if self.of == self.over:
            raise ValueError(f"{self.of} over itself is always 0: name two systems")
        if self.metric == "macro_f1" and self.over == BEST:
            raise ValueError("the best single model is the best by score: name one by macro_f1")
        return self

    @property
    def name(self) -> str:
        """The gate in words, as in `after over best single`."""
        name = f"{self.of} over {self.over}".replace("_", " ")
        return name if self.metric == "score" else f"{name} in macro F1"

    def pair(self, best: str) -> Pair:
        """The two systems compared, with the name of the best single model in place."""
        if self.over == BEST:
            return self.of, best
        return self.of, self.over


GUARDS = (
    Gate(of="after", over="before", metric="macro_f1"),
    Gate(of="after", over="champion", metric="macro_f1"),
)
"""The gates of a multiple choice whose settings name none on macro F1."""


class Rules(Config):
    """The conditions of promotion, and the resampling behind the intervals."""

    gates: tuple[Gate, ...]
    """Conditions on paired differences. A challenger that fails one of them is not promoted;
    without any that holds, every challenger is. Where the scorer is `choice` and none of them is on
    `macro_f1`, two more hold: after over before and after over champion in macro F1."""
    min_groups: int = Field(default=10, ge=1)
    """Fewest groups of queries behind a difference for its gate to open. With few, chance alone
    opens a gate too often: of two equal systems one passed 24 % of the time at 2 groups, 9 % at 4
    and still 5 to 6 % at 8 and 10, where 2.5 % is meant (1,500 simulations each)."""
    max_failed_gap: float = Field(default=0.01, ge=0, le=1)
    """Largest share of rows that may have failed on one side alone of a gate's two systems, query
    by query. Past it the gate is closed, since what failed there may be what that side gets
    wrong."""
    max_instructs_gap: float = Field(default=0.01, ge=0, le=1)
    """With a judge as scorer: how much larger the share of rows whose draft or answer speaks to the
    judge may be for a gate's first system than for its second. Past it the gate is closed, since
    what such a text raises may be the score and not the help."""
    max_failed: int | None = Field(default=None, ge=0)
    """Failed rows that may be left out; null for any number, since `evaluate` has a limit too."""
    draws: int = Field(default=5000, ge=1000)
    """Resamples of the groups behind each interval; more make the ends of intervals steadier."""
    seed: int = 0
    """Seed of the resampling."""

    def all_gates(self, choices: bool) -> tuple[Gate, ...]:
        """The gates that hold; `choices` is true if the answers are to a multiple choice."""
        if not choices or any(gate.metric == "macro_f1" for gate in self.gates):
            return self.gates
        return (*self.gates, *GUARDS)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What gates look at."""

    best: str
    """The best single model."""
    scores: Differences
    """The differences of scores."""
    macro_f1: Differences = field(default_factory=dict)
    """The differences of macro F1; none if the scorer is not `choice`."""
    failed: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By system that took part, the share of each query's rows that failed."""
    instructs: Mapping[str, float] = field(default_factory=dict)
    """By system, the share of its rows that speak to the judge; empty if no judge scores."""


def judge(gates: Sequence[Gate], rules: Rules, found: Evidence) -> tuple[GateResult, ...]:
    """The outcome of each gate."""
    results = []
    for gate in gates:
        by_metric = found.scores if gate.metric == "score" else found.macro_f1
        difference = by_metric.get(gate.pair(found.best))
        passed, reason = _judge(gate, rules, found, difference)
        results.append(
            GateResult(
                name=gate.name,
                of=gate.of,
                over=gate.over,
                metric=gate.metric,
                at_least=gate.at_least,
                value=_value(gate, difference),
                passed=passed,
                reason=reason,
            )
        )
    return tuple(results)


def passed(results: Sequence[GateResult]) -> bool:
    """True if no gate failed; a gate that does not apply is no obstacle."""
    return all(result.passed is not False for result in results)


def follows(results: Sequence[GateResult], gates: Sequence[Gate], champion: bool) -> bool:
    """True if the results are those of the gates, in their order, and each follows from its value.

    `champion` is true if a champion took part in the evaluation.
    """
    if len(results) != len(gates):
        return False
    for result, gate in zip(results, gates, strict=True):
        asked = (gate.of, gate.over, gate.metric, gate.at_least)
        if (result.of, result.over, result.metric, result.at_least) != asked:
            return False
        if result.passed is None and (champion or "champion" not in asked):
            return False
        # A gate may be closed for another reason than its value, but never open against it.
        if result.passed and (result.value is None or result.value < result.at_least):
            return False
    return True


def _value(gate: Gate, difference: Estimate | None) -> float | None:
    """The end of the interval that the gate looks at."""
    if difference is None:
        return None
    return difference.low if gate.metric == "score" else difference.high


def _judge(
    gate: Gate, rules: Rules, found: Evidence, difference: Estimate | None
) -> tuple[bool | None, str]:
    """The verdict on one gate (None: it does not apply), with the reason in words."""
    of, over = gate.pair(found.best)
    if difference is None:
        # A champion whose rows all failed is no absent champion: then the gate fails.
        if "champion" in (of, over) and "champion" not in found.failed:
            return None, "does not apply: there is no champion yet"
        what = "a score" if gate.metric == "score" else "an answer that names an option"
        return False, f"no query has {what} of both {of} and {over}"
    closed = _closed(rules, found, (of, over), difference)
    if closed is not None:
        return False, closed
    value = _value(gate, difference)
    if value is None:
        return False, f"no bound to judge by: {difference.note}"
    end = "lower" if gate.metric == "score" else "upper"
    reason = (
        f"difference {difference.mean:+.3f}, {end} end of its 95 % interval "
        f"{value:+.3f}, asked {gate.at_least:+.3f}"
    )
    if gate.over == BEST:
        reason += f" (the best single model is {over})"
    return value >= gate.at_least, reason


def _closed(rules: Rules, found: Evidence, pair: Pair, difference: Estimate) -> str | None:
    """The reason why a gate is closed whatever the difference; None if it is not."""
    of, over = pair
    failed, missed = found.failed.get(of, ()), found.failed.get(over, ())
    # Query by query: where each side fails on other queries, equal shares would hide that both
    # were spared the queries that they get wrong.
    gaps = [abs(one - other) for one, other in zip(failed, missed, strict=True)]
    if gaps and sum(gaps) / len(gaps) > rules.max_failed_gap:
        return (
            f"closed: {sum(failed) / len(failed):.1%} of the rows of {of} failed and "
            f"{sum(missed) / len(missed):.1%} of those of {over}, {sum(gaps) / len(gaps):.1%} on "
            f"one side alone, and compare.max_failed_gap allows {rules.max_failed_gap:.1%}: set "
            "evaluate.max_failed lower and run `cowest turn`, which asks again what failed"
        )
    one, other = found.instructs.get(of, 0.0), found.instructs.get(over, 0.0)
    if one - other > rules.max_instructs_gap:
        return (
            f"closed: {one:.1%} of the rows of {of} speak to the judge and {other:.1%} of those of "
            f"{over}, and compare.max_instructs_gap allows {rules.max_instructs_gap:.1%} more: "
            "read them in the trials; the judge may have been talked round"
        )
    if difference.groups < rules.min_groups:
        return (
            f"closed: {difference.groups} groups of queries were compared, and compare.min_groups "
            f"asks for {rules.min_groups}, since with few groups chance alone passes too often: "
            "hold out more of them (prepare's splits)"
        )
    return None
