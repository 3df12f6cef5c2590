"""The ways to make preferences of the same drafts: one from collaborative feedback, and the
controls that lack a part of it.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import Any

from cowest import preferences, stopping
from cowest.batched import batched
from cowest.config import digest
from cowest.preferences import PairRule
from cowest.prompts import Template
from cowest.protocols import BLOCK
from cowest.records import NOBODY, Feedback, PreferencePair, grown
from cowest.selecting import QueryDrafts, Select

Groups = Iterable[list[Feedback]]


@dataclass(frozen=True)
class Arm:
    """A way to align."""

    pairs: Callable[[list[list[Feedback]], PairRule, Template, int], list[PreferencePair]]
    """Of the feedback's queries; the last argument is the seed."""
    calls: bool = True
    """Whether it needs the strong model's answers to the drafts of the training queries."""
    chosen_only: bool = False
    """SFT on the chosen drafts in place of DPO."""
    rate: float = 1
    """Of the learning rate, how many times DPO's."""
    nll: float | None = None
    """Weight of the chosen draft's likelihood beside DPO; None for that of params.yaml."""
    asked: Callable[[list[list[Feedback]], PairRule, int], list[list[Feedback]]] | None = None
    """Takes the answers away that it does not ask for; the last argument is the seed. None asks
    about all drafts."""

    def fed(self, groups: list[list[Feedback]], rule: PairRule, seed: int) -> list[list[Feedback]]:
        """The feedback that the arm has; pairs will be made of it by `rule`."""
        return groups if self.asked is None else self.asked(groups, rule, seed)


def aligned(
    groups: list[list[Feedback]], rule: PairRule, template: Template, _: int
) -> list[PreferencePair]:
    """Collaborative feedback: what the product does."""
    return [pair for group in groups for pair in preferences.pairs(group, rule, template)]


def self_scored(
    groups: list[list[Feedback]], rule: PairRule, template: Template, seed: int
) -> list[PreferencePair]:
    """The draft scored alone against the target, on the same queries: no call of the strong
    model. The rest is equal.
    """
    return aligned(
        [[_scored(row, row.draft_score) for row in group] for group in groups], rule, template, seed
    )


def self_scored_many(
    groups: list[list[Feedback]], rule: PairRule, template: Template, seed: int
) -> list[PreferencePair]:
    """As many self-scored pairs as collaborative ones: all there are, query by query, and again
    from the start if they are few.
    """
    wanted = len(aligned(groups, rule, template, seed))
    without_limit = rule.model_copy(update={"per_query": None})
    by_query = [self_scored([group], without_limit, template, seed) for group in groups]
    dealt = [
        pairs[turn]
        for turn in range(max(map(len, by_query), default=0))
        for pairs in by_query
        if turn < len(pairs)
    ]
    return list(islice(cycle(dealt), wanted))


def shuffled(
    groups: list[list[Feedback]], rule: PairRule, template: Template, seed: int
) -> list[PreferencePair]:
    """The scores of a query's distinct drafts dealt to them at random: the same drafts, the same
    calls, no information.
    """
    return aligned(
        [_shuffled(group, random.Random(f"{seed} {group[0].id}")) for group in groups],
        rule,
        template,
        seed,
    )


def some_queries(
    share: float,
) -> Callable[[list[list[Feedback]], PairRule, Template, int], list[PreferencePair]]:
    """Collaborative feedback on a share of the queries: fewer pairs, and fewer calls."""

    def fewer(
        groups: list[list[Feedback]], rule: PairRule, template: Template, seed: int
    ) -> list[PreferencePair]:
        order = sorted(groups, key=lambda group: digest([seed, group[0].id]))
        kept = {group[0].id for group in order[: round(share * len(order))]}
        return aligned([group for group in groups if group[0].id in kept], rule, template, seed)

    return fewer


def first_samples(
    count: int,
) -> Callable[[list[list[Feedback]], PairRule, Template, int], list[PreferencePair]]:
    """Collaborative feedback on the first drafts of each query only: a smaller K."""

    def fewer(
        groups: list[list[Feedback]], rule: PairRule, template: Template, seed: int
    ) -> list[PreferencePair]:
        return aligned([group[:count] for group in groups], rule, template, seed)

    return fewer


