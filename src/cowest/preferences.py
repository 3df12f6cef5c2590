"""Feedback becomes preferences: which drafts of a query helped more than which. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from operator import attrgetter
from typing import Literal, TypeVar

from pydantic import Field

from cowest.config import Config, digest
from cowest.prompts import Template
from cowest.records import NOBODY, Draft, Feedback, Message, PreferencePair, Spread, grown
from cowest.sametext import spaced
from cowest.thoughts import without_thoughts

Align = Literal["dpo", "kto", "grpo", "self"]
"""The objective that the policy is aligned by: docs/objectives.md."""
UNASKED: tuple[Align, ...] = ("self", "grpo")
"""Objectives for which the strong model refines no draft before training."""
D = TypeVar("D", bound=Draft)
Two = tuple[Feedback, Feedback]
"""Two drafts of one query, the better first."""

ENOUGH = 0.9
"""The share from which the drafts' own scores would do: of what feedback decides they decide as
many the same way, and of what they decide as many are those."""
BINS = 41
"""Bins of a spread of gains, each 0.05 wide."""


class PairRule(Config):
    """Choice of the two drafts of a query that make a pair. A tie never makes one."""

    rule: Literal["all", "best_worst", "sign"] = "all"
    """`all` pairs every two drafts of which one scored higher. `best_worst` pairs only the best
    draft with the worst. `sign` is the paper's rule: a draft that helped (gain > 0) with one that
    did not (gain <= 0)."""
    min_margin: float = Field(default=0.01, gt=0)
    """Smallest difference of scores, on the scale of 0 to 1, that makes a pair. Raise it where the
    scorer is noisy."""
    per_query: int | None = Field(default=3, ge=1)
    """Largest number of pairs per query, chosen as `keep` says; null for no limit. KTO takes every
    draft once, and has no such limit."""
    keep: Literal["lowest", "early"] = Field(
        default="lowest", exclude_if=lambda how: how == "lowest"
    )
    """The pairs that `per_query` keeps. `lowest` keeps those with the lowest digests, so that the
    order of drafts says nothing. `early` keeps those of the drafts that were made first, so that
    `refine.select.stop` can tell when further answers would change none of them."""
    thoughts: Literal["drop", "keep"] = "drop"
    """`keep` leaves the thoughts of drafts (`<think>...</think>`) in pairs, for a policy that is to
    learn them. The strong model and the scorer are never shown them."""
    allow_cut: bool = False
    """True lets drafts that reached their token limit into pairs. Training takes them for complete,
    so the policy would learn to stop there."""


def expect_gains(align: Align, rule: PairRule, setting: str) -> None:
    """Raises ValueError for a rule, of this setting, that needs gains the objective has not."""
    if align == "self" and rule.rule == "sign":
        raise ValueError(
            f"{setting}: `sign` compares with the strong model alone, which `align: self` does not "
            "ask: choose all or best_worst"
        )


def pairs(
    group: list[Feedback], rule: PairRule, template: Template, align: Align = "dpo"
) -> list[PreferencePair]:
    """The rows of one query that the policy is aligned by; none for `grpo`, which drafts anew.

    Failed rows and drafts cut at their limit are left out. Of drafts that differ in spacing alone,
    the first stands for all. `self` compares the drafts' own scores.
    """
    if align == "grpo":
        return []
    if align == "self":
        group = [_by_own_score(row) for row in group]
    rows = _with_gain(group, rule)
    if align == "kto":
        return _alone(rows, rule, template)
    found = []
    for chosen, rejected in _candidates(rows, rule):
        found.append(_pair(chosen, rejected, template))
    # By their digests neither chance nor the order of the drafts decides which pairs are learned.
    found.sort(key=attrgetter("id"))
    if rule.keep == "early":
        places = _places(group, rule)
        found.sort(key=lambda pair: sorted(map(places.__getitem__, pair.samples), reverse=True))
    return found[: rule.per_query]


def _places(group: Iterable[Draft], rule: PairRule) -> dict[int, int]:
    """The place in `asking_order` of each row of a query, by its sample number."""
    order = {text: place for place, text in enumerate(asking_order(group, rule))}
    said = {row.sample: without_thoughts(row.draft or "") for row in group}
    return {sample: order[text] for sample, text in said.items() if text in order}


def asking_order(group: Iterable[Draft], rule: PairRule) -> list[str]:
    """The drafts of a query that a pair may be made of, as the strong model is shown them.

    They come in the order in which they were made, by which `keep: early` chooses pairs.
    """
    rows = [row for row in group if row.failed is None]
    return list(dict.fromkeys(without_thoughts(row.draft or "") for row in _distinct(rows, rule)))


def settled(group: list[Feedback], rule: PairRule) -> bool:
    """True if answers to further drafts of a query would not change its pairs.

    That is so where `per_query` pairs are made by `keep: early`, since those of later drafts stand
    behind them. It is so, too, where the strong model has no answer without a draft, since then no
    draft can be judged. A judgement that failed settles nothing: `score` may ask again.
    """
    if all(row.solo is None for row in group):
        return True
    assert rule.keep == "early" and rule.per_query is not None
    return len(_candidates(_with_gain(group, rule), rule)) >= rule.per_query


def decimal(difference: float) -> float:
    """Returns a difference of scores as it is compared with a margin.

    Scores such as a judge's tenths are no binary numbers: 0.3 - 0.2 would be less than 0.1.
    """
    return max(difference, round(difference, 9))


def reaches(difference: float, margin: float) -> bool:
    """Says whether a difference of scores is a margin or more."""
    return decimal(difference) >= margin


def _by_own_score(row: Feedback) -> Feedback:
    """A row as if the draft were the final answer, and nobody had been asked."""
    return grown(Feedback, row, score=row.draft_score, solo_score=0.0, strong=NOBODY)


def _alone(rows: list[Feedback], rule: PairRule, template: Template) -> list[PreferencePair]:
    """Each draft as a row of its own: it helped (gain > 0), or it did not.

    A draft that changed nothing where the strong model is right alone says nothing about drafts,
    and is left out.
    """
    found = []
    for row in rows:
        gain = _gain(row)
        helped = reaches(gain, rule.min_margin)
        right = not reaches(1 - _score(row), rule.min_margin)
        if not reaches(abs(gain), rule.min_margin) and right:
            continue
        found.append(_draft_alone(row, helped, template))
    found.sort(key=attrgetter("id"))
    return found


@dataclass(slots=True)
class Agreement:
    """Comparisons of two drafts of a query, as feedback and the drafts' own scores decide them.

    The drafts' own scores need no call to the strong model. They would do as well as feedback
    where they decide what feedback decides, the same way, and little else: what they decide and
    feedback does not would be learned too, whether it helps the strong model or not.
    """

    compared: int = 0
    """Comparisons of two drafts that have both scores."""
    told: int = 0
    """Of these, those that feedback decides: one scored higher by the margin."""
    same: int = 0
    """Comparisons that both decide, the same way."""
    other: int = 0
    """Comparisons that both decide, the one against the other."""
    alone: int = 0
    """Comparisons that the drafts' own scores decide, and in which feedback ties."""

    def add(self, group: list[Feedback], rule: PairRule | None = None) -> None:
        """Counts the comparisons of one query."""
        if rule is None:
            rule = PairRule()
        for one, another in combinations(_with_gain(group, rule), 2):
            if one.draft_score is None or another.draft_score is None:
                continue
            fed = _sign(_score(one) - _score(another), rule)
            own = _sign(one.draft_score - another.draft_score, rule)
            self.compared += 1
            self.told += fed != 0
            self.same += fed == own != 0
            self.other += fed == -own != 0
            self.alone += fed == 0 and own != 0

    def says(self) -> str | None:
        """The counts in words, with what they mean; None if feedback decides no comparison."""
        if not self.told:
            return None
        decided = self.same + self.other + self.alone
        said = (
            f"feedback decides {self.told} of {self.compared} comparisons of two drafts. The "
            f"drafts' own scores, which cost no call, decide {self.same} of these the same way, "
            f"{self.other} the other way and tie in {self.told - self.same - self.other}; they "
            f"also decide {self.alone} in which feedback ties"
        )
        if self.same >= ENOUGH * max(self.told, decided):
            return f"{said}. They would have taught the same without a call"
        share = self.same / decided if decided else 0.0
        return (
            f"{said}. So they would teach something else: {self.same / self.told:.0%} of what "
            f"feedback decides, and {share:.0%} of all that they decide is that"
        )


