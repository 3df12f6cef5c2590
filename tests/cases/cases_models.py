"""Cases of models."""

from collections.abc import Iterator
from pathlib import Path

from tests.cases.outcome import Outcome


def cases(folder: Path) -> Iterator[Outcome]:
    """Run each, in order."""
    yield from ()
