"""What a call store promises, on every database: durable, first answer wins, one call by one
process, and no budget overspent.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cowest.errors import StoreError
from cowest.ledger import account, postgres, store
from cowest.ledger.claims import (
    Budget,
    ClaimRequest,
    Claims,
    Left,
    Move,
    Refused,
    Released,
    Settled,
    open_turn,
    spent,
)
from cowest.ledger.store import CallStore, StoredAnswer
from cowest.protocols import Completion
from tests import stores, tiny

FEW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=stores.KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store of each kind, which COWEST_STORE names."""
    found = stores.place(request.param, tmp_path)
    monkeypatch.setenv("COWEST_STORE", found)
    return found


@pytest.fixture
def kept(place: str) -> CallStore:
    return CallStore(place)


def answer(key: str, text: str | None = "yes", cost: float | None = None) -> StoredAnswer:
    failed = None if text is not None else "no power"
    return StoredAnswer(
        key,
        Completion(text, "m", failed=failed, logprob=-0.5, prompt_tokens=3, completion_tokens=2),
        0.1,
        cost,
        "m-2026",
    )


def child(place: str, code: str, *words: str) -> "subprocess.Popen[str]":
    """Another process, in a group of its own, which may use what is defined here."""
    source = (
        "import sys, time\nfrom tests.contract.test_store import *\nkept = "
        f"CallStore({place!r})\n{code}"
    )
    surroundings = {**tiny.surroundings(), "COWEST_STORE": place}
    return subprocess.Popen(
        [sys.executable, "-c", source, *words],
        env=surroundings,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def said(processes: "Iterable[subprocess.Popen[str]]") -> list[Any]:
    """What processes that end well print, as JSON."""
    found = [(process.communicate(timeout=300)[0], process.returncode) for process in processes]
    assert [code for _, code in found] == [0] * len(found)
    return [json.loads(text) for text, _ in found]


def test_what_was_put_is_got_by_another_connection(place: str) -> None:
    CallStore(place).put([answer("a"), answer("b", "no")])
    found = CallStore(place).get(["b", "a", "c"])
    assert {key: completion.text for key, completion in found.items()} == {"a": "yes", "b": "no"}
    assert found["a"] == answer("a").completion


def test_more_keys_than_a_statement_takes(kept: CallStore) -> None:
    kept.put([answer(str(number)) for number in range(2500)])
    assert len(kept.get([str(number) for number in range(3000)])) == 2500


def test_the_first_answer_wins(kept: CallStore) -> None:
    kept.put([answer("a", "first"), answer("a", "again")])
    kept.put([answer("a", "second")])
    assert kept.get(["a"])["a"].text == "first"


def test_a_failure_is_not_kept_and_a_refusal_is(kept: CallStore) -> None:
    refused = Completion(None, "m", "refused", "refused: no")
    kept.put([answer("a", None), StoredAnswer("b", refused, 0.1)])
    assert kept.get(["a", "b"]) == {"b": refused}


def test_all_of_a_put_or_none(kept: CallStore) -> None:
    bad = StoredAnswer("b", Completion("x", "m", logprob=object()), 0.1)  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        kept.put([answer("a"), bad])
    assert kept.get(["a"]) == {}
    kept.put([answer("a")])
    assert "a" in kept.get(["a"])


ANY_TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("\0\x1a01?%{}'\\"))
NUMBERS = st.integers(0, 2**40)


@FEW
@given(ANY_TEXT, ANY_TEXT, st.none() | ANY_TEXT, st.none() | st.floats(-1e300, 0), NUMBERS, NUMBERS)
def test_any_completion_comes_back_as_it_was(
    kept: CallStore,
    text: str,
    model: str,
    failed: str | None,
    logprob: float | None,
    prompt: int,
    completion: int,
) -> None:
    key = os.urandom(16).hex()
    whole = Completion(text, model, "length", failed, logprob, prompt, completion)
    kept.put([StoredAnswer(key, whole, 0.1, 0.5, model)])
    assert kept.get([key]) == kept.look([key]) == {key: whole}


