"""Purses on every database: what is served is claimed before and settled after, a day's budget is
never overspent, and what was killed or cut goes on counting.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cowest.commands import doctor
from cowest.errors import BudgetError, StoreError, UpstreamError
from cowest.ledger import schema, store
from cowest.ledger.cashier import Cashier
from cowest.ledger.claims import Budget
from cowest.ledger.purses import (
    PurseClaim,
    PurseDay,
    PurseMove,
    PurseSettled,
    Short,
    day_of,
    make,
    on,
    seconds_left,
    set_budget,
    today,
)
from cowest.ledger.store import CallStore, StoredAnswer
from cowest.models.openai import OpenAIConfig
from cowest.online.breaker import Breaker, BreakerConfig
from cowest.online.upstream import Upstream
from cowest.protocols import Completion, Served
from tests import servers, stores, tiny
from tests.endpoints import PRICE, config, parts, priced, serve, short, whole
from tests.servers import Fate, chat_server, completion, error, said, streamed

COST = (7 * 1.0 + 3 * 10.0) / 1e6
"""Of a call to the server: it says 7 and 3 tokens."""
FEW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=stores.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def kept(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CallStore:
    """The store that COWEST_STORE names, empty, of each kind."""
    monkeypatch.setenv("COWEST_STORE", stores.place(kind, tmp_path))
    return store.open_store()


def purse(name: str = "") -> PurseDay:
    """Returns a purse's day."""
    return today(store.open_store())[name]


def rows(table: str) -> int:
    ((count,),) = store.open_store().fetch(f"SELECT COUNT(*) FROM {table}")
    return int(count)


def most() -> tuple[float, int]:
    """The most that a call of `short("q")` can cost, in US dollars and tokens."""
    settings = OpenAIConfig(model="tiny", base_url="http://127.0.0.1/v1", key_env=None)
    prompt, completion = settings.most(short("q"))
    return PRICE.of(prompt, completion), prompt + completion


def test_what_is_served_is_counted_for_who_pays_and_kept_nowhere_else() -> None:
    with chat_server({"q": [error(500)]}) as server:
        serve(priced(server), "q", "q", purse="ann")
        serve(priced(server), "q")
        assert server.calls == 4, "who asks the same is answered anew"
    ann, nobody = purse("ann"), purse()
    assert (ann.usd, ann.tokens, ann.calls) == (pytest.approx(2 * COST), 20, 2)
    assert (nobody.usd, nobody.tokens, nobody.calls) == (pytest.approx(COST), 10, 1)
    assert (ann.held_usd, ann.held_tokens) == (pytest.approx(0.0), 0)
    assert [rows(table) for table in ("calls", "claims", "turns")] == [0, 0, 0]


def test_two_who_ask_the_same_at_once_are_two_calls_and_wait_for_none() -> None:
    async def ask_both() -> None:
        async with priced(server).open_async() as model:
            one, other = (model.stream(short("q"), Served(name, later)) for name in "ab")
            assert await anext(one) == "The first"
            assert await anext(other) == "The first"
            assert purse().calls == 2
            await one.aclose()
            await other.aclose()

    later = time.monotonic() + 20
    with chat_server(otherwise=Fate(pieces=[said("The first"), 20.0])) as server:
        asyncio.run(ask_both())


def test_a_purse_that_is_spent_says_when_it_goes_on(kept: CallStore) -> None:
    usd, _ = most()
    set_budget(kept, "ann", Budget(usd=usd + COST))
    with chat_server() as server:
        serve(priced(server), "q", "q", purse="ann")
        with pytest.raises(
            BudgetError, match=r"'ann' for today is reached: \$0\.0001 .* at 00:00 UTC, in \d+ h"
        ) as raised:
            serve(priced(server), "q", purse="ann")
        assert server.calls == 2
        serve(priced(server), "q", purse="bob")
        set_budget(kept, "ann", Budget(usd=1))
        serve(priced(server), "q", purse="ann")
        set_budget(kept, "ann", Budget(tokens=20))
        with pytest.raises(BudgetError, match="of 20 tokens"):
            serve(priced(server), "q", purse="ann")
    assert raised.value.retry_after == pytest.approx(seconds_left(time.time()), abs=60)
    assert purse("ann").calls == 3