def by_rule(
    **changes: object,
) -> Callable[[list[list[Feedback]], PairRule, Template, int], list[PreferencePair]]:
    """Collaborative feedback under another rule."""

    def otherwise(
        groups: list[list[Feedback]], rule: PairRule, template: Template, seed: int
    ) -> list[PreferencePair]:
        return aligned(groups, rule.model_copy(update=changes), template, seed)

    return otherwise


HALF = 0.5


def selected(groups: list[list[Feedback]], _: PairRule, __: int) -> list[list[Feedback]]:
    """Feedback for half of the calls, as `refine.select` chose them when the runs began: drafts
    that were cut at their limit were asked about then.
    """
    found = []
    for block in batched(groups, BLOCK):
        drafted = [QueryDrafts(group[0], _texts(group)) for group in block]
        chosen = Select(share=HALF).choice(drafted)
        found += [_asked(group, texts) for group, texts in zip(block, chosen, strict=True)]
    return found


def stopped(groups: list[list[Feedback]], rule: PairRule, _: int) -> list[list[Feedback]]:
    """Feedback for half of the calls, draft by draft, as `refine.select.stop` asks for it."""
    early = rule.model_copy(update={"keep": "early"})
    waves = [stopping.begun(block, HALF, early) for block in batched(groups, BLOCK)]
    found = [_asked(group, []) for group in groups]
    known: list[list[Feedback]] | None = None
    while stopping.ask_more(waves, known, early):
        texts = list(chain.from_iterable(wave.chosen for wave in waves))
        found = known = [_asked(*one) for one in zip(groups, texts, strict=True)]
    return found


def drawn(groups: list[list[Feedback]], _: PairRule, seed: int) -> list[list[Feedback]]:
    """Feedback for half of the calls, on queries drawn at random."""
    left = HALF * sum(1 + len(_texts(group)) for group in groups)
    chosen = set()
    for group in sorted(groups, key=lambda group: digest([seed, group[0].id])):
        calls = 1 + len(_texts(group))
        if calls <= left:
            chosen.add(group[0].id)
            left -= calls
    return [_asked(group, _texts(group) if group[0].id in chosen else []) for group in groups]


ARMS: Mapping[str, Arm] = {
    "aligned": Arm(aligned),
    "self_scored": Arm(self_scored, calls=False),
    "self_scored_many": Arm(self_scored_many, calls=False),
    "shuffled": Arm(shuffled),
    "sft_on_chosen": Arm(aligned, chosen_only=True, rate=3),
    "sft_on_chosen_x1": Arm(aligned, chosen_only=True),
    "sft_on_chosen_x10": Arm(aligned, chosen_only=True, rate=10),
    "queries_quarter": Arm(some_queries(0.25)),
    "queries_half": Arm(some_queries(0.5)),
    "samples_2": Arm(first_samples(2)),
    "samples_4": Arm(first_samples(4)),
    "rule_sign": Arm(by_rule(rule="sign")),
    "rule_best_worst": Arm(by_rule(rule="best_worst")),
    "per_query_1": Arm(by_rule(per_query=1)),
    "per_query_4": Arm(by_rule(per_query=4)),
    "no_nll": Arm(aligned, nll=0),
    "selected_half": Arm(aligned, asked=selected),
    "stopped_half": Arm(by_rule(keep="early"), asked=stopped),
    "random_half": Arm(aligned, asked=drawn),
}
"""The first five are the headline's; the others answer one question each."""
HEADLINE = tuple(ARMS)[:5]


def _texts(group: list[Feedback]) -> list[str]:
    """A query's different drafts. Here none failed, and none has a thought."""
    return list(dict.fromkeys(row.draft or "" for row in group))


def _asked(group: list[Feedback], texts: Sequence[str]) -> list[Feedback]:
    """A query's rows, without the answers to drafts that are not among `texts`."""
    nobody: dict[str, Any] = dict.fromkeys(("refinement", "solo", "score", "solo_score"))
    found = []
    for row in group:
        found.append(row if row.draft in texts else grown(Feedback, row, strong=NOBODY, **nobody))
    return found


def _scored(row: Feedback, score: float | None) -> Feedback:
    return row.model_copy(update={"score": score})


def _shuffled(group: list[Feedback], draw: random.Random) -> list[Feedback]:
    known = {row.draft: row.score for row in group}
    scores = list(known.values())
    draw.shuffle(scores)
    dealt = dict(zip(known, scores, strict=True))
    return [_scored(row, dealt[row.draft]) for row in group]
