"""Feedback for fewer calls: a choice of the drafts that the strong model is asked about. Pure.

A query costs one call alone and one per draft, and gives pairs only where its drafts differ in what
they are worth. So drafts that say the same are asked about once, and the queries come first whose
drafts give pairs for the fewest calls: those with three different drafts, since the one that helped
makes pairs with both others, then those with four, and so on; two drafts make one pair at most, and
one draft makes none. Drafts that no pair can be made of (empty, cut at their limit) are not
counted, and never asked about. Nothing is asked of a model to choose.

`Waves` goes further: it asks about a query's drafts one after another, and stops where its pairs
are made (`stopping.py`).

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
    allow_cut: bool = Field(default=False, exclude_if=lambda allowed: not allowed)
    """Asks about drafts that were cut at their limit, too. Set it as `pair.rule.allow_cut`: a draft
    that `pair` leaves out is not worth a call."""

    def choice(self, block: Sequence["QueryDrafts"]) -> list[list[str]]:
        """The drafts of each query of a block that are asked about; none for most at a low share.

        Queries with equally many drafts come in the order of their ids, which are digests.
        """
        left = int(self.share * whole(block))
        different = [_different(self._of_use(drafted)) for drafted in block]
        found: list[list[str]] = [[] for _ in block]
        for number in _best_first(block, different):
            calls = 1 + len(different[number])
            if len(different[number]) > 1 and calls <= left:
                found[number] = different[number]
                left -= calls
        return found

    def _of_use(self, drafted: "QueryDrafts") -> list[str]:
        """The drafts that a pair may be made of."""
        cut = frozenset[str]() if self.allow_cut else drafted.cut
        return [text for text in drafted.drafts if text.strip() and text not in cut]

    def most(self, block: Sequence["QueryDrafts"]) -> list[list[str]]:
        """As `choice`, for drafts that are not there yet: the longest queries, to the last call.

        The drafts given are all as long as the longest may be. Then, whatever will be drafted,
        `choice` takes no more calls than this, and no longer ones.
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
    cut: frozenset[str] = frozenset()
    """Those of the drafts that were cut at their limit."""


Chooser = Callable[[Sequence[QueryDrafts]], list[list[str]]]
"""From a block of queries, the drafts of each that are asked about."""


def whole(block: Sequence[QueryDrafts]) -> int:
    """The calls that asking about all drafts takes: one per query alone, and one per draft."""
    return sum(1 + len(drafted.drafts) for drafted in block)


class Waves:
    """A block of queries whose drafts are asked about one after another, until they need no more.

    A query begins with two drafts, and with as many calls set aside as all its drafts would take.
    Those that it turns out not to need are there for the queries that wait. Each wave depends on
    the answers to those before it alone, so the number of calls in flight changes nothing.
    """

    def __init__(
        self, share: float, block: Sequence[QueryDrafts], orders: Sequence[Sequence[str]]
    ) -> None:
        """`orders` has the drafts of each query that are worth asking about, the first ones first.

        At most `share` is made of the calls that asking about all drafts of the block would take.
        """
        self.chosen: list[list[str]] = [[] for _ in block]
        """The drafts of each query that are asked about so far."""
        self._orders = orders
        self._left = int(share * whole(block))
        self._open: list[int] = []
        self._waiting = [at for at in _best_first(block, orders) if len(orders[at]) > 1]

    def ask_more(self, settled: Sequence[bool]) -> bool:
        """Chooses the next drafts; False if there are none. `settled` are queries with enough."""
        still = [number for number in self._open if not self._ended(number, settled[number])]
        for number in still:
            self.chosen[number].append(self._orders[number][len(self.chosen[number])])
        begun = []
        for number in self._waiting:
            calls = 1 + len(self._orders[number])
            if calls <= self._left:
                self._left -= calls
                self.chosen[number] += self._orders[number][:2]
                begun.append(number)
        self._waiting = [number for number in self._waiting if number not in begun]
        self._open = still + begun
        return bool(self._open)

    def _ended(self, number: int, settled: bool) -> bool:
        """True if a query needs no more drafts; what was set aside for them is free then."""
        unasked = len(self._orders[number]) - len(self.chosen[number])
        if settled:
            self._left += unasked
        return settled or unasked == 0


def _best_first(block: Sequence[QueryDrafts], drafts: Sequence[Sequence[str]]) -> list[int]:
    """The queries of a block by their places, those whose drafts give pairs for few calls first."""

    def order(number: int) -> tuple[bool, int, str]:
        count = len(drafts[number])
        return count < BEST, count, block[number].query.id

    return sorted(range(len(block)), key=order)


def _different(drafts: Sequence[str]) -> list[str]:
    """The drafts that say something else than those before them, in order."""
    found: dict[str, str] = {}
    for text in drafts:
        found.setdefault(normalise(text), text)
    return list(found.values())


def _length(query: Query) -> int:
    return sum(len(message.content.encode()) for message in query.prompt)
