"""The least that a gate can tell by a number of general questions. Pure.

Each question is a group of its own, so that this follows from their number alone.
"""

import numpy as np

from cowest.gates import Gate
from cowest.intervals import Floats, estimates, mean_of
from cowest.records import Estimate

ENOUGH = 300
"""Questions from which on a guard sees a loss that a team would mind."""


def told_by(gate: Gate, questions: int) -> str | None:
    """The least that a gate on so many questions can tell, in words.

    None for a gate that asks to be better: any answers that are can show it.
    """
    count = f"with {questions:,} questions"
    if gate.guards:
        lost = fewest_lost(gate, questions)
        if lost is None:
            return f"{count} nothing closes it"
        share = lost / questions
        return f"{count} it closes from {lost:,} lost answers on ({share:.3f}), if none is gained"
    best = highest_end(gate, questions)
    if best is None:
        return None
    case = "where all are right" if gate.over is None else "where no answer changes"
    return f"{count} the lower end is {best:.3f} {case}"


def is_weak(gate: Gate, questions: int) -> bool:
    """True where a guard sees large losses alone, or no proof is possible without a gain."""
    if gate.guards:
        return questions < ENOUGH
    best = highest_end(gate, questions)
    return best is not None and not gate.bound.met(best)


def fewest_lost(gate: Gate, questions: int) -> int | None:
    """The fewest right answers lost, and none gained, on which a guard closes; None if no number
    of them does.
    """
    allowed = -gate.bound.number * questions
    for lost in range(max(1, int(allowed)), questions + 1):
        differences = np.zeros(questions)
        differences[:lost] = -1.0
        found = _estimate(differences, (-1.0, 1.0))
        if found.high is not None and not gate.bound.met(found.high):
            return lost
    return None


def highest_end(gate: Gate, questions: int) -> float | None:
    """The lower end that a gate asking for proof looks at, where all answers are right, or none
    differs. None for one that asks to be better, and where there is no interval.
    """
    if gate.over is None:
        return _estimate(np.ones(questions), (0.0, 1.0)).low
    if gate.bound.number >= 0:
        return None
    return _estimate(np.zeros(questions), (-1.0, 1.0)).low


def _estimate(values: Floats, within: tuple[float, float]) -> Estimate:
    groups = [str(number) for number in range(len(values))]
    (found,) = estimates(groups, [mean_of(values, within)])
    assert found is not None, "there are values"
    return found
