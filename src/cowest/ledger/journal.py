"""Keeps batches under way in the call store.

Each batch is written down before it is made, and is found again after this process was killed.

The calls of a batch are claims like any other, so the budget counts each at the most that it can
cost until it is settled. Their owner is the batch and no process: minus the batch's number. So
nobody else makes those calls while the batch is under way, whoever submitted it, and any process
may collect it. A call that was settled has no claim any more, and is never settled twice.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cowest.ledger.claims import (
    CLAIM,
    ClaimRequest,
    Claims,
    Refused,
    Settled,
    Spent,
    spend,
    spent,
)
from cowest.ledger.database import Db, delete, select
from cowest.ledger.store import CallStore, StoredAnswer

SELECT = "SELECT number, token, model, maker, at, discount, file, id, ended FROM batches"
INSERT = (
    "INSERT INTO batches (number, token, model, maker, at, discount, calls) VALUES (?,?,?,?,?,?,?)"
)
GOES_ON = "SELECT 1 FROM batches WHERE number = ? AND ended IS NULL"
STANDS = "SELECT ended, id FROM batches WHERE number = ?"
STILL_OPEN = "SELECT 1 FROM batches WHERE number = ? AND ended IS NULL AND (id IS NULL OR ? <> ?)"
# The first braces take the batch's owner, the inner ones are left for the marks of the keys.
HELD = "SELECT key, turn, usd, tokens FROM claims WHERE owner = {} AND key IN ({{}})"
FREE = "DELETE FROM claims WHERE owner = {} AND key IN ({{}})"
LOSE = "UPDATE claims SET owner = 0 WHERE owner = {} AND key IN ({{}})"
NEVER_MADE = "never made"
"""The end of a batch that the provider has never seen."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One row of the journal."""

    number: int
    token: str
    """Mark in the batch's metadata, by which it is found among the account's batches."""
    model: str
    maker: int
    """Number of the process that submits it."""
    at: float
    """Time at which the last step was written down."""
    discount: float
    file: str | None
    """The provider's name of the input file. Once it is known, there may be a batch."""
    id: str | None
    """The provider's name of the batch. Once it is known, there is one."""
    ended: str | None

    def __str__(self) -> str:
        name = self.id or "a batch that was being made"
        hours = (time.time() - self.at) / 3600
        return (
            f"{name} of {self.model} is under way for {hours:.1f} h: what asked for it collects it"
        )


