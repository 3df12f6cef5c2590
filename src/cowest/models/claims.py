"""Who is making which call, and what the calls of a turn may still cost: claims in the call store.

Before a call, its key is claimed together with the most that it can cost; after it, the claim is settled at what it did
cost. So a call is made by one process at a time, and what is spent and what is under way never exceed the turn's budget.
A claim whose process is gone, or whose call broke off, may have been paid for: it counts whole until the same call is
answered, and then as much as that answer cost.
"""

import fcntl
import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from pydantic import Field

from cowest.config import Config
from cowest.models.store import Answer, CallStore
from cowest.protocols import Completion


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


class Refused(Enum):
    """Why a claim was not given."""

    TAKEN = "another process is making this call"
    OVER = "it might cost more than is left"


@dataclass(frozen=True, slots=True)
class Spent:
    """Where a turn stands."""

    usd: float
    tokens: int
    budget: Budget

    def __str__(self) -> str:
        limits = [f"${self.budget.usd:,.2f}" if self.budget.usd is not None else "", f"{self.budget.tokens or 0:,} tokens"]
        shown = [limit for limit, given in zip(limits, (self.budget.usd, self.budget.tokens), strict=True) if given is not None]
        return f"${self.usd:,.4f} and {self.tokens:,} tokens are spent" + (f" of {' and '.join(shown)}" if shown else "")


def open_turn(store: CallStore, turn: str, budget: Budget) -> None:
    """The turn that stages belong to from now on. What it spent before stays spent; its budget is this one."""
    insert = (
        "INSERT INTO turns (turn, opened, usd, tokens) VALUES (?,?,?,?) "
        "ON CONFLICT (turn) DO UPDATE SET opened = excluded.opened, usd = excluded.usd, tokens = excluded.tokens"
    )
    store.write([lambda db: db.execute(insert, (turn, time.time(), budget.usd, budget.tokens))])


def spent(db: sqlite3.Connection, turn: str) -> Spent:
    """What a turn spent, claims included."""
    row = db.execute("SELECT spent_usd, spent_tokens, usd, tokens FROM turns WHERE turn = ?", (turn,)).fetchone() or (0.0, 0, None, None)
    open_usd, open_tokens = db.execute("SELECT TOTAL(usd), TOTAL(tokens) FROM claims WHERE turn = ?", (turn,)).fetchone()
    return Spent(row[0] + open_usd, row[1] + int(open_tokens), Budget(usd=row[2], tokens=row[3]))


class Claims:
    """The claims of this process. Its methods are parts of a transaction (`CallStore.write`)."""

    def __init__(self, store: CallStore) -> None:
        self._store = store
        self._owners = _Owners(store)
        self.turn = store.read(store.turn)

    def claim(self, db: sqlite3.Connection, ask: Ask) -> Completion | Refused | None:
        """None: it is ours, call. A completion: it was answered meanwhile."""
        if found := self._store.get([ask.key]):
            return found[ask.key]
        me = self._owners.me(db)
        others = db.execute("SELECT DISTINCT owner FROM claims WHERE key = ? AND owner NOT IN (0, ?)", (ask.key, me)).fetchall()
        if any(self._owners.alive(owner) for (owner,) in others):
            return Refused.TAKEN
        if self.turn and not _fits(spent(db, self.turn), ask):
            return Refused.OVER
        db.execute("INSERT INTO claims (key, owner, turn, usd, tokens) VALUES (?,?,?,?,?)", (ask.key, me, self.turn, ask.usd, ask.tokens))
        return None

    def settle(self, db: sqlite3.Connection, answer: Answer, usd: float, tokens: int) -> None:
        """Keeps an answer, in place of all claims on its call, each of which may have cost as much."""
        self._store.keep(db, [answer])
        for (turn,) in db.execute("SELECT turn FROM claims WHERE key = ?", (answer.key,)).fetchall():
            _spend(db, turn, usd, tokens)
        db.execute("DELETE FROM claims WHERE key = ?", (answer.key,))

    def release(self, db: sqlite3.Connection, ask: Ask, usd: float = 0.0, tokens: int = 0) -> None:
        """Gives one claim back: its call brought no answer, and cost this much."""
        me = self._owners.me(db)
        db.execute("DELETE FROM claims WHERE id = (SELECT MAX(id) FROM claims WHERE key = ? AND owner = ?)", (ask.key, me))
        _spend(db, self.turn, usd, tokens)

    def leave(self, db: sqlite3.Connection, ask: Ask) -> None:
        """Nobody makes this call now; claims that broke off still count, since they may have been paid for."""
        db.execute("UPDATE claims SET owner = 0 WHERE key = ? AND owner = ?", (ask.key, self._owners.me(db)))


def _fits(now: Spent, ask: Ask) -> bool:
    limit = now.budget
    return (limit.usd is None or now.usd + ask.usd <= limit.usd + 1e-9) and (
        limit.tokens is None or now.tokens + ask.tokens <= limit.tokens
    )


def _spend(db: sqlite3.Connection, turn: str, usd: float, tokens: int) -> None:
    if turn:
        db.execute("INSERT OR IGNORE INTO turns (turn, opened) VALUES (?,?)", (turn, time.time()))
        db.execute("UPDATE turns SET spent_usd = spent_usd + ?, spent_tokens = spent_tokens + ? WHERE turn = ?", (usd, tokens, turn))


class _Owners:
    """Which processes live: each holds a lock on one byte of a file beside the store, which the kernel lets go when it ends."""

    _files: dict[str, int] = {}  # noqa: RUF012  never closed: POSIX locks fall when any handle of the file is
    _ids: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, store: CallStore) -> None:
        self._path = f"{store.path}-owners"

    def me(self, db: sqlite3.Connection) -> int:
        """This process's number in the store."""
        while self._path not in self._ids:
            number = int(db.execute("INSERT INTO owners (at) VALUES (?)", (time.time(),)).lastrowid or 0)
            with suppress(BlockingIOError):  # given before, in a transaction that was undone
                fcntl.lockf(self._file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                self._ids[self._path] = number
        return self._ids[self._path]

    def alive(self, owner: int) -> bool:
        """Whether another process still runs."""
        try:
            fcntl.lockf(self._file(), fcntl.LOCK_SH | fcntl.LOCK_NB, 1, owner)
        except OSError:
            return True
        fcntl.lockf(self._file(), fcntl.LOCK_UN, 1, owner)
        return False

    def _file(self) -> int:
        if self._path not in self._files:
            self._files[self._path] = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        return self._files[self._path]
