"""Gates: the conditions under which a challenger is promoted, and the outcome of each. Pure.

A gate looks at one paired difference of the evaluation, such as the score after alignment minus
the score before it, and asks that even the lower end of its 95 % interval is high enough.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import model_validator

from cowest.config import Config
from cowest.records import Collaboration, Estimate, GateResult

System = Literal["policy_before", "policy_after", "strong", Collaboration]
Pair = tuple[str, str]
"""Two systems of which the first is compared with the second."""

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
    at_least: float
    """Smallest difference of mean scores, on the scale of 0 to 1, that passes. Below zero, it is
    how much worse `of` may be."""

    @model_validator(mode="after")
    def _two_systems(self) -> "Gate":
        if self.of == self.over:
            raise ValueError(f"{self.of} over itself is always 0: name two systems")
        return self

    def pair(self, best: str) -> Pair:
        """The two systems compared, with the name of the best single model in place."""
        if self.over == BEST:
            return self.of, best
        return self.of, self.over


def judge(
    gates: Sequence[Gate],
    best: str,
    differences: Mapping[Pair, Estimate | None],
    champion: bool,
) -> tuple[GateResult, ...]:
    """The outcome of each gate, given the difference of each pair of systems; None: no difference.

    `best` is the best single model. `champion` is true if a champion took part in the evaluation,
    even if all its rows failed.
    """
    results = []
    for gate in gates:
        difference = differences[gate.pair(best)]
        passed, reason = _judge(gate, best, difference, champion)
        results.append(
            GateResult(
                name=f"{gate.of} over {gate.over}".replace("_", " "),
                of=gate.of,
                over=gate.over,
                at_least=gate.at_least,
                value=None if difference is None else difference.low,
                passed=passed,
                reason=reason,
            )
        )
    return tuple(results)


def passed(results: Sequence[GateResult]) -> bool:
    """True if no gate failed; a gate that does not apply is no obstacle."""
    return all(result.passed is not False for result in results)


def _judge(
    gate: Gate, best: str, difference: Estimate | None, champion: bool
) -> tuple[bool | None, str]:
    """The verdict on one gate (None: it does not apply), with the reason in words."""
    of, over = gate.pair(best)
    if difference is None:
        # A champion whose rows all failed is no absent champion: then the gate fails.
        if "champion" in (of, over) and not champion:
            return None, "does not apply: there is no champion yet"
        return False, f"no query has a score of both {of} and {over}"
    if difference.low is None:
        return False, f"no lower bound to judge by: {difference.note}"
    reason = (
        f"difference {difference.mean:+.3f}, lower end of its 95 % interval "
        f"{difference.low:+.3f}, asked {gate.at_least:+.3f}"
    )
    if gate.over == BEST:
        reason += f" (the best single model is {over})"
    return difference.low >= gate.at_least, reason
