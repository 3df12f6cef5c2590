"""Drafts that helped, against drafts of the same query that helped less."""

import sys
from collections.abc import Iterator

from cowest import io, preferences
from cowest.config import Config
from cowest.domains import DomainPrompts
from cowest.errors import ContractError
from cowest.ports import In, Out
from cowest.preferences import PairRule
from cowest.records import Feedback, PreferencePair


class PairConfig(Config):
    """Which drafts make a pair."""

    rule: PairRule = PairRule()
    prompts: DomainPrompts
    """As the policy was asked."""
    max_failed: int | None = 0
    """Failed rows that may be left out; None is any number."""


def main(feedback: list[In], pairs: Out, config: PairConfig) -> None:
    """Writes the pairs. Raises ContractError when more rows failed than `max_failed`."""
    failed: dict[str, int] = {}

    def found() -> Iterator[PreferencePair]:
        for group in io.groups(feedback, Feedback):
            for row in group:
                if row.failed is not None:
                    failed[row.failed] = failed.get(row.failed, 0) + 1
            yield from preferences.pairs(group, config.rule, config.prompts.draft)
        too_many(failed, config.max_failed, "pair")

    count = io.write(pairs, found())
    print(f"pair: {count} pairs; {sum(failed.values())} failed rows left out", file=sys.stderr)


def too_many(failed: dict[str, int], most: int | None, stage: str) -> None:
    """Raises ContractError when more rows failed than may."""
    total = sum(failed.values())
    if most is not None and total > most:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in sorted(failed.items(), key=lambda item: -item[1])[:3])
        raise ContractError(
            f"{stage}: {total} rows failed and {most} may ({stage}.max_failed): {reasons}. Run the stage that called the model again "
            "(what was answered is kept and not asked again), or allow more"
        )
