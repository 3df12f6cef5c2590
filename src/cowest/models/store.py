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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cowest.errors import ConfigError, StoreError
from cowest.models.schema import upgrade
from cowest.protocols import Completion, Request

T = TypeVar("T")
SELECT = "SELECT key, text, model, finish, failed, logprob, prompt_tokens, completion_tokens, version FROM calls"
INSERT = "INSERT OR IGNORE INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
PATIENCE = 60
"""Seconds that a process waits for another that holds the store."""
MOST_KEYS = 500  # SQLite's default limit of variables in a statement is 999 in old versions
PAID = {"refused", "length"}
"""Endings that are kept even where they brought no text: they were paid for, and the same call would end so again."""
Work = Callable[[sqlite3.Connection], T]
"""What is done in a transaction."""


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
    requests: int = 0
    """Completions that the stage asked for: each is answered or set aside."""
    answered: int = 0
    aside: int = 0
    """Completions without a text: failed or refused."""
    attempts: int = 0
    """Calls over the network, those that failed too."""
    versions: dict[str, dict[str, int]] = field(default_factory=dict)
    """How many answers each model's reported versions gave."""

    def line(self) -> str:
        """What became of all that was asked, in one line."""
        said = f"{self.requests} completions asked = {self.answered} answered + {self.aside} set aside"
        if self.stored:
            said += f"; {self.stored} from the store"
        if self.attempts:
            tokens = self.prompt_tokens + self.completion_tokens
            said += f"; {self.attempts} calls brought {self.asked} answers, for {tokens:,} tokens and ${self.cost:,.4f}"
        for model, versions in self.versions.items():
            if len(versions) > 1:
                counts = ", ".join(f"{count} by {version}" for version, count in versions.items() if count)
                said += f"; {model} reported several versions: {counts}"
        return said