def test_a_stage_is_accounted_for(place: str) -> None:
    with store.accounting("refine") as account:
        kept = store.open_store()
        kept.put([answer("a", cost=0.25), answer("b", cost=0.5)])
        kept.get(["a", "b", "c"])
        account.seconds = 1.5
    (row,) = store.open_store().ledger()
    found = (
        row.stage,
        row.seconds,
        row.asked,
        row.stored,
        row.prompt_tokens,
        row.completion_tokens,
        row.cost,
    )
    assert found == ("refine", 1.5, 2, 2, 6, 4, 0.75)
    assert row.peak_memory > 10 * 2**20


def test_the_ledger_has_each_stage_as_it_ran_last(place: str) -> None:
    for stage, calls in (("refine", 1), ("score", 2), ("refine", 3)):
        with store.accounting(stage):
            store.open_store().put([answer(f"{stage}{calls}{number}") for number in range(calls)])
    assert [(row.stage, row.asked) for row in store.open_store().ledger()] == [
        ("score", 2),
        ("refine", 3),
    ]


def test_the_ledger_of_a_turn_sums_its_runs_and_no_others(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = CallStore(place)
    runs = [("t", "draft", 0.0), *[("t", "refine", 10.0)] * 8]
    for turn, stage, cost in (*runs, ("another", "refine", 0.5), ("", "x", 9.0)):
        monkeypatch.setenv("COWEST_TURN", turn)
        with account.opened(stage) as counts:
            counts.cost, counts.seconds, counts.asked = cost, 2.0, 3
            counts.peak_memory = 7
            kept.close_account(counts, 1.0)
    found = [(row.stage, row.cost, row.seconds, row.asked) for row in kept.ledger("t")]
    assert found == [("draft", 0.0, 2.0, 3), ("refine", 80.0, 16.0, 24)]
    assert {row.peak_memory for row in kept.ledger("t")} == {7}
    # Each stage's last run, where an older CoWest wrote down no turn.
    for unknown in ("", "unknown"):
        assert [row.cost for row in kept.ledger(unknown)] == [0.0, 0.5, 9.0]


def test_a_stage_that_fails_has_no_account_and_the_next_starts_at_nothing(place: str) -> None:
    with pytest.raises(RuntimeError), store.accounting("refine"):
        store.open_store().put([answer("a")])
        raise RuntimeError
    with store.accounting("score"):
        pass
    assert [(row.stage, row.asked) for row in store.open_store().ledger()] == [("score", 0)]


OPENED = """
import sys
from tests.contract.test_store import *
from cowest.ledger import postgres
gate = Path(sys.argv[2])
(gate / str(os.getpid())).touch()
while len(list(gate.iterdir())) < 4: pass
kept = CallStore(sys.argv[1])
kept.put([answer(str(os.getpid()))])
print(1)
"""


def test_processes_that_make_a_store_at_once_find_one(place: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    command = [sys.executable, "-c", OPENED, place, str(gate)]
    several = [
        subprocess.Popen(command, env=tiny.surroundings(), stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert said(several) == [1] * 4
    assert set(CallStore(place).get([str(process.pid) for process in several])) == {
        str(process.pid) for process in several
    }


RACE = """
found = {}
for number in range(60):
    kept.put([answer(f"{number}-{part}", sys.argv[1]) for part in range(3)])
    found |= {key: c.text for key, c in kept.get([f"{number}-{part}" for part in range(3)]).items()}
print(json.dumps(found))
"""


def test_two_processes_that_answer_the_same_see_the_same(place: str) -> None:
    CallStore(place)
    one, other = said([child(place, RACE, name) for name in ("one", "other")])
    assert one == other and len(one) == 180
    assert {
        number: len({one[f"{number}-{part}"] for part in range(3)}) for number in range(60)
    } == dict.fromkeys(range(60), 1)


WRITES = """
for number in range(100000):
    kept.put([answer(f"{number}-{part}") for part in range(4)])
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_a_writer_that_is_killed_loses_nothing_that_it_put_and_leaves_no_half(
    seed: int, place: str
) -> None:
    CallStore(place)
    writer = child(place, WRITES)
    assert writer.stdout is not None and writer.stdout.readline() == "0\n"
    time.sleep(random.Random(seed).uniform(0.05, 0.4))
    os.killpg(writer.pid, signal.SIGKILL)
    last = int((writer.communicate()[0].split() or ["0"])[-1])
    kept = CallStore(place)
    keys = [f"{number}-{part}" for number in range(last + 50) for part in range(4)]
    found = kept.get(keys)
    assert len(found) % 4 == 0 and {key for key in keys[: 4 * (last + 1)]} <= found.keys()
    kept.put([answer("next")])


HOLDS = """
claims = Claims(kept)
assert make(kept, claims, ClaimRequest("a", 0.5, 10), ClaimRequest("b", 0.25, 5)) == [None, None]
print("held", flush=True)
time.sleep(60)
"""


def make(kept: CallStore, claims: Claims, *moves: Move) -> list[Refused | None]:
    return kept.write(lambda db: claims.make(db, moves))


def test_a_claim_is_held_while_its_process_lives_and_counts_when_it_was_killed(
    kept: CallStore, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On PostgreSQL a process without a session may be about to come back.
    monkeypatch.setattr(postgres, "AWAY", 0.0)
    with store.accounting("refine"):
        open_turn(kept, "t", Budget(usd=1))
        claims = Claims(kept)
        holder = child(
            place,
            "from cowest.ledger import account\naccount.current().stage = 'refine'" + HOLDS,
        )
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert make(
            kept,
            claims,
            ClaimRequest("a", 0.1, 10),
            ClaimRequest("c", 0.1, 10),
            ClaimRequest("d", 0.9, 10),
        ) == [
            Refused.TAKEN,
            None,
            Refused.OVER,
        ]
        os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()
        until = time.monotonic() + 10
        while make(kept, claims, ClaimRequest("a", 0.1, 10)) == [Refused.TAKEN]:
            assert time.monotonic() < until
        assert time.monotonic() < until - 8, "it is known at once"
        assert spent(kept, "t").usd == pytest.approx(0.75 + 0.1 + 0.1), (
            "what was killed may have been paid for"
        )
        make(kept, claims, Settled(answer("a"), 0.2, 4), Released(ClaimRequest("c", 0.1, 10)))
        assert spent(kept, "t").usd == pytest.approx(0.25 + 0.2 + 0.2)
        assert make(kept, claims, ClaimRequest("a", 0.1, 10)) == [Refused.ANSWERED]


def test_a_call_whose_claim_was_undone_counts_all_the_same(kept: CallStore) -> None:
    """A claim does not wait for the disk: a power cut, or a crash of the server, may undo it."""
    with store.accounting("refine"):
        open_turn(kept, "t", Budget(usd=1))
        claims = Claims(kept)
        asks = [ClaimRequest(key, 0.125, 10) for key in "abc"]
        make(kept, claims, *asks)
        kept.write(lambda db: db.execute("DELETE FROM claims"))
        make(kept, claims, Settled(answer("a"), 0.0625, 4), Left(asks[1]))
        make(kept, claims, Released(asks[2], 0.25, 20))
        now = spent(kept, "t")
        assert (now.usd, now.tokens) == (0.0625 + 0.125 + 0.25, 4 + 10 + 20)
        make(kept, claims, Settled(answer("a"), 0.0625, 4), Left(asks[0]))
        assert spent(kept, "t") == now, "it was answered, and counted, before"
        make(kept, claims, Settled(answer("b"), 0.0625, 4))
        assert spent(kept, "t").usd == 0.0625 + 0.0625 + 0.25
        assert kept.fetch("SELECT COUNT(*) FROM claims") == [(0,)]


SPENDS = """
from cowest.ledger import account
account.current().stage = "refine"
claims, luck, paid, worst = Claims(kept), random.Random(int(sys.argv[1])), 0.0, 0.0
held = []
for number in range(150):
    if held and (len(held) > 6 or luck.random() < 0.4):
        ask = held.pop(luck.randrange(len(held)))
        cost = luck.uniform(0, ask.usd)
        move = luck.choice([Settled(answer(ask.key), cost, 1), Released(ask, cost, 1)])
        make(kept, claims, move)
        paid += cost
    else:
        ask = ClaimRequest(f"{sys.argv[1]}-{number}", luck.uniform(0, 0.2), 3)
        if make(kept, claims, ask) == [None]:
            held.append(ask)
    worst = max(worst, spent(kept, "t").usd)
for ask in held:
    make(kept, claims, Released(ask))
print(json.dumps([paid, worst]))
"""


def test_processes_never_overspend_together(kept: CallStore, place: str) -> None:
    open_turn(kept, "t", Budget(usd=3.0))
    found = said([child(place, SPENDS, str(seed)) for seed in (1, 2, 3)])
    now = spent(kept, "t")
    assert now.usd == pytest.approx(sum(paid for paid, _ in found))
    assert 2 < max(worst for _, worst in found) <= 3.0 + 1e-6
    assert kept.fetch("SELECT COUNT(*) FROM claims") == [(0,)]


LIVES = "print(json.dumps(bool(kept.read(lambda db: kept.living(db, {int(sys.argv[1])})))))"


def lives(place: str, owner: int) -> bool:
    """Says if another process counts the process of that number as alive."""
    (found,) = said([child(place, LIVES, str(owner))])
    return bool(found)


def wait_until_gone(place: str, owner: int) -> None:
    """A server lets go of a lock a moment after its session has ended."""
    until = time.monotonic() + 30
    while lives(place, owner):
        assert time.monotonic() < until


def test_a_store_that_is_closed_makes_us_gone_and_opens_again(place: str) -> None:
    kept = CallStore(place)
    kept.put([answer("a")])
    claims = Claims(kept)
    assert make(kept, claims, ClaimRequest("b", 0.5, 10)) == [None]
    assert lives(place, claims.owner)
    kept.close()
    kept.close()
    assert kept.closed
    wait_until_gone(place, claims.owner)
    for use in (lambda: kept.get(["a"]), lambda: kept.put([answer("c")]), kept.join):
        with pytest.raises(StoreError, match="was closed"):
            use()

    again = CallStore(place)
    assert again.get(["a", "c"]) == {"a": answer("a").completion}
    anew = Claims(again)
    assert anew.owner > claims.owner, "a number is given once"
    assert lives(place, anew.owner)
    assert make(again, anew, ClaimRequest("b", 0.5, 10)) == [None], "whoever held it is gone"


def test_closing_one_of_two_stores_of_a_place_leaves_the_other_alive(place: str) -> None:
    first, second = CallStore(place), CallStore(place)
    claims = Claims(second)
    first.join()
    first.close()
    assert lives(place, claims.owner)
    assert make(second, claims, ClaimRequest("a", 0.5, 10)) == [None]
    second.close()
    wait_until_gone(place, claims.owner)


def test_a_process_that_ends_without_closing_is_gone_at_once(kept: CallStore, place: str) -> None:
    (owner,) = said([child(place, "print(json.dumps(Claims(kept).owner))")])
    assert kept.read(lambda db: kept.living(db, {owner})) == set()


def test_closing_all_stores_has_them_opened_anew(place: str) -> None:
    named, other = store.open_store(), CallStore(place)
    assert store.open_store() is named
    named.put([answer("a")])
    store.close()
    assert named.closed and other.closed
    again = store.open_store()
    assert again is not named and again.get(["a"]).keys() == {"a"}


def test_a_named_store_that_was_closed_is_opened_anew(place: str) -> None:
    named = store.open_store()
    named.close()
    store.open_store().put([answer("a")])
    assert store.open_store().get(["a"]).keys() == {"a"}


KEYS = st.sampled_from("abcde")
ASKS = st.builds(ClaimRequest, KEYS, st.integers(0, 40).map(lambda n: n / 8), st.integers(0, 40))
MOVES = st.one_of(
    ASKS,
    st.builds(lambda key, cost: Settled(answer(key), cost / 8, cost), KEYS, st.integers(0, 40)),
    st.builds(lambda ask, cost: Released(ask, cost / 8, cost), ASKS, st.integers(0, 9)),
    st.builds(Left, ASKS),
)


@FEW
@given(
    st.lists(st.lists(MOVES, max_size=4), max_size=6),
    st.none() | st.integers(0, 20),
    st.none() | st.integers(0, 100),
)
def test_claims_are_kept_as_a_list_would_keep_them(
    kept: CallStore, batches: list[list[Move]], usd: int | None, tokens: int | None
) -> None:
    """Any moves of one process, against the same rules written over plain lists."""
    turn = os.urandom(4).hex()
    with store.accounting("refine"):
        open_turn(kept, turn, Budget(usd=usd, tokens=tokens))
        claims, plain = Claims(kept), Plain(Budget(usd=usd, tokens=tokens))
        for batch in batches:
            moves = [_own(move, turn) for move in batch]
            expected = plain.make(moves)
            assert make(kept, claims, *moves) == expected
            now = spent(kept, turn)
            assert (now.usd, now.tokens) == (
                pytest.approx(plain.usd + plain.open("usd")),
                plain.tokens + plain.open("tokens"),
            )


class Plain:
    """The rules of `Claims`, over a plain list."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.usd, self.tokens = budget, 0.0, 0.0
        self.held: list[tuple[ClaimRequest, bool]] = []
        """Claims, and whether somebody makes their call."""
        self.answered: set[str] = set()

    def open(self, what: str) -> float:
        return sum(getattr(ask, what) for ask, _ in self.held)

    def make(self, moves: list[Move]) -> list[Refused | None]:
        for kind in (Released, Settled, Left):
            if kind is Left:
                self._hold_again(moves)
            for move in moves:
                if isinstance(move, kind):
                    self._free(move)
        return [self._claim(move) if isinstance(move, ClaimRequest) else None for move in moves]

    def _hold_again(self, moves: list[Move]) -> None:
        """Claims what is left and has no claim any more: that one was undone."""
        for move in moves:
            if isinstance(move, Left):
                known = move.request.key in self.answered or self._made(move.request.key)
                self.held += [] if known else [(move.request, True)]

    def _free(self, move: Move) -> None:
        if isinstance(move, Settled):
            claims = sum(ask.key == move.answer.key for ask, _ in self.held)
            # A call that has none and was not answered: its claim was undone.
            claims = claims or move.answer.key not in self.answered
            self.usd, self.tokens = self.usd + claims * move.usd, self.tokens + claims * move.tokens
            self.held = [one for one in self.held if one[0].key != move.answer.key]
            self.answered.add(move.answer.key)
        elif isinstance(move, Released):
            for place in self._made(move.request.key)[-1:]:
                del self.held[place]
            self.usd, self.tokens = self.usd + move.usd, self.tokens + move.tokens
        elif isinstance(move, Left):
            for place in self._made(move.request.key)[-1:]:
                self.held[place] = (self.held[place][0], False)

    def _made(self, key: str) -> list[int]:
        """The places of the claims whose call somebody makes."""
        return [place for place, (ask, made) in enumerate(self.held) if made and ask.key == key]

    def _claim(self, ask: ClaimRequest) -> Refused | None:
        if ask.key in self.answered:
            return Refused.ANSWERED
        if (
            self.budget.usd is not None
            and self.usd + self.open("usd") + ask.usd > self.budget.usd + 1e-9
        ):
            return Refused.OVER
        if (
            self.budget.tokens is not None
            and self.tokens + self.open("tokens") + ask.tokens > self.budget.tokens
        ):
            return Refused.OVER
        self.held.append((ask, True))
        return None


def _own(move: Move, turn: str) -> Move:
    """The same move on a key of this turn's, which no other example has."""
    if isinstance(move, Settled):
        return Settled(answer(turn + move.answer.key), move.usd, move.tokens)
    if isinstance(move, ClaimRequest):
        return ClaimRequest(turn + move.key, move.usd, move.tokens)
    ask = ClaimRequest(turn + move.request.key, move.request.usd, move.request.tokens)
    return Released(ask, move.usd, move.tokens) if isinstance(move, Released) else Left(ask)
