"""Failed rows stay in the data; more of them than allowed stop the stage that made them.

The stage that called the model judges, and not one after it. Its answers are in the call store,
so that the stage, when it is run again, asks only what failed. A later stage could only fail
again and again over rows that DVC takes for done.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

from cowest.errors import ContractError
from cowest.records import Draft

D = TypeVar("D", bound=Draft)


class Failures:
    """Counts the failed rows of a stage by their reasons."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.reasons: Counter[str] = Counter()
        self.rows = 0

    def counted(self, rows: Iterable[D]) -> Iterator[D]:
        """Passes rows through and counts them."""
        for row in rows:
            self.rows += 1
            if row.failed is not None:
                self.reasons[row.failed] += 1
            yield row

    def judge(self, most: int | None, earlier: int = 0) -> None:
        """Raises ContractError if more than `most` rows failed. None allows any number.

        Rows that came in failed (`earlier`) were allowed by the stage before, and are not judged
        again.
        """
        failed = self.reasons.total() - earlier
        if most is None or failed <= most:
            return
        common = self.reasons.most_common(3)
        reasons = "; ".join(f"{count} x {reason}" for reason, count in common)
        raise ContractError(
            f"{self.stage}: {failed} of {self.rows} rows failed, "
            f"and {self.stage}.max_failed allows {most} ({reasons}). "
            "What was answered or refused is kept: run again to ask only what failed otherwise, "
            "or raise max_failed to go on without those rows"
        )
