"""The ways to align a policy on the feedback of one run. Each makes pairs, and trains by them."""

from collections.abc import Mapping
from dataclasses import dataclass

from cowest import collaboration, preferences
from cowest.preferences import Align, PairRule
from cowest.prompts import Template
from cowest.records import Feedback, PreferencePair
from tests.bench.evidence.arms import ARMS, Arm


@dataclass(frozen=True)
class Way:
    """A way to align."""

    arm: Arm
    """Pairs, and the changes to DPO's settings, as in the first evidence."""
    joined: bool = True
    """True if the candidates of all prompts are drafts to choose from; else the policy's own
    samples alone."""
    align: Align = "dpo"
    """The objective, as `dpo.align` names it."""


def each_alone(
    groups: list[list[Feedback]], rule: PairRule, template: Template, _: int
) -> list[PreferencePair]:
    """Every draft without a partner: one that helped, or one that did not."""
    rows: list[PreferencePair] = []
    for group in groups:
        rows += preferences.pairs(group, rule, template, "kto")
    return rows


TRAINED: Mapping[str, Way] = {
    "aligned": Way(ARMS["aligned"], joined=False),
    "aligned_joined": Way(ARMS["aligned"]),
    "sft_on_chosen": Way(ARMS["sft_on_chosen"]),
    "self_scored": Way(ARMS["self_scored"]),
    "shuffled": Way(ARMS["shuffled"]),
    "no_nll": Way(ARMS["no_nll"]),
    "kto": Way(Arm(each_alone), align="kto"),
}
"""All but the first choose among all candidates. KTO has the joined feedback too, and so as many
strong calls."""

SELECTED: Mapping[str, Way] = {
    "selected_half": Way(ARMS["selected_half"]),
    "stopped_half": Way(ARMS["stopped_half"]),
    "random_half": Way(ARMS["random_half"]),
}
"""The joined feedback for half of the calls, on four of the runs."""
WAYS: Mapping[str, Way] = {**TRAINED, **SELECTED}

ON_POLICY = ("grpo",)
"""Trained while it asks: GRPO has as many strong calls as the joined feedback needed, and as many
CPU seconds as drafting, refining and aligning on it took."""

AFTER = ("nearest_table", "fact_or_likelihood")
"""Thought of after the first runs had begun (`after.py`): nothing is claimed of them."""


def pairs_of(
    way: Way, groups: list[list[Feedback]], rule: PairRule, template: Template, seed: int
) -> list[PreferencePair]:
    """The pairs of a way; of the policy's own samples alone, where it takes no candidates."""
    if not way.joined:
        groups = [[row for row in group if row.candidate is None] for group in groups]
    return way.arm.pairs(way.arm.fed(groups, rule, seed), rule, template, seed)


def calls_of(way: Way, groups: list[list[Feedback]], rule: PairRule, seed: int = 0) -> int:
    """Strong calls that a way's feedback needs: one alone a query, and one a different draft."""
    if not way.arm.calls:
        return 0
    if not way.joined:
        groups = [[row for row in group if row.candidate is None] for group in groups]
    return sum(collaboration.calls_of(group)[0] for group in way.arm.fed(groups, rule, seed))
