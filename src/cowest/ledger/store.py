"""The call store keeps every answered call once: cache, journal and ledger in one.

It is the only ambient state. A call is known by its key (`Request.key`: model, messages, sampling,
sample). An answer is durable before the next step sees it, so a run that was killed asks only for
what had no answer yet. The first answer of a key wins.

`COWEST_STORE` names the SQLite file (the default is `.cowest/calls.sqlite`), or the PostgreSQL
database of a team as postgresql://...
"""

import os
import resource
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cowest.errors import ConfigError, StoreError
from cowest.ledger import account
from cowest.ledger.account import NAMED_VERSIONS, Account
from cowest.ledger.database import Database, Db, Work, select
from cowest.protocols import Completion

T = TypeVar("T")
SELECT = (
    "SELECT key, text, model, finish, failed, logprob, prompt_tokens, completion_tokens, version "
    "FROM calls"
)
INSERT = "INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
REPORTED = "INSERT INTO versions (turn, model, version) VALUES (?,?,?) ON CONFLICT DO NOTHING"
VERSIONS = "SELECT version FROM versions WHERE turn = ? AND model = ? ORDER BY rowid"
COLUMNS = (
    "stage, seconds, peak_memory, asked, stored, prompt_tokens, completion_tokens, cost, "
    "requests, answered, aside, attempts, hedged"
)
"""Columns of `stages`, each named as the field of Account that it holds."""
PAID = {"refused", "length"}
"""Endings that are kept even if they brought no text.

They were paid for, and the same call would end the same way again.
"""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A completion as the store keeps it."""

    key: str
    completion: Completion
    seconds: float
    """Duration of the call; for a local model, its share of its block."""
    cost: float | None = None
    """US dollars; None if no price is known."""
    version: str | None = None
    """The model's version, as the provider reported it."""


_named: dict[str, "CallStore"] = {}
_opened: set["CallStore"] = set()


def open_store() -> "CallStore":
    """Returns the store that COWEST_STORE names, opened once per process.

    Raises ConfigError and StoreError.
    """
    place = _named_place()
    known = _named.get(place)
    if known is None or known.closed:
        known = _named[place] = CallStore(place)
    return known


def begun() -> bool:
    """False if COWEST_STORE names a file that is not there yet; `open_store` would make it."""
    place = _named_place()
    return "://" in place or Path(place).exists()


def older() -> str | None:
    """Returns the store that COWEST_STORE names if an older CoWest wrote it, without secrets.

    Nothing is changed. Who opens the store gives it the newest tables, and an older CoWest refuses
    it from then on. A store that can't be looked at is None: opening it says why.
    """
    place = _named_place()
    if "://" not in place:
        from cowest.ledger import sqlite

        return place if sqlite.is_older(Path(place)) else None
    if not place.startswith(("postgresql://", "postgres://")):
        return None
    from cowest.ledger import postgres

    return postgres.older(place)


@contextmanager
def aside(folder: Path) -> Iterator[None]:
    """Has `open_store` open a copy of COWEST_STORE's SQLite file, in `folder`, within the block."""
    from cowest.ledger import sqlite

    place = _named_place()
    copy = folder / "calls.sqlite"
    sqlite.copied(Path(place), copy)
    _named[place] = opened = CallStore(copy)
    try:
        yield
    finally:
        opened.close()
        _named.pop(place, None)


def _named_place() -> str:
    place = os.environ.get("COWEST_STORE") or ".cowest/calls.sqlite"
    return place if "://" in place else str(Path(place).resolve())


def close() -> None:
    """Closes every call store that this process has open. One that is needed again is reopened."""
    for one in list(_opened):
        one.close()
    _named.clear()


@contextmanager
def accounting(stage: str) -> Iterator[Account]:
    """Counts what a stage takes, and writes it into the ledger if the stage ends well."""
    with account.opened(stage) as counts:
        started = time.time()
        yield counts
        # Higher where other processes did the work.
        counts.peak_memory = max(counts.peak_memory, account.peak(resource.RUSAGE_SELF))
        open_store().close_account(counts, started)


