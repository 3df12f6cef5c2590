"""What came of one case."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """One case that was run."""

    kind: str
    """The kind of input, as the README of the cases names it."""
    right: str
    """The right outcome, in a few words."""
    said: str
    """What came out: a value, or the first line of a message."""
    holds: bool
    """True where what came out is right."""
