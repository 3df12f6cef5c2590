"""The most that a turn's calls can cost, before any is made: from the raw data and the settings.

Drafts and answers that are not there yet are taken to be as long as they may be, and all of them
different. Calls that the call store holds are counted off where they are known already: the strong
model without a draft, or with the ideal one. Requests are counted as the egress filter sends them.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from heapq import nlargest
from pathlib import Path
from typing import Any, NamedTuple

from cowest import collaboration
from cowest.agreement import anew, greedily
from cowest.aligning import rollouts
from cowest.aligning.settings import DPOConfig
from cowest.config import Sampling, parse, section
from cowest.ledger.claims import Budget
from cowest.models.estimate import CostEstimate, Counting, as_sent, longest
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.preferences import UNASKED
from cowest.prompts import Prompts, expect_candidates
from cowest.protocols import Request
from cowest.records import Draft, Query, Split, grown
from cowest.scorers import AnyScorer
from cowest.scorers.judge import JudgeConfig
from cowest.selecting import Chooser
from cowest.stages.draft import DraftConfig
from cowest.stages.evaluate import EvaluateConfig
from cowest.stages.prepare import PrepareConfig
from cowest.stages.refine import RefineConfig
from cowest.stages.score import ScoreConfig
from cowest.stages.sft import SFTConfig

SYSTEMS = 3
"""Systems that draft in `evaluate`: before, after, and a champion, which there may be or not."""


class StageCost(NamedTuple):
    """A stage, and the cost of the calls to one of its models."""

    stage: str
    cost: CostEstimate


def forecast(params: dict[str, Any], raw: Path, where: str = "params.yaml") -> list[StageCost]:
    """Each stage that asks a strong model or a judge, with the most that it can cost.

    Raises ConfigError for wrong settings, and RecordError for wrong raw data.
    """
    drafting = parse(DraftConfig, section(params, "draft", where), f"{where}: draft")
    refining = parse(RefineConfig, section(params, "refine", where), f"{where}: refine")
    scoring = parse(ScoreConfig, section(params, "score", where), f"{where}: score")
    evaluating = parse(EvaluateConfig, section(params, "evaluate", where), f"{where}: evaluate")
    trained = parse(SFTConfig, section(params, "sft", where), f"{where}: sft")
    prepared = parse(PrepareConfig, section(params, "prepare", where), f"{where}: prepare")
    expect_candidates(drafting.candidates, trained.prompts, where)

    def drafts(split: Split, samplings: list[Sampling], ideal: bool) -> Iterator[list[Draft]]:
        for query in prepared.queries(raw):
            if query.split == split:
                yield _drafts(query, samplings, ideal)

    own = _samplings(drafting.sampling, drafting.candidates, trained.prompts)
    select = refining.select
    refined, scored = _asked(
        drafts(drafting.split, own if select is None else _at_longest(own), ideal=False),
        refining.strong,
        refining.prompts,
        refining.sampling,
        scoring.scorer,
        None if select is None else select.most,
        unasked=refining.align in UNASKED,
    )
    aligning = parse(DPOConfig, section(params, "dpo", where), f"{where}: dpo")
    queries = (query for query in prepared.queries(raw) if query.split == drafting.split)
    again, judged_again = _asked_in_training(queries, trained.prompts, aligning)
    held_out = (query for query in prepared.queries(raw) if query.split == evaluating.split)
    trials, judgements = _asked(
        drafts(evaluating.split, [evaluating.drafting] * SYSTEMS, ideal=True),
        evaluating.strong,
        trained.prompts,
        evaluating.refining,
        evaluating.scorer,
    )
    found = []
    for stage, cost in (
        ("refine", refined),
        ("score", scored),
        ("dpo", again),
        ("dpo, judge", judged_again),
        ("evaluate", trials),
        ("evaluate, judge", judgements),
        ("evaluate, served", _served(held_out, trained.prompts, evaluating)),
    ):
        if cost is not None and (cost.calls or cost.stored or not stage.startswith("dpo")):
            found.append(StageCost(stage, cost))
    return found


def repeated(params: dict[str, Any], raw: Path, where: str = "params.yaml") -> list[str]:
    """A line about queries that come more than once, if any do. Raises what `forecast` raises."""
    prepared = parse(PrepareConfig, section(params, "prepare", where), f"{where}: prepare")
    seen: set[str] = set()
    count = 0
    for query in prepared.queries(raw):
        count += 1
        seen.add(query.id)
    again = count - len(seen)
    if again == 0:
        return []
    return [
        f"note: {again:,} of {count:,} queries were there before, word for word: `validate` sets "
        "them aside, or stops the turn if it is set so; below they are counted all the same"
    ]


def excess(rows: list[StageCost], budget: Budget) -> str | None:
    """Says by how much the calls may exceed the budget; None if it holds them all.

    Where a turn runs with nobody there, one that stops half way has spent money for nothing.
    """
    paid = [row.cost for row in rows if row.cost.paid]
    tokens = sum(cost.tokens for cost in paid)
    usd = sum(cost.usd or 0.0 for cost in paid)
    unknown = sorted({cost.model for cost in paid if cost.usd is None})
    if budget.usd is not None and unknown:
        names = ", ".join(unknown)
        return f"the turn has a budget of ${budget.usd:g}, and no price is set for {names}"
    parts = []
    if budget.usd is not None and usd > budget.usd:
        parts.append(f"${usd:,.4f}, and pin.budget.usd allows ${budget.usd:,.2f}")
    if budget.tokens is not None and tokens > budget.tokens:
        parts.append(f"{tokens:,} tokens, and pin.budget.tokens allows {budget.tokens:,}")
    if not parts:
        return None
    return (
        f"the calls of the turn may take up to {'; up to '.join(parts)}: raise the budget, or ask "
        "for less (draft.sampling.n, max_tokens); `cowest turn --dry-run` shows the sum by stage"
    )


def table(rows: list[StageCost], budget: Budget) -> str:
    """The forecast for a terminal, with the sum, and a warning if it may exceed the budget."""
    width = max(len(row.stage) for row in rows)
    lines = [
        "calls, tokens and money at most; with the longest drafts and answers, and a champion:"
    ]
    for stage, cost in rows:
        if cost.paid:
            lines.append(f"  {stage:<{width}}  {cost}")
        else:
            own = f"{cost.calls:,} completions of {cost.model}, which is ours"
            lines.append(f"  {stage:<{width}}  {own}")
    paid = [row.cost for row in rows if row.cost.paid]
    calls = sum(cost.calls for cost in paid)
    tokens = sum(cost.tokens for cost in paid)
    usd = sum(cost.usd or 0.0 for cost in paid)
    total = f"{calls:,} calls: at most {tokens:,} tokens, ${usd:,.4f}"
    unknown = sorted({cost.model for cost in paid if cost.usd is None})
    if unknown:
        total += f", and models without a price: {', '.join(unknown)}"
    lines.append(f"  {'in all':<{width}}  {total}")
    over_usd = budget.usd is not None and usd > budget.usd
    over_tokens = budget.tokens is not None and tokens > budget.tokens
    if over_usd or over_tokens:
        lines.append(
            "this is more than pin.budget: if it comes to that, the turn stops there, and goes on "
            "when the budget is raised"
        )
    return "\n".join(lines)


def _drafts(query: Query, samplings: list[Sampling], ideal: bool) -> list[Draft]:
    """The drafts that a query may get: all different, and as long as they may be.

    Each sampling gives its `n`. With `ideal`, the query's ideal draft is one more, if it is known.
    """
    texts: list[str] = []
    for sampling in samplings:
        texts += [longest(sampling, len(texts) + number) for number in range(sampling.n)]
    if ideal and query.ideal is not None:
        texts.append(query.ideal)
    drafts = []
    for number, text in enumerate(texts):
        drafts.append(grown(Draft, query, sample=number, draft=text, policy="forecast"))
    return drafts


def _asked_in_training(
    queries: Iterable[Query], prompts: Prompts, config: DPOConfig
) -> tuple[CostEstimate | None, CostEstimate | None]:
    """The cost of the calls in training: of the rounds after the first, or of GRPO."""
    ask = config.ask
    if ask is None:
        return None, None
    if config.align == "grpo":
        groups = rollouts.asked_at_most(rollouts.dealt(list(queries), config), config)
        return _asked(groups, ask.strong, prompts, ask.refining, ask.scorer)
    samplings = _samplings(ask.drafting, ask.candidates, prompts)
    return _asked(
        _in_rounds(queries, samplings, config.rounds - 1),
        ask.strong,
        prompts,
        ask.refining,
        ask.scorer,
        unasked=config.align in UNASKED,
    )


def _samplings(own: Sampling, candidates: Sampling | None, prompts: Prompts) -> list[Sampling]:
    """The decoding of a query's drafts: by the policy's own prompt, and by each candidate's."""
    return [own] if candidates is None else [own, *[candidates] * len(prompts.candidates)]