def test_yesterday_is_another_row(kept: CallStore) -> None:
    set_budget(kept, "ann", Budget(usd=1))
    claim = PurseClaim("ann", 1.0, 5, day_of(time.time() - 86_400))
    assert moved(kept, claim) == [None]
    assert moved(kept, claim) == [Short.HELD]
    assert moved(kept, replace(claim, day=day_of(time.time()))) == [None]
    assert moved(kept, PurseSettled(claim, 0.5, 3)) == [None]
    (yesterday,) = on(kept, claim.day).values()
    assert (yesterday.usd, yesterday.held_usd, yesterday.tokens) == (0.5, 0.0, 3)
    assert (purse("ann").usd, purse("ann").held_usd) == (0.0, 1.0)


DAYS = [
    (0.0, "1970-01-01"),
    (86_399.9, "1970-01-01"),
    (86_400.0, "1970-01-02"),
    (1.7961e9, "2026-12-01"),
]


@pytest.mark.parametrize(("now", "day"), DAYS)
def test_a_day_begins_at_midnight_in_utc(now: float, day: str) -> None:
    assert day_of(now) == day
    assert 0 < seconds_left(now) <= 86_400 and day_of(now + seconds_left(now)) > day


def test_a_call_without_a_bound_is_refused_by_a_purse_that_has_one(kept: CallStore) -> None:
    set_budget(kept, "ann", Budget(usd=1))
    set_budget(kept, "bob", Budget(tokens=10**6))
    with chat_server() as server:
        with pytest.raises(BudgetError, match="give the model its `price`"):
            serve(config(server), "q", purse="ann")
        serve(config(server), "q", purse="bob")
        endless = priced(server, extra={"max_tokens": -1})
        for name in ("ann", "bob"):
            with pytest.raises(BudgetError, match="an end to its answers"):
                serve(endless, "q", purse=name)
        serve(endless, "q")
        assert server.calls == 2


def test_a_call_waits_for_those_of_its_purse_that_may_leave_enough(kept: CallStore) -> None:
    usd, _ = most()
    set_budget(kept, "ann", Budget(usd=2 * usd + COST))

    async def ask_all() -> list[Any]:
        async with priced(server).open_async() as model:
            asked = [parts(model, short("q"), purse="ann") for _ in range(6)]
            return await asyncio.gather(*asked)

    with chat_server(otherwise=Fate(pieces=[0.05, *streamed("yes")])) as server:
        assert [whole(found).text for found in asyncio.run(ask_all())] == ["yes"] * 6
        assert server.busiest <= 3
    assert purse("ann").usd == pytest.approx(6 * COST)


def test_what_a_purse_holds_for_others_is_waited_for_no_longer_than_asked(
    kept: CallStore,
) -> None:
    usd, tokens = most()
    set_budget(kept, "ann", Budget(usd=usd))

    async def ask_all() -> None:
        async with priced(server).open_async() as model:
            stream = model.stream(short("q"), Served("r", time.monotonic() + 20, "ann"))
            await anext(stream)
            with pytest.raises(BudgetError, match=r"\$0\.0002 and 53 tokens are held"):
                await parts(model, short("q"), seconds=1, purse="ann")
            await stream.aclose()
            began = time.monotonic()
            with pytest.raises(BudgetError):
                await parts(model, short("q"), seconds=20, purse="ann")
            assert time.monotonic() - began < 10, "a lost claim comes back to nobody"

    assert (round(usd, 4), tokens) == (0.0002, 53)
    with chat_server(otherwise=Fate(pieces=[said("The first"), 20.0])) as server:
        asyncio.run(ask_all())


