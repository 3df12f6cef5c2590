"""The till is where calls in flight meet the call store.

A call is claimed before it is made and settled after it. What comes in at one time is written
together (`together`).
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from cowest.errors import BudgetError, CallError
from cowest.ledger.claims import (
    ClaimRequest,
    Claims,
    Left,
    Move,
    Refused,
    Released,
    Settled,
    spent,
)
from cowest.ledger.database import Db
from cowest.ledger.store import CallStore, StoredAnswer
from cowest.ledger.together import Together
from cowest.protocols import Completion

SOON = 0.05
"""Seconds until a call that another process makes is looked for again."""


class Till:
    """The till of one event loop; all of its coroutines run on that loop."""

    def __init__(self, store: CallStore) -> None:
        self._store, self._claims = store, Claims(store)
        self._moves: Together[Move, Refused | None] = Together(self._make)
        self._looks: Together[Sequence[str], dict[str, Completion]] = Together(self._find)
        self._held = 0
        """Claims of ours that are open."""
        self._frees = 0
        """Claims of ours that were closed so far."""
        self._freed: asyncio.Event | None = None

    async def claim(self, reserve: Callable[[], ClaimRequest]) -> Completion | None:
        """Claims a call. None means: call now, then settle, release or lose the claim.

        `reserve` gives the claim anew at each try: what calls may cost can rise while this one
        waits. A completion means that another process got the answer meanwhile. Waits while another
        process makes this call. Also waits, when the budget is fully reserved, for our open calls:
        they may cost less than was reserved. Raises BudgetError, and CallError for a call that is
        in a batch.
        """
        while True:
            frees = self._frees
            request = reserve()
            future = self._moves.put(request)
            try:
                refused = await asyncio.shield(future)
            except asyncio.CancelledError:
                # The claim may be in the transaction that is being written. If it is given, nobody
                # is left to make the call, and it must not hold a part of the budget.
                future.add_done_callback(partial(self._undo, request))
                raise
            if refused is None:
                self._held += 1
                return None
            if refused is Refused.ANSWERED:
                return self._store.get([request.key])[request.key]
            if refused is Refused.BATCHED:
                raise CallError(
                    "a call of this stage is in a batch that is under way, and would be paid "
                    "twice: give the model its `batch` again to wait for that, or cancel it at the "
                    "provider"
                )
            if refused is Refused.TAKEN:
                await asyncio.sleep(SOON)
            elif self._held:
                await self._next_free()
            elif frees == self._frees:
                now = spent(self._store, self._claims.turn)
                raise BudgetError(now.refusal(request))
            # Otherwise the last of our calls was closed while this claim was being written, and
            # may have left enough: try once more before giving up.

    async def look(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Returns the completions of those keys that were answered before."""
        return await asyncio.shield(self._looks.put(keys))

    async def settle(self, answer: StoredAnswer, usd: float, tokens: int) -> None:
        """Keeps an answer and its cost, durable when this returns."""
        # The shield lets a cancelled caller go, and still has the answer kept: it was paid for.
        try:
            await asyncio.shield(self._moves.put(Settled(answer, usd, tokens)))
        finally:
            self._free()

    async def release(self, request: ClaimRequest, usd: float, tokens: int) -> None:
        """Gives a claim back after a call that brought no answer, and counts its cost."""
        try:
            await asyncio.shield(self._moves.put(Released(request, usd, tokens)))
        finally:
            self._free()

    def lose(self, request: ClaimRequest) -> None:
        """Leaves a claim open after a call that broke off, since it may have been paid for.

        Others may make the call: who makes it no more, or not yet again, holds nobody up.
        """
        self._moves.put(Left(request))
        self._free()

    async def close(self) -> None:
        """Waits until everything is written."""
        await self._moves.close()
        await self._looks.close()

    def _make(self, moves: Sequence[Move]) -> list[Refused | None]:
        """Does moves in one transaction."""

        def make(db: Db) -> list[Refused | None]:
            return self._claims.make(db, moves)

        # Only answers wait for the disk, since they were paid for. A claim survives the death of
        # this process without that; a power cut, or a crash of PostgreSQL, may undo it.
        durable = any(isinstance(move, Settled) for move in moves)
        return self._store.write(make, durable)

    def _find(self, looks: Sequence[Sequence[str]]) -> list[dict[str, Completion]]:
        """Looks keys up, for all looks at once."""
        wanted: list[str] = []
        for keys in looks:
            wanted += keys
        found = self._store.get(wanted)
        return [{key: found[key] for key in keys if key in found} for keys in looks]

    def _undo(self, request: ClaimRequest, claimed: "asyncio.Future[Refused | None]") -> None:
        if not claimed.cancelled() and claimed.exception() is None and claimed.result() is None:
            self._moves.put(Released(request))

    def _free(self) -> None:
        self._held -= 1
        self._frees += 1
        if self._freed is not None:
            self._freed.set()
            self._freed = None

    async def _next_free(self) -> None:
        if self._freed is None:
            self._freed = asyncio.Event()
        await self._freed.wait()
