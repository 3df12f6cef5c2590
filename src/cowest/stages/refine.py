"""The strong model refines each draft, and answers each query once without a draft.

Where the policy is aligned without its answers to these drafts (`align: self`, `align: grpo`), it
is asked nothing, and the rows go on without answers. With `select` it is asked about a part of the
drafts, and the rows of the others go on so; with `select.stop` answers are scored here too, to tell
when there are enough.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from cowest import collaboration, io, stopping
from cowest.config import Config, Refining, Sampling
from cowest.domains import DomainPrompts
from cowest.failures import Failures
from cowest.models import AnyProvider
from cowest.models.estimate import Counting, announce
from cowest.ports import In, Out
from cowest.preferences import UNASKED, Align
from cowest.progress import watch
from cowest.protocols import ChatModel
from cowest.records import Draft, Refinement
from cowest.scorers.judge import JudgeConfig, answers_in_batches
from cowest.stopping import Selection


class RefineConfig(Config):
    """The strong model, with the prompts and decoding of refinements."""

    strong: AnyProvider
    """The strong model, which is never trained."""
    prompts: DomainPrompts
    """Prompts of the strong model, with a draft and without."""
    sampling: Refining = Sampling()
    """Decoding of the strong model. `n` must be 1: a draft has one refinement."""
    align: Align = "dpo"
    """The objective, as in `pair` and `dpo`. `self` and `grpo` have nothing asked here."""
    select: Selection | None = Field(default=None, exclude_if=lambda asked: asked is None)
    """Choice of the drafts that are asked about, where calls are to be saved; null asks about all.
    Needs `align: dpo`. docs/objectives.md says what is asked first."""
    max_failed: int | None = Field(default=0, ge=0)
    """Rows that may fail in this stage: with more, it fails at its end. null for any number. Failed
    rows stay in the file, and are left out of pairs and comparisons."""

    @model_validator(mode="after")
    def _chooses_for_pairs(self) -> Self:
        if self.select is not None and self.align != "dpo":
            raise ValueError(
                f"select: it saves calls where `align: dpo` makes pairs, and this is `align: "
                f"{self.align}`: leave it out, or align by dpo"
            )
        return self

    @model_validator(mode="after")
    def _answers_soon(self) -> Self:
        if self.select is None or self.select.stop is None:
            return self
        if answers_in_batches(self.strong, self.select.stop.scorer):
            raise ValueError(
                "select.stop: it waits for some answers before it asks for more, and a batch takes "
                "hours: leave out `batch` or `stop`"
            )
        return self


def main(
    drafts: list[In], refinements: Out, config: RefineConfig, shard: io.Shard | None = None
) -> None:
    """Writes one row per draft, for failed ones too."""
    failures = Failures("refine")
    # Drafts that failed in the stage before were allowed there, and are not judged again here.
    total = earlier = 0
    for group in io.groups(drafts, Draft, shard):
        total += len(group)
        earlier += sum(row.failed is not None for row in group)

    if config.align in UNASKED:
        groups = io.groups(drafts, Draft, shard)
        io.write(refinements, failures.counted(collaboration.unrefined(groups)))
        print(f"refine: nobody was asked, as `align: {config.align}` has it", file=sys.stderr)
        return

    def drafted() -> Iterator[list[Draft]]:
        return io.groups(drafts, Draft, shard)

    def refined(strong: ChatModel) -> Iterator[Refinement]:
        return collaboration.refine(drafted(), strong, config.prompts, config.sampling, choice)

    def write(rows: Iterator[Refinement]) -> None:
        io.write(refinements, failures.counted(watch(rows, "refine", total)))

    select = config.select
    stop = None if select is None else select.stop
    # With `stop` it depends on the answers what is asked: at most all.
    choice = None if select is None or stop is not None else select.choice
    announce("refine", config.strong, refined)
    if stop is not None and isinstance(judge := stop.scorer, JudgeConfig):
        answers = refined(Counting(config.strong))
        announce(
            "refine",
            judge.model,
            lambda model: collaboration.score(collaboration.by_query(answers), judge.over(model)),
        )
    with config.strong.open() as strong:
        if select is None or stop is None:
            write(refined(strong))
        else:
            given = (config.prompts, config.sampling, select.share, stop.rule)
            with stop.scorer.open() as scorer:
                write(stopping.refine(drafted(), strong, scorer, *given))
    failures.judge(config.max_failed, earlier)
    if config.select is not None:
        print(f"refine: {_said(refinements, config.select)}", file=sys.stderr)


def _said(refinements: Path, select: Selection) -> str:
    """Says how much of what could have been asked was asked."""
    calls = of = left = queries = 0
    for group in io.groups(refinements, Refinement):
        asked, whole = collaboration.calls_of(group)
        calls, of, queries = calls + asked, of + whole, queries + 1
        left += asked == 0
    how = "`select.stop`" if select.stop else f"`select.share: {select.share:g}`"
    return (
        f"{calls} of {of} calls, as {how} has it; {left} of {queries} queries were not asked at all"
    )
