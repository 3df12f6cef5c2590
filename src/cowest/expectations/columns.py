"""Frames that stay narrow: numbers alone, a few bytes a row, grown while the rows stream by.

Texts are told apart by 64-bit digests. A million of them collide with a chance of 1 in 30 million.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
AT_ONCE = 1000
"""Rows that are held as texts at a time."""
SPLITS = ("train", "dev", "test")
"""A split's number is its place here: what is held out comes after what is learned."""


class Columns:
    """Columns by name, each with its type: b, h, i and q are whole numbers of 1, 2, 4 and 8 bytes, Q without a sign, f and d floats."""

    def __init__(self, **types: str) -> None:
        self._arrays = {name: array(code) for name, code in types.items()}

    def add(self, **values: float) -> None:
        """One row."""
        for name, column in self._arrays.items():
            column.append(values[name])  # type: ignore[arg-type]  # the type of an array's items is known at run time alone

    def frame(self, **more: Any) -> Any:
        """The columns, and more of equal length, as a pandas frame."""
        import numpy
        import pandas

        return pandas.DataFrame(
            {name: numpy.array(column) for name, column in self._arrays.items()} | more
        )


def parts(rows: Iterable[T]) -> Iterator[list[T]]:
    """Rows, some at a time."""
    rest = iter(rows)
    while part := list(islice(rest, AT_ONCE)):
        yield part


def number(text: str) -> int:
    """64 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def nth(keys: Any) -> Any:
    """How many equal keys came before each."""
    import numpy

    keys = numpy.asarray(keys)
    order = numpy.argsort(keys, kind="stable")
    begins = _begins(keys[order])
    places = numpy.arange(len(keys), dtype="int32")
    found = numpy.empty(len(keys), dtype="int32")
    found[order] = (
        places - numpy.maximum.accumulate(numpy.where(begins, places, 0)) if len(keys) else places
    )
    return found


def splits_of(keys: Any, splits: Any) -> Any:
    """In how many splits each row's key lies."""
    import numpy

    keys, bits = numpy.asarray(keys), numpy.left_shift(1, numpy.asarray(splits)).astype("int8")
    order = numpy.argsort(keys, kind="stable")
    begins = numpy.flatnonzero(_begins(keys[order]))
    found = numpy.empty(len(keys), dtype="int8")
    if len(keys):
        joined = numpy.bitwise_or.reduceat(bits[order], begins)
        counts = sum((joined >> bit) & 1 for bit in range(len(SPLITS)))
        found[order] = numpy.repeat(counts, numpy.diff(numpy.append(begins, len(keys))))
    return found


def _begins(ordered: Any) -> Any:
    """Where another key begins than the one before."""
    import numpy

    return numpy.append(numpy.ones(min(len(ordered), 1), dtype=bool), ordered[1:] != ordered[:-1])
