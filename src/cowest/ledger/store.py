"""The call store: every answered call, once. Cache, journal and ledger in one, and the only ambient state.

A call is known by its key (`Request.key`: model, messages, sampling, sample). What is stored is durable before the next
step sees it, so a run that was killed asks only what had not been answered. The first answer of a key wins.
`COWEST_STORE` names the SQLite file (the default is `.cowest/calls.sqlite`), or a team's PostgreSQL as postgresql://...
"""

import os
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cowest.errors import ConfigError
from cowest.ledger.database import Database, Db, Work, select
from cowest.protocols import Completion, Request

T = TypeVar("T")
SELECT = "SELECT key, text, model, finish, failed, logprob, prompt_tokens, completion_tokens, version FROM calls"
INSERT = "INSERT INTO calls VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
REPORTED = "INSERT INTO versions (turn, model, version) VALUES (?,?,?) ON CONFLICT DO NOTHING"
VERSIONS = "SELECT version FROM versions WHERE turn = ? AND model = ? ORDER BY rowid"
SAID = 5
"""Versions of a model that are named: some endpoints report another with every answer."""
PAID = {"refused", "length"}
"""Endings that are kept even where they brought no text: they were paid for, and the same call would end so again."""


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
    hedged: int = 0
    """Calls that were made a second time because the first was slow."""
    versions: dict[str, dict[str, int]] = field(default_factory=dict)
    """How many answers each model's reported versions gave."""
    filtered: dict[str, Counter[str]] = field(default_factory=dict)
    """What the egress filter found, by what became of it: requests, and how much of each kind."""

    def line(self) -> str:
        """What became of all that was asked, in one line."""
        said = (
            f"{self.requests} completions asked = {self.answered} answered + {self.aside} set aside"
        )
        if left := self.requests - self.answered - self.aside:
            said += f" + {left} not come to"
        if self.stored:
            said += f"; {self.stored} from the store"
        if self.attempts:
            tokens = self.prompt_tokens + self.completion_tokens
            said += f"; {self.attempts} calls brought {self.asked} answers, for {tokens:,} tokens and ${self.cost:,.4f}"
        if self.hedged:
            said += f"; {self.hedged} calls were made twice at once (hedge)"
        for model, versions in self.versions.items():
            if len(versions) > 1:
                counts = [f"{count} by {version}" for version, count in versions.items() if count]
                rest = f" and {len(counts) - SAID} more" if len(counts) > SAID else ""
                said += f"; {model} reported several versions: {', '.join(counts[:SAID])}{rest}"
        return said + "".join(f"; {line}" for line in self.egress())

    def egress(self) -> list[str]:
        """What the egress filter found, in words: how much of each kind, and never what."""
        return [
            f"egress {FILTERED[action]} "
            + ", ".join(
                f"{count} {kind}" for kind, count in sorted(found.items()) if kind != "requests"
            )
            + f" (in {found['requests']} of the requests)"
            for action, found in self.filtered.items()
        ]


FILTERED = {"allow": "let go", "mask": "masked", "refuse": "kept in"}
COLUMNS = "stage, seconds, peak_memory, asked, stored, prompt_tokens, completion_tokens, cost, requests, answered, aside, attempts, hedged"
_open: dict[str, "CallStore"] = {}
_account = Account("")


def open_store() -> "CallStore":
    """The store that COWEST_STORE names, opened once in a process. Raises ConfigError and StoreError."""
    place = os.environ.get("COWEST_STORE") or ".cowest/calls.sqlite"
    if "://" not in place:
        place = str(Path(place).resolve())
    if place not in _open:
        _open[place] = CallStore(place)
    return _open[place]


def _database(place: Path | str) -> Database:
    scheme = str(place).partition("://")[0] if "://" in str(place) else None
    if scheme in ("postgresql", "postgres"):
        from cowest.ledger.postgres import Postgres

        return Postgres(str(place))
    if scheme is not None:
        raise ConfigError(
            f"COWEST_STORE={scheme}://...: a call store is the path of a file (SQLite), or postgresql://..."
        )
    from cowest.ledger.sqlite import Sqlite

    return Sqlite(Path(place))


