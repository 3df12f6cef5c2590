"""Drafts that helped make pairs with drafts of the same query that helped less."""

import sys
from collections.abc import Iterator

from cowest import io, preferences
from cowest.config import Config
from cowest.domains import DomainPrompts
from cowest.ports import In, Out
from cowest.preferences import PairRule
from cowest.records import Feedback, PreferencePair


class PairConfig(Config):
    """The rule by which drafts make pairs, and the prompts that the pairs show."""

    rule: PairRule = PairRule()
    """The choice of the two drafts of a pair."""
    prompts: DomainPrompts
    """Prompts of the policy, as it was asked for the drafts."""


def main(feedback: list[In], pairs: Out, config: PairConfig) -> None:
    """Writes the pairs, and says how many rows were left out."""
    failed = cut = 0
    agreement = preferences.Agreement()

    def found() -> Iterator[PreferencePair]:
        nonlocal failed, cut
        for group in io.groups(feedback, Feedback):
            failed += sum(row.failed is not None for row in group)
            if not config.rule.allow_cut:
                cut += sum(row.cut for row in group)
            agreement.add(group, config.rule)
            yield from preferences.pairs(group, config.rule, config.prompts.draft)

    count = io.write(pairs, found())
    print(
        f"pair: {count} pairs; left out: {failed} failed rows, {cut} drafts cut at their limit",
        file=sys.stderr,
    )
    said = agreement.says()
    if said is not None:
        print(f"pair: {said}", file=sys.stderr)
