"""The call store's database for a team: PostgreSQL, for any number of processes on any number of machines.

`COWEST_STORE=postgresql://user@host/database`; the password from PGPASSWORD, ~/.pgpass or the address. Its tables are in the
schema `cowest`. A process is known to live by an advisory lock that its session holds: the server lets go of it when the
process ends, and within half a minute when its machine does. (So a pooler in between must pool sessions, not transactions.)
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from cowest.errors import ConfigError, StoreError
from cowest.ledger.database import PATIENCE, Db, Rows, Work
from cowest.ledger.schema import SCHEMA, upgrade_postgres

if TYPE_CHECKING:
    from psycopg import Connection

T = TypeVar("T")
CLIENT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "cowest",
}
SETTINGS = {
    "search_path": SCHEMA,
    "client_encoding": "UTF8",
    "lock_timeout": f"{PATIENCE:.0f}s",
    # A process that stands still in a transaction holds up all others.
    "idle_in_transaction_session_timeout": f"{PATIENCE:.0f}s",
    # A machine that is gone says no goodbye.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
"""Whatever the server's default is, an answer that was paid for is on the disk when its commit returns."""
HOLDING = """
    SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND classid = 'owners'::regclass::oid AND objsubid = 1 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
EXPECTED = f"""
    SELECT id FROM owners WHERE at < pg_postmaster_start_time()
    AND pg_postmaster_start_time() > clock_timestamp() - interval '{PATIENCE:.0f} s'
"""  # noqa: S608
"""Who was here before the server was started again, a moment ago, and may be about to come back."""
NUL, ESCAPE = "\0", "\x1a"


class Postgres:
    """`database.Database` on a server. What the server's going away cut short is done when it is back."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError for an address that is none, StoreError where the server can't be used."""
        self._address, self.place, self._secrets = _understood(url)
        self._number: int | None = None
        with self._mended("opened"):
            self._writer = self._connected()
            with self._writer.connection.transaction():
                upgrade_postgres(self._writer)
            # Where the advisory locks of this store are: of those in the database, by the number of its table.
            self._space = int(
                self._writer.execute("SELECT 'owners'::regclass::oid::bigint << 32").fetchone()[0]
            )
            self._reader = self._connected()

    def write(self, work: Work[T], durable: bool) -> T:
        """See `Database`. A commit whose answer was lost is looked up, and the work done again only where there was none."""
        sent: list[tuple[int, T]] = []

        def once() -> T:
            db = self._writer = self._live(self._writer)
            if sent and _was_committed(db, sent[-1][0]):
                return sent[-1][1]
            sent.clear()
            try:
                db.execute("BEGIN")
                if not durable:
                    db.execute("SET LOCAL synchronous_commit = off")
                (number, _) = db.execute(
                    "SELECT txid_current(), pg_advisory_xact_lock(?)", (self._space,)
                ).fetchone()
                sent.append((number, work(db)))
                db.execute("COMMIT")
            except BaseException:
                db.leave()
                raise
            return sent[-1][1]

        with self._mended("written"):
            return self._patiently(once)

    def read(self, work: Work[T]) -> T:
        """See `Database`."""

        def once() -> T:
            self._reader = self._live(self._reader)
            return work(self._reader)

        with self._mended("read"):
            return self._patiently(once)

    def join(self) -> int:
        """See `Database`. The number's advisory lock is shared, so that a session that takes another's place waits for nothing."""
        if self._number is None:
            self._number = self.write(
                lambda db: int(
                    db.execute(
                        "INSERT INTO owners (at) VALUES (clock_timestamp()) RETURNING id"
                    ).fetchone()[0]
                ),
                durable=True,
            )
            self.write(lambda db: self._hold(db), durable=False)
        return self._number

    def living(self, db: Db, owners: Collection[int]) -> set[int]:
        """See `Database`."""
        if not owners:
            return set()
        return {
            number for sql in (HOLDING, EXPECTED) for (number,) in db.execute(sql).fetchall()
        } & set(owners)

    def _hold(self, db: Db) -> None:
        db.execute("SELECT pg_advisory_lock_shared(?)", (self._space + (self._number or 0),))

    def _live(self, session: "_Session") -> "_Session":
        """A session, or one in its place where it was lost."""
        if not session.connection.closed:
            return session
        fresh = self._connected()
        if session is self._writer and self._number is not None:
            self._hold(fresh)
        return fresh

    def _connected(self) -> "_Session":
        import psycopg

        connection = psycopg.connect(**self._address, autocommit=True)
        _teach(connection)
        session = _Session(connection)
        session.execute(
            "SELECT " + ", ".join(["set_config(?, ?, false)"] * len(SETTINGS)),
            [word for pair in SETTINGS.items() for word in pair],
        )
        session.execute(DURABLE)
        return session

    def _patiently(self, once: Callable[[], T]) -> T:
        """Once, and again while the server is away."""
        import psycopg

        until = time.monotonic() + PATIENCE
        while True:
            try:
                return once()
            except (
                psycopg.OperationalError,
                psycopg.errors.IdleInTransactionSessionTimeout,
            ) as error:
                # What the server itself still told has a code: it shuts down or starts, or it ended a session that stood still.
                away = (
                    error.sqlstate is None
                    or error.sqlstate.startswith("57P")
                    or error.sqlstate == "25P03"
                )
                if not away or time.monotonic() > until:
                    raise
                time.sleep(0.2)

    @contextmanager
    def _mended(self, done: str) -> Iterator[None]:
        """An error of PostgreSQL's as one of ours, without the password."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            for secret in self._secrets:
                said = said.replace(secret, "***")
            raise StoreError(
                f"the call store {self.place} can't be {done}: {said}; {_mend(error)}"
            ) from None


