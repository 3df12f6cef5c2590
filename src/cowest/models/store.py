"""The call store: every answered call, once. Cache, journal and ledger in one, and the only ambient state.

A call is known by its key (`Request.key`: model, messages, sampling, sample). What is stored is durable before the next
step sees it, so a run that was killed asks only what had not been answered. The first answer of a key wins.
`COWEST_STORE` names the SQLite file; the default is `.cowest/calls.sqlite`.
"""

import os
import resource
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cowest.errors import ConfigError
from cowest.protocols import Completion

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL, finish TEXT NOT NULL, logprob REAL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL, cost REAL, version TEXT, stage TEXT, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stages (
    stage TEXT NOT NULL, started REAL NOT NULL, seconds REAL NOT NULL, peak_memory INTEGER NOT NULL,
    asked INTEGER NOT NULL, stored INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL NOT NULL
);
"""
SELECT = "SELECT key, text, model, finish, logprob, prompt_tokens, completion_tokens FROM calls"
MOST_KEYS = 500  # SQLite's default limit of variables in a statement is 999 in old versions


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion as it is kept."""

    key: str
    completion: Completion
    seconds: float
    """What the call took; for a local model, its share of its block."""
    cost: float | None = None
    """US dollars; None where no price is known."""
    version: str | None = None
    """What the provider said its model is."""


@dataclass(slots=True)
class Account:
    """What one stage took in this process."""

    stage: str
    seconds: float = 0.0
    peak_memory: int = 0
    """Bytes, of the whole process."""
    asked: int = 0
    """Calls answered by a model."""
    stored: int = 0
    """Calls answered by the store."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


_open: dict[str, "CallStore"] = {}
_account = Account("")


def open_store() -> "CallStore":
    """The store that COWEST_STORE names, opened once in a process."""
    place = os.environ.get("COWEST_STORE") or ".cowest/calls.sqlite"
    if "://" in place:
        raise ConfigError(f"COWEST_STORE={place.split('://')[0]}://...: only SQLite is built; give the path of a file")
    path = str(Path(place).resolve())
    if path not in _open:
        _open[path] = CallStore(Path(path))
    return _open[path]


class CallStore:
    """One SQLite file; safe for threads, and for several processes on one machine."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # durable at commit: an answer that was paid for survives a power cut
            self._db.executescript(SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"the call store {path} can't be opened: {error}; move the file away (its answers will be asked for again), or let "
                "COWEST_STORE name another"
            ) from None

    def get(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Completions of the keys that were answered before."""
        found: dict[str, Completion] = {}
        wanted = list(dict.fromkeys(keys))
        with self._lock:
            for start in range(0, len(wanted), MOST_KEYS):
                part = wanted[start : start + MOST_KEYS]
                marks = ",".join("?" * len(part))
                rows = self._db.execute(f"{SELECT} WHERE key IN ({marks})", part)
                for key, text, model, finish, logprob, prompt_tokens, completion_tokens in rows:
                    found[key] = Completion(text, model, finish, None, logprob, prompt_tokens, completion_tokens)
            _account.stored += sum(key in found for key in keys)
        return found

    def put(self, answers: Sequence[Answer]) -> None:
        """Keeps answers, durable when it returns. Failed completions are not kept: they may be asked again."""
        now = time.time()
        kept = [answer for answer in answers if answer.completion.text is not None]
        rows = [
            (
                a.key, a.completion.model, a.completion.text, a.completion.finish, a.completion.logprob, a.completion.prompt_tokens,
                a.completion.completion_tokens, a.seconds, a.cost, a.version, _account.stage, now,
            )
            for a in kept
        ]  # fmt: skip
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR IGNORE INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", rows)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            _account.asked += len(kept)
            _account.prompt_tokens += sum(a.completion.prompt_tokens for a in kept)
            _account.completion_tokens += sum(a.completion.completion_tokens for a in kept)
            _account.cost += sum(a.cost or 0.0 for a in kept)

    def ledger(self) -> list[Account]:
        """What each stage took when it last ran, in the order they ran."""
        with self._lock:
            rows = self._db.execute(
                "SELECT stage, seconds, peak_memory, asked, stored, prompt_tokens, completion_tokens, cost FROM stages "
                "WHERE rowid IN (SELECT MAX(rowid) FROM stages GROUP BY stage) ORDER BY rowid"
            ).fetchall()
        return [Account(*row) for row in rows]

    def _close_account(self, account: Account, started: float) -> None:
        with self._lock:
            self._db.execute(
                "INSERT INTO stages VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    account.stage, started, account.seconds, account.peak_memory, account.asked, account.stored, account.prompt_tokens,
                    account.completion_tokens, account.cost,
                ),
            )  # fmt: skip


@contextmanager
def accounting(stage: str) -> Iterator[Account]:
    """Counts what a stage takes, and writes it into the ledger when the stage ends well."""
    global _account
    before, _account = _account, Account(stage)
    started = time.time()
    try:
        yield _account
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _account.peak_memory = peak if sys.platform == "darwin" else peak * 1024
        open_store()._close_account(_account, started)
    finally:
        _account = before