class CallStore:
    """The path of an SQLite file or the address of a PostgreSQL database; safe for threads and for several processes."""

    def __init__(self, place: Path | str) -> None:
        self._database = _database(place)
        self.place = self._database.place
        """Where it is, without secrets."""
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._kept: list[Answer] = []

    def get(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Completions of the keys that were answered before."""
        found = self.read(lambda db: self._found(db, keys))
        _account.stored += sum(key in found for key in keys)
        for completion, version in found.values():
            self._note(completion.model, version)
        return {key: completion for key, (completion, _) in found.items()}

    def look(self, keys: Sequence[str]) -> dict[str, Completion]:
        """The same, for one who only wants to know: nothing is counted."""
        return {
            key: completion
            for key, (completion, _) in self.read(lambda db: self._found(db, keys)).items()
        }

    def _found(self, db: Db, keys: Sequence[str]) -> dict[str, tuple[Completion, str | None]]:
        return {
            key: (Completion(*row), version)
            for key, *row, version in select(db, f"{SELECT} WHERE key IN ({{}})", keys)
        }

    def put(self, answers: Sequence[Answer]) -> None:
        """Keeps answers, durable when it returns. Failed completions are not kept: they may be asked again."""
        self.write([lambda db: self.keep(db, answers)])

    def keep(self, db: Db, answers: Iterable[Answer]) -> None:
        """What `put` does, as a part of a transaction of `write`."""
        kept = [
            answer
            for answer in answers
            if answer.completion.text is not None or answer.completion.finish in PAID
        ]
        turn, now = self.turn(db) if any(answer.version for answer in kept) else "", time.time()
        db.executemany(INSERT, [_row(answer, now) for answer in kept])
        if turn:
            db.executemany(
                REPORTED,
                sorted(
                    {(turn, a.completion.model, a.version) for a in kept if a.version is not None}
                ),
            )
        self._kept += kept

    def write(self, works: Sequence[Work[T]], durable: bool = True) -> list[T]:
        """Does all in one transaction, or nothing; what each gave. Without `durable` a power cut may undo it, a killed process not."""

        def do(db: Db) -> list[T]:
            self._kept.clear()  # of a try that was lost
            return [work(db) for work in works]

        with self._writing:
            done = self._database.write(do, durable)
            kept, self._kept = self._kept, []
        for answer in kept:
            self._count(answer)
        return done

    def read(self, work: Work[T]) -> T:
        """Reads, beside whoever writes."""
        with self._reading:
            return self._database.read(work)

    def join(self) -> int:
        """This process's number in the store."""
        with self._writing:
            return self._database.join()

    def living(self, db: Db, owners: Collection[int]) -> set[int]:
        """Which of other processes' numbers belong to one that lives."""
        return self._database.living(db, owners)

    def turn(self, db: Db) -> str:
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

    def _count(self, answer: Answer) -> None:
        _account.asked += 1
        _account.prompt_tokens += answer.completion.prompt_tokens
        _account.completion_tokens += answer.completion.completion_tokens
        _account.cost += answer.cost or 0.0
        self._note(answer.completion.model, answer.version)

    def _note(self, model: str, version: str | None) -> None:
        """Counts the versions that a model reports; a change in the middle of a turn is said when it is seen."""
        if version is None:
            return
        seen = _account.versions.get(model)
        if seen is None:
            before = self.read(lambda db: db.execute(VERSIONS, (self.turn(db), model)).fetchall())
            seen = _account.versions.setdefault(model, {known: 0 for (known,) in before})
        if version not in seen and 0 < len(seen) <= SAID:
            more = "" if len(seen) < SAID else "; it reports ever others, which is not said again"
            print(
                f"cowest: {model} changed in the middle of the turn: it reported {', '.join(seen)} before, and {version} now; "
                f"the ledger holds which answers are whose{more}",
                file=sys.stderr,
            )
        seen[version] = seen.get(version, 0) + 1

    def close_account(self, account: Account, started: float) -> None:
        """Writes what a stage took."""
        values = [getattr(account, name) for name in COLUMNS.split(", ")]

        def insert(db: Db) -> None:
            marks = ",".join("?" * len(values))
            db.execute(
                f"INSERT INTO stages ({COLUMNS}, started) VALUES ({marks},?)",  # noqa: S608
                [*values, started],
            )
            if turn := self.turn(db):
                db.executemany(
                    REPORTED,
                    [
                        (turn, model, version)
                        for model, versions in account.versions.items()
                        for version in versions
                    ],
                )

        self.write([insert])


def _row(answer: Answer, now: float) -> tuple[object, ...]:
    c = answer.completion
    said = (
        answer.key,
        c.model,
        c.text,
        c.finish,
        c.failed,
        c.logprob,
        c.prompt_tokens,
        c.completion_tokens,
    )
    return (*said, answer.seconds, answer.cost, answer.version, _account.stage, now)


def counted(
    answer: Callable[[Iterable[Request]], Iterator[Completion]], requests: Iterable[Request]
) -> Iterator[Completion]:
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


def filtered(action: str, found: Mapping[str, int]) -> None:
    """Counts a request in which the egress filter found something. One that was refused is set aside."""
    counter = _account.filtered.setdefault(action, Counter())
    counter.update({"requests": 1, **found})
    if action == "refuse":
        _account.requests += 1
        _account.aside += 1


def reported(model: str) -> list[str]:
    """The versions that a model reported in this turn, so far as this process saw answers of it, oldest first."""
    return list(_account.versions.get(model, ()))


def egress() -> list[str]:
    """What the egress filter found in this stage, or outside of one in this process."""
    return _account.egress()


def attempted() -> None:
    """Counts a call over the network."""
    _account.attempts += 1


def hedged() -> None:
    """Counts a call that is made a second time because the first is slow."""
    _account.hedged += 1


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
