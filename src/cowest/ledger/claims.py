"""Claims say which process makes which call, and keep a turn within its budget.

Before a call, its key is claimed together with the most that the call can cost. After the call, the
claim is settled at the actual cost. So one process at a time makes a call, and the money spent and
the money reserved for calls under way never exceed the turn's budget.

A claim may be left behind: its process is gone, or its call broke off. That call may have been paid
for, so the claim counts in full until the same call is answered, and then as much as that answer
cost.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from pydantic import Field

from cowest.config import Config
from cowest.ledger.database import Db, delete, select
from cowest.ledger.store import CallStore, StoredAnswer


class Budget(Config):
    """The most that all paid calls of a turn together may cost.

    A turn that reached its budget goes on when the budget is raised.
    """

    usd: float | None = Field(default=None, ge=0)
    """US dollars; null for no limit. With a limit, every paid model needs its `price`."""
    tokens: int | None = Field(default=None, ge=0)
    """Tokens of prompts and completions; null for no limit."""

    def told(self, decimals: int) -> str:
        """The limits in words, dollars with so many decimals; empty if there are none."""
        limits = []
        if self.usd is not None:
            limits.append(f"${self.usd:,.{decimals}f}")
        if self.tokens is not None:
            limits.append(f"{self.tokens:,} tokens")
        return " and ".join(limits)


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A call to be made, with the most that it can cost."""

    key: str
    usd: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A call that was answered, with its cost."""

    answer: StoredAnswer
    usd: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Released:
    """A call that brought no answer, with the cost that it had nevertheless."""

    request: ClaimRequest
    usd: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """A call that broke off. Its claim still counts, since it may have been paid for."""

    request: ClaimRequest


Move = ClaimRequest | Settled | Released | Left


class Refused(Enum):
    """The reason why a claim was not given."""

    ANSWERED = "it was answered meanwhile"
    TAKEN = "another process is making this call"
    BATCHED = "it is in a batch that is under way"
    OVER = "it might cost more than is left"


@dataclass(frozen=True, slots=True)
class Spent:
    """A turn's budget, and how much of it is spent or claimed."""

    usd: float
    tokens: int
    budget: Budget

    def __str__(self) -> str:
        limits = self.budget.told(decimals=2)
        said = f"${self.usd:,.4f} and {self.tokens:,} tokens are spent"
        return f"{said} of {limits}" if limits else said

    def refusal(self, request: ClaimRequest) -> str:
        """Says that a call does not fit into what is left of the budget."""
        return (
            f"the turn's budget is reached: {self}, and the next call may take "
            f"${request.usd:.4f} and {request.tokens:,} tokens"
        )


ANSWERED = "SELECT key FROM calls WHERE key IN ({})"
OPEN = "SELECT COALESCE(SUM(usd), 0), COALESCE(SUM(tokens), 0) FROM claims WHERE turn = ?"
CLAIM = "INSERT INTO claims (key, owner, turn, usd, tokens) VALUES (?,?,?,?,?)"
RELEASE = "DELETE FROM claims WHERE id = (SELECT MAX(id) FROM claims WHERE key = ? AND owner = ?)"
LEAVE_AGAIN = (
    "INSERT INTO claims (key, owner, turn, usd, tokens) SELECT ?,?,?,?,? "
    "WHERE NOT EXISTS (SELECT 1 FROM claims WHERE key = ? AND owner = ?) "
    "AND NOT EXISTS (SELECT 1 FROM calls WHERE key = ?)"
)
LEAVE = (
    "UPDATE claims SET owner = 0 "
    "WHERE id = (SELECT MAX(id) FROM claims WHERE key = ? AND owner = ?)"
)
OTHERS = "SELECT DISTINCT key, owner FROM claims WHERE owner NOT IN (0, {}) AND key IN ({{}})"
OPEN_TURN = (
    "INSERT INTO turns (turn, opened, usd, tokens) VALUES (?,?,?,?) ON CONFLICT (turn) "
    "DO UPDATE SET opened = excluded.opened, usd = excluded.usd, tokens = excluded.tokens"
)
ADD = "UPDATE turns SET spent_usd = spent_usd + ?, spent_tokens = spent_tokens + ? WHERE turn = ?"
OVERBILLED = "SELECT usd, tokens FROM overbilled WHERE turn = ? AND model = ?"
NOTE_OVERBILLED = (
    "INSERT INTO overbilled (turn, model, usd, tokens) VALUES (?,?,?,?) "
    "ON CONFLICT (turn, model) DO UPDATE SET "
    "usd = CASE WHEN excluded.usd > overbilled.usd THEN excluded.usd ELSE overbilled.usd END, "
    "tokens = CASE WHEN excluded.tokens > overbilled.tokens THEN excluded.tokens "
    "ELSE overbilled.tokens END"
)


