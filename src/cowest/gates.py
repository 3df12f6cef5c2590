"""Gates: what a challenger must meet to be promoted, and how each gate went. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import model_validator

from cowest.config import Config
from cowest.records import Estimate, GateResult

System = Literal["policy_before", "policy_after", "strong", "before", "after", "champion", "ideal"]


BEST = "best_single"
"""The better of the policies alone and the strong model alone, by its mean on all queries it has a score for."""


class Gate(Config):
    """A challenger passes when `of` is better than `over` by `at_least`, even at the lower end of the 95 % interval."""

    of: System = "after"
    over: Literal[System, "best_single"]
    """`best_single` is the better of the policies alone and the strong model alone; `champion` does not apply without one."""
    at_least: float
    """Below zero: how much worse is still good enough."""

    @model_validator(mode="after")
    def _two_systems(self) -> "Gate":
        if self.of == self.over:
            raise ValueError(f"{self.of} over itself is always 0: name two systems")
        return self


def judged(
    gates: Sequence[Gate],
    best: str,
    differences: Mapping[tuple[str, str], Estimate | None],
    champion: bool,
) -> dict[str, Any]:
    """`champion`: whether one took part, though all its rows may have failed."""
    results = []
    for gate in gates:
        over = best if gate.over == BEST else gate.over
        found = differences[gate.of, over]
        passed, reason = _judge(gate, over, found, champion)
        value = found.low if found else None
        name = f"{gate.of} over {gate.over}".replace("_", " ")
        results.append(
            GateResult(
                name=name,
                of=gate.of,
                over=gate.over,
                at_least=gate.at_least,
                value=value,
                passed=passed,
                reason=reason,
            )
        )
    return {
        "gates": tuple(results),
        "passed": all(result.passed is not False for result in results),
    }


def _judge(
    gate: Gate, over: str, found: Estimate | None, champion: bool
) -> tuple[bool | None, str]:
    if found is None and "champion" in (gate.of, gate.over) and not champion:
        return None, "does not apply: there is no champion yet"
    if found is None:
        return False, f"no query has a score of both {gate.of} and {over}"
    if found.low is None:
        return False, f"no lower bound to judge by: {found.note}"
    said = f"difference {found.mean:+.3f}, lower end of its 95 % interval {found.low:+.3f}, asked {gate.at_least:+.3f}"
    return (
        found.low >= gate.at_least,
        f"{said} (the best single model is {over})" if gate.over == BEST else said,
    )
