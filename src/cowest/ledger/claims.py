"""Who is making which call, and what the calls of a turn may still cost: claims in the call store.

Before a call, its key is claimed together with the most that it can cost; after it, the claim is settled at what it did
cost. So a call is made by one process at a time, and what is spent and what is under way never exceed the turn's budget.
A claim whose process is gone, or whose call broke off, may have been paid for: it counts whole until the same call is
answered, and then as much as that answer cost.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from pydantic import Field

from cowest.config import Config
from cowest.ledger.database import Db, delete, select
from cowest.ledger.store import Answer, CallStore


class Budget(Config):
    """What all paid calls of a turn together may cost. A turn that reached it goes on when it is raised."""

    usd: float | None = Field(default=None, ge=0)
    """US dollars; null is no limit. Every model that is paid then needs its `price`."""
    tokens: int | None = Field(default=None, ge=0)
    """Tokens of prompts and completions; null is no limit."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A call that is to be made, with the most that it can cost."""

    key: str
    usd: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A call that was answered, and what it cost."""

    answer: Answer
    usd: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Released:
    """A call that brought no answer, and what it cost all the same."""

    ask: Ask
    usd: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """A call that nobody makes now. Its claims that broke off still count: they may have been paid for."""

    ask: Ask


Move = Ask | Settled | Released | Left


class Refused(Enum):
    """Why a claim was not given."""

    ANSWERED = "it was answered meanwhile"
    TAKEN = "another process is making this call"
    BATCHED = "it is in a batch that is under way"
    OVER = "it might cost more than is left"


@dataclass(frozen=True, slots=True)
class Spent:
    """Where a turn stands."""

    usd: float
    tokens: int
    budget: Budget

    def __str__(self) -> str:
        limits = [
            f"${self.budget.usd:,.2f}" if self.budget.usd is not None else "",
            f"{self.budget.tokens or 0:,} tokens",
        ]
        shown = [
            limit
            for limit, given in zip(limits, (self.budget.usd, self.budget.tokens), strict=True)
            if given is not None
        ]
        return f"${self.usd:,.4f} and {self.tokens:,} tokens are spent" + (
            f" of {' and '.join(shown)}" if shown else ""
        )


OPEN = "SELECT COALESCE(SUM(usd), 0), COALESCE(SUM(tokens), 0) FROM claims WHERE turn = ?"
CLAIM = "INSERT INTO claims (key, owner, turn, usd, tokens) VALUES (?,?,?,?,?)"
RELEASE = "DELETE FROM claims WHERE id = (SELECT MAX(id) FROM claims WHERE key = ? AND owner = ?)"
OTHERS = "SELECT DISTINCT key, owner FROM claims WHERE owner NOT IN (0, {}) AND key IN ({{}})"


def open_turn(store: CallStore, turn: str, budget: Budget) -> None:
    """The turn that stages belong to from now on. What it spent before stays spent; its budget is this one."""
    insert = (
        "INSERT INTO turns (turn, opened, usd, tokens) VALUES (?,?,?,?) "
        "ON CONFLICT (turn) DO UPDATE SET opened = excluded.opened, usd = excluded.usd, tokens = excluded.tokens"
    )
    store.write([lambda db: db.execute(insert, (turn, time.time(), budget.usd, budget.tokens))])


def spent(db: Db, turn: str) -> Spent:
    """What a turn spent, claims included."""
    row = db.execute(
        "SELECT spent_usd, spent_tokens, usd, tokens FROM turns WHERE turn = ?", (turn,)
    ).fetchone() or (0.0, 0, None, None)
    open_usd, open_tokens = db.execute(OPEN, (turn,)).fetchone()
    return Spent(
        row[0] + float(open_usd), row[1] + int(open_tokens), Budget(usd=row[2], tokens=row[3])
    )


class Claims:
    """The claims of this process."""

    def __init__(self, store: CallStore) -> None:
        self._store = store
        self._me = store.join()
        self.turn = store.read(store.turn)

    def make(self, db: Db, moves: Sequence[Move]) -> list[Refused | None]:
        """All these, as a part of a transaction (`CallStore.write`): first what frees, then what claims. None: done.

        The number of statements does not grow with the moves, so that a database that is far away holds nobody up.
        """
        self.settle(db, [move for move in moves if isinstance(move, Settled)])
        self._release(db, [move for move in moves if isinstance(move, Released)])
        left = [(move.ask.key, self._me) for move in moves if isinstance(move, Left)]
        if left:
            db.executemany("UPDATE claims SET owner = 0 WHERE key = ? AND owner = ?", left)
        refused = iter(self.claim(db, [move for move in moves if isinstance(move, Ask)]))
        return [next(refused) if isinstance(move, Ask) else None for move in moves]

    def claim(self, db: Db, asks: Sequence[Ask], owner: int | None = None) -> list[Refused | None]:
        """Claims calls for this process, or for another owner: a batch's is minus its number."""
        if not asks:
            return []
        keys = [ask.key for ask in asks]
        answered = {key for (key,) in select(db, "SELECT key FROM calls WHERE key IN ({})", keys)}
        others = select(db, OTHERS.format(self._me), keys)
        alive = self._store.living(db, {other for _, other in others if other > 0})
        taken = {key for key, other in others if other in alive}
        batched = {key for key, other in others if other < 0}
        left = _Left(spent(db, self.turn)) if self.turn else None
        refused: list[Refused | None] = []
        for ask in asks:
            if ask.key in answered:
                refused.append(Refused.ANSWERED)
            elif ask.key in batched:
                refused.append(Refused.BATCHED)
            elif ask.key in taken:
                refused.append(Refused.TAKEN)
            else:
                refused.append(None if left is None or left.take(ask) else Refused.OVER)
        owner = self._me if owner is None else owner
        rows = [
            (ask.key, owner, self.turn, ask.usd, ask.tokens)
            for ask, why in zip(asks, refused, strict=True)
            if why is None
        ]
        db.executemany(CLAIM, rows)
        return refused

    def settle(self, db: Db, moves: Sequence[Settled]) -> None:
        """Keeps answers, each in place of all claims on its call, of which any may have cost as much."""
        if not moves:
            return
        self._store.keep(db, [move.answer for move in moves])
        paid = {
            move.answer.key: (move.usd, move.tokens) for move in reversed(moves)
        }  # the first answer wins
        claims = select(db, "SELECT key, turn FROM claims WHERE key IN ({})", paid)
        delete(db, "DELETE FROM claims WHERE key IN ({})", paid)
        spend(db, [(turn, *paid[key]) for key, turn in claims])

    def _release(self, db: Db, moves: Sequence[Released]) -> None:
        """Gives one claim back for each."""
        if moves:
            db.executemany(RELEASE, [(move.ask.key, self._me) for move in moves])
            spend(db, [(self.turn, move.usd, move.tokens) for move in moves])