def open_turn(store: CallStore, turn: str, budget: Budget) -> None:
    """Makes this the turn that stages belong to from now on, with this budget.

    Money that the turn spent before stays spent.
    """

    def write(db: Db) -> None:
        db.execute(OPEN_TURN, (turn, time.time(), budget.usd, budget.tokens))

    store.write(write)


def spent(store: CallStore, turn: str) -> Spent:
    """Returns how much a turn has spent, including what its open claims may cost."""

    def read(db: Db) -> Spent:
        return spent_so_far(db, turn)

    return store.read(read)


def is_known(store: CallStore, turn: str) -> bool:
    """True if the turn was opened in this store."""
    return bool(store.fetch("SELECT 1 FROM turns WHERE turn = ?", (turn,)))


def versions_of(store: CallStore, turn: str) -> dict[str, list[str]]:
    """Returns the versions that each model reported in a turn, oldest first."""
    found: dict[str, list[str]] = {}
    rows = store.fetch("SELECT model, version FROM versions WHERE turn = ? ORDER BY rowid", (turn,))
    for model, version in rows:
        found.setdefault(model, []).append(version)
    return found


def spent_so_far(db: Db, turn: str) -> Spent:
    """Returns the same as `spent`, as part of a transaction."""
    columns = "SELECT spent_usd, spent_tokens, usd, tokens FROM turns WHERE turn = ?"
    row = db.execute(columns, (turn,)).fetchone() or (0.0, 0, None, None)
    usd, tokens, most_usd, most_tokens = row
    open_usd, open_tokens = db.execute(OPEN, (turn,)).fetchone()
    budget = Budget(usd=most_usd, tokens=most_tokens)
    return Spent(usd + float(open_usd), tokens + int(open_tokens), budget)


def overbilled(store: CallStore, model: str) -> tuple[float, int]:
    """Returns the largest excess of a bill of this turn over the bound of its call.

    In US dollars and in tokens; 0 where the model kept to its limits, and outside of a turn.
    """

    def read(db: Db) -> tuple[float, int]:
        found = db.execute(OVERBILLED, (store.turn(db), model)).fetchone()
        return (float(found[0]), int(found[1])) if found else (0.0, 0)

    return store.read(read)


def note_overbilled(store: CallStore, model: str, usd: float, tokens: int) -> None:
    """Keeps the excess of a bill over the bound of its call, for the later stages of this turn."""

    def write(db: Db) -> None:
        turn = store.turn(db)
        if turn:
            db.execute(NOTE_OVERBILLED, (turn, model, usd, tokens))

    store.write(write, durable=False)