class CallStore:
    """An SQLite file or a PostgreSQL database, safe for threads and for several processes."""

    def __init__(self, place: Path | str) -> None:
        self._database = _database(place)
        self.place = self._database.place
        """Path or address, without secrets."""
        self.closed = False
        # The database has one connection that writes and one that reads. Each has its own lock, so
        # that a stage looks calls up while the answers of others are flushed to the disk.
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._kept: list[StoredAnswer] = []
        """Answers kept by the transaction under way, which are counted when it is committed."""
        _opened.add(self)

    def close(self) -> None:
        """Ends this process's part in the store, so that others no longer wait for its calls.

        On SQLite that is once its last store of the file is closed. The claims of calls still
        under way then count as those of a process that was killed. Raises StoreError.
        """
        with self._writing, self._reading:
            if not self.closed:
                self.closed = True
                self._database.close()
        _opened.discard(self)

    def get(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Returns the completions of those keys that were answered before, and counts them."""
        found = self._found(keys)
        account.current().stored += sum(key in found for key in keys)
        for completion, version in found.values():
            self._note_version(completion.model, version)
        return {key: completion for key, (completion, _) in found.items()}

    def look(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Returns the same as `get`, and counts nothing."""
        return {key: completion for key, (completion, _) in self._found(keys).items()}

    def put(self, answers: Sequence[StoredAnswer]) -> None:
        """Keeps answers; they are durable when it returns.

        Failed completions are not kept, so that they may be asked for again.
        """

        def put(db: Db) -> None:
            self.keep(db, answers)

        self.write(put)

    def keep(self, db: Db, answers: Iterable[StoredAnswer]) -> None:
        """Keeps answers as `put` does, as part of a transaction of `write`."""
        kept = [answer for answer in answers if _is_worth_keeping(answer.completion)]
        now = time.time()
        turn = self.turn(db) if any(answer.version for answer in kept) else ""
        db.executemany(INSERT, [_row(answer, now) for answer in kept])
        if turn:
            reported = set()
            for answer in kept:
                if answer.version is not None:
                    reported.add((turn, answer.completion.model, answer.version))
            db.executemany(REPORTED, sorted(reported))
        self._kept += kept

    def write(self, work: Work[T], durable: bool = True) -> T:
        """Does the work in one transaction, wholly or not at all, and returns its result.

        Without `durable` a power cut, or a crash of PostgreSQL, may undo it; the death of this
        process does not.
        """

        def attempt(db: Db) -> T:
            # A transaction that the server lost is done again. What the lost try kept is void.
            self._kept.clear()
            return work(db)

        with self._writing:
            done = self._live().write(attempt, durable)
            kept, self._kept = self._kept, []
        # Only what was committed is counted.
        for answer in kept:
            self._count(answer)
        return done

    def read(self, work: Work[T]) -> T:
        """Does work that only reads, while another process or thread may be writing."""
        with self._reading:
            return self._live().read(work)

    def fetch(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Returns all rows of one statement that only reads."""

        def fetch(db: Db) -> list[Any]:
            return db.execute(sql, values).fetchall()

        return self.read(fetch)

    def join(self) -> int:
        """Returns this process's number in the store, which the first call takes."""
        with self._writing:
            return self._live().join()

    def living(self, db: Db, owners: Collection[int]) -> set[int]:
        """Returns those numbers of other processes whose process is alive."""
        return self._database.living(db, owners)

    def turn(self, db: Db) -> str:
        """Returns the turn that this process's stage belongs to; empty outside of a stage.

        It is the one that COWEST_TURN names, or else the one that was pinned last.
        """
        if not account.current().stage:
            return ""
        named = os.environ.get("COWEST_TURN")
        if named is not None:
            return named
        row = db.execute("SELECT turn FROM turns ORDER BY opened DESC LIMIT 1").fetchone()
        return str(row[0]) if row else ""

    def ledger(self, turn: str = "") -> list[Account]:
        """Returns the accounts of a turn's stages, in the order in which they last ran.

        Each is the sum of its runs in the turn: shards, rounds, and what was run again. Without a
        turn, or where none of its stages is known, it is each stage's last run: who shares the
        store shares those, but older CoWests wrote down no turn.
        """
        runs = f"SELECT {COLUMNS} FROM stages WHERE turn = ? ORDER BY rowid"  # noqa: S608
        found: dict[str, Account] = {}
        for row in self.fetch(runs, (turn,)) if turn else ():
            one = Account(*row)
            before = found.pop(one.stage, None)
            found[one.stage] = one if before is None else before.with_run(one)
        return list(found.values()) or self._last_runs()

    def _last_runs(self) -> list[Account]:
        """Returns the account of each stage's last run, in the order of those runs."""
        last = (
            f"SELECT {COLUMNS} FROM stages WHERE rowid IN "  # noqa: S608
            "(SELECT MAX(rowid) FROM stages GROUP BY stage) ORDER BY rowid"
        )
        return [Account(*row) for row in self.fetch(last)]

    def close_account(self, counts: Account, started: float) -> None:
        """Writes a stage's account into the ledger."""
        values = [getattr(counts, name) for name in COLUMNS.split(", ")]
        marks = ",".join("?" * len(values))
        insert = f"INSERT INTO stages ({COLUMNS}, started, turn) VALUES ({marks},?,?)"  # noqa: S608
        reported = []
        for model, versions in counts.versions.items():
            reported += [(model, version) for version in versions]

        def write(db: Db) -> None:
            turn = self.turn(db)
            db.execute(insert, [*values, started, turn])
            if turn:
                db.executemany(REPORTED, [(turn, *names) for names in reported])

        self.write(write)

    def _live(self) -> Database:
        if self.closed:
            raise StoreError(f"the call store {self.place} was closed: open it again")
        return self._database

    def _found(self, keys: Sequence[str]) -> dict[str, tuple[Completion, str | None]]:
        """Returns completions by key, each with the version that the provider reported."""

        def read(db: Db) -> list[Any]:
            return select(db, f"{SELECT} WHERE key IN ({{}})", keys)

        return {key: (Completion(*row), version) for key, *row, version in self.read(read)}

    def _count(self, answer: StoredAnswer) -> None:
        counts = account.current()
        counts.asked += 1
        counts.prompt_tokens += answer.completion.prompt_tokens
        counts.completion_tokens += answer.completion.completion_tokens
        counts.cost += answer.cost or 0.0
        self._note_version(answer.completion.model, answer.version)

    def _note_version(self, model: str, version: str | None) -> None:
        """Counts an answer for the version that gave it. Warns if the model changed in the turn."""
        if version is None:
            return
        counts = account.current()
        seen = counts.versions.get(model)
        if seen is None:
            # Earlier stages of the turn may have had answers of another version.
            before = self.fetch(VERSIONS, (self.read(self.turn), model))
            # Two threads may come here at once: both go on with the counts of the first.
            seen = counts.versions.setdefault(model, {known: 0 for (known,) in before})
        if version not in seen and 0 < len(seen) <= NAMED_VERSIONS:
            # Some endpoints report another version per answer. That is no news after a while.
            last = len(seen) == NAMED_VERSIONS
            more = "; it reports ever others, which is not said again" if last else ""
            print(
                f"cowest: {model} changed in the middle of the turn: "
                f"it reported {', '.join(seen)} before, and {version} now; "
                f"the ledger holds which answers are whose{more}",
                file=sys.stderr,
            )
        seen[version] = seen.get(version, 0) + 1


def _database(place: Path | str) -> Database:
    # Each database's client is imported only if it is used: psycopg is an extra.
    scheme, is_address, _ = str(place).partition("://")
    if not is_address:
        from cowest.ledger.sqlite import Sqlite

        return Sqlite(Path(place))
    if scheme in ("postgresql", "postgres"):
        from cowest.ledger.postgres import Postgres

        return Postgres(str(place))
    # The rest of the address may hold a password, and is not shown.
    raise ConfigError(
        f"COWEST_STORE={scheme}://...: a call store is the path of a file (SQLite), "
        "or postgresql://..."
    )


def _is_worth_keeping(completion: Completion) -> bool:
    return completion.text is not None or completion.finish in PAID


def _row(answer: StoredAnswer, now: float) -> tuple[object, ...]:
    completion = answer.completion
    return (
        answer.key,
        completion.model,
        completion.text,
        completion.finish,
        completion.failed,
        completion.logprob,
        completion.prompt_tokens,
        completion.completion_tokens,
        answer.seconds,
        answer.cost,
        answer.version,
        account.current().stage,
        now,
    )
