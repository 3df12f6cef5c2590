"""Drafts that helped make pairs with drafts of the same query that helped less."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Self

from pydantic import model_validator

from cowest import io, preferences
from cowest.config import Config
from cowest.domains import DomainPrompts
from cowest.ports import In, Out
from cowest.preferences import Align, PairRule
from cowest.records import Feedback, PreferencePair


class PairConfig(Config):
    """The rule by which drafts make pairs, and the prompts that the pairs show."""

    rule: PairRule = PairRule()
    """The choice of the two drafts of a pair."""
    prompts: DomainPrompts
    """Prompts of the policy, as it was asked for the drafts."""
    align: Align = "dpo"
    """The objective, as in `refine` and `dpo`. `dpo` makes pairs by feedback, `self` by the drafts'
    own scores, `kto` takes each draft alone, and `grpo` has no rows."""

    @model_validator(mode="after")
    def _has_gains(self) -> Self:
        preferences.expect_gains(self.align, self.rule, "rule")
        return self


def main(feedback: list[In], pairs: Out, config: PairConfig) -> None:
    """Writes the pairs, and says how many rows were left out."""
    failed = cut = 0
    agreement = preferences.Agreement()
    chosen: Counter[str | None] = Counter()

    def found() -> Iterator[PreferencePair]:
        nonlocal failed, cut
        for group in io.groups(feedback, Feedback):
            failed += sum(row.failed is not None for row in group)
            if not config.rule.allow_cut:
                cut += sum(row.cut for row in group)
            agreement.add(group, config.rule)
            made = preferences.pairs(group, config.rule, config.prompts.draft, config.align)
            for pair in made:
                chosen[pair.candidates[0]] += bool(pair.chosen)
                yield pair

    count = io.write(pairs, found())
    what = "drafts, each alone" if config.align == "kto" else "pairs"
    print(
        f"pair: {count} {what}; left out: {failed} failed rows, {cut} drafts cut at their limit",
        file=sys.stderr,
    )
    if set(chosen) - {None}:
        named = {name: number for name, number in sorted(chosen.items(), key=str) if name}
        listed = ", ".join(f"{number} by {name}" for name, number in named.items())
        print(
            f"pair: of the chosen drafts, {chosen[None]} are by the policy's own prompt, {listed}",
            file=sys.stderr,
        )
    said = agreement.says()
    if said is not None:
        print(f"pair: {said}", file=sys.stderr)
