"""Accounts for every raw row: it is used, left out for a reason of the data set, or quarantined."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cowest.config import complaints
from cowest.errors import RecordError
from cowest.records import Fate, Record

R = TypeVar("R", bound=Record)
NAMED = 5
"""Number of bad rows that an error message names."""
SHOWN = 500
"""Number of characters of a quarantined row that are kept."""


class Unfit(Exception):
    """Says why a raw row can't be used. Whoever catches it knows the row's place."""


def build(kind: type[R], **fields: Any) -> R:
    """Makes a record from the fields of a raw row. Raises Unfit."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise Unfit(complaints(error)) from None


class Intake:
    """Counts the raw rows of one reading: raw rows = used + left out + quarantined."""

    def __init__(
        self, most: float | None = None, keep: Callable[[Fate], object] | None = None
    ) -> None:
        """Sets how many bad rows may be quarantined.

        `most` is a count, or a share of all rows if it is below 1. With None, the first bad row
        raises RecordError. `keep` is given a record of each quarantined row, and of the sums.
        """
        self.used = self.bad = 0
        self.left_out: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        """What was read in a way that may not be meant, with the number of rows."""
        self.unread: list[str] = []
        """Names of tables that lie among the data and were not read."""
        self._most, self._keep = most, keep
        self._said: list[str] = []

    @property
    def rows(self) -> int:
        """The number of raw rows seen."""
        return self.used + self.bad + self.left_out.total()

    def quarantine(self, path: Path, number: int, reason: str, raw: Any) -> None:
        """Sets a bad row aside, with its place and the beginning of its text."""
        if self._most is None:
            raise RecordError(f"{path}:{number}: {reason}")
        self.bad += 1
        if len(self._said) < NAMED:
            self._said.append(f"{path}:{number}: {reason}")
        if self._keep is not None:
            self._keep(
                Fate(
                    fate="quarantined",
                    reason=_clean(reason),
                    source=f"{path.name}:{number}",
                    raw=_clean(_text(raw))[:SHOWN],
                )
            )

    def leave_out(self, reason: str) -> None:
        """Counts a row that is sound but not wanted."""
        self.left_out[reason] += 1

    def note(self, what: str) -> None:
        """Counts a row that was read in a way that may not be meant."""
        self.notes[what] += 1

    def judge(self) -> None:
        """Raises RecordError if more rows are bad than allowed: how many, and the first few."""
        allowed = self._most or 0
        # A share can be judged only at the end, when the number of all rows is known.
        bound = allowed * self.rows if 0 < allowed < 1 else allowed
        if self.bad <= bound:
            return
        if self.bad == 1:
            raise RecordError(self._said[0])
        named = list(self._said)
        if self.bad > len(named):
            named.append(f"and {self.bad - len(named)} more")
        listed = "".join(f"\n  - {row}" for row in named)
        raise RecordError(
            f"{self.bad} of {self.rows} raw rows don't fit, and prepare.max_bad allows "
            f"{allowed:g}: mend them, take them out, or raise it{listed}"
        )

    def told(self) -> str:
        """The sums in words."""
        left = f"{self.left_out.total()} left out"
        if self.left_out:
            reasons = "; ".join(f"{count}: {reason}" for reason, count in self.left_out.items())
            left += f" ({reasons})"
        return f"{self.rows} raw rows = {self.used} used + {left} + {self.bad} quarantined"

    def close(self) -> None:
        """Keeps the sums: one record per reason for leaving rows out, and one for the used rows."""
        if self._keep is not None:
            for reason, count in self.left_out.items():
                self._keep(Fate(fate="left out", rows=count, reason=reason))
            self._keep(Fate(fate="used", rows=self.used))


def _text(raw: Any) -> str:
    return raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False, default=str)


def _clean(text: str) -> str:
    """Writes lone surrogates out as escapes: no UTF-8 file can hold them."""
    return text.encode("utf-8", "backslashreplace").decode()