class Claims:
    """The claims of this process."""

    def __init__(self, store: CallStore) -> None:
        self._store = store
        self.owner = store.join()
        """This process's number in the store."""
        self.turn = store.read(store.turn)

    def make(self, db: Db, moves: Sequence[Move]) -> list[Refused | None]:
        """Does all moves as part of a transaction (`CallStore.write`), and returns one result each.

        The result is None unless the move is a claim that was refused. The number of statements
        does not grow with the moves, so that a distant database holds nobody up.
        """
        settled: list[Settled] = []
        released: list[Released] = []
        left: list[Left] = []
        requests: dict[int, ClaimRequest] = {}
        for place, move in enumerate(moves):
            match move:
                case Settled():
                    settled.append(move)
                case Released():
                    released.append(move)
                case Left():
                    left.append(move)
                case ClaimRequest():
                    requests[place] = move

        # Moves that free some of the budget come first, so that the claims find all of it. An
        # answer is charged to each claim on its call, so those that cost nothing go before.
        self._release(db, released)
        self.settle(db, settled)
        self._leave(db, left)
        results: list[Refused | None] = [None] * len(moves)
        refusals = self.claim(db, list(requests.values()))
        for place, refused in zip(requests, refusals, strict=True):
            results[place] = refused
        return results

    def claim(
        self, db: Db, requests: Sequence[ClaimRequest], owner: int | None = None
    ) -> list[Refused | None]:
        """Claims calls for this process, or for another owner: a batch's is minus its number."""
        if not requests:
            return []
        keys = [request.key for request in requests]
        answered = {key for (key,) in select(db, ANSWERED, keys)}
        # Owner 0 holds claims that were left behind. They cost, but nobody makes their calls. Our
        # own claims do not count either: a call may be made twice at once (`hedge`).
        others = select(db, OTHERS.format(self.owner), keys)
        alive = self._store.living(db, {other for _, other in others if other > 0})
        in_a_batch, taken = set(), set()
        for key, other in others:
            if other < 0:
                in_a_batch.add(key)
            elif other in alive:
                taken.add(key)

        remaining = _Remaining(spent_so_far(db, self.turn)) if self.turn else None
        refusals: list[Refused | None] = []
        rows = []
        for request in requests:
            refused = None
            if request.key in answered:
                refused = Refused.ANSWERED
            elif request.key in in_a_batch:
                refused = Refused.BATCHED
            elif request.key in taken:
                refused = Refused.TAKEN
            elif remaining is not None and not remaining.take(request):
                refused = Refused.OVER
            else:
                owned = (self.owner if owner is None else owner, self.turn)
                rows.append((request.key, *owned, request.usd, request.tokens))
            refusals.append(refused)
        db.executemany(CLAIM, rows)
        return refusals

    def settle(self, db: Db, moves: Sequence[Settled]) -> None:
        """Keeps answers, and puts the cost of each in place of all claims on its call."""
        if not moves:
            return
        paid: dict[str, tuple[float, int]] = {}
        for move in moves:
            # The store keeps the first answer of a call, so the cost of the first one counts.
            paid.setdefault(move.answer.key, (move.usd, move.tokens))
        # Each claim on the call stands for an attempt, and any of them may have cost as much.
        claims = select(db, "SELECT key, turn FROM claims WHERE key IN ({})", paid)
        # A power cut, or a crash of the server, may have undone a claim. Its call was paid for all
        # the same, unless the claim was settled with another answer.
        lost = paid.keys() - {key for key, _ in claims}
        if lost:
            lost -= {key for (key,) in select(db, ANSWERED, lost)}
        self._store.keep(db, [move.answer for move in moves])
        delete(db, "DELETE FROM claims WHERE key IN ({})", paid)
        claims += [(key, self.turn) for key in sorted(lost)]
        spend(db, [(turn, *paid[key]) for key, turn in claims])

    def _release(self, db: Db, moves: Sequence[Released]) -> None:
        """Gives back one claim per move, and counts the cost that the call had nevertheless."""
        if moves:
            db.executemany(RELEASE, [(move.request.key, self.owner) for move in moves])
            spend(db, [(self.turn, move.usd, move.tokens) for move in moves])

    def _leave(self, db: Db, moves: Sequence[Left]) -> None:
        """Hands one claim per move to owner 0, which makes no calls: others may make that one."""
        if not moves:
            return
        ours = [(move.request.key, self.owner) for move in moves]
        # A claim that was undone counts again, unless its call was answered.
        again = []
        for one in (move.request for move in moves):
            row = (one.key, self.owner, self.turn, one.usd, one.tokens)
            again.append((*row, one.key, self.owner, one.key))
        db.executemany(LEAVE_AGAIN, again)
        db.executemany(LEAVE, ours)


class _Remaining:
    """The part of a turn's budget that is left while claims are taken from it."""

    def __init__(self, now: Spent) -> None:
        self._usd, self._tokens, self._limit = now.usd, now.tokens, now.budget

    def take(self, request: ClaimRequest) -> bool:
        """Takes a call's cost from the budget if it fits, and says if it did."""
        usd, tokens = self._usd + request.usd, self._tokens + request.tokens
        # Sums of dollars are rounded: the last call that fits exactly must not fail by that.
        if self._limit.usd is not None and usd > self._limit.usd + 1e-9:
            return False
        if self._limit.tokens is not None and tokens > self._limit.tokens:
            return False
        self._usd, self._tokens = usd, tokens
        return True


def spend(db: Db, spendings: Iterable[tuple[str, float, int]]) -> None:
    """Adds costs (turn, US dollars, tokens) to what their turns have spent."""
    sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for turn, usd, tokens in spendings:
        # Calls outside of a turn belong to no budget.
        if turn and (usd or tokens):
            sums[turn] = sums[turn][0] + usd, sums[turn][1] + tokens
    now = time.time()
    db.executemany(
        "INSERT INTO turns (turn, opened) VALUES (?,?) ON CONFLICT DO NOTHING",
        [(turn, now) for turn in sums],
    )
    db.executemany(ADD, [(usd, tokens, turn) for turn, (usd, tokens) in sums.items()])