@dataclass(frozen=True, slots=True)
class Claimed:
    """The result of claiming calls for a new batch."""

    batch: Batch | None
    """None if no call was left for it."""
    mine: list[str]
    """Keys of the calls that are in it."""
    others: dict[str, int]
    """Number of the batch under way, per key of a call that is in another one."""
    over: ClaimRequest | None
    """The first call that does not fit into the rest of the budget."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """The result that a batch brought for one call."""

    key: str
    spent: tuple[float, int] | None
    """US dollars and tokens. None if nobody can tell: then it counts as the most it can cost."""
    answer: StoredAnswer | None = None


class Journal:
    """The batches of one store, as this process sees and writes them."""

    def __init__(self, store: CallStore) -> None:
        self._store = store
        self._claims = Claims(store)

    def claim(self, requests: Sequence[ClaimRequest], model: str, discount: float) -> Claimed:
        """Writes down a new batch of those calls that nobody makes, as far as the budget goes.

        It is durable when this returns.
        """

        def claim(db: Db) -> Claimed:
            return self._claim(db, requests, model, discount)

        return self._store.write(claim)

    def note(self, batch: Batch, **columns: str) -> bool:
        """Writes down a step: the digest of the `input`, then the provider's `file`, then `id`.

        False if the batch has ended: another process took this one for dead. Then nothing is
        written, and others may make its calls.
        """

        def write(db: Db) -> bool:
            is_open = db.execute(GOES_ON, (batch.number,)).fetchone() is not None
            if is_open:
                _note(db, batch, columns)
            return is_open

        return self._store.write(write)

    def made(self, batch: Batch, name: str, requests: Sequence[ClaimRequest]) -> None:
        """Writes down the id of a batch that was made of these calls.

        It goes on, whoever ended it meanwhile as never made: it is paid for. So its calls are
        claimed again, also those that others make by now. One that was found and collected
        meanwhile stays as it is.
        """

        def write(db: Db) -> None:
            ended, named = db.execute(STANDS, (batch.number,)).fetchone()
            if ended == NEVER_MADE:
                turn, owner = self._claims.turn, -batch.number
                rows = [(one.key, owner, turn, one.usd, one.tokens) for one in requests]
                db.executemany(CLAIM, rows)
                db.execute("UPDATE batches SET ended = NULL WHERE number = ?", (batch.number,))
            # Who found the batch meanwhile wrote the id down, and may have collected it.
            if named is None:
                _note(db, batch, {"id": name})

        self._store.write(write)

    def find(self, number: int) -> Batch:
        """Returns a batch as it stands."""
        (row,) = self._store.fetch(f"{SELECT} WHERE number = ?", (number,))
        return Batch(*row)

    def under_way(self, model: str) -> list[Batch]:
        """Returns the batches of a model that have not ended."""
        return [batch for batch in under_way(self._store) if batch.model == model]

    def is_being_made(self, batch: Batch) -> bool:
        """Says if another process, which is alive, is submitting the batch."""
        if batch.maker == self._claims.owner:
            return False

        def lives(db: Db) -> bool:
            return bool(self._store.living(db, {batch.maker}))

        return self._store.read(lives)

    def settle(self, batch: Batch, rows: Sequence[BatchRow]) -> set[str]:
        """Keeps the results of a batch, durable when this returns.

        Returns the keys of the calls that the batch still held. Other rows change nothing.
        """

        def settle(db: Db) -> set[str]:
            return self._settle(db, batch, rows)

        return self._store.write(settle)

    def end(self, batch: Batch, status: str, maybe_paid: bool = False) -> None:
        """Ends a batch, and frees the calls that it did not answer.

        With `maybe_paid` those calls still count for the budget until they are answered.
        """
        if maybe_paid:
            rest = "UPDATE claims SET owner = 0 WHERE owner = ?"
        else:
            rest = "DELETE FROM claims WHERE owner = ?"

        def end(db: Db) -> None:
            # A batch that we take for never made may have been found by another process meanwhile,
            # which wrote its id down. Then it is under way, and its claims must stay.
            if not db.execute(STILL_OPEN, (batch.number, status, NEVER_MADE)).fetchone():
                return
            db.execute(
                "UPDATE batches SET ended = ?, at = ? WHERE number = ?",
                (status, time.time(), batch.number),
            )
            db.execute(rest, (-batch.number,))

        self._store.write(end)

    def budget(self) -> Spent:
        """Returns how much the turn has spent, and its budget."""
        return spent(self._store, self._claims.turn)

    def _claim(
        self, db: Db, requests: Sequence[ClaimRequest], model: str, discount: float
    ) -> Claimed:
        # The number is free of races: writers take turns, and the claims below need it at once.
        (number,) = db.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM batches").fetchone()
        mine: list[str] = []
        in_a_batch: list[str] = []
        over = None
        refusals = self._claims.claim(db, requests, -number)
        for request, refused in zip(requests, refusals, strict=True):
            if refused is None:
                mine.append(request.key)
            elif refused is Refused.BATCHED:
                in_a_batch.append(request.key)
            elif refused is Refused.OVER and over is None:
                over = request

        holders = "SELECT key, owner FROM claims WHERE owner < 0 AND key IN ({})"
        others = {key: -owner for key, owner in select(db, holders, in_a_batch)}
        batch = self._insert(db, number, len(mine), model, discount) if mine else None
        return Claimed(batch, mine, others, over)

    def _insert(self, db: Db, number: int, calls: int, model: str, discount: float) -> Batch:
        token, maker, now = secrets.token_hex(16), self._claims.owner, time.time()
        db.execute(INSERT, (number, token, model, maker, now, discount, calls))
        return Batch(number, token, model, maker, now, discount, file=None, id=None, ended=None)

    def _settle(self, db: Db, batch: Batch, rows: Sequence[BatchRow]) -> set[str]:
        owner = -batch.number
        claims = select(db, HELD.format(owner), [row.key for row in rows])
        held = {key: claim for key, *claim in claims}
        settled: list[Settled] = []
        freed: list[str] = []
        costs: list[tuple[str, float, int]] = []
        lost: list[str] = []
        seen: set[str] = set()
        for row in rows:
            # The provider's file is hostile until proven otherwise: only the first line of a call
            # that this batch still holds counts.
            if row.key not in held or row.key in seen:
                continue
            seen.add(row.key)
            turn, most_usd, most_tokens = held[row.key]
            if row.answer is not None:
                settled.append(_settled(row.answer, row.spent, most_usd, most_tokens))
            elif row.spent is not None:
                freed.append(row.key)
                costs.append((turn, *row.spent))
            else:
                lost.append(row.key)

        self._claims.settle(db, settled)
        delete(db, FREE.format(owner), freed)
        spend(db, costs)
        # Nobody knows what these cost, so their claims go on counting.
        delete(db, LOSE.format(owner), lost)
        return seen


def _note(db: Db, batch: Batch, columns: Mapping[str, str]) -> None:
    names = ", ".join(f"{name} = ?" for name in columns)
    update = f"UPDATE batches SET {names}, at = ? WHERE number = ?"  # noqa: S608
    db.execute(update, (*columns.values(), time.time(), batch.number))


def _settled(
    answer: StoredAnswer, cost: tuple[float, int] | None, most_usd: float, most_tokens: int
) -> Settled:
    """Settles an answer at its cost. An unknown cost counts as the most that was claimed."""
    if cost is not None:
        return Settled(answer, *cost)
    if most_usd:
        answer = replace(answer, cost=most_usd)
    return Settled(answer, most_usd, most_tokens)


def under_way(store: CallStore) -> list[Batch]:
    """Returns the batches of any model that have not ended."""
    rows = store.fetch(f"{SELECT} WHERE ended IS NULL ORDER BY number")
    return [Batch(*row) for row in rows]
