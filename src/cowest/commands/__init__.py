"""The commands that a person calls: one file each, with `main(argv) -> int | None`."""

import argparse
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMANDING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""A character that a terminal obeys and does not show, or that turns the order of others."""


def shown(text: str) -> str:
    """A text of a model or of somebody else, as it may stand on a terminal."""
    return COMMANDING.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def add_params(
    parser: argparse.ArgumentParser,
    words: str = "the settings file (params.yaml)",
    default: str = "params.yaml",
) -> None:
    """Adds the flag `--params`, which names the settings file, with `words` as its help."""
    parser.add_argument("--params", type=Path, default=Path(default), help=words)


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP interruptions, as Ctrl-C is one, until the block ends.

    A scheduler ends a step with SIGTERM, and a terminal that closes sends SIGHUP. Only the first of
    them interrupts; Ctrl-C always does.
    """
    before: dict[signal.Signals, Any] = {}

    def interrupt(*_: object) -> None:
        # A terminal and its shell may both say that they close, and a scheduler and our turn that
        # we end. A second interruption would cut short what the first one lets end.
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` has us ignore SIGHUP, and that stays so.
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