def _sign(difference: float, rule: PairRule) -> int:
    """1 or -1 for a difference of the margin at least, 0 for a tie."""
    if not reaches(abs(difference), rule.min_margin):
        return 0
    return 1 if difference > 0 else -1


def spread(groups: Iterable[list[Feedback]]) -> Spread:
    """The distribution of gains over queries, streamed; a query whose rows all failed has none.

    Candidates are left out: turns are compared by what the policy writes of itself.
    """
    counts = [0] * BINS
    for group in groups:
        own = [row for row in group if row.candidate is None]
        gains = [row.gain for row in own if row.gain is not None]
        if gains:
            counts[place(sum(gains) / len(gains))] += 1
    return Spread(counts=tuple(counts))


def place(gain: float, bins: int = BINS) -> int:
    """The bin of a gain; the first bin is centred on -1, the last on 1."""
    within = min(max(gain, -1.0), 1.0)
    return round((within + 1) / 2 * (bins - 1))


def _with_gain(group: Iterable[Feedback], rule: PairRule) -> list[Feedback]:
    """The rows of a query that a pair may be made of, each draft once and as it is learned."""
    found = []
    for row in _distinct((row for row in group if row.gain is not None), rule):
        said = without_thoughts(row.draft or "")
        drop = rule.thoughts == "drop" and said != row.draft
        found.append(grown(Feedback, row, draft=said) if drop else row)
    return found