def test_the_wait_for_a_purse_is_no_lateness_of_the_model(kept: CallStore) -> None:
    set_budget(kept, "ann", Budget(usd=1.5 * most()[0]))
    breaker = Breaker(BreakerConfig(failures=1), "the model")

    async def ask_both() -> None:
        async with priced(server, timeout=30).open_async() as model:
            first = model.stream(short("a"), Served("a", time.monotonic() + 20, "ann"))
            assert await anext(first) == "The first"
            ended = asyncio.create_task(_ended(first))
            upstream = Upstream(model, breaker, patience=2.0)
            # The purse is held for two of these seconds, and the endpoint has one.
            with pytest.raises(UpstreamError):
                await parts(upstream, short("b"), seconds=3, purse="ann")
            await ended

    script = {"b": [Fate(delay=30)]}
    late = Fate(pieces=[said("The first"), 2.0, *streamed(" more")])
    with chat_server(script, otherwise=late) as server:
        asyncio.run(ask_both())
        assert server.asked() == {"a": 1, "b": 1}
    assert not breaker.is_open


async def _ended(stream: AsyncGenerator[str | Completion, None]) -> None:
    async for _ in stream:
        pass


BROKEN = {
    "dropped": servers.DROPPED,
    "in the middle": Fate(pieces=[said("The first"), None]),
    "an error in the middle": Fate(
        pieces=[said("The first"), b'data: {"error": {"code": 500, "message": "no"}}\n\n']
    ),
    "a gateway gave up": error(504),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_broke_off_counts_as_the_most_that_it_can_cost(kind: str) -> None:
    with chat_server(otherwise=BROKEN[kind]) as server, pytest.raises(UpstreamError):
        serve(priced(server, retries=0), "q", purse="ann")
    ann = purse("ann")
    assert (ann.usd, ann.tokens, ann.calls) == (0.0, 0, 1)
    assert (ann.held_usd, ann.held_tokens) == most()


def test_what_a_filter_ends_in_the_middle_costs_the_most_that_it_can(
    capfd: pytest.CaptureFixture[str],
) -> None:
    filtered = b'data: {"error": {"code": "content_filter", "message": "no"}}\n\n'
    with chat_server(otherwise=Fate(pieces=[said("The first"), filtered])) as server:
        ((text, answer),) = serve(priced(server), "q", purse="ann")
    assert text == "The first"
    assert isinstance(answer, Completion) and answer.finish == "refused"
    assert capfd.readouterr().err == "", "it is no endpoint that reports no tokens"
    ann = purse("ann")
    assert (ann.usd, ann.tokens) == most() and ann.held_tokens == 0
    assert answer.usd == ann.usd


FREE = {
    "refused": error(429),
    "poison": error(400),
    "the key": error(401),
    "filtered": error(400, "no", "content_filter"),
}


@pytest.mark.parametrize("kind", FREE)
def test_what_costs_nothing_counts_for_nothing(kind: str) -> None:
    with chat_server(otherwise=FREE[kind]) as server, suppress(UpstreamError):
        serve(priced(server, retries=1), "q", purse="ann")
    ann = purse("ann")
    assert (ann.usd, ann.tokens, ann.held_tokens) == (0.0, 0, 0)
    assert ann.held_usd == pytest.approx(0.0)


def test_each_attempt_that_may_be_paid_for_has_its_claim() -> None:
    script = {"q": [servers.DROPPED, Fate(pieces=streamed("")), error(429)]}
    with chat_server(script) as server:
        assert whole(*serve(priced(server), "q", purse="ann")).usd == pytest.approx(COST)
        assert server.calls == 4
    ann = purse("ann")
    assert ann.usd == pytest.approx(2 * COST), "the empty answer and the good one"
    assert (ann.held_usd, ann.held_tokens) == pytest.approx(most()), "the one that was dropped"
    assert ann.calls == 3


def test_who_leaves_before_anything_is_asked_pays_nothing(kept: CallStore) -> None:
    async def leave() -> None:
        async with priced(server, concurrency=1).open_async() as model:
            first = model.stream(short("a"), Served("r", time.monotonic() + 20, "ann"))
            await anext(first)
            waiting = asyncio.ensure_future(parts(model, short("b"), purse="bob"))
            await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await first.aclose()

    with chat_server(otherwise=Fate(pieces=[said("The first"), 20.0])) as server:
        asyncio.run(leave())
        assert server.asked() == {"a": 1}
    assert today(kept).keys() == {"ann"}


def test_who_leaves_once_the_request_was_sent_pays_the_most(kept: CallStore) -> None:
    async def leave() -> None:
        async with priced(server).open_async() as model:
            waiting = asyncio.ensure_future(parts(model, short("q"), purse="ann"))
            while not server.calls:
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    with chat_server(otherwise=Fate(delay=20)) as server:
        asyncio.run(leave())
    ann = purse("ann")
    assert (ann.held_usd, ann.held_tokens, ann.calls) == (*most(), 1)


def test_an_endpoint_that_bills_more_than_a_call_allows_is_reserved_for(kept: CallStore) -> None:
    _, tokens = most()
    body = json.loads(completion("yes"))
    body["usage"] = {"prompt_tokens": 1000, "completion_tokens": 1000}
    set_budget(kept, "ann", Budget(tokens=2000 + tokens))
    with chat_server(otherwise=Fate(body=json.dumps(body).encode())) as server:

        async def ask_twice() -> None:
            async with priced(server).open_async() as model:
                await parts(model, short("q"), purse="ann")
                with pytest.raises(BudgetError, match=r"may take .* 2,000 tokens"):
                    await parts(model, short("q"), purse="ann")

        asyncio.run(ask_twice())
    assert purse("ann").tokens == 2000


def test_an_answer_without_a_word_that_bills_more_is_reserved_for(
    kept: CallStore, capfd: pytest.CaptureFixture[str]
) -> None:
    body = json.loads(completion("", reasoning_content="Well, ..."))
    body["usage"] = {"prompt_tokens": 7, "completion_tokens": 100_000}
    set_budget(kept, "", Budget(tokens=150_000))
    with chat_server(otherwise=Fate(body=json.dumps(body).encode())) as server:
        with pytest.raises(BudgetError, match="budget"):
            serve(priced(server), "q")
        assert server.calls == 1
    assert purse().tokens == 100_007 and purse().held_tokens == 0
    assert capfd.readouterr().err.count("bills more than its calls allow: 100,007 tokens") == 1


def test_with_cache_what_a_turn_was_answered_is_given_and_what_is_new_is_kept() -> None:
    with chat_server() as server:
        settings = priced(server)
        with settings.open() as model:
            (before,) = model.generate([short("a")])
        first, again, other = serve(settings, "a", "b", "b", cache=True, purse="ann")
        assert server.asked() == {"a": 1, "b": 1}
        assert whole(first) == replace(before, usd=0.0)
        assert whole(again).usd == pytest.approx(COST) and whole(other).usd == 0.0
        assert whole(again).text == whole(other).text == "answer to b"
        with settings.open() as model:
            (found,) = model.generate([short("b")])
        assert found.text == "answer to b" and server.calls == 2
        assert not whole(*serve(settings, "b")).estimated and server.calls == 3, "without cache"
    assert purse("ann").calls == 1 and rows("calls") == 2


def test_with_cache_a_refusal_is_given_again_and_a_failure_is_not() -> None:
    script = {"a": [error(400, "no", "content_filter")], "b": [error(400, "poison")]}
    with chat_server(script) as server:
        found = [whole(one) for one in serve(config(server), *"aabb", cache=True)]
        assert server.asked() == {"a": 1, "b": 2}
    assert found[0] == found[1] and found[0].finish == "refused"
    assert [one.text for one in found[2:]] == [None, "answer to b"]


def test_a_store_that_can_not_be_written_is_said_and_nothing_is_asked(kept: CallStore) -> None:
    async def ask() -> None:
        async with priced(server).open_async() as model:
            kept.close()
            with pytest.raises(StoreError, match="was closed"):
                await parts(model, short("q"))

    with chat_server() as server:
        asyncio.run(ask())
        assert server.calls == 0


CHILD = """\
import asyncio, json, sys, time
from cowest.commands import doctor
from cowest.errors import BudgetError
from cowest.models.openai import OpenAIConfig
from cowest.protocols import Served
from tests.endpoints import parts, short
settings = OpenAIConfig.model_validate_json(sys.argv[1])
"""
SPENDS = """
async def main():
    refused = 0
    async with settings.open_async() as model:
        while not refused:
            asked = [parts(model, short("q"), purse="ann") for _ in range(3)]
            found = await asyncio.gather(*asked, return_exceptions=True)
            refused = sum(isinstance(one, BudgetError) for one in found)
asyncio.run(main())
"""
READS = """
async def main():
    async with settings.open_async() as model:
        async for part in model.stream(short("q"), Served("r", time.monotonic() + 60, "ann")):
            print(json.dumps(part), flush=True)
asyncio.run(main())
"""


def child(server: servers.ChatServer, code: str) -> "subprocess.Popen[str]":
    """Another process that asks the server."""
    surroundings = {**tiny.surroundings(), "COWEST_STORE": os.environ["COWEST_STORE"]}
    command = [sys.executable, "-c", CHILD + code, priced(server).model_dump_json()]
    return subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_never_overspend_a_purse_together(kept: CallStore) -> None:
    usd, _ = most()
    set_budget(kept, "ann", Budget(usd=15 * COST + usd))
    with chat_server(otherwise=Fate(pieces=[0.01, *streamed("yes")])) as server:
        children = [child(server, SPENDS) for _ in range(2)]
        assert [one.wait(60) for one in children] == [0, 0]
    ann = purse("ann")
    assert ann.usd == pytest.approx(server.calls * COST) and 8 < server.calls <= 16
    assert ann.usd <= (ann.budget.usd or 0) and ann.held_usd == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_a_process_that_is_killed_in_the_middle_of_an_answer_leaves_its_claim() -> None:
    with chat_server(otherwise=Fate(pieces=[said("The first"), 60.0])) as server:
        reading = child(server, READS)
        assert reading.stdout is not None and json.loads(reading.stdout.readline()) == "The first"
        reading.send_signal(signal.SIGKILL)
        reading.wait(20)
    ann = purse("ann")
    assert (ann.usd, ann.held_usd, ann.held_tokens, ann.calls) == (0.0, *most(), 1)


def moved(kept: CallStore, *moves: PurseMove) -> list[Short | None]:
    return kept.write(lambda db: make(kept, db, moves))


NAMES = st.sampled_from("abc")
CLAIMS = st.builds(PurseClaim, NAMES, st.integers(0, 40).map(lambda n: n / 8), st.integers(0, 40))
BUDGETS = st.builds(
    Budget, usd=st.none() | st.integers(0, 20), tokens=st.none() | st.integers(0, 100)
)


@FEW
@given(
    st.fixed_dictionaries({}, optional={"a": BUDGETS, "b": BUDGETS}),
    st.lists(st.lists(CLAIMS, max_size=4), max_size=6),
    st.randoms(use_true_random=False),
)
def test_purses_are_kept_as_plain_sums_would_keep_them(
    kept: CallStore,
    budgets: dict[str, Budget],
    batches: Sequence[Sequence[PurseClaim]],
    luck: random.Random,
) -> None:
    """Any moves, many in a transaction, against the same rules written over plain sums."""
    mark = os.urandom(4).hex()
    for name, budget in budgets.items():
        set_budget(kept, mark + name, budget)
    spent = {name: [0.0, 0] for name in "abc"}
    held: list[PurseClaim] = []
    for batch in batches:
        luck.shuffle(held)
        settled = []
        for _ in range(luck.randrange(len(held) + 1)):
            claim = held.pop()
            paid = PurseSettled(claim, (claim.usd or 0.0) / 2, (claim.tokens or 0) // 2)
            spent[claim.purse[-1]][0] += paid.usd
            spent[claim.purse[-1]][1] += paid.tokens
            settled.append(paid)
        claims = [replace(claim, purse=mark + claim.purse) for claim in batch]
        moves: list[PurseMove] = [*claims, *settled]
        found = moved(kept, *moves)
        assert found[len(claims) :] == [None] * len(settled)
        for claim, short_of in zip(claims, found, strict=False):
            name = claim.purse[-1]
            budget = budgets.get(name, Budget())
            open_now = [one for one in held if one.purse == claim.purse]
            usd = [spent[name][0] + (claim.usd or 0), sum(one.usd or 0 for one in open_now)]
            tokens = [
                spent[name][1] + (claim.tokens or 0),
                sum(one.tokens or 0 for one in open_now),
            ]
            expected = None
            for reason, taken in ((Short.HELD, 2), (Short.SPENT, 1)):
                if budget.usd is not None and sum(usd[:taken]) > budget.usd:
                    expected = reason
                if budget.tokens is not None and sum(tokens[:taken]) > budget.tokens:
                    expected = reason
            assert short_of is expected
            if expected is None:
                held.append(claim)
    days = today(kept)
    for name in "abc":
        day = days.get(mark + name, PurseDay(name, ""))
        open_now = [one for one in held if one.purse[-1] == name]
        assert day.held_usd == pytest.approx(sum(one.usd or 0 for one in open_now))
        assert day.held_tokens == sum(one.tokens or 0 for one in open_now)
        assert (day.usd, day.tokens) == (pytest.approx(spent[name][0]), spent[name][1])


def test_a_claim_that_was_undone_is_not_taken_from_those_of_others(kept: CallStore) -> None:
    """A claim does not wait for the disk: a power cut, or a crash of the server, may undo it."""
    lost, held = PurseClaim("ann", 0.5, 7), PurseClaim("ann", 0.25, 5)
    kept.write(lambda db: make(kept, db, [lost, lost]))
    kept.write(lambda db: db.execute("DELETE FROM purse_days"))
    settled = [PurseSettled(lost, 0.125, 3), PurseSettled(lost, made=False)]
    assert kept.write(lambda db: make(kept, db, [settled[0], held])) == [None, None]
    ann = purse("ann")
    assert (ann.usd, ann.tokens, ann.held_usd, ann.held_tokens) == (0.125, 3, 0.25, 5)
    kept.write(lambda db: make(kept, db, [PurseSettled(held, 0.125, 3), settled[1]]))
    ann = purse("ann")
    assert (ann.usd, ann.tokens, ann.held_usd, ann.held_tokens, ann.calls) == (0.25, 6, 0.0, 0, 0)


def test_a_claim_that_nobody_waits_for_any_more_is_given_back(kept: CallStore) -> None:
    claim = PurseClaim("ann", 1.0, 5)

    async def leave() -> None:
        cashier = Cashier(kept)
        waiting = asyncio.ensure_future(cashier.claim(claim, 20))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await cashier.close()

    asyncio.run(leave())
    assert (purse("ann").held_usd, purse("ann").calls) == (0.0, 0)


def test_the_doctor_says_that_a_store_is_older_and_leaves_it_so_until_it_is_used(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    place = stores.place(kind, tmp_path / "other")
    monkeypatch.setenv("COWEST_STORE", place)
    if kind == "sqlite":
        assert store.older() is None and not Path(place).exists()
    with monkeypatch.context() as older:
        older.setattr(schema, "STEPS", schema.STEPS[:-1])
        older.setattr(schema, "POSTGRES", schema.POSTGRES[:-1])
        before = CallStore(place)
        before.put([StoredAnswer("a", Completion("yes", "m"), 0.1)])
        before.close()
    for _ in range(2):
        said = doctor.call_store()
        assert said.fit and "was written by an older CoWest" in said.found
        assert "canary" not in said.found
    set_budget(store.open_store(), "ann", Budget(usd=1))
    assert today(CallStore(place))["ann"].budget == Budget(usd=1)
    assert CallStore(place).look(["a"])["a"].text == "yes"
    assert "older" not in doctor.call_store().found
    with monkeypatch.context() as older:
        older.setattr(schema, "STEPS", schema.STEPS[:-1])
        older.setattr(schema, "POSTGRES", schema.POSTGRES[:-1])
        with pytest.raises(StoreError, match="newer CoWest"):
            CallStore(place)
