"""Purses pay for what is served: what each may spend a day, and what it has spent.

A day is one of UTC, and each has a row of its own. A call is claimed before it is made, at the most
that it can cost, and settled after it at what it did cost, in the row of the day of its claim. What
is claimed and never settled (its process was killed, or its call broke off) may have been paid for,
and goes on counting for that day. No call has a row: two people who ask the same are two calls,
neither waits for the other, and nothing has to be cleaned up.

A purse without a budget has no limit, and is counted as well.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

from cowest.ledger.claims import Budget
from cowest.ledger.database import Db, select
from cowest.ledger.store import CallStore, StoredAnswer

DAY = 86_400
"""Seconds of a day."""
ROUNDING = 1e-9
"""US dollars that a sum may be off by: sums of dollars are rounded."""
SET = (
    "INSERT INTO purses (purse, usd, tokens) VALUES (?,?,?) ON CONFLICT (purse) "
    "DO UPDATE SET usd = excluded.usd, tokens = excluded.tokens"
)
BUDGETS = "SELECT purse, usd, tokens FROM purses"
# The first braces take the day, the inner ones are left for the marks of the purses.
DAYS = "SELECT purse, usd, tokens, held_usd, held_tokens, calls FROM purse_days WHERE day = '{}'{}"
ADD = (
    "INSERT INTO purse_days (purse, day, usd, tokens, held_usd, held_tokens, calls) "
    "VALUES (?,?,?,?,?,?,?) ON CONFLICT (purse, day) DO UPDATE SET "
    "usd = purse_days.usd + excluded.usd, tokens = purse_days.tokens + excluded.tokens, "
    "held_usd = purse_days.held_usd + excluded.held_usd, "
    "held_tokens = purse_days.held_tokens + excluded.held_tokens, "
    "calls = purse_days.calls + excluded.calls"
)


@dataclass(frozen=True, slots=True)
class PurseClaim:
    """A call to be made for a purse, with the most that it can cost; None if nobody can tell."""

    purse: str
    usd: float | None
    tokens: int | None
    day: str = field(default_factory=lambda: day_of(time.time()))


@dataclass(frozen=True, slots=True)
class PurseSettled:
    """A call that was made, or was not; with its cost, in place of its claim."""

    claim: PurseClaim
    usd: float = 0.0
    tokens: int = 0
    made: bool = True
    answer: StoredAnswer | None = None
    """An answer that is kept in the store."""


PurseMove = PurseClaim | PurseSettled


class Short(Enum):
    """The reason why a purse does not pay for a call."""

    SPENT = "with what is spent, it might cost more than the budget of the day"
    HELD = "it would fit if calls under way cost less than they may"
    UNBOUNDED = "nobody can tell what it may cost, and the purse has a budget"


@dataclass(slots=True)
class PurseDay:
    """One day of a purse: its spending, its open claims and its budget."""

    purse: str
    day: str
    usd: float = 0.0
    tokens: int = 0
    held_usd: float = 0.0
    """The most that calls can cost which are under way, or broke off and may have been paid for."""
    held_tokens: int = 0
    calls: int = 0
    """Calls that were made, those under way and those that broke off among them."""
    budget: Budget = field(default_factory=Budget)

    def short(self, claim: PurseClaim) -> Short | None:
        """Returns the reason why a call does not fit, or None if it does."""
        limit = self.budget
        lacks_usd = limit.usd is not None and claim.usd is None
        lacks_tokens = limit.tokens is not None and claim.tokens is None
        if lacks_usd or lacks_tokens:
            return Short.UNBOUNDED
        usd, tokens = self.usd + (claim.usd or 0.0), self.tokens + (claim.tokens or 0)
        if _is_over(limit, usd, tokens):
            return Short.SPENT
        if _is_over(limit, usd + self.held_usd, tokens + self.held_tokens):
            return Short.HELD
        return None

    def add(self, other: "PurseDay") -> None:
        """Adds what was spent and held beside."""
        self.usd, self.tokens = self.usd + other.usd, self.tokens + other.tokens
        self.held_usd += other.held_usd
        self.held_tokens += other.held_tokens
        self.calls += other.calls

    def refusal(self, claim: PurseClaim) -> str:
        """Says that a call does not fit into what is left of the day."""
        limits = self.budget.told(decimals=4)
        held = ""
        if self.held_tokens:
            held = (
                f" and ${self.held_usd:,.4f} and {self.held_tokens:,} tokens are held for calls "
                "under way or broken off,"
            )
        seconds = int(seconds_left(time.time()))
        return (
            f"the budget of {self.purse!r} for today is reached: ${self.usd:,.4f} and "
            f"{self.tokens:,} tokens are spent{held} of {limits}, and the next call "
            f"may take ${claim.usd or 0.0:.4f} and {claim.tokens or 0:,} tokens; it goes on at "
            f"00:00 UTC, in {seconds // 3600} h {seconds % 3600 // 60} min"
        )


def _is_over(limit: Budget, usd: float, tokens: int) -> bool:
    if limit.usd is not None and usd > limit.usd + ROUNDING:
        return True
    return limit.tokens is not None and tokens > limit.tokens


def day_of(now: float) -> str:
    """The day in UTC of a time in seconds since 1970, as 2026-11-29."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def seconds_left(now: float) -> float:
    """Seconds until the next day begins in UTC, when every purse is full again."""
    return DAY - now % DAY


