"""Feedback until the pairs are made: drafts are asked about one after another, not all at once.

`pair` keeps a few pairs of a query. By its rule `keep: early` those are the pairs of the drafts
that were made first. So once the answers to the first drafts make as many, the answers to the
others would change nothing, and are not bought: the pairs are those of asking about all drafts.

The answers of a window of queries are waited for in waves. Nothing is asked twice: each wave asks
what is new in it, and the call store holds the rest for a run that was cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from pydantic import Field, model_validator

from cowest import collaboration, preferences
from cowest.batched import batched
from cowest.config import Config, Sampling
from cowest.preferences import PairRule
from cowest.prompts import Prompts
from cowest.protocols import BLOCK, ChatModel, Completion, Request, Score, Scorer
from cowest.records import Draft, Feedback, Message, Query, Refinement
from cowest.scorers import AnyScorer
from cowest.selecting import Chooser, QueryDrafts, Select, Waves

WINDOW = 32 * BLOCK
"""Queries whose waves go together: enough that the last waves, of few calls, cost little time."""


class Stop(Config):
    """The rule by which a query's pairs are made, and the scores that it needs."""

    scorer: AnyScorer
    """The scorer of `score`, word for word: `*scorer`."""
    rule: PairRule
    """The rule of `pair`, word for word, with `keep: early` and a `per_query`: `*rule`."""

    @model_validator(mode="after")
    def _can_stop(self) -> Self:
        rule = self.rule
        if rule.keep != "early" or rule.per_query is None:
            raise ValueError(
                "stop: only with `keep: early` and a `per_query` in pair.rule can it be told when "
                "the pairs of a query are made: set both there"
            )
        if rule.rule == "best_worst":
            raise ValueError(
                "stop: `rule: best_worst` compares all drafts of a query: take another rule in "
                "pair.rule, or leave stop out"
            )
        return self


class Selection(Select):
    """Chooses the drafts that the strong model is asked about."""

    stop: Stop | None = Field(default=None, exclude_if=lambda stop: stop is None)
    """Asks about the drafts of a query one after another, and stops where its pairs are made. Null
    asks about all drafts that `share` allows."""

    @model_validator(mode="after")
    def _one_rule_of_cut_drafts(self) -> Self:
        if self.stop is None or "allow_cut" not in self.model_fields_set:
            return self
        if self.allow_cut != self.stop.rule.allow_cut:
            raise ValueError(
                "allow_cut: with `stop`, stop.rule.allow_cut says whether drafts that were cut are "
                "asked about, and the two differ: leave it out here"
            )
        return self


def refine(
    groups: Iterable[list[Draft]],
    strong: ChatModel,
    scorer: Scorer,
    prompts: Prompts,
    sampling: Sampling,
    share: float,
    rule: PairRule,
) -> Iterator[Refinement]:
    """As `collaboration.refine`, but a query is asked about no more once its pairs are made."""
    asked, scored = _Asked(strong), _Scored(scorer)
    for window in batched(groups, WINDOW):
        waves = [begun(block, share, rule) for block in batched(window, BLOCK)]
        rows = list(collaboration.unrefined(window))
        found: list[list[Feedback]] | None = None
        while ask_more(waves, found, rule):
            choice = _as_chosen(waves)
            rows = list(collaboration.refine(window, asked, prompts, sampling, choice))
            feedback = collaboration.score(collaboration.by_query(rows), scored)
            found = list(collaboration.by_query(feedback))
        yield from rows
        asked.forget()
        scored.forget()


def begun(block: Sequence[Sequence[Draft]], share: float, rule: PairRule) -> Waves:
    """The waves of a block of queries, before the first."""
    drafted, orders = [], []
    for group in block:
        drafted.append(QueryDrafts(group[0], collaboration.shown(group)))
        orders.append(preferences.asking_order(group, rule))
    return Waves(share, drafted, orders)


def ask_more(waves: Sequence[Waves], found: list[list[Feedback]] | None, rule: PairRule) -> bool:
    """Chooses the next drafts of all blocks by the feedback so far; False if there are none."""
    more = False
    groups = iter(found or [])
    for wave in waves:
        settled = [False] * len(wave.chosen)
        if found is not None:
            settled = [preferences.settled(next(groups), rule) for _ in wave.chosen]
        more |= wave.ask_more(settled)
    return more


def _as_chosen(waves: Sequence[Waves]) -> Chooser:
    """Tells `collaboration.refine` the drafts chosen so far, block by block."""
    blocks = iter(waves)
    return lambda _: next(blocks).chosen


class _Asked:
    """A model that is asked only what it has not answered in this window."""

    def __init__(self, model: ChatModel) -> None:
        self.name = model.name
        self._model = model
        self._known: dict[tuple[Message, ...], Completion] = {}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion per request, in order. All requests are read before the first."""
        wanted = list(requests)
        new: dict[tuple[Message, ...], Request] = {}
        for one in wanted:
            if one.messages not in self._known:
                # The first of equal requests, since a local model decodes block by block.
                new.setdefault(one.messages, one)
        for messages, completion in zip(new, self._model.generate(new.values()), strict=True):
            self._known[messages] = completion
        for request in wanted:
            yield self._known[request.messages]

    def forget(self) -> None:
        """Leaves the answers of a window behind."""
        self._known.clear()


class _Scored:
    """A scorer that scores an answer once in a window."""

    def __init__(self, scorer: Scorer) -> None:
        self.name = scorer.name
        self._scorer = scorer
        self._known: dict[tuple[str, str], Score] = {}

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """One score per answer, in order. All answers are read before the first."""
        wanted = list(answers)
        new = {}
        for query, text in wanted:
            if (query.id, text) not in self._known:
                new[query.id, text] = (query, text)
        for key, score in zip(new, self._scorer.score(new.values()), strict=True):
            self._known[key] = score
        for query, text in wanted:
            yield self._known[query.id, text]

    def forget(self) -> None:
        """Leaves the scores of a window behind."""
        self._known.clear()
