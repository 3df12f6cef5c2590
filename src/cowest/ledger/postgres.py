"""The call store's database for a team: a PostgreSQL server, shared by processes on many machines.

`COWEST_STORE=postgresql://user@host/database`; the password comes from PGPASSWORD, from ~/.pgpass
or from the address. The tables are in the schema `cowest`.

A process is known to live by an advisory lock that its session holds. The server lets go of the
lock when the process ends, and within half a minute when its machine does. (So a pooler in between
must pool sessions, not transactions.)

A session may be lost, and its process live: the server was started again, or crashed, another took
its place, or somebody ended the session. So each process says every few seconds that it lives, on a
new session where the last one was lost. Whoever said so a moment ago lives without a lock, too.
"""

import atexit
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from cowest.errors import ConfigError, StoreError
from cowest.ledger.database import PATIENCE, Cursor, Db, Work
from cowest.ledger.schema import SCHEMA, is_older_postgres, upgrade_postgres

if TYPE_CHECKING:
    import psycopg
    from psycopg import Connection

T = TypeVar("T")
CLIENT = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Without it, what was sent to a machine that is gone is waited for as long as the system sends
    # it again: a quarter of an hour. It is shorter than the server's limit, so that a process whose
    # connection is cut has a new one before the server lets go of its lock.
    "tcp_user_timeout": 15_000,
    "application_name": "cowest",
}
BEAT = 5.0
"""Seconds between two words of a process that it lives."""
AWAY = 15.0
"""Seconds for which a process without a lock counts as living, after its last word."""
OUTAGE = 600.0
"""The same for whoever has just connected: the server may have been away until now."""
SETTINGS = {
    "search_path": SCHEMA,
    "client_encoding": "UTF8",
    # Writers take turns, and each must see what the one before wrote, whatever the role's default.
    "default_transaction_isolation": "read committed",
    "lock_timeout": f"{PATIENCE:.0f}s",
    # A process that stands still in a transaction holds up all others, so the server ends it, long
    # before they give up waiting.
    "idle_in_transaction_session_timeout": f"{PATIENCE / 3:.0f}s",
    # A machine that is gone closes no connection. Its locks must not outlive it for long.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
IF_KNOWN = {
    # Of 14 and later: a session must not end because its process calls for a while.
    "idle_session_timeout": "0",
    # Of 12 and later.
    "tcp_user_timeout": "25s",
}
"""Settings that older servers don't have."""
SET_KNOWN = (
    "SELECT set_config(name, value, false) FROM pg_settings "
    "JOIN (VALUES (?, ?), (?, ?)) AS wanted (wish, value) ON name = wish"
)
DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)
"""Puts an answer on the disk before its commit returns, whatever the server's default is."""
HOLDING = """
    SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND classid = 'owners'::regclass::oid AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""Selects the numbers of the processes whose sessions hold their lock."""
EXPECTED = "SELECT id FROM owners WHERE at > clock_timestamp() - ? * interval '1 s'"
"""Selects those who said that they live within so many seconds."""
LIVES = "UPDATE owners SET at = clock_timestamp() WHERE id = ?"
NUL, ESCAPE = "\0", "\x1a"


