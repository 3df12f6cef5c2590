"""Batches under way, in the call store: each is written down before it is made, and found again after a kill.

The calls of a batch are claims like any other, so the budget counts them at the most that they can cost, until each is settled
at what it did. Their owner is no process but the batch: minus its number. So nobody makes those calls while the batch is under
way, whoever submitted it, and any process may collect it; a call that was settled has no claim any more, and is not settled again.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from cowest.ledger.claims import Ask, Claims, Refused, Settled, spend, spent
from cowest.ledger.database import Db, delete, select
from cowest.ledger.store import Answer, CallStore

T = TypeVar("T")
SELECT = "SELECT number, token, model, maker, at, discount, file, id, ended FROM batches"
NEVER_MADE = "never made"
"""How a batch ended that the provider has never seen."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A row of the journal."""

    number: int
    token: str
    """What it is found by among the account's batches; in its metadata."""
    model: str
    maker: int
    """The process that submits it."""
    at: float
    """When the last step was written down."""
    discount: float
    file: str | None
    """The provider's name of its input. From here on there may be a batch."""
    id: str | None
    """The provider's name of it. From here on there is one."""
    ended: str | None

    def __str__(self) -> str:
        hours = (time.time() - self.at) / 3600
        return f"{self.id or 'a batch that was being made'} of {self.model} is under way for {hours:.1f} h: what asked for it collects it"


@dataclass(frozen=True, slots=True)
class Claimed:
    """What became of calls that were to be claimed for a batch."""

    batch: Batch | None
    """None where nothing was left for it."""
    mine: list[str]
    """Keys that are in it."""
    others: dict[str, int]
    """Keys that are in another batch under way, and its number."""
    over: Ask | None
    """The first call that does not fit into what is left of the budget."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a batch brought for one call."""

    key: str
    spent: tuple[float, int] | None
    """US dollars and tokens; None where nobody can tell: then it counts as the most that it can cost."""
    answer: Answer | None = None


class Journal:
    """Of one store."""

    def __init__(self, store: CallStore) -> None:
        self._store, self._claims, self._me = store, Claims(store), store.join()

    def claim(self, asks: Sequence[Ask], model: str, discount: float) -> Claimed:
        """A new batch of those of these calls that nobody makes, as far as the budget goes. Durable when it returns."""
        return self._written(lambda db: self._claim(db, asks, model, discount))

    def note(self, batch: Batch, **columns: str) -> None:
        """Writes a step down: the digest of its `input`; then `file`, and then `id`, as the provider calls them."""
        names = ", ".join(f"{name} = ?" for name in columns)
        update = f"UPDATE batches SET {names}, at = ? WHERE number = ?"  # noqa: S608
        self._written(lambda db: db.execute(update, (*columns.values(), time.time(), batch.number)))

    def find(self, number: int) -> Batch:
        """A batch as it stands."""
        return Batch(
            *self._store.read(
                lambda db: db.execute(f"{SELECT} WHERE number = ?", (number,)).fetchone()
            )
        )

    def under_way(self, model: str) -> list[Batch]:
        """The batches of a model that have not ended."""
        return [batch for batch in under_way(self._store) if batch.model == model]

    def is_being_made(self, batch: Batch) -> bool:
        """Whether another process, which lives, submits it."""
        return batch.maker != self._me and bool(
            self._store.read(lambda db: self._store.living(db, {batch.maker}))
        )

    def settle(self, batch: Batch, rows: Sequence[Row]) -> set[str]:
        """Keeps what a batch brought, durable when it returns; the keys of the calls that it held still. Other rows are nothing."""
        return self._written(lambda db: self._settle(db, batch, rows))

    def end(self, batch: Batch, status: str, maybe_paid: bool = False) -> None:
        """What it did not answer is free again; with `maybe_paid` it counts for the budget still, until it is answered.

        One that was never made is left alone where another process has found that it was.
        """
        open_still = (
            "SELECT 1 FROM batches WHERE number = ? AND ended IS NULL AND (id IS NULL OR ? <> ?)"
        )

        def end(db: Db) -> None:
            if not db.execute(open_still, (batch.number, status, NEVER_MADE)).fetchone():
                return
            db.execute(
                "UPDATE batches SET ended = ?, at = ? WHERE number = ?",
                (status, time.time(), batch.number),
            )
            rest = (
                "UPDATE claims SET owner = 0 WHERE owner = ?"
                if maybe_paid
                else "DELETE FROM claims WHERE owner = ?"
            )
            db.execute(rest, (-batch.number,))

        self._written(end)

    def budget(self) -> str:
        """Where the turn stands, in words."""
        return str(self._store.read(lambda db: spent(db, self._claims.turn)))

    def _claim(self, db: Db, asks: Sequence[Ask], model: str, discount: float) -> Claimed:
        (number,) = db.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM batches").fetchone()
        refused = dict(
            zip((ask.key for ask in asks), self._claims.claim(db, asks, -number), strict=True)
        )
        mine = [key for key, why in refused.items() if why is None]
        batched = [key for key, why in refused.items() if why is Refused.BATCHED]
        others = select(
            db, "SELECT key, owner FROM claims WHERE owner < 0 AND key IN ({})", batched
        )
        over = next((ask for ask in asks if refused[ask.key] is Refused.OVER), None)
        batch = self._insert(db, number, len(mine), model, discount) if mine else None
        return Claimed(batch, mine, {key: -owner for key, owner in others}, over)

    def _insert(self, db: Db, number: int, calls: int, model: str, discount: float) -> Batch:
        batch = Batch(
            number, secrets.token_hex(16), model, self._me, time.time(), discount, None, None, None
        )
        row = (number, batch.token, model, batch.maker, batch.at, discount, calls)
        db.execute(
            "INSERT INTO batches (number, token, model, maker, at, discount, calls) VALUES (?,?,?,?,?,?,?)",
            row,
        )
        return batch

    def _settle(self, db: Db, batch: Batch, rows: Sequence[Row]) -> set[str]:
        owner = -batch.number
        mine = f"SELECT key, turn, usd, tokens FROM claims WHERE owner = {owner} AND key IN ({{}})"  # noqa: S608
        held = {
            key: (turn, usd, tokens)
            for key, turn, usd, tokens in select(db, mine, [row.key for row in rows])
        }
        settled, freed, lost, seen = [], [], [], set[str]()
        for row in rows:
            if row.key not in held or row.key in seen:
                continue
            seen.add(row.key)
            turn, usd, tokens = held[row.key]
            if row.answer is not None:
                answer = replace(row.answer, cost=usd) if row.spent is None and usd else row.answer
                settled.append(Settled(answer, *(row.spent or (usd, tokens))))
            elif row.spent is not None:
                freed.append((row.key, turn, row.spent))
            else:
                lost.append(row.key)
        self._claims.settle(db, settled)
        delete(
            db,
            f"DELETE FROM claims WHERE owner = {owner} AND key IN ({{}})",  # noqa: S608
            [key for key, _, _ in freed],
        )
        spend(db, [(turn, *cost) for _, turn, cost in freed])
        delete(db, f"UPDATE claims SET owner = 0 WHERE owner = {owner} AND key IN ({{}})", lost)  # noqa: S608
        return seen

    def _written(self, work: Callable[[Db], T]) -> T:
        return self._store.write([work])[0]


def under_way(store: CallStore) -> list[Batch]:
    """The batches that have not ended, of any model."""
    return [
        Batch(*row)
        for row in store.read(
            lambda db: db.execute(f"{SELECT} WHERE ended IS NULL ORDER BY number").fetchall()
        )
    ]