class _Left:
    """What a turn's budget still has room for, one claim after another."""

    def __init__(self, now: Spent) -> None:
        self._usd, self._tokens, self._limit = now.usd, now.tokens, now.budget

    def take(self, ask: Ask) -> bool:
        """Whether it fits, and then it is taken."""
        usd, tokens = self._usd + ask.usd, self._tokens + ask.tokens
        fits = (self._limit.usd is None or usd <= self._limit.usd + 1e-9) and (
            self._limit.tokens is None or tokens <= self._limit.tokens
        )
        if fits:
            self._usd, self._tokens = usd, tokens
        return fits


def spend(db: Db, spendings: Iterable[tuple[str, float, int]]) -> None:
    """Counts what calls cost, in dollars and tokens, for their turns."""
    sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for turn, usd, tokens in spendings:
        if turn and (usd or tokens):
            sums[turn] = sums[turn][0] + usd, sums[turn][1] + tokens
    now = time.time()
    db.executemany(
        "INSERT INTO turns (turn, opened) VALUES (?,?) ON CONFLICT DO NOTHING",
        [(turn, now) for turn in sums],
    )
    add = (
        "UPDATE turns SET spent_usd = spent_usd + ?, spent_tokens = spent_tokens + ? WHERE turn = ?"
    )
    db.executemany(add, [(usd, tokens, turn) for turn, (usd, tokens) in sums.items()])
