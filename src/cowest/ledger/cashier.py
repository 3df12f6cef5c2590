"""The cashier has purses pay for the calls that are served, on one event loop.

A call is claimed before it is made, and settled after it, as at the till. Nobody waits for a
settlement: it is written with the next claims, and at the latest when the cashier is closed. None
of both waits for the disk: a power cut, or a crash of PostgreSQL, may undo them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from cowest.errors import BudgetError
from cowest.ledger.database import Db
from cowest.ledger.purses import (
    PurseClaim,
    PurseDay,
    PurseMove,
    PurseSettled,
    Short,
    make,
    seconds_left,
    today,
)
from cowest.ledger.store import CallStore, StoredAnswer
from cowest.ledger.together import Together
from cowest.protocols import Completion


class Cashier:
    """The cashier of one event loop; all of its coroutines run on that loop."""

    def __init__(self, store: CallStore) -> None:
        self._store = store
        self._moves: Together[PurseMove, Short | None] = Together(self._make)
        self._looks: Together[str, Completion | None] = Together(self._find)
        self._open: Counter[str] = Counter()
        """Open claims of ours, by purse."""
        self._waited: dict[str, asyncio.Event] = {}
        """Events that are set when a claim of ours is closed, by purse."""

    async def find(self, key: str) -> Completion | None:
        """Returns the answer that the store has for a call, or None."""
        return await asyncio.shield(self._looks.put(key))

    async def claim(self, claim: PurseClaim, seconds: float) -> None:
        """Claims a call; then it is settled or lost.

        Where the purse is held by calls of ours that are under way, it waits for them: they may
        cost less than they hold. Raises BudgetError, also for a purse with a budget and a call
        whose cost has no bound, StoreError, and TimeoutError after so many seconds.
        """
        until = time.monotonic() + seconds
        while True:
            closed = self._waited.setdefault(claim.purse, asyncio.Event())
            future = self._moves.put(claim)
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    short = await asyncio.shield(future)
            except (asyncio.CancelledError, TimeoutError):
                # The claim may be in the transaction that is being written. If it is given, nobody
                # is left to make the call, and it must not hold a part of the budget.
                future.add_done_callback(lambda done: self._undo(done, claim))
                raise
            if short is None:
                self._open[claim.purse] += 1
                return
            if short is Short.UNBOUNDED:
                raise BudgetError(
                    f"{claim.purse!r} has a budget a day, and nobody can tell what a call may "
                    "cost: give the model its `price`, in US dollars a million tokens (0 where it "
                    "costs nothing), and an end to its answers (do not take the token limit out "
                    "by `extra`)"
                )
            # One of ours may also have been closed while this claim was being written.
            may_fit = short is Short.HELD and (self._open[claim.purse] or closed.is_set())
            if not may_fit or not await _is_set(closed, until):
                raise await self._refusal(claim)

    def settle(
        self, claim: PurseClaim, usd: float, tokens: int, answer: StoredAnswer | None = None
    ) -> "asyncio.Future[Short | None]":
        """Puts the cost of a call in place of its claim, and keeps the answer if one is given.

        The future is done when that is written. It need not be waited for.
        """
        written = self._moves.put(PurseSettled(claim, usd, tokens, answer=answer))
        self._close(claim)
        return written

    def release(self, claim: PurseClaim) -> None:
        """Gives a claim back whose call was never made, or cost nothing and brought nothing."""
        self._moves.put(PurseSettled(claim, made=False))
        self._close(claim)

    def lose(self, claim: PurseClaim) -> None:
        """Leaves a claim open after a call that broke off, since it may have been paid for."""
        self._close(claim)

    async def close(self) -> None:
        """Waits until everything is written."""
        await self._moves.close()
        await self._looks.close()

    def _make(self, moves: Sequence[PurseMove]) -> list[Short | None]:
        def work(db: Db) -> list[Short | None]:
            return make(self._store, db, moves)

        return self._store.write(work, durable=False)

    def _find(self, keys: Sequence[str]) -> list[Completion | None]:
        found = self._store.look(keys)
        return [found.get(key) for key in keys]

    def _undo(self, claimed: "asyncio.Future[Short | None]", claim: PurseClaim) -> None:
        if claimed.exception() is None and claimed.result() is None:
            self._moves.put(PurseSettled(claim, made=False))

    def _close(self, claim: PurseClaim) -> None:
        self._open[claim.purse] -= 1
        if not self._open[claim.purse]:
            del self._open[claim.purse]
        closed = self._waited.pop(claim.purse, None)
        if closed is not None:
            closed.set()

    async def _refusal(self, claim: PurseClaim) -> BudgetError:
        days = await asyncio.to_thread(today, self._store)
        day = days.get(claim.purse) or PurseDay(claim.purse, claim.day)
        return BudgetError(day.refusal(claim), seconds_left(time.time()))


async def _is_set(event: asyncio.Event, until: float) -> bool:
    """Waits for an event; False if it does not come by then."""
    try:
        async with asyncio.timeout(until - time.monotonic()):
            await event.wait()
    except TimeoutError:
        return False
    return True