def _at_longest(samplings: list[Sampling]) -> list[Sampling]:
    """The same, all as long as the longest: nobody knows yet which drafts will be chosen."""
    most = max(sampling.max_tokens for sampling in samplings)
    return [sampling.model_copy(update={"max_tokens": most}) for sampling in samplings]


def _in_rounds(
    queries: Iterable[Query], samplings: list[Sampling], rounds: int
) -> Iterator[list[Draft]]:
    """The drafts of so many rounds; each round's are other texts."""
    each = sum(sampling.n for sampling in samplings)
    for query in queries:
        drafts = _drafts(query, samplings * rounds, ideal=False)
        for number in range(rounds):
            yield drafts[number * each : (number + 1) * each]


def _served(
    queries: Iterable[Query], prompts: Prompts, config: EvaluateConfig
) -> CostEstimate | None:
    """The cost of asking the endpoint that serves the challenger, which no stored answer spares;
    None if none is asked.
    """
    agreement = config.agreement
    if agreement is None or not isinstance(agreement.served, OpenAIConfig):
        return None
    # Only weights that are held in this process are compared.
    if not isinstance(config.policy, HFConfig):
        return None
    counting = Counting(agreement.served)
    asked = as_sent(agreement.served, counting)
    requests = greedily(queries, prompts, config.drafting)
    # Validation may set any query aside, so the sample is taken to be the longest.
    length = partial(_length, agreement.served)
    for _ in asked.generate(anew(nlargest(agreement.queries, requests, key=length))):
        pass
    return counting.estimate


def _length(config: OpenAIConfig, request: Request) -> int:
    """The bytes of a request as it is sent; 0 for one that is not sent."""
    sent = config.egress.shown([message.content for message in request.messages])
    return sum(len(text.encode()) for text in sent or ())


def _asked(
    drafts: Iterable[list[Draft]],
    strong: Any,
    prompts: Prompts,
    sampling: Sampling,
    scorer: AnyScorer,
    choice: Chooser | None = None,
    unasked: bool = False,
) -> tuple[CostEstimate, CostEstimate | None]:
    """The cost of the calls to the strong model, and to the judge if there is one.

    With `unasked`, the strong model is asked about no draft, and the judge scores them alone.
    """
    counting = Counting(strong)
    rows = collaboration.unrefined(drafts)
    if not unasked:
        model = as_sent(strong, counting)
        rows = collaboration.refine(drafts, model, prompts, sampling, choice)
    if not isinstance(scorer, JudgeConfig):
        for _ in rows:
            pass
        return counting.estimate, None
    judge = Counting(scorer.model)
    judging = scorer.over(as_sent(scorer.model, judge))
    for _ in collaboration.score(collaboration.by_query(rows), judging):
        pass
    return counting.estimate, judge.estimate
