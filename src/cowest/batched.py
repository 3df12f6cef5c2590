"""A stream in lists of a bounded size: `itertools.batched`, which Python has from 3.12 on."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items in their order; the last may be shorter, and none is empty."""
    left = iter(items)
    batch = list(islice(left, size))
    while batch:
        yield batch
        batch = list(islice(left, size))
