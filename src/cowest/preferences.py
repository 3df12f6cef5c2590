"""Feedback becomes preferences: which drafts of a query helped more than which. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cowest.config import Config, digest
from cowest.prompts import Template
from cowest.records import Feedback, Message, PreferencePair, Spread

BINS = 41
"""Of a spread of gains: 0.05 wide."""


class PairRule(Config):
    """Which two drafts of a query make a pair. A tie is never one."""

    rule: Literal["all", "best_worst", "sign"] = "all"
    """all: every two of which one scored higher; best_worst: the best against the worst; sign: one that helped against one that
    did not, as in the paper (gain > 0 against gain <= 0)."""
    min_margin: float = Field(default=0.01, gt=0)
    """How much higher the chosen must score."""
    per_query: int | None = Field(default=3, ge=1)
    """Pairs of one query at most, drawn by their digest; None is no limit."""
    allow_cut: bool = False
    """Whether drafts that met their limit of tokens may be in a pair. Training takes them for complete."""


def pairs(group: list[Feedback], rule: PairRule, template: Template) -> list[PreferencePair]:
    """The pairs of one query. Failed rows are left out, and drafts cut at their limit; of drafts that say the same, the first
    stands for all."""
    found = [
        _pair(chosen, rejected, template)
        for chosen, rejected in _candidates(_distinct(group, rule), rule)
    ]
    found.sort(key=lambda pair: pair.id)
    return found[: rule.per_query]


@dataclass(slots=True)
class Agreement:
    """Of the comparisons of two drafts of a query that feedback decides, how many the drafts' own scores, which cost no call of the
    strong model, decide likewise. Near 1, they would have done as feedback; where it is small, they teach something else."""

    told: int = 0
    """Comparisons that feedback decides."""
    same: int = 0
    other: int = 0
    """The other way; the rest they tie."""

    def add(self, group: list[Feedback], rule: PairRule | None = None) -> None:
        """Counts one query's."""
        rule = rule or PairRule()
        for better, worse in _wide(_distinct(group, rule), rule):
            if better.draft_score is not None and worse.draft_score is not None:
                own = better.draft_score - worse.draft_score
                self.told += 1
                self.same += own >= rule.min_margin
                self.other += -own >= rule.min_margin


def spread(groups: Iterable[list[Feedback]]) -> Spread:
    """How gains spread over queries, streamed; a query all of whose rows failed has none."""
    counts = [0] * BINS
    for group in groups:
        if gains := [row.gain for row in group if row.gain is not None]:
            counts[place(sum(gains) / len(gains))] += 1
    return Spread(counts=tuple(counts))


def place(gain: float, bins: int = BINS) -> int:
    """The bin of a gain."""
    return round((min(max(gain, -1.0), 1.0) + 1) / 2 * (bins - 1))


def _distinct(group: list[Feedback], rule: PairRule) -> list[Feedback]:
    rows: dict[str, Feedback] = {}
    for row in group:
        if (
            row.gain is not None
            and (rule.allow_cut or not row.cut)
            and row.draft
            and row.draft.strip()
        ):
            rows.setdefault(" ".join(row.draft.split()).casefold(), row)
    return list(rows.values())


def _wide(rows: list[Feedback], rule: PairRule) -> list[tuple[Feedback, Feedback]]:
    return [(a, b) for a in rows for b in rows if _score(a) - _score(b) >= rule.min_margin]


def _candidates(rows: list[Feedback], rule: PairRule) -> list[tuple[Feedback, Feedback]]:
    wide = _wide(rows, rule)
    if rule.rule == "sign":
        return [(a, b) for a, b in wide if _gain(a) > 0 >= _gain(b)]
    if rule.rule == "best_worst":
        return sorted(
            wide,
            key=lambda pair: (_score(pair[1]) - _score(pair[0]), pair[0].sample, pair[1].sample),
        )[:1]
    return wide


def _pair(chosen: Feedback, rejected: Feedback, template: Template) -> PreferencePair:
    sides = [[Message(role="assistant", content=row.draft or "")] for row in (chosen, rejected)]
    return PreferencePair(
        id=digest([chosen.id, chosen.draft, rejected.draft])[:20],
        query=chosen.id,
        split=chosen.split,
        prompt=template.render(chosen.prompt),
        chosen=tuple(sides[0]),
        rejected=tuple(sides[1]),
        margin=_score(chosen) - _score(rejected),
        policy=chosen.policy,
        strong=chosen.strong,
        scorer=chosen.scorer,
        samples=(chosen.sample, rejected.sample),
    )


def _score(row: Feedback) -> float:
    assert row.score is not None, "failed rows are left out before"
    return row.score


def _gain(row: Feedback) -> float:
    assert row.gain is not None, "failed rows are left out before"
    return row.gain
