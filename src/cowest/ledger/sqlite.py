"""The call store's database on one machine: an SQLite file, shared by the processes there."""

import fcntl
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

from cowest.errors import StoreError
from cowest.ledger.database import PATIENCE, Db, Work
from cowest.ledger.schema import is_older_sqlite, upgrade_sqlite

T = TypeVar("T")


class Sqlite:
    """`database.Database` in a file.

    A process is known to live by a lock on one byte, that of its number, in a file beside the
    store. The kernel lets go of the lock when the process ends, however it ends.
    """

    # POSIX locks belong to the process and not to the handle, and all of them fall as soon as the
    # process closes any handle of the file. So a process has one handle and one number per store,
    # shared by all its connections and closed with the last of them.
    _guard = threading.Lock()
    _users: ClassVar[Counter[str]] = Counter()
    _files: ClassVar[dict[str, int]] = {}
    _numbers: ClassVar[dict[str, int]] = {}

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        # Two spellings of one path must not become two handles of the file (see above).
        self._owners = f"{os.path.realpath(path)}-owners"
        with self._mended("opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connected()
            self._share()
            upgrade_sqlite(self._writer)
            # Readers wait for no writer in WAL: a stage looks calls up while answers are flushed.
            self._reader = self._connected()
        with self._guard:
            self._users[self._owners] += 1

    def write(self, work: Work[T], durable: bool) -> T:
        """See `Database`."""
        with self._mended("written"):
            # FULL has the commit wait for the disk: an answer that was paid for survives a power
            # cut. NORMAL leaves that to a later commit.
            self._writer.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            # IMMEDIATE takes the write lock at once. A transaction that reads first and writes
            # then could find the store changed in between, and would fail.
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                done = work(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                # When the disk is full, SQLite has rolled back by itself.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        return done

    def read(self, work: Work[T]) -> T:
        """See `Database`."""
        with self._mended("read"):
            return work(self._reader)

    def join(self) -> int:
        """See `Database`. The lock on the number's byte is taken here."""
        if self._owners not in self._numbers:
            insert = "INSERT INTO owners (at) VALUES (?)"

            def enter(_: Db) -> int:
                return int(self._writer.execute(insert, (time.time(),)).lastrowid or 0)

            number = self.write(enter, durable=False)
            with self._mended("opened"):
                fcntl.lockf(self._file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            self._numbers[self._owners] = number
        return self._numbers[self._owners]

    def living(self, db: Db, owners: Collection[int]) -> set[int]:
        """See `Database`."""
        return {owner for owner in owners if self._lives(owner)}

    def close(self) -> None:
        """See `Database`. The process goes on living in the store while it has another handle."""
        try:
            with self._mended("closed"):
                self._reader.close()
                self._writer.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        """Gives up this process's number, if this was its last handle on the store."""
        with self._guard:
            self._users[self._owners] -= 1
            if self._users[self._owners] > 0:
                return
            del self._users[self._owners]
            # The lock falls with the file, so the number is nobody's from here on. It must be
            # forgotten: claims made under it later would count as those of a dead process.
            self._numbers.pop(self._owners, None)
            file = self._files.pop(self._owners, None)
            if file is not None:
                os.close(file)

    def _lives(self, owner: int) -> bool:
        # Our own lock can't be tried: that would succeed, and letting go of it then would drop it.
        if owner == self._numbers.get(self._owners):
            return True
        try:
            fcntl.lockf(self._file(), fcntl.LOCK_SH | fcntl.LOCK_NB, 1, owner)
        except OSError:
            return True
        fcntl.lockf(self._file(), fcntl.LOCK_UN, 1, owner)
        return False

    def _file(self) -> int:
        with self._guard:
            if self._owners not in self._files:
                self._files[self._owners] = os.open(self._owners, os.O_RDWR | os.O_CREAT, 0o644)
            return self._files[self._owners]

    def _share(self) -> None:
        """Lets readers read beside a writer (WAL).

        SQLite does not wait for other processes here, so we do: several may open a new store at
        once.
        """
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
        """Turns an error of SQLite into one of ours, which says what to do about it."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"the call store {self.place} can't be {done}: {error}; {_mend(str(error), done)}"
            ) from None


def is_older(path: Path) -> bool:
    """True for a store of an older CoWest. Nothing is changed, and nothing is made."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            return is_older_sqlite(db)
    except sqlite3.Error:
        return False


def copied(path: Path, to: Path) -> None:
    """Writes a copy of a store to `to`, and changes nothing in it. Raises StoreError."""
    try:
        with (
            closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db,
            closing(sqlite3.connect(to)) as copy,
        ):
            db.backup(copy)
    except sqlite3.Error as error:
        said = f"{error}; {_mend(str(error), 'read')}"
        raise StoreError(f"the call store {path} can't be copied to {to}: {said}") from None


def _mend(error: str, done: str) -> str:
    if "malformed" in error or "not a database" in error:
        return (
            "the file is damaged: move it away, and `sqlite3 OLD .recover | sqlite3 NEW` gets back "
            "the answers that can be read"
        )
    if "locked" in error:
        return (
            f"another process has held it for {PATIENCE:.0f} s: let that end and run again, or let "
            "COWEST_STORE name another"
        )
    if done == "opened":
        return (
            "move the file away (its answers will be asked for again), or let COWEST_STORE name "
            "another"
        )
    return (
        "what was answered before is kept: make room, or give the store a place that may be "
        "written, and run again"
    )
