"""Feedback for fewer calls: a choice of the drafts that the strong model is asked about. Pure.

A query costs one call alone and one per draft, and gives pairs only where its drafts differ in what
they are worth. So drafts that say the same are asked about once, and the queries come first whose
drafts give pairs for the fewest calls: those with three different drafts, since the one that helped
makes pairs with both others, then those with four, and so on; two drafts make one pair at most, and
one draft makes none. Nothing is asked of a model to choose.

The choice is made in each block of queries (`protocols.BLOCK`) for itself, so shards, which are
whole blocks, choose what one process chooses.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import Field

from cowest.config import Config
from cowest.records import Query
from cowest.sametext import normalise

BEST = 3
"""Different drafts of the queries that come first."""


class Select(Config):
    """Chooses the drafts that the strong model is asked about."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Largest share of calls to make, in each block of 32 queries, out of those that asking about
    all drafts would take. Lower it where calls are expensive; 1 leaves out only queries that can
    make no pair."""

    def choice(self, block: Sequence["QueryDrafts"]) -> list[list[str]]:
        """The drafts of each query of a block that are asked about; none for most at a low share.

        Queries with equally many drafts come in the order of their ids, which are digests.
        """
        left = int(self.share * whole(block))
        different = [_different(drafted.drafts) for drafted in block]
        found: list[list[str]] = [[] for _ in block]
        for number in sorted(range(len(block)), key=lambda at: _order(block[at], different[at])):
            calls = 1 + len(different[number])
            if len(different[number]) > 1 and calls <= left:
                found[number] = different[number]
                left -= calls
        return found

    def most(self, block: Sequence["QueryDrafts"]) -> list[list[str]]:
        """As `choice`, for drafts that are not there yet: the longest queries, to the last call.

        Whatever will be drafted, `choice` takes no more calls than this, and no longer ones.
        """
        left = int(self.share * whole(block))
        found: list[list[str]] = [[] for _ in block]
        for number in sorted(range(len(block)), key=lambda at: -_length(block[at].query)):
            if left > 0:
                found[number] = list(block[number].drafts[: max(left - 1, 1)])
                left -= 1 + len(found[number])
        return found


class QueryDrafts(NamedTuple):
    """A query with the different texts of its drafts, as the strong model would be shown them."""

    query: Query
    drafts: Sequence[str]


Chooser = Callable[[Sequence[QueryDrafts]], list[list[str]]]
"""From a block of queries, the drafts of each that are asked about."""


def whole(block: Sequence[QueryDrafts]) -> int:
    """The calls that asking about all drafts takes: one per query alone, and one per draft."""
    return sum(1 + len(drafted.drafts) for drafted in block)


def _different(drafts: Sequence[str]) -> list[str]:
    """The drafts that say something else than those before them, in order."""
    found: dict[str, str] = {}
    for text in drafts:
        found.setdefault(normalise(text), text)
    return list(found.values())


def _order(drafted: QueryDrafts, different: Sequence[str]) -> tuple[bool, int, str]:
    return len(different) < BEST, len(different), drafted.query.id


def _length(query: Query) -> int:
    return sum(len(message.content.encode()) for message in query.prompt)
