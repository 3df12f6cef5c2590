"""Frames that stay narrow: only numbers, a few bytes per row, grown while the rows stream by.

Texts are compared by 64-bit digests. The probability that two of a million texts have the same
digest is 1 in 30 million.
"""

import hashlib
from array import array
from typing import Any

AT_ONCE = 1000
"""Rows whose texts are held at a time."""
SPLITS = ("train", "dev", "test")
"""A split's number is its place here: held-out splits come after the one that is learned."""


class Columns:
    """Columns by name, each with the type code of `array`.

    b, h, i and q are whole numbers of 1, 2, 4 and 8 bytes, Q is q without a sign, f and d are
    floats.
    """

    def __init__(self, **types: str) -> None:
        self._arrays = {name: array(code) for name, code in types.items()}

    def add(self, **values: float) -> None:
        """Adds one row."""
        for name, column in self._arrays.items():
            # The type of an array's items is known only when it runs.
            column.append(values[name])  # type: ignore[arg-type]

    def frame(self) -> Any:
        """The columns as a pandas frame."""
        import numpy
        import pandas

        return pandas.DataFrame(
            {name: numpy.array(column) for name, column in self._arrays.items()}
        )


def number(text: str) -> int:
    """Returns 64 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def nth(keys: Any) -> Any:
    """Counts, for each row, the earlier rows with the same key."""
    import numpy

    keys = numpy.asarray(keys)
    if not len(keys):
        return numpy.empty(0, dtype="int32")
    # A stable sort keeps equal keys in the order of their rows. So the count is the distance to the
    # place where the key begins.
    order = numpy.argsort(keys, kind="stable")
    places = numpy.arange(len(keys), dtype="int32")
    starts = numpy.maximum.accumulate(numpy.where(_begins(keys[order]), places, 0))
    found = numpy.empty(len(keys), dtype="int32")
    found[order] = places - starts
    return found


def splits_of(keys: Any, splits: Any) -> Any:
    """Counts, for each row, the splits in which its key lies."""
    import numpy

    keys = numpy.asarray(keys)
    if not len(keys):
        return numpy.empty(0, dtype="int8")
    # One bit per split. Equal keys are adjacent after sorting, and the bits of each run are joined.
    bits = numpy.left_shift(1, numpy.asarray(splits)).astype("int8")
    order = numpy.argsort(keys, kind="stable")
    begins = numpy.flatnonzero(_begins(keys[order]))
    joined = numpy.bitwise_or.reduceat(bits[order], begins)
    counts = sum((joined >> bit) & 1 for bit in range(len(SPLITS)))
    found = numpy.empty(len(keys), dtype="int8")
    found[order] = numpy.repeat(counts, numpy.diff(numpy.append(begins, len(keys))))
    return found


def _begins(ordered: Any) -> Any:
    """True at each place where another key begins than the one before; `ordered` is not empty."""
    import numpy

    return numpy.append(True, ordered[1:] != ordered[:-1])
