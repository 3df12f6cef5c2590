"""The most that a turn's calls can cost, before any is made: from the raw data and the settings.

Drafts and answers that are not there yet are taken to be as long as they may be, and all of them
different. Calls that the call store holds are counted off where they are known already: the strong
model without a draft, or with the ideal one.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cowest import collaboration
from cowest.config import Sampling, parse, section
from cowest.ledger.claims import Budget
from cowest.models.estimate import CostEstimate, Counting, longest
from cowest.prompts import Prompts
from cowest.records import Draft, Query, Split, grown
from cowest.scorers import AnyScorer
from cowest.scorers.judge import JudgeConfig
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

    def drafts(
        split: Split, sampling: Sampling, systems: int, ideal: bool
    ) -> Iterator[list[Draft]]:
        for query in prepared.queries(raw):
            if query.split == split:
                yield _drafts(query, sampling, systems, ideal)

    refined, scored = _asked(
        drafts(drafting.split, drafting.sampling, systems=1, ideal=False),
        refining.strong,
        refining.prompts,
        refining.sampling,
        scoring.scorer,
    )
    trials, judgements = _asked(
        drafts(evaluating.split, evaluating.drafting, systems=SYSTEMS, ideal=True),
        evaluating.strong,
        trained.prompts,
        evaluating.refining,
        evaluating.scorer,
    )
    found = []
    for stage, cost in (
        ("refine", refined),
        ("score", scored),
        ("evaluate", trials),
        ("evaluate, judge", judgements),
    ):
        if cost is not None:
            found.append(StageCost(stage, cost))
    return found


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


def _drafts(query: Query, sampling: Sampling, systems: int, ideal: bool) -> list[Draft]:
    """The drafts that a query may get: all different, and as long as they may be.

    With `ideal`, the query's ideal draft is one more, if it is known.
    """
    texts = [longest(sampling, number) for number in range(sampling.n * systems)]
    if ideal and query.ideal is not None:
        texts.append(query.ideal)
    drafts = []
    for number, text in enumerate(texts):
        drafts.append(grown(Draft, query, sample=number, draft=text, policy="forecast"))
    return drafts


def _asked(
    drafts: Iterable[list[Draft]],
    strong: Any,
    prompts: Prompts,
    sampling: Sampling,
    scorer: AnyScorer,
) -> tuple[CostEstimate, CostEstimate | None]:
    """The cost of the calls to the strong model, and to the judge if there is one."""
    counting = Counting(strong)
    rows = collaboration.refine(drafts, counting, prompts, sampling)
    if not isinstance(scorer, JudgeConfig):
        for _ in rows:
            pass
        return counting.estimate, None
    judge = Counting(scorer.model)
    for _ in collaboration.score(collaboration.by_query(rows), scorer.over(judge)):
        pass
    return counting.estimate, judge.estimate
