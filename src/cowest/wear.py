"""How worn held-out queries are by the decisions that were taken on them. Pure.

Each decision on the same queries is another chance for luck: of 50 weekly challengers of which none
is better, one is promoted in half of all histories. So a decision keeps the ids of its queries, the
next turn counts how often each of its own was looked at before, and the ends of intervals that
gates look at are moved out accordingly (alpha spending).
"""

import gzip
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pydantic import Field

from cowest.config import digest
from cowest.records import Record, Trial

ALPHA = 0.05
"""The share of truths that a 95 % interval misses."""
LEAST = 1e-9
"""The smallest share that ends may miss: with none at all they would lie at infinity."""


class Looks(Record):
    """The record in looks.json: the decisions of earlier turns, by the queries they rest on."""

    decisions: int = 0
    """Earlier turns that were decided and kept the ids of their held-out queries."""
    unknown: int = 0
    """Earlier turns that were decided and kept none, as those of an older CoWest."""
    uses: dict[str, int] = Field(default_factory=dict)
    """By id of a query, the decisions that it has taken part in."""


class HeldOut:
    """Collects the ids of the held-out queries from their trials."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def watch(self, queries: Iterable[list[Trial]]) -> Iterator[list[Trial]]:
        """Passes trials through, query by query."""
        for rows in queries:
            self.ids.append(rows[0].id)
            yield rows


def looks_of(sets: Mapping[str, Iterable[str]], turns: Iterable[str | None]) -> Looks:
    """Counts the looks of earlier turns, each with the digest of its queries, or None.

    `sets` has the ids by digest; a digest that it lacks is of unknown queries.
    """
    uses: Counter[str] = Counter()
    decisions = unknown = 0
    for name, count in Counter(turns).items():
        if name is None or name not in sets:
            unknown += count
            continue
        decisions += count
        for query in sets[name]:
            uses[query] += count
    return Looks(decisions=decisions, unknown=unknown, uses=dict(sorted(uses.items())))


def worn(looks: Looks | None, ids: Iterable[str]) -> float | None:
    """The mean number of earlier decisions per query; None if the earlier looks are not known."""
    if looks is None:
        return None
    counts = [looks.uses.get(query, 0) for query in ids]
    return round(sum(counts) / len(counts), 6) if counts else 0.0


def confidence(wear: float | None, spend: float) -> float:
    """The confidence of the intervals whose ends gates look at: 0.95 on queries that are new.

    The share that the ends may miss is divided by (1 + wear)^spend, and is at least LEAST.
    """
    # The power itself has no float where much is spent.
    return 1 - max(ALPHA * math.exp(-spend * math.log1p(wear or 0.0)), LEAST)


def said(wear: float | None) -> str | None:
    """The wear in a sentence; None for queries that are new, or where it is not known."""
    if not wear:
        return None
    times = f"{wear:.1f}".removesuffix(".0")
    return (
        f"A held-out query has taken part in {times} earlier "
        f"{'decision' if times == '1' else 'decisions'} on average."
    )


def packed(ids: Iterable[str]) -> bytes:
    """The ids as they are kept: one per line, compressed; equal ids make equal bytes."""
    text = "".join(f"{query}\n" for query in sorted(ids))
    return gzip.compress(text.encode(), mtime=0)


def unpacked(kept: bytes) -> list[str]:
    """The ids again. Raises OSError, EOFError or ValueError for a file that is damaged."""
    return gzip.decompress(kept).decode().split()


def name_of(ids: Iterable[str]) -> str:
    """The digest of a set of queries."""
    return digest(sorted(ids))
