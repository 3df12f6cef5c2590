"""The tables of the call store in both databases.

A store that an older CoWest wrote gets the newest tables when it is opened. No answer is lost.
"""

import sqlite3

from cowest.errors import StoreError
from cowest.ledger.database import Db

STEPS = (
    """
    CREATE TABLE IF NOT EXISTS calls (
        key TEXT PRIMARY KEY,
        model TEXT NOT NULL,
        text TEXT NOT NULL,
        finish TEXT NOT NULL,
        logprob REAL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        seconds REAL NOT NULL,
        cost REAL,
        version TEXT,
        stage TEXT,
        at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS stages (
        stage TEXT NOT NULL,
        started REAL NOT NULL,
        seconds REAL NOT NULL,
        peak_memory INTEGER NOT NULL,
        asked INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        cost REAL NOT NULL
    )""",
    # The text may be null, since a refusal was paid for too. Claims are calls under way, each with
    # the most that it may cost.
    """
    ALTER TABLE calls RENAME TO calls_1;
    CREATE TABLE calls (
        key TEXT PRIMARY KEY,
        model TEXT NOT NULL,
        text TEXT,
        finish TEXT NOT NULL,
        failed TEXT,
        logprob REAL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        seconds REAL NOT NULL,
        cost REAL,
        version TEXT,
        stage TEXT,
        at REAL NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO calls
        SELECT key, model, text, finish, NULL, logprob, prompt_tokens, completion_tokens,
            seconds, cost, version, stage, at
        FROM calls_1;
    DROP TABLE calls_1;
    ALTER TABLE stages ADD COLUMN requests INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE stages ADD COLUMN answered INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE stages ADD COLUMN aside INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE stages ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE turns (
        turn TEXT PRIMARY KEY,
        opened REAL NOT NULL,
        usd REAL,
        tokens INTEGER,
        spent_usd REAL NOT NULL DEFAULT 0,
        spent_tokens INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE owners (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL);
    CREATE TABLE claims (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        owner INTEGER NOT NULL,
        turn TEXT NOT NULL,
        usd REAL NOT NULL,
        tokens INTEGER NOT NULL
    );
    CREATE INDEX claims_by_key ON claims (key);
    CREATE TABLE versions (
        turn TEXT NOT NULL,
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        UNIQUE (turn, model, version)
    )""",
    "ALTER TABLE stages ADD COLUMN hedged INTEGER NOT NULL DEFAULT 0",
    # Batches of the provider's batch interface. While one has not ended, it owns the claims of its
    # calls, as the owner -number.
    """
    CREATE TABLE batches (
        number INTEGER PRIMARY KEY,
        token TEXT NOT NULL,
        model TEXT NOT NULL,
        maker INTEGER NOT NULL,
        at REAL NOT NULL,
        discount REAL NOT NULL,
        calls INTEGER NOT NULL,
        input TEXT,
        file TEXT,
        id TEXT,
        ended TEXT
    )""",
    # The most by which a bill of a model exceeded what its call was to cost, within a turn.
    """
    CREATE TABLE overbilled (
        turn TEXT NOT NULL,
        model TEXT NOT NULL,
        usd REAL NOT NULL,
        tokens INTEGER NOT NULL,
        UNIQUE (turn, model)
    )""",
    # What is served: the budget of each purse, and what it has spent and holds on each day (UTC).
    """
    CREATE TABLE purses (purse TEXT PRIMARY KEY, usd REAL, tokens INTEGER);
    CREATE TABLE purse_days (
        purse TEXT NOT NULL,
        day TEXT NOT NULL,
        usd REAL NOT NULL,
        tokens INTEGER NOT NULL,
        held_usd REAL NOT NULL,
        held_tokens INTEGER NOT NULL,
        calls INTEGER NOT NULL,
        UNIQUE (purse, day)
    )""",
    # Runs of a pipeline, each with its turn. `decided` is the version on which the turn had been
    # decided when the run began.
    """
    CREATE TABLE runs (
        run TEXT PRIMARY KEY,
        turn TEXT NOT NULL,
        at REAL NOT NULL,
        decided INTEGER
    )""",
    # Empty for what ran outside of a turn, or was written by an older CoWest.
    "ALTER TABLE stages ADD COLUMN turn TEXT NOT NULL DEFAULT ''",
)
"""Statements for SQLite: each text takes a store to the next version, and is never changed."""
POSTGRES = (
    """
    CREATE TABLE calls (
        key TEXT COLLATE "C" PRIMARY KEY,
        model TEXT NOT NULL,
        text TEXT,
        finish TEXT NOT NULL,
        failed TEXT,
        logprob DOUBLE PRECISION,
        prompt_tokens BIGINT NOT NULL,
        completion_tokens BIGINT NOT NULL,
        seconds DOUBLE PRECISION NOT NULL,
        cost DOUBLE PRECISION,
        version TEXT,
        stage TEXT,
        at DOUBLE PRECISION NOT NULL
    );
    CREATE TABLE stages (
        stage TEXT NOT NULL,
        started DOUBLE PRECISION NOT NULL,
        seconds DOUBLE PRECISION NOT NULL,
        peak_memory BIGINT NOT NULL,
        asked BIGINT NOT NULL,
        stored BIGINT NOT NULL,
        prompt_tokens BIGINT NOT NULL,
        completion_tokens BIGINT NOT NULL,
        cost DOUBLE PRECISION NOT NULL,
        requests BIGINT NOT NULL,
        answered BIGINT NOT NULL,
        aside BIGINT NOT NULL,
        attempts BIGINT NOT NULL,
        rowid BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY
    );
    CREATE TABLE turns (
        turn TEXT PRIMARY KEY,
        opened DOUBLE PRECISION NOT NULL,
        usd DOUBLE PRECISION,
        tokens BIGINT,
        spent_usd DOUBLE PRECISION NOT NULL DEFAULT 0,
        spent_tokens BIGINT NOT NULL DEFAULT 0
    );
    CREATE TABLE owners (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at TIMESTAMPTZ NOT NULL
    );
    CREATE TABLE claims (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        key TEXT COLLATE "C" NOT NULL,
        owner BIGINT NOT NULL,
        turn TEXT NOT NULL,
        usd DOUBLE PRECISION NOT NULL,
        tokens BIGINT NOT NULL
    );
    CREATE INDEX claims_by_key ON claims (key);
    CREATE TABLE versions (
        turn TEXT NOT NULL,
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        rowid BIGINT GENERATED ALWAYS AS IDENTITY,
        UNIQUE (turn, model, version)
    )""",
    "ALTER TABLE stages ADD COLUMN hedged BIGINT NOT NULL DEFAULT 0",
    """
    CREATE TABLE batches (
        number BIGINT PRIMARY KEY,
        token TEXT NOT NULL,
        model TEXT NOT NULL,
        maker BIGINT NOT NULL,
        at DOUBLE PRECISION NOT NULL,
        discount DOUBLE PRECISION NOT NULL,
        calls BIGINT NOT NULL,
        input TEXT,
        file TEXT,
        id TEXT,
        ended TEXT
    )""",
    """
    CREATE TABLE overbilled (
        turn TEXT NOT NULL,
        model TEXT NOT NULL,
        usd DOUBLE PRECISION NOT NULL,
        tokens BIGINT NOT NULL,
        UNIQUE (turn, model)
    )""",
    """
    CREATE TABLE purses (purse TEXT PRIMARY KEY, usd DOUBLE PRECISION, tokens BIGINT);
    CREATE TABLE purse_days (
        purse TEXT NOT NULL,
        day TEXT NOT NULL,
        usd DOUBLE PRECISION NOT NULL,
        tokens BIGINT NOT NULL,
        held_usd DOUBLE PRECISION NOT NULL,
        held_tokens BIGINT NOT NULL,
        calls BIGINT NOT NULL,
        UNIQUE (purse, day)
    )""",
    """
    CREATE TABLE runs (
        run TEXT PRIMARY KEY,
        turn TEXT NOT NULL,
        at DOUBLE PRECISION NOT NULL,
        decided BIGINT
    )""",
    "ALTER TABLE stages ADD COLUMN turn TEXT NOT NULL DEFAULT ''",
)
"""Statements for PostgreSQL. `rowid` is the order in which rows came, which SQLite has anyhow."""
SCHEMA = "cowest"
"""PostgreSQL's schema of these tables; the search_path of our sessions leads there."""
LOCK = int.from_bytes(b"cowest")
"""Advisory lock of whoever looks for the tables in PostgreSQL, and makes them if there are none."""


