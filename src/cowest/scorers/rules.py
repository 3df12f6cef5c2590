"""The rule by which a scorer reads texts: 1, which is that of projects begun before, 2 or 3.

A scorer of rule 1 has its plain name in rows, `contains`; one of rule 2 `contains:2`, since it
scores otherwise.
"""

import sys
from collections.abc import Callable
from typing import Literal, get_args

from cowest.sametext import comparable, normalise

RuleNumber = Literal[1, 2, 3]
RULES: tuple[RuleNumber, ...] = get_args(RuleNumber)
FORMS: dict[RuleNumber, Callable[[str], str]] = {1: normalise, 2: comparable, 3: comparable}
"""By rule, the form in which two texts are compared."""
SAID: set[str] = set()
"""Scorers whose old rule this process has told of."""


def named(scorer: str, rule: RuleNumber) -> str:
    """The name of a scorer with its rule."""
    return scorer if rule == 1 else f"{scorer}:{rule}"


def rule_of(name: str, scorer: str) -> RuleNumber | None:
    """The rule in a name that `named` gave; None if it is the name of another scorer."""
    return next((rule for rule in RULES if name == named(scorer, rule)), None)


def remind(scorer: str, rule: RuleNumber) -> None:
    """Says once per process that a scorer still reads by rule 1."""
    if rule != 1 or scorer in SAID:
        return
    SAID.add(scorer)
    print(
        f"scorer {scorer}: reads by rule 1, since the settings name no other; the next release "
        f"reads by rule 2: set `{{scorer: {scorer}, rule: 2}}` (docs/scorers.md says what changes)",
        file=sys.stderr,
    )
