"""Shows the progress of long work on a terminal: rows, rate and time left. Quiet anywhere else."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
EVERY = 0.2
"""Seconds between two drawings."""


def watch(rows: Iterable[T], stage: str, total: int | None = None) -> Iterator[T]:
    """Passes rows through, and shows their number, their rate and the time left on a terminal."""
    if not sys.stderr.isatty():
        yield from rows
        return
    bar = Bar(stage, total)
    for row in rows:
        yield row
        bar.step()
    bar.close()


class Bar:
    """One line on a terminal; nothing where there is none."""

    def __init__(self, stage: str, total: int | None = None, done: int = 0) -> None:
        self.stage = stage
        self.total = total
        self.begun = self.done = done
        """Rows done before this process began, and now."""
        self.started = self.drawn = time.monotonic()
        self.live = sys.stderr.isatty()

    def step(self, note: str = "") -> None:
        """Counts one more row as done."""
        self.done += 1
        now = time.monotonic()
        if self.live and (now - self.drawn >= EVERY or self.done == self.total):
            self.drawn = now
            sys.stderr.write(f"\r\x1b[2K{self._line(now)} {note}".rstrip())
            sys.stderr.flush()

    def close(self) -> None:
        """Ends the line."""
        if self.live:
            sys.stderr.write(f"\r\x1b[2K{self._line(time.monotonic())}\n")

    def _line(self, now: float) -> str:
        rate = (self.done - self.begun) / max(now - self.started, 1e-9)
        of_total = f"/{self.total}" if self.total else ""
        line = f"{self.stage:<16} {self.done}{of_total} rows  {rate:.1f}/s"
        if self.total and self.done < self.total and rate:
            line += f"  {_clock((self.total - self.done) / rate)} left"
        elif self.done == self.total or not self.total:
            line += f"  {_clock(now - self.started)}"
        return line


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{rest:02d}"