def _distinct(group: Iterable[D], rule: PairRule) -> list[D]:
    """The rows whose drafts a pair may be made of, each draft once whatever its spacing.

    A draft has its thoughts still: those that are left out are left out once, since what is left
    may look like another thought.
    """
    rows: dict[str, D] = {}
    for row in group:
        said = without_thoughts(row.draft or "")
        if not said.strip():
            continue
        if row.cut and not rule.allow_cut:
            continue
        rows.setdefault(spaced(said if rule.thoughts == "drop" else row.draft or ""), row)
    return list(rows.values())


def _candidates(rows: list[Feedback], rule: PairRule) -> list[Two]:
    """The two drafts of each pair that the rule allows, before `per_query`."""
    wide = _wide(rows, rule)
    if rule.rule == "sign":
        return [(better, worse) for better, worse in wide if _gain(better) > 0 >= _gain(worse)]
    if rule.rule == "best_worst":
        return sorted(wide, key=_widest_first)[:1]
    return wide


def _wide(rows: list[Feedback], rule: PairRule) -> list[Two]:
    """Every two drafts of which one scored higher by the margin at least."""
    found = []
    for better in rows:
        for worse in rows:
            if reaches(_score(better) - _score(worse), rule.min_margin):
                found.append((better, worse))
    return found


def _widest_first(two: Two) -> tuple[float, int, int]:
    """Sorts by the difference of scores, and equal differences by sample numbers."""
    better, worse = two
    return _score(worse) - _score(better), better.sample, worse.sample


def _draft_alone(row: Feedback, helped: bool, template: Template) -> PreferencePair:
    said = (Message(role="assistant", content=row.draft or ""),)
    texts = [row.draft, None] if helped else [None, row.draft]
    return PreferencePair(
        id=digest([row.id, *texts])[:20],
        query=row.id,
        split=row.split,
        prompt=template.render(row.prompt),
        chosen=said if helped else (),
        rejected=() if helped else said,
        margin=_gain(row),
        policy=row.policy,
        strong=row.strong,
        scorer=row.scorer,
        samples=(row.sample, row.sample),
        candidates=(row.candidate, row.candidate),
    )


def _pair(chosen: Feedback, rejected: Feedback, template: Template) -> PreferencePair:
    return PreferencePair(
        id=digest([chosen.id, chosen.draft, rejected.draft])[:20],
        query=chosen.id,
        split=chosen.split,
        prompt=template.render(chosen.prompt),
        chosen=(Message(role="assistant", content=chosen.draft or ""),),
        rejected=(Message(role="assistant", content=rejected.draft or ""),),
        margin=_score(chosen) - _score(rejected),
        policy=chosen.policy,
        strong=chosen.strong,
        scorer=chosen.scorer,
        samples=(chosen.sample, rejected.sample),
        candidates=(chosen.candidate, rejected.candidate),
    )


def _score(row: Feedback) -> float:
    assert row.score is not None, "failed rows are left out before"
    return row.score


def _gain(row: Feedback) -> float:
    assert row.gain is not None, "failed rows are left out before"
    return row.gain