def set_budget(store: CallStore, purse: str, budget: Budget) -> None:
    """Sets what a purse may spend a day. It holds from the next call on, today's among them."""

    def write(db: Db) -> None:
        db.execute(SET, (purse, budget.usd, budget.tokens))

    store.write(write)


def today(store: CallStore) -> dict[str, PurseDay]:
    """Returns what each purse has spent today; those that spent nothing have a budget."""
    return on(store, day_of(time.time()))


def on(store: CallStore, day: str) -> dict[str, PurseDay]:
    """Returns what each purse spent on a day, with the budget that it has now."""

    def read(db: Db) -> dict[str, PurseDay]:
        budgets = db.execute(BUDGETS).fetchall()
        return _rows(day, budgets, db.execute(DAYS.format(day, "")).fetchall())

    return store.read(read)


def make(store: CallStore, db: Db, moves: Sequence[PurseMove]) -> list[Short | None]:
    """Does all moves as part of a transaction (`CallStore.write`), and returns one result each.

    The result is None unless the move is a claim that was refused. The number of statements does
    not grow with the moves.
    """
    added: dict[tuple[str, str], PurseDay] = {}
    answers = []
    # What frees some of a budget comes first, so that the claims find all of it.
    for move in moves:
        if isinstance(move, PurseSettled):
            _add(added, _change(move))
            if move.answer is not None:
                answers.append(move.answer)
    days = _days_of(db, [move.claim if isinstance(move, PurseSettled) else move for move in moves])
    for key, change in added.items():
        # A power cut, or a crash of the server, may have undone the claim.
        change.held_usd = max(change.held_usd, -days[key].held_usd)
        change.held_tokens = max(change.held_tokens, -days[key].held_tokens)
        change.calls = max(change.calls, -days[key].calls)
        days[key].add(change)
    results: list[Short | None] = []
    for move in moves:
        short = None
        if isinstance(move, PurseClaim):
            day = days[move.purse, move.day]
            short = day.short(move)
            if short is None:
                held = _held(move)
                day.add(held)
                _add(added, held)
        results.append(short)
    store.keep(db, answers)
    # In one order for all processes.
    rows = [
        (one.purse, one.day, one.usd, one.tokens, one.held_usd, one.held_tokens, one.calls)
        for _, one in sorted(added.items())
    ]
    db.executemany(ADD, rows)
    return results


def _days_of(db: Db, claims: Iterable[PurseClaim]) -> dict[tuple[str, str], PurseDay]:
    """The days that claims are about, each as it stands."""
    purses: dict[str, list[str]] = {}
    for claim in claims:
        purses.setdefault(claim.day, []).append(claim.purse)
    found: dict[tuple[str, str], PurseDay] = {}
    for day, names in purses.items():
        budgets = select(db, f"{BUDGETS} WHERE purse IN ({{}})", names)
        spent = select(db, DAYS.format(day, " AND purse IN ({})"), names)
        rows = _rows(day, budgets, spent)
        for name in names:
            found[name, day] = rows.get(name) or PurseDay(name, day)
    return found


def _rows(
    day: str, budgets: Iterable[Sequence[object]], spent: Iterable[Sequence[object]]
) -> dict[str, PurseDay]:
    """Puts rows of the two tables together."""
    found: dict[str, PurseDay] = {}
    for purse, *counts in spent:
        found[str(purse)] = PurseDay(str(purse), day, *counts)  # type: ignore[arg-type]
    for purse, usd, tokens in budgets:
        row = found.setdefault(str(purse), PurseDay(str(purse), day))
        row.budget = Budget(usd=usd, tokens=tokens)  # type: ignore[arg-type]
    return found


def _held(claim: PurseClaim) -> PurseDay:
    """The change that a claim makes."""
    return PurseDay(
        claim.purse, claim.day, held_usd=claim.usd or 0.0, held_tokens=claim.tokens or 0, calls=1
    )


def _change(move: PurseSettled) -> PurseDay:
    """The change that a settlement makes: the cost in place of the claim."""
    held = _held(move.claim)
    return PurseDay(
        held.purse,
        held.day,
        usd=move.usd,
        tokens=move.tokens,
        held_usd=-held.held_usd,
        held_tokens=-held.held_tokens,
        calls=0 if move.made else -1,
    )


def _add(added: dict[tuple[str, str], PurseDay], change: PurseDay) -> None:
    key = (change.purse, change.day)
    if key in added:
        added[key].add(change)
    else:
        added[key] = change
