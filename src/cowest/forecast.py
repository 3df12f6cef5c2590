"""What a turn's calls will cost at most, before any is made: from the raw data and the settings.

Drafts and answers that are not there yet are taken to be as long as they may be, and all of them different. What the call
store already holds is counted off where it can be known: what the strong model is asked without a draft, or with the ideal one.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cowest import collaboration
from cowest.config import Sampling, parse, section
from cowest.ledger.claims import Budget
from cowest.models.estimate import Counting, Estimate, longest
from cowest.prompts import Prompts
from cowest.records import Draft, Query
from cowest.scorers import AnyScorer
from cowest.scorers.judge import JudgeConfig
from cowest.stages.draft import DraftConfig
from cowest.stages.evaluate import EvaluateConfig
from cowest.stages.prepare import PrepareConfig
from cowest.stages.refine import RefineConfig
from cowest.stages.score import ScoreConfig
from cowest.stages.sft import SFTConfig

SYSTEMS = 3
"""Systems that draft in `evaluate`: before, after, and a champion, whether there is one or not."""
Row = tuple[str, Estimate]
"""A stage, and what one of its models will be asked."""


def forecast(params: dict[str, Any], raw: Path, where: str = "params.yaml") -> list[Row]:
    """Each stage that asks a strong model or a judge, with the most it can cost. Raises ConfigError, RecordError."""
    drafting = parse(DraftConfig, section(params, "draft", where), f"{where}: draft")
    refining = parse(RefineConfig, section(params, "refine", where), f"{where}: refine")
    scoring = parse(ScoreConfig, section(params, "score", where), f"{where}: score")
    judged = parse(EvaluateConfig, section(params, "evaluate", where), f"{where}: evaluate")
    prompts = parse(SFTConfig, section(params, "sft", where), f"{where}: sft").prompts
    prepared = parse(PrepareConfig, section(params, "prepare", where), f"{where}: prepare")

    train = (
        _drafts(query, drafting.sampling, 1)
        for query in prepared.queries(raw)
        if query.split == drafting.split
    )
    held = (
        _drafts(query, judged.drafting, SYSTEMS, ideal=True)
        for query in prepared.queries(raw)
        if query.split == judged.split
    )
    refined, scored = _asked(
        train, refining.strong, refining.prompts, refining.sampling, scoring.scorer
    )
    trials, verdicts = _asked(held, judged.strong, prompts, judged.refining, judged.scorer)
    found = [
        ("refine", refined),
        ("score", scored),
        ("evaluate", trials),
        ("evaluate, judge", verdicts),
    ]
    return [(stage, estimate) for stage, estimate in found if estimate is not None]


def table(rows: list[Row], budget: Budget) -> str:
    """The forecast for a terminal, with its sum, and whether the budget may not do."""
    width = max(len(stage) for stage, _ in rows)
    lines = [
        "calls, tokens and money at most; with the longest drafts and answers, and a champion:"
    ]
    for stage, estimate in rows:
        lines.append(
            f"  {stage:<{width}}  {estimate if estimate.paid else f'{estimate.calls:,} completions of {estimate.model}, which is ours'}"
        )
    paid = [estimate for _, estimate in rows if estimate.paid]
    usd, tokens = (
        sum(estimate.usd or 0.0 for estimate in paid),
        sum(estimate.tokens for estimate in paid),
    )
    unknown = (
        f", and models without a price: {', '.join(sorted({e.model for e in paid if e.usd is None}))}"
        if any(e.usd is None for e in paid)
        else ""
    )
    lines.append(
        f"  {'in all':<{width}}  {sum(estimate.calls for estimate in paid):,} calls: at most {tokens:,} tokens, ${usd:,.4f}{unknown}"
    )
    if (budget.usd is not None and usd > budget.usd) or (
        budget.tokens is not None and tokens > budget.tokens
    ):
        lines.append(
            "this is more than pin.budget: if it comes to that, the turn stops there, and goes on when the budget is raised"
        )
    return "\n".join(lines)


def _drafts(query: Query, sampling: Sampling, systems: int, ideal: bool = False) -> list[Draft]:
    """The drafts that a query may get, all different and as long as they may be; and the ideal one, which is known."""
    fields = {name: getattr(query, name) for name in Query.model_fields}
    texts = [longest(sampling, number) for number in range(sampling.n * systems)]
    if ideal and query.ideal is not None:
        texts.append(query.ideal)
    return [
        Draft(**fields, sample=number, draft=text, policy="forecast")
        for number, text in enumerate(texts)
    ]


def _asked(
    drafts: Iterable[list[Draft]],
    strong: Any,
    prompts: Prompts,
    sampling: Sampling,
    scorer: AnyScorer,
) -> tuple[Estimate, Estimate | None]:
    """What the strong model is asked, and the judge where there is one."""
    counting, judge = (
        Counting(strong),
        Counting(scorer.model) if isinstance(scorer, JudgeConfig) else None,
    )
    rows = collaboration.refine(drafts, counting, prompts, sampling)
    if judge is not None and isinstance(scorer, JudgeConfig):
        rows = collaboration.score(collaboration.by_query(rows), scorer.over(judge))
    for _ in rows:
        pass
    return counting.estimate, judge.estimate if judge else None
