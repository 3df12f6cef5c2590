"""Where calls in flight meet the call store: claimed before, settled after, many in one transaction.

What comes in while one transaction is written is written together in the next, so that a flush to disk is shared by all
who wait for it, and its rate follows from what the disk can do.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cowest.errors import BudgetError, CallError
from cowest.ledger.claims import Ask, Claims, Left, Move, Refused, Released, Settled, spent
from cowest.ledger.store import Answer, CallStore
from cowest.protocols import Completion

SOON = 0.05
"""Seconds before a call that another process makes is looked for again."""


@dataclass(frozen=True, slots=True)
class Look:
    """Keys whose completions are wanted, where they were answered before."""

    keys: Sequence[str]


class Till:
    """For one loop; its coroutines run on it."""

    def __init__(self, store: CallStore) -> None:
        self._store, self._claims = store, Claims(store)
        self._queue: list[tuple[Move | Look, asyncio.Future[Any]]] = []
        self._flush: asyncio.Task[None] | None = None
        self._held = 0
        self._frees = 0
        self._freed: asyncio.Event | None = None

    async def claim(self, ask: Ask) -> Completion | None:
        """None: call now, and settle, release or lose it then. A completion: another process was answered meanwhile.

        Waits while another process makes the call, and while calls of ours may leave something over. Raises BudgetError,
        and CallError for a call that is in a batch.
        """
        while True:
            frees = self._frees
            future = self._queued(ask)
            try:
                refused = await asyncio.shield(future)
            except asyncio.CancelledError:
                future.add_done_callback(lambda done: self._undo(done, ask))
                raise
            if refused is None:
                self._held += 1
                return None
            if refused is Refused.ANSWERED:
                return self._store.get([ask.key])[ask.key]
            if refused is Refused.BATCHED:
                raise CallError(
                    "a call of this stage is in a batch that is under way, and would be paid twice: give the model its `batch` again to "
                    "wait for that, or cancel it at the provider"
                )
            if refused is Refused.TAKEN:
                await asyncio.sleep(SOON)
            elif self._held:
                await self._next_free()
            elif frees == self._frees:
                now = self._store.read(lambda db: spent(db, self._claims.turn))
                raise BudgetError(
                    f"the turn's budget is reached: {now}, and the next call may take ${ask.usd:.4f} and {ask.tokens:,} tokens"
                )

    async def look(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Completions of the keys that were answered before."""
        found: dict[str, Completion] = await asyncio.shield(self._queued(Look(keys)))
        return found

    async def settle(self, answer: Answer, usd: float, tokens: int) -> None:
        """Keeps an answer: durable when it returns."""
        try:
            await asyncio.shield(self._queued(Settled(answer, usd, tokens)))
        finally:
            self._free()

    async def release(self, ask: Ask, usd: float, tokens: int) -> None:
        """The call brought no answer, and cost this much."""
        try:
            await asyncio.shield(self._queued(Released(ask, usd, tokens)))
        finally:
            self._free()

    def lose(self) -> None:
        """The call broke off and may have been paid for: its claim stays."""
        self._free()

    async def leave(self, ask: Ask) -> None:
        """The call is given up."""
        await asyncio.shield(self._queued(Left(ask)))

    async def close(self) -> None:
        """Writes what is still to be written."""
        while self._flush is not None and not self._flush.done():
            await asyncio.wait([self._flush])

    def _queued(self, move: Move | Look) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append((move, future))
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._write())
        return future

    async def _write(self) -> None:
        while self._queue:
            await asyncio.sleep(0)  # what is queued in the same breath is written together
            batch, self._queue = self._queue, []
            try:
                found = await asyncio.to_thread(self._do, [move for move, _ in batch])
            except Exception as error:  # noqa: BLE001  those who wait raise it; they would wait forever
                for _, future in batch:
                    future.set_exception(error)
                    future.exception()  # whoever waits for it gets it; where nobody does, it is not worth a warning
            else:
                for (_, future), result in zip(batch, found, strict=True):
                    future.set_result(result)

    def _do(self, queued: Sequence[Move | Look]) -> list[Any]:
        """What each gave: all lookups as one, and all that is written in one transaction."""
        looks = [move for move in queued if isinstance(move, Look)]
        moves = [move for move in queued if not isinstance(move, Look)]
        found = self._store.get([key for look in looks for key in look.keys]) if looks else {}
        durable = any(isinstance(move, Settled) for move in moves)
        made = iter(
            self._store.write([lambda db: self._claims.make(db, moves)], durable)[0]
            if moves
            else ()
        )
        return [
            {key: found[key] for key in move.keys if key in found}
            if isinstance(move, Look)
            else next(made)
            for move in queued
        ]

    def _undo(self, claimed: "asyncio.Future[Any]", ask: Ask) -> None:
        if not claimed.cancelled() and claimed.exception() is None and claimed.result() is None:
            self._queued(Released(ask))

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