class Postgres:
    """`database.Database` on a server.

    Work that was cut short because the server went away is done again when the server is back.
    """

    def __init__(self, url: str) -> None:
        """Raises ConfigError for a malformed address, StoreError if the server can't be used."""
        self._address, self.place, self._secrets = _understood(url)
        self._number: int | None = None
        self._writing = threading.Lock()
        """Held by who uses the session that writes: the one who says that we live does so, too."""
        self._closed = threading.Event()
        with self._mended("opened"):
            self._writer = self._connected()
            with self._writer.connection.transaction():
                upgrade_postgres(self._writer)
            # The database may serve others, who take advisory locks too. Ours begin with the
            # number of our table, which nobody else has.
            space = "SELECT 'owners'::regclass::oid::bigint << 32"
            self._space = int(self._writer.execute(space).fetchone()[0])
            self._reader = self._connected()

    def write(self, work: Work[T], durable: bool) -> T:
        """See `Database`.

        If the answer to a commit was lost, the server is asked what became of the transaction, and
        the work is done again only if it was not committed.
        """
        sent: list[tuple[int, T]] = []

        def once() -> T:
            db = self._writer = self._live(self._writer)
            # A try before this one sent its commit, and the connection broke.
            if sent and _was_committed(db, sent[-1][0]):
                return sent[-1][1]
            sent.clear()
            try:
                db.execute("BEGIN")
                if not durable:
                    db.execute("SET LOCAL synchronous_commit = off")
                # Writers take turns, as on SQLite: so a budget is one sum, and a claim one look.
                (number, _) = db.execute(
                    "SELECT txid_current(), pg_advisory_xact_lock(?)", (self._space,)
                ).fetchone()
                # Noted before the commit: its answer may be the one that is lost.
                sent.append((number, work(db)))
                db.execute("COMMIT")
            except BaseException:
                db.leave()
                raise
            return sent[-1][1]

        with self._mended("written"), self._writing:
            return self._insistently(once) if durable else self._patiently(once)

    def read(self, work: Work[T]) -> T:
        """See `Database`."""

        def once() -> T:
            self._reader = self._live(self._reader)
            return work(self._reader)

        with self._mended("read"):
            return self._patiently(once)

    def join(self) -> int:
        """See `Database`. The lock on the number is taken here."""
        if self._number is None:
            insert = "INSERT INTO owners (at) VALUES (clock_timestamp()) RETURNING id"

            def enter(db: Db) -> int:
                return int(db.execute(insert).fetchone()[0])

            self._number = self.write(enter, durable=True)
            self.write(self._hold, durable=False)
            threading.Thread(target=self._beat, name="lives", daemon=True).start()
            # Few close a store. Who ends is to hold up nobody.
            atexit.register(self.close)
        return self._number

    def living(self, db: Db, owners: Collection[int]) -> set[int]:
        """See `Database`."""
        if not owners:
            return set()
        away = OUTAGE if time.monotonic() < self._since + AWAY else AWAY
        alive = {number for (number,) in db.execute(HOLDING).fetchall()}
        alive.update(number for (number,) in db.execute(EXPECTED, (away,)).fetchall())
        return alive & set(owners)

    def close(self) -> None:
        """See `Database`. The server lets go of the number's lock with the session."""
        import psycopg

        atexit.unregister(self.close)
        self._closed.set()
        with self._writing:
            if self._number is not None:
                # Nobody has to wait for us. Where the server is away, they do for a moment.
                with suppress(psycopg.Error):
                    self._writer.execute("DELETE FROM owners WHERE id = ?", (self._number,))
            self._reader.connection.close()
            self._writer.connection.close()

    def _beat(self) -> None:
        """Says every few seconds that this process lives, until it closes the store."""
        import psycopg

        while not self._closed.wait(BEAT):
            # That a session was lost is noticed when it is used, so there is a second try.
            for _ in range(2):
                with suppress(psycopg.Error), self._writing:
                    if not self._closed.is_set():
                        self._writer = self._live(self._writer)
                        self._writer.execute(LIVES, (self._number,))
                    break

    def _hold(self, db: Db) -> None:
        # A session may take the place of one that the server has not given up yet. The lock is
        # shared, so that it does not wait for that one.
        db.execute("SELECT pg_advisory_lock_shared(?)", (self._space + (self._number or 0),))

    def _live(self, session: "_Session") -> "_Session":
        """Returns the session, or a new one in its place if it was lost."""
        if not session.connection.closed:
            return session
        fresh = self._connected()
        if session is self._writer and self._number is not None:
            self._hold(fresh)
        return fresh

    def _connected(self) -> "_Session":
        import psycopg

        connection = psycopg.connect(**self._address, autocommit=True)
        self._since = time.monotonic()
        _teach(connection)
        session = _Session(connection)
        # As one statement, since a distant server takes its time for each.
        calls = ", ".join(["set_config(?, ?, false)"] * len(SETTINGS))
        session.execute(f"SELECT {calls}", list(chain.from_iterable(SETTINGS.items())))
        session.execute(SET_KNOWN, list(chain.from_iterable(IF_KNOWN.items())))
        session.execute(DURABLE)
        return session

    def _insistently(self, once: Callable[[], T]) -> T:
        """Tries as `_patiently` does, twice if others hold the store: answers are paid for."""
        import psycopg

        try:
            return self._patiently(once)
        except psycopg.errors.LockNotAvailable:
            return self._patiently(once)

    def _patiently(self, once: Callable[[], T]) -> T:
        """Tries once, and again while the server is away."""
        import psycopg

        until = None
        while True:
            try:
                return once()
            except (
                psycopg.OperationalError,
                psycopg.errors.IdleInTransactionSessionTimeout,
            ) as error:
                # The time counts from here: a connection that is gone takes long to say so.
                until = until or time.monotonic() + PATIENCE
                if not _is_away(error) or time.monotonic() > until:
                    raise
                time.sleep(0.2)

    @contextmanager
    def _mended(self, done: str) -> Iterator[None]:
        """Turns an error of PostgreSQL into one of ours, without the password."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            for secret in self._secrets:
                said = said.replace(secret, "***")
            raise StoreError(
                f"the call store {self.place} can't be {done}: {said}; {remedy(error)}"
            ) from None


def older(url: str) -> str | None:
    """Returns the place of a store of an older CoWest, or None. Nothing is changed there.

    Raises ConfigError.
    """
    import psycopg

    address, place, _ = _understood(url)
    try:
        with psycopg.connect(**address, autocommit=True) as connection:
            connection.execute(f"SET search_path TO {SCHEMA}")
            return place if is_older_postgres(_Session(connection)) else None
    except psycopg.Error:
        return None


class _Session:
    """`database.Db` over a connection: `?` becomes the `%s` that psycopg wants."""

    def __init__(self, connection: "Connection[Any]") -> None:
        self.connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Cursor:
        return self.connection.execute(sql.replace("?", "%s").encode(), values)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s").encode(), rows)
        # After a pipeline, which that is, the server's clock for those who stand still does not
        # run. After this it does.
        self.execute("SELECT 1")

    def leave(self) -> None:
        """Leaves a transaction that failed."""
        import psycopg

        connection = self.connection
        if connection.closed:
            return
        if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                # A connection in an unknown state is of no use: `_live` makes a new one.
                connection.close()


def _is_away(error: "psycopg.Error") -> bool:
    """Says if the server is away, so that it is worth waiting for."""
    # A connection that just broke brings no code. 57P..: the server shuts down or starts. 25P03: it
    # ended our session, because this process stood still in a transaction.
    code = error.sqlstate
    return code is None or code.startswith("57P") or code == "25P03"


def _was_committed(db: Db, number: int) -> bool:
    """Says if a transaction was committed whose end we never heard of."""
    import psycopg

    while True:
        try:
            (status,) = db.execute("SELECT txid_status(?)", (number,)).fetchone()
        except psycopg.errors.InvalidParameterValue:
            # The server crashed before it had written down that the transaction had begun.
            return False
        if status != "in progress":
            return bool(status == "committed")
        # The server may not have noticed yet that the connection is gone.
        time.sleep(0.05)


def _teach(connection: "Connection[Any]") -> None:
    """Has text written and read with an escape for NUL.

    A model's text may hold NUL and PostgreSQL's can't. It is written as the escape character and 0,
    and the escape character itself as it and 1.
    """
    from psycopg.adapt import Buffer, Dumper, Loader

    class TextDumper(Dumper):
        def dump(self, obj: str) -> Buffer:
            # The escape character comes first: those that are added after it must stay as they are.
            if NUL in obj or ESCAPE in obj:
                obj = obj.replace(ESCAPE, f"{ESCAPE}1").replace(NUL, f"{ESCAPE}0")
            return obj.encode()

    class TextLoader(Loader):
        def load(self, data: Buffer) -> str:
            text = str(data, "utf-8")
            if ESCAPE in text:
                text = text.replace(f"{ESCAPE}0", NUL).replace(f"{ESCAPE}1", ESCAPE)
            return text

    connection.adapters.register_dumper(str, TextDumper)
    connection.adapters.register_loader("text", TextLoader)


def _understood(url: str) -> tuple[dict[str, Any], str, list[str]]:
    """Returns an address as libpq takes it, as it may be shown, and its secrets.

    No message may hold a secret. Raises ConfigError.
    """
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        raise ConfigError(
            "COWEST_STORE is a PostgreSQL server, and psycopg is missing: install CoWest's extra "
            "`postgres` (README, Install)"
        ) from None
    try:
        given = conninfo_to_dict(url)
    except ProgrammingError:
        # The error quotes the address and with it the password, so it is not shown.
        given = {"host": "@"}
    host = str(given.get("host") or "")
    port = str(given.get("port") or "")
    name = str(given.get("dbname") or "")
    # A password with a character that is not escaped ends up in what looks like host or port.
    is_port = all(part.isdecimal() for part in port.split(",") if part)
    if "@" in host + port + name or not is_port:
        raise ConfigError(
            "COWEST_STORE is no address that PostgreSQL understands: write "
            "postgresql://user@host:port/database and the password into PGPASSWORD; a password in "
            "the address has each character that is no letter or digit as % and two hexadecimal "
            "digits"
        )
    place = f"postgresql://{host}{':' if port else ''}{port}/{name}"
    return {**CLIENT, **given, "client_encoding": "UTF8"}, place, _secrets(given)


def _secrets(given: Mapping[str, Any]) -> list[str]:
    """Returns the passwords of an address and of the environment, in each form of writing them."""
    forms: list[str] = []
    for secret in (given.get("password"), given.get("sslpassword"), os.environ.get("PGPASSWORD")):
        if secret:
            forms += [str(secret), quote(str(secret)), quote(str(secret), safe="")]
    # One may be a part of another: the longest is masked first, so that no rest of it stays.
    return sorted(forms, key=len, reverse=True)


def remedy(error: Exception) -> str:
    """Says what to do about an error of PostgreSQL."""
    code, said = getattr(error, "sqlstate", None) or "", str(error)
    if code == "42501" or "permission denied" in said:
        return (
            f"let its owner GRANT USAGE ON SCHEMA {SCHEMA}, and ALL ON ALL TABLES IN SCHEMA "
            f"{SCHEMA}, to this role; the first of all roles needs CREATE on the database"
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
        return (
            "is the server up, and COWEST_STORE its address? What was answered before is kept: run "
            "again"
        )
    return (
        "what was answered before is kept: mend the server and run again, or let COWEST_STORE name "
        "another"
    )