class _Session:
    """`database.Db` over a connection."""

    def __init__(self, connection: "Connection[Any]") -> None:
        self.connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows:
        return self.connection.execute(sql.replace("?", "%s").encode(), values)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s").encode(), rows)

    def leave(self) -> None:
        """Out of a transaction that failed."""
        import psycopg

        connection = self.connection
        if (
            not connection.closed
            and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
        ):
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                connection.close()


def _was_committed(db: Db, number: int) -> bool:
    """What became of a transaction whose end we never heard of."""
    import psycopg

    while True:
        try:
            (status,) = db.execute("SELECT txid_status(?)", (number,)).fetchone()
        except (
            psycopg.errors.InvalidParameterValue
        ):  # the server crashed before it had written down that it had begun
            return False
        if status != "in progress":
            return bool(status == "committed")
        time.sleep(0.05)


def _teach(connection: "Connection[Any]") -> None:
    """PostgreSQL's text holds no NUL, and a model's may: what it can't hold is written as an escape and a digit."""
    from psycopg.adapt import Buffer, Dumper, Loader

    class TextDumper(Dumper):
        def dump(self, obj: str) -> Buffer:
            if NUL in obj or ESCAPE in obj:
                obj = obj.replace(ESCAPE, f"{ESCAPE}1").replace(NUL, f"{ESCAPE}0")
            return obj.encode()

    class TextLoader(Loader):
        def load(self, data: Buffer) -> str:
            text = str(data, "utf-8")
            return (
                text.replace(f"{ESCAPE}0", NUL).replace(f"{ESCAPE}1", ESCAPE)
                if ESCAPE in text
                else text
            )

    connection.adapters.register_dumper(str, TextDumper)
    connection.adapters.register_loader("text", TextLoader)


def _understood(url: str) -> tuple[dict[str, Any], str, list[str]]:
    """An address as libpq takes it, as it may be shown, and the secrets that no message may hold. Raises ConfigError."""
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        raise ConfigError(
            "COWEST_STORE is a PostgreSQL server, and psycopg is missing: install cowest[postgres]"
        ) from None
    try:
        given = conninfo_to_dict(url)
    except ProgrammingError:  # it quotes what it was given
        given = {"host": "@"}
    host, port, name = (str(given.get(part) or "") for part in ("host", "port", "dbname"))
    if "@" in host + port + name or not all(part.isdecimal() for part in port.split(",") if part):
        raise ConfigError(
            "COWEST_STORE is no address that PostgreSQL understands: write postgresql://user@host:port/database and the password into "
            "PGPASSWORD; a password in the address has each character that is no letter or digit as % and two hexadecimal digits"
        )
    secrets = [str(given[part]) for part in ("password", "sslpassword") if given.get(part)] + [
        os.environ.get("PGPASSWORD", "")
    ]
    written = [
        form
        for secret in secrets
        if secret
        for form in (secret, quote(secret), quote(secret, safe=""))
    ]
    place = f"postgresql://{host}{':' if port else ''}{port}/{name}"
    return (
        {**CLIENT, **given, "client_encoding": "UTF8"},
        place,
        sorted(written, key=len, reverse=True),
    )


def _mend(error: Exception) -> str:
    """What to do about an error of PostgreSQL's."""
    code, said = getattr(error, "sqlstate", None) or "", str(error)
    if code == "42501" or "permission denied" in said:
        return (
            f"let its owner GRANT USAGE ON SCHEMA {SCHEMA}, and ALL ON ALL TABLES IN SCHEMA {SCHEMA}, to this role; the first of all \
roles needs CREATE on the database"
        )
    if code.startswith("53") and code != "53300":
        return "what was answered before is kept: make room on the server, and run again"
    if code == "53300" or "too many clients" in said or "connection slots" in said:
        return "each process takes two connections: run fewer at once, or raise max_connections"
    if code == "55P03":
        return f"another process has held it for {PATIENCE:.0f} s: let that end and run again"
    if code == "25006":
        return "it is a standby: name the primary server"
    if "authentication failed" in said or "no password supplied" in said:
        return "put the role's password into PGPASSWORD"
    if "does not exist" in said and not code:
        return "make the database or the role, or mend COWEST_STORE"
    if not code or code.startswith(("08", "57P")):
        return "is the server up, and COWEST_STORE its address? What was answered before is kept: run again"
    return "what was answered before is kept: mend the server and run again, or let COWEST_STORE name another"
