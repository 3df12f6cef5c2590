"""What becomes of raw rows: each is used, left out for a reason that its data set has, or quarantined because it can't be read."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cowest.errors import RecordError
from cowest.records import Fate

NAMED = 5
"""Rows that an error names."""
SHOWN = 500
"""Characters of a raw row that are kept."""


class Unfit(Exception):
    """Why a raw row can't be used; whoever reads the row says where it is."""


class Intake:
    """Counts the raw rows of one reading. raw rows = used + left out + quarantined."""

    def __init__(
        self, most: float | None = None, keep: Callable[[Fate], object] | None = None
    ) -> None:
        """`most`: bad rows that may be quarantined, or their share where it is below 1; None: the first one raises RecordError."""
        self.used = self.bad = 0
        self.left_out: Counter[str] = Counter()
        self._most, self._keep = most, keep
        self._said: list[str] = []

    @property
    def rows(self) -> int:
        """Raw rows seen."""
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
        """One row less that is no error."""
        self.left_out[reason] += 1

    def judge(self) -> None:
        """Raises RecordError where more rows are bad than may be; says how many there are, and names the first few."""
        allowed = self._most or 0
        if self.bad <= (allowed * self.rows if 0 < allowed < 1 else allowed):
            return
        if self.bad == 1:
            raise RecordError(self._said[0])
        more = [f"and {self.bad - len(self._said)} more"] if self.bad > len(self._said) else []
        raise RecordError(
            f"{self.bad} of {self.rows} raw rows don't fit, and prepare.max_bad allows {allowed:g}: mend them, take them out, or raise it"
            + "".join(f"\n  - {row}" for row in self._said + more)
        )

    def told(self) -> str:
        """In words."""
        reasons = "; ".join(f"{count}: {reason}" for reason, count in self.left_out.items())
        left = f"{self.left_out.total()} left out{f' ({reasons})' if reasons else ''}"
        return f"{self.rows} raw rows = {self.used} used + {left} + {self.bad} quarantined"

    def close(self) -> None:
        """Keeps the sums: a line a reason of what was left out, and one of what was used."""
        if self._keep is not None:
            for reason, count in self.left_out.items():
                self._keep(Fate(fate="left out", rows=count, reason=reason))
            self._keep(Fate(fate="used", rows=self.used))


def _text(raw: Any) -> str:
    return raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False, default=str)


def _clean(text: str) -> str:
    """Half characters written out, for no file can hold them."""
    return text.encode("utf-8", "backslashreplace").decode()
