"""The call store's database at a desk: one SQLite file, for the processes of one machine."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cowest.errors import StoreError
from cowest.ledger.database import PATIENCE, Db, Work
from cowest.ledger.schema import upgrade_sqlite

T = TypeVar("T")


class Sqlite:
    """`database.Database` in a file."""

    _files: dict[str, int] = {}  # noqa: RUF012  never closed: POSIX locks fall when any handle of the file is
    _numbers: dict[str, int] = {}  # noqa: RUF012  of this process, by store

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        with self._mended("opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connected()
            self._share()
            upgrade_sqlite(self._writer)
            # Readers wait for no writer in WAL: a stage looks its calls up while answers are flushed.
            self._reader = self._connected()

    def write(self, work: Work[T], durable: bool) -> T:
        """See `Database`."""
        with self._mended("written"):
            # Durable at commit: an answer that was paid for survives a power cut.
            self._writer.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                done = work(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # a full disk has SQLite roll back by itself
                    self._writer.execute("ROLLBACK")
                raise
        return done

    def read(self, work: Work[T]) -> T:
        """See `Database`."""
        with self._mended("read"):
            return work(self._reader)

    def join(self) -> int:
        """Each process holds a lock on one byte of a file beside the store, which the kernel lets go when it ends."""
        if self.place not in self._numbers:
            insert = "INSERT INTO owners (at) VALUES (?)"
            number = self.write(
                lambda _: int(self._writer.execute(insert, (time.time(),)).lastrowid or 0),
                durable=False,
            )
            with self._mended("opened"):
                fcntl.lockf(self._file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            self._numbers[self.place] = number
        return self._numbers[self.place]

    def living(self, db: Db, owners: Collection[int]) -> set[int]:
        """See `Database`."""
        return {owner for owner in owners if self._held(owner)}

    def _held(self, owner: int) -> bool:
        try:
            fcntl.lockf(self._file(), fcntl.LOCK_SH | fcntl.LOCK_NB, 1, owner)
        except OSError:
            return True
        fcntl.lockf(self._file(), fcntl.LOCK_UN, 1, owner)
        return False

    def _file(self) -> int:
        if self.place not in self._files:
            self._files[self.place] = os.open(f"{self.place}-owners", os.O_RDWR | os.O_CREAT, 0o644)
        return self._files[self.place]

    def _share(self) -> None:
        """Readers beside a writer (WAL). SQLite waits for no other process here, so we do: several may open a new store at once."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self._writer.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.place, timeout=PATIENCE, check_same_thread=False, isolation_level=None
        )

    @contextmanager
    def _mended(self, done: str) -> Iterator[None]:
        """An error of SQLite's as one of ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            said = f"the call store {self.place} can't be {done}: {error}; "
            if "malformed" in str(error) or "not a database" in str(error):
                mend = "the file is damaged: move it away, and `sqlite3 OLD .recover | sqlite3 NEW` gets back the answers that can be read"
            elif "locked" in str(error):
                mend = f"another process has held it for {PATIENCE:.0f} s: let that end and run again, or let COWEST_STORE name another"
            elif done == "opened":
                mend = "move the file away (its answers will be asked for again), or let COWEST_STORE name another"
            else:
                mend = "what was answered before is kept: make room, or give the store a place that may be written, and run again"
            raise StoreError(said + mend) from None