COLUMNS = "stage, seconds, peak_memory, asked, stored, prompt_tokens, completion_tokens, cost, requests, answered, aside, attempts"
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
    """One SQLite file; safe for threads, and for several processes on one machine. What SQLite says is raised as StoreError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing, self._reading = threading.Lock(), threading.Lock()
        with self._mended("opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._connected()
            self._share()
            upgrade(self._db)
            # Readers wait for no writer in WAL: a stage looks its calls up while answers are flushed.
            self._reader = self._connected()

    def get(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Completions of the keys that were answered before."""
        found = self._found(keys)
        _account.stored += sum(key in found for key in keys)
        for completion, version in found.values():
            self._note(completion.model, version)
        return {key: completion for key, (completion, _) in found.items()}

    def look(self, keys: Sequence[str]) -> dict[str, Completion]:
        """The same, for one who only wants to know: nothing is counted."""
        return {key: completion for key, (completion, _) in self._found(keys).items()}

    def _found(self, keys: Sequence[str]) -> dict[str, tuple[Completion, str | None]]:
        found: dict[str, tuple[Completion, str | None]] = {}
        wanted = list(dict.fromkeys(keys))
        with self._reading, self._mended("read"):
            for start in range(0, len(wanted), MOST_KEYS):
                part = wanted[start : start + MOST_KEYS]
                marks = ",".join("?" * len(part))
                for key, *row, version in self._reader.execute(f"{SELECT} WHERE key IN ({marks})", part):
                    text, model, finish, failed, logprob, prompt_tokens, completion_tokens = row
                    found[key] = Completion(text, model, finish, failed, logprob, prompt_tokens, completion_tokens), version
        return found

    def put(self, answers: Sequence[Answer]) -> None:
        """Keeps answers, durable when it returns. Failed completions are not kept: they may be asked again."""
        self.write([lambda db: self.keep(db, answers)])

    def keep(self, db: sqlite3.Connection, answers: Iterable[Answer]) -> None:
        """What `put` does, as a part of a transaction."""
        for a in answers:
            c = a.completion
            if c.text is None and c.finish not in PAID:
                continue
            row = (a.key, c.model, c.text, c.finish, c.failed, c.logprob, c.prompt_tokens, c.completion_tokens)
            db.execute(INSERT, (*row, a.seconds, a.cost, a.version, _account.stage, time.time()))
            if a.version is not None and (turn := self.turn(db)):
                db.execute("INSERT OR IGNORE INTO versions VALUES (?,?,?)", (turn, c.model, a.version))
            _account.asked += 1
            _account.prompt_tokens += c.prompt_tokens
            _account.completion_tokens += c.completion_tokens
            _account.cost += a.cost or 0.0
            self._note(c.model, a.version)

    def write(self, works: Sequence[Work[T]], durable: bool = True) -> list[T]:
        """Does all in one transaction, or nothing; what each gave. Without `durable` a power cut may undo it, a killed process not."""
        with self._writing, self._mended("written"):
            # Durable at commit: an answer that was paid for survives a power cut.
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                done = [work(self._db) for work in works]
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has SQLite roll back by itself
                    self._db.execute("ROLLBACK")
                raise
        return done

    def read(self, work: Work[T]) -> T:
        """Reads, beside whoever writes."""
        with self._reading, self._mended("read"):
            return work(self._reader)

    def turn(self, db: sqlite3.Connection) -> str:
        """The turn that the stage of this process belongs to: COWEST_TURN, or the last that was pinned; empty outside of a stage."""
        if not _account.stage:
            return ""
        if (named := os.environ.get("COWEST_TURN")) is not None:
            return named
        row = db.execute("SELECT turn FROM turns ORDER BY opened DESC LIMIT 1").fetchone()
        return str(row[0]) if row else ""

    def ledger(self) -> list[Account]:
        """What each stage took when it last ran, in the order they ran."""
        last = f"SELECT {COLUMNS} FROM stages WHERE rowid IN (SELECT MAX(rowid) FROM stages GROUP BY stage) ORDER BY rowid"  # noqa: S608
        return [Account(*row) for row in self.read(lambda db: db.execute(last).fetchall())]

    def _share(self) -> None:
        """Readers beside a writer (WAL). SQLite waits for no other process here, so we do: several may open a new store at once."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False, isolation_level=None)

    def _note(self, model: str, version: str | None) -> None:
        """Counts the versions that a model reports; a change in the middle of a turn is said when it is seen."""
        if version is None:
            return
        seen = _account.versions.get(model)
        if seen is None:
            before = self.read(lambda db: db.execute(VERSIONS, (self.turn(db), model)).fetchall())
            seen = _account.versions.setdefault(model, {known: 0 for (known,) in before})
        if version not in seen and seen:
            print(
                f"cowest: {model} changed in the middle of the turn: it reported {', '.join(seen)} before, and {version} now; "
                "answers of both are used, and the ledger holds which is whose",
                file=sys.stderr,
            )
        seen[version] = seen.get(version, 0) + 1

    def close_account(self, account: Account, started: float) -> None:
        """Writes what a stage took."""
        values = [getattr(account, name) for name in COLUMNS.split(", ")]

        def insert(db: sqlite3.Connection) -> None:
            marks = ",".join("?" * len(values))
            db.execute(f"INSERT INTO stages ({COLUMNS}, started) VALUES ({marks},?)", [*values, started])  # noqa: S608
            if turn := self.turn(db):
                seen = [(turn, model, version) for model, versions in account.versions.items() for version in versions]
                db.executemany("INSERT OR IGNORE INTO versions VALUES (?,?,?)", seen)

        self.write([insert])

    @contextmanager
    def _mended(self, done: str) -> Iterator[None]:
        """An error of SQLite's as one of ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            said = f"the call store {self.path} can't be {done}: {error}; "
            if "malformed" in str(error) or "not a database" in str(error):
                mend = "the file is damaged: move it away, and `sqlite3 OLD .recover | sqlite3 NEW` gets back the answers that can be read"
            elif "locked" in str(error):
                mend = f"another process has held it for {PATIENCE} s: let that end and run again, or let COWEST_STORE name another"
            elif done == "opened":
                mend = "move the file away (its answers will be asked for again), or let COWEST_STORE name another"
            else:
                mend = "what was answered before is kept: make room, or give the store a place that may be written, and run again"
            raise StoreError(said + mend) from None


VERSIONS = "SELECT version FROM versions WHERE turn = ? AND model = ? ORDER BY rowid"


def counted(answer: Callable[[Iterable[Request]], Iterator[Completion]], requests: Iterable[Request]) -> Iterator[Completion]:
    """A model's completions, counted: what is asked, and what of it is answered or set aside."""
    account = _account

    def asked() -> Iterator[Request]:
        for request in requests:
            account.requests += 1
            yield request

    for completion in answer(asked()):
        if completion.text is None:
            account.aside += 1
        else:
            account.answered += 1
        yield completion


def attempted() -> None:
    """Counts a call over the network."""
    _account.attempts += 1


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
        open_store().close_account(_account, started)
    finally:
        _account = before
