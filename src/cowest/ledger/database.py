"""What the call store asks of the database under it: SQLite at a desk (`sqlite`), PostgreSQL for a team (`postgres`).

The statements are written once, in the SQL that both know, with `?` for a value; a database brings its tables (`schema`),
its transactions, its errors in our words, and a way to know which processes live.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
PATIENCE = 60.0
"""Seconds that a process waits for another that holds the store, or for a server that went away."""
MOST_KEYS = 500  # SQLite's default limit of variables in a statement is 999 in old versions


class Rows(Protocol):
    """What a statement gave."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Db(Protocol):
    """A connection: in a transaction that writes, or for one that only reads."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Rows: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object: ...


Work = Callable[[Db], T_co]
"""What is done with a connection. A transaction that was lost is done again: it leaves nothing behind but what it returns."""


class Database(Protocol):
    """One writer and one reader, each used by one thread at a time. What goes wrong is raised as StoreError."""

    place: str
    """Where it is, without secrets."""

    def write(self, work: Work[T], durable: bool) -> T:
        """Does it alone among all processes, whole or not at all. Without `durable` a power cut may undo it, a killed process not."""

    def read(self, work: Work[T]) -> T:
        """Reads, beside whoever writes."""

    def join(self) -> int:
        """This process's number, 1 or more, never given before; the process lives as long as it runs."""

    def living(self, db: Db, owners: Collection[int]) -> set[int]:
        """Which of other processes' numbers belong to one that lives."""


def select(db: Db, sql: str, keys: Iterable[str]) -> list[Any]:
    """The rows of a statement with `{}` for a list of keys, however many they are."""
    return [
        row
        for part in _parts(keys)
        for row in db.execute(sql.format(",".join("?" * len(part))), part).fetchall()
    ]


def delete(db: Db, sql: str, keys: Iterable[str]) -> None:
    """The same, for a statement that gives no rows."""
    for part in _parts(keys):
        db.execute(sql.format(",".join("?" * len(part))), part)


def _parts(keys: Iterable[str]) -> Iterator[list[str]]:
    wanted = list(dict.fromkeys(keys))
    return (wanted[start : start + MOST_KEYS] for start in range(0, len(wanted), MOST_KEYS))
