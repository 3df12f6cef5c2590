"""The seam between the call store and the database under it.

Two databases provide it: SQLite for one machine (`sqlite`), PostgreSQL for a team (`postgres`). The
statements are written once, in the SQL that both understand, with `?` for a value. Each database
brings its tables (`schema`), its transactions, its errors in our words, and a way to know which
processes are alive.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from cowest.batched import batched

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
PATIENCE = 60.0
"""Seconds to wait for another process that holds the store, or for a server that went away."""
# SQLite allows 999 variables per statement in its old versions.
MOST_KEYS = 500


class Cursor(Protocol):
    """The rows that a statement gave."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Db(Protocol):
    """A connection: in a transaction that writes, or for work that only reads."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Cursor: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object: ...


Work = Callable[[Db], T_co]
"""Work to do with a connection.

A transaction that was lost is done again, so the work must leave nothing behind in this process
except the value that it returns.
"""


class Database(Protocol):
    """One connection that writes and one that reads, each used by one thread at a time.

    Every failure is raised as StoreError.
    """

    place: str
    """Path or address, without secrets."""

    def write(self, work: Work[T], durable: bool) -> T:
        """Does the work alone among all processes, wholly or not at all.

        Without `durable` a power cut, or a crash of PostgreSQL, may undo it; the death of this
        process does not.
        """

    def read(self, work: Work[T]) -> T:
        """Does work that only reads, while another process or thread may be writing."""

    def join(self) -> int:
        """Returns this process's number: 1 or more, and never given before.

        The process counts as alive until it ends or closes the database.
        """

    def living(self, db: Db, owners: Collection[int]) -> set[int]:
        """Returns those numbers of other processes whose process is alive."""

    def close(self) -> None:
        """Ends the connections. Other processes then count this one as gone."""


def select(db: Db, sql: str, keys: Iterable[str]) -> list[Any]:
    """Returns the rows of a statement that has `{}` in place of a list of keys, of any length."""
    rows: list[Any] = []
    for part in batched(dict.fromkeys(keys), MOST_KEYS):
        rows += db.execute(_with_marks(sql, part), part).fetchall()
    return rows


def delete(db: Db, sql: str, keys: Iterable[str]) -> None:
    """Executes such a statement when it gives no rows."""
    for part in batched(dict.fromkeys(keys), MOST_KEYS):
        db.execute(_with_marks(sql, part), part)


def _with_marks(sql: str, values: Sequence[str]) -> str:
    return sql.format(",".join("?" * len(values)))