def upgrade_sqlite(db: sqlite3.Connection) -> None:
    """Takes a store to the newest tables, in one transaction.

    Raises StoreError for a store of a newer CoWest.
    """
    if _version(db) == len(STEPS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # The version is read again: before we had the lock, another process may have upgraded it.
        for step in STEPS[_version(db) :]:
            for statement in step.split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA user_version={len(STEPS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def is_older_sqlite(db: sqlite3.Connection) -> bool:
    """True for a store that `upgrade_sqlite` would change, and that is not new."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    # The first stores had no number.
    has_calls = "SELECT 1 FROM sqlite_master WHERE name = 'calls'"
    return found < len(STEPS) and db.execute(has_calls).fetchone() is not None


def is_older_postgres(db: Db) -> bool:
    """Says the same of a PostgreSQL database."""
    if db.execute("SELECT to_regclass(?)", (f"{SCHEMA}.store",)).fetchone()[0] is None:
        return False
    return bool(db.execute("SELECT version FROM store").fetchone()[0] < len(POSTGRES))


def upgrade_postgres(db: Db) -> None:
    """Does the same for PostgreSQL, as part of a transaction.

    Raises StoreError for an older store that the role may not change, too.
    """
    import psycopg

    db.execute("SELECT pg_advisory_xact_lock(?)", (LOCK,))
    # IF NOT EXISTS would ask for the right to create, which a role that only uses the store lacks.
    if db.execute("SELECT to_regnamespace(?)", (SCHEMA,)).fetchone()[0] is None:
        db.execute(f"CREATE SCHEMA {SCHEMA}")
    if db.execute("SELECT to_regclass(?)", (f"{SCHEMA}.store",)).fetchone()[0] is None:
        db.execute("CREATE TABLE store (version BIGINT NOT NULL)")
        db.execute("INSERT INTO store VALUES (0)")
    found = _known(db.execute("SELECT version FROM store").fetchone()[0], len(POSTGRES))
    if found == len(POSTGRES):
        return
    try:
        for step in POSTGRES[found:]:
            for statement in step.split(";"):
                db.execute(statement)
        db.execute("UPDATE store SET version = ?", (len(POSTGRES),))
    except psycopg.errors.InsufficientPrivilege:
        if found == 0:
            raise
        # What this role lacks, the right to add a column for one, no GRANT gives.
        raise StoreError(
            "the call store was written by an older CoWest, and this role may not make its newer "
            "tables: let the role that made the store open it once, with `cowest turn` for "
            "example, and GRANT ALL ON ALL TABLES to this role again"
        ) from None


def _version(db: sqlite3.Connection) -> int:
    return _known(int(db.execute("PRAGMA user_version").fetchone()[0]), len(STEPS))


def _known(found: int, newest: int) -> int:
    if found > newest:
        raise StoreError(
            "the call store was written by a newer CoWest: update this one, or name another store "
            "in COWEST_STORE"
        )
    return found
