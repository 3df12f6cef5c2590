"""The commands that a person calls: one file each, with `main(argv) -> int | None`."""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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

    A scheduler ends a step with SIGTERM, and a terminal that closes sends SIGHUP.
    """
    before = {}

    def interrupt(*_: object) -> None:
        # A terminal and its shell may both say that they close. A second interruption would cut
        # short what the first one lets end.
        if signal.SIGHUP in before:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
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
