"""Paid calls against a real server: the budget holds, nothing that was paid for is lost, and
nothing is paid for twice.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cowest.errors import BudgetError, CallError, ConfigError, StoreError
from cowest.ledger import postgres, store
from cowest.ledger.account import Account
from cowest.ledger.till import Till
from cowest.models.endpoint.settings import Price
from cowest.models.openai import OpenAIConfig
from cowest.protocols import Completion
from tests import servers, stores, tiny
from tests.endpoints import PRICE, budget, claims, now
from tests.endpoints import priced as config
from tests.endpoints import short as ask
from tests.endpoints import short_answers as answers
from tests.servers import Fate, chat_server, completion, error

COST = (7 * 1.0 + 3 * 10.0) / 1e6
"""Of a call to the server: it says 7 and 3 tokens."""


@pytest.fixture(autouse=True, params=stores.KINDS)
def stage(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Account]:
    """A stage of the turn `t`, on each kind of store."""
    monkeypatch.setenv("COWEST_STORE", stores.place(request.param, tmp_path))
    with store.accounting("refine") as account:
        yield account


def test_what_is_spent_is_what_the_calls_cost(stage: Account) -> None:
    budget(usd=1)
    with chat_server({"1": [error(500), servers.EMPTY]}) as server:
        answers(config(server), 1, 2, 2, 3)
    assert server.calls == 5, "1 twice more, and the second 2 is the first"
    assert now().usd == pytest.approx(3 * COST + COST), (
        "the empty answer was paid for, the error was not"
    )
    assert now().tokens == 40
    assert claims() == 0
    assert stage.cost == pytest.approx(3 * COST)
    assert "4 completions asked = 4 answered + 0 set aside" in stage.line()


def test_what_a_gateway_gave_up_waiting_for_may_have_been_paid_for() -> None:
    budget(usd=1)
    script = {str(status): [error(status)] for status in (408, 502, 504, 520, 522, 524, 527)}
    free = {str(status): [error(status)] for status in (429, 500, 503, 521, 523, 525, 526, 529)}
    with chat_server({**script, **free}) as server:
        answers(config(server), *script, *free)
        assert server.calls == 2 * len([*script, *free])
    assert now().usd == pytest.approx((len(free) + 2 * len(script)) * COST) and claims() == 0


@pytest.mark.parametrize("limit", ["usd", "tokens"])
def test_calls_at_once_never_overspend_and_what_was_bought_is_kept(limit: str) -> None:
    most = sum(OpenAIConfig(model="m").most(ask(10)))
    calls = 12
    budget(
        **{
            limit: calls * COST + most * PRICE.completion / 1e6
            if limit == "usd"
            else calls * 10 + most
        }
    )
    with chat_server(otherwise=Fate(delay=0.02)) as server:
        found: list[Completion] = []
        with (
            config(server, concurrency=8).open() as model,
            pytest.raises(BudgetError, match=r"budget is reached: .* raise pin\.budget"),
        ):
            found.extend(model.generate(ask(n) for n in range(10, 60)))
        bought = server.calls
        assert calls <= bought < 30
        assert now().usd == pytest.approx(bought * COST)
        assert now().usd <= (now().budget.usd or 1) and now().tokens <= (
            now().budget.tokens or 10**9
        )
        assert claims() == 0
        budget(usd=1)
        assert all(c.text for c in answers(config(server), *range(10, 60)))
        assert server.calls == 50, "none of those that were bought is bought again"


def test_no_call_is_made_that_may_not_fit() -> None:
    budget(usd=0)
    with chat_server() as server, pytest.raises(BudgetError, match="budget is reached"):
        answers(config(server), 1)
    assert server.calls == 0
    with chat_server() as server:
        assert answers(config(server, price=Price(prompt=0, completion=0)), 1)[0].text, (
            "what costs nothing may be asked"
        )


def test_a_budget_that_can_not_be_kept_is_refused_before_any_call() -> None:
    budget(usd=1)
    with chat_server() as server:
        with pytest.raises(ConfigError, match="the model no price"):
            answers(config(server, price=None), 1)
        with pytest.raises(ConfigError, match="extra takes max_tokens out"):
            answers(config(server, extra={"max_tokens": None}), 1)
        with pytest.raises(ConfigError, match="extra takes max_tokens out or gives it no end"):
            answers(
                config(server, extra={"max_tokens": -1}), 1
            )  # what llama.cpp takes for as much as it likes
    assert server.calls == 0


def test_a_call_that_broke_off_counts_whole_until_its_answer_says_what_it_costs() -> None:
    budget(usd=1)
    with chat_server({"1": [servers.DROPPED, servers.NOT_JSON]}) as server:
        settings = config(server, retries=1)
        assert (
            answers(settings, 1)[0].failed
            == "an answer that is not JSON, at the last of 2 attempts"
        )
        prompt, most = settings.most(ask(1))
        assert now().usd == pytest.approx(2 * PRICE.of(prompt, most)), (
            "nobody knows whether it was paid for"
        )
        answers(settings, 1)
        assert now().usd == pytest.approx(3 * COST) and claims() == 0


def test_an_endpoint_that_does_not_say_what_it_used_is_taken_to_have_used_the_most() -> None:
    budget(usd=1)
    body = json.dumps(
        {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
    ).encode()
    with chat_server(otherwise=Fate(body=body)) as server:
        settings = config(server)
        answers(settings, 1)
        assert now().usd == pytest.approx(PRICE.of(*settings.most(ask(1))))


def test_a_slow_call_is_made_twice_where_that_is_asked_for_and_both_are_paid(
    stage: Account,
) -> None:
    """On a busy machine an ordinary call may be late, too, and is made twice then."""
    budget(usd=1)
    slow = {"slow 1": [Fate(delay=60)], "slow 2": [Fate(delay=60)]}
    with chat_server(slow, otherwise=Fate(delay=0.3)) as server:
        began = time.monotonic()
        found = answers(config(server, concurrency=10, hedge=0.2), *range(30), *slow)
        assert [c.text for c in found[30:]] == ["answer to slow 1", "answer to slow 2"]
        assert time.monotonic() - began < 55
        asked = server.asked()
        assert asked["slow 1"] == asked["slow 2"] == 2
        assert server.calls == 32 + stage.hedged and 2 <= stage.hedged <= 0.2 * server.calls
    assert f"{stage.hedged} calls were made twice at once" in stage.line()
    assert now().usd == pytest.approx(server.calls * COST) and claims() == 0


def test_no_more_than_the_share_is_made_twice_and_nothing_by_default(stage: Account) -> None:
    script = {str(n): [Fate(delay=0.4)] for n in range(40, 60)}
    for hedge, calls in ((0.05, 63), (None, 60)):
        with chat_server(script, otherwise=Fate(delay=0.03)) as server:
            assert all(
                c.text for c in answers(config(server, concurrency=8, hedge=hedge), *range(60))
            )
            assert 60 <= server.calls <= calls
    assert 0 < stage.hedged <= 3


def test_a_slow_call_is_not_made_twice_where_the_budget_has_no_room_for_it() -> None:
    most = sum(OpenAIConfig(model="m").most(ask("slow")))
    # There is room for a few ordinary calls that a busy machine makes late, and never for two slow
    # ones.
    budget(tokens=30 * 10 + most + 50)
    assert most > 50
    with chat_server({"slow": [Fate(delay=1)]}, otherwise=Fate(delay=0.1)) as server:
        assert all(
            c.text
            for c in answers(config(server, concurrency=2, hedge=0.15), *range(10, 40), "slow")
        )
        assert server.asked()["slow"] == 1
    assert now().tokens == 10 * server.calls and claims() == 0


QUICK = range(10, 40)
"""Calls after which one that takes a second is late, and is made a second time."""


def test_a_slow_answer_is_kept_although_the_second_call_for_it_stops_the_stage() -> None:
    budget(usd=1)
    script = {"slow": [Fate(delay=1), error(429, retry_after="999")]}
    with chat_server(script, otherwise=Fate(delay=0.1)) as server:
        settings = config(server, concurrency=2, hedge=0.2)
        with pytest.raises(CallError, match="asks to come back in 999 s"):
            answers(settings, *QUICK, "slow")
        assert server.asked()["slow"] == 2
        assert answers(settings, "slow")[0].text == "answer to slow"
        assert server.asked()["slow"] == 2, "it was paid for, and is kept"
    # The one that was refused cost nothing.
    assert now().usd == pytest.approx((server.calls - 1) * COST) and claims() == 0


def test_a_slow_call_is_answered_although_the_second_call_for_it_is_refused() -> None:
    budget(usd=1)
    script = {"slow": [Fate(delay=1), error(400, "it is poison")]}
    with chat_server(script, otherwise=Fate(delay=0.1)) as server:
        found = answers(config(server, concurrency=2, hedge=0.2), *QUICK, "slow")
        assert server.asked()["slow"] == 2 and found[-1].text == "answer to slow"
    assert now().usd == pytest.approx((server.calls - 1) * COST) and claims() == 0


def test_a_call_that_is_refused_twice_at_once_fails_with_what_the_provider_said() -> None:
    budget(usd=1)
    poison = error(400, "it is poison")
    script = {"slow": [Fate(poison.status, poison.body, delay=1), poison]}
    with chat_server(script, otherwise=Fate(delay=0.1)) as server:
        found = answers(config(server, concurrency=2, hedge=0.2), *QUICK, "slow")
        assert server.asked()["slow"] == 2 and found[-1].failed == "HTTP 400: it is poison"
    assert claims() == 0


def test_a_second_call_that_waits_for_its_time_when_the_first_is_answered_costs_nothing(
    stage: Account,
) -> None:
    budget(usd=1)
    script = {"slow": [Fate(delay=1)], "busy": [error(429, retry_after="3")]}
    with (
        ThreadPoolExecutor() as pool,
        chat_server(script, otherwise=Fate(delay=0.1)) as server,
        config(server, concurrency=4, hedge=0.2).open() as model,
    ):
        found = list(model.generate(ask(n) for n in (*QUICK, "slow", "busy")))
        assert all(c.text for c in found)
        assert stage.hedged and server.asked()["slow"] == 1
        budget(usd=now().usd)
        late = pool.submit(list, model.generate([ask("late")]))
        with pytest.raises(BudgetError, match="budget is reached"):
            late.result(timeout=10)
        assert now().usd == pytest.approx((server.calls - 1) * COST) and claims() == 0


def test_a_call_that_waits_for_its_time_when_the_reader_stops_costs_nothing() -> None:
    budget(usd=1)
    with chat_server({"1": [error(429, retry_after="30")]}) as server:
        with config(server, concurrency=1).open() as model:
            stream = model.generate(ask(n) for n in range(40))
            next(stream)
            while server.calls < 2:
                time.sleep(0.01)
            time.sleep(0.5)
            assert claims() == 1, "the next call has its claim, and waits"
        assert server.calls == 2 and claims() == 0
    assert now().usd == pytest.approx(COST)


def test_a_turn_has_its_own_budget_and_outside_of_a_stage_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget(usd=0)
    with chat_server() as server:
        monkeypatch.setenv("COWEST_TURN", "another")
        assert answers(config(server), 1)[0].text
        monkeypatch.delenv("COWEST_TURN")
        with store.accounting(""):
            assert answers(config(server, price=None), 2)[0].text
        assert now().usd == 0


def test_refused_and_cut_short_before_a_word_are_not_paid_for_twice(stage: Account) -> None:
    script = {
        "no": [Fate(body=completion(None, refusal="no"))],
        "filter": [Fate(body=completion("", "content_filter"))],
    }
    with chat_server({**script, "long": [Fate(body=completion(None, "length"))]}) as server:
        first = answers(config(server), "no", "filter", "long")
        assert answers(config(server), "no", "filter", "long") == first
        assert [c.finish for c in first] == ["refused", "refused", "length"] and all(
            c.failed and not c.text for c in first
        )
        assert server.calls == 3
    assert "6 completions asked = 0 answered + 6 set aside" in stage.line()


def test_a_reader_that_stops_leaves_no_answer_behind() -> None:
    with chat_server({"0": [servers.GOOD]}, otherwise=Fate(delay=0.4)) as server:
        with config(server, concurrency=4).open() as model:
            assert next(model.generate(ask(n) for n in range(40))).text
            begun = server.calls
        assert begun <= server.calls <= 5, "what had not begun is not begun"
        made = server.calls
        assert all(c.text for c in answers(config(server), *server.asked()))
        assert server.calls == made and claims() == 0


def test_calls_in_flight_when_the_endpoint_refuses_are_kept() -> None:
    script = {"stop": [Fate(delay=0.1, status=401)]}
    with chat_server(script, otherwise=Fate(delay=0.4)) as server:
        with pytest.raises(CallError, match="HTTP 401"):
            answers(config(server, concurrency=4), 1, "stop", 2, 3, 4, 5, 6)
        assert server.calls == 4
        answers(config(server), 1, 2, 3)
        assert server.calls == 4 and claims() == 0


def test_a_reader_that_comes_back_joins_the_calls_under_way() -> None:
    with (
        chat_server({"0": [servers.GOOD]}, otherwise=Fate(delay=0.3)) as server,
        config(server, concurrency=4).open() as model,
    ):
        next(model.generate(ask(n) for n in range(4)))
        assert all(c.text for c in model.generate(ask(n) for n in range(5)))
        assert server.calls == 5


def test_a_version_that_changes_in_the_middle_of_a_turn_is_said(
    stage: Account, capfd: pytest.CaptureFixture[str]
) -> None:
    budget()
    other = json.dumps({**json.loads(completion("new")), "model": "tiny-2027"}).encode()
    with chat_server({"3": [Fate(body=other)], "4": [Fate(body=other)]}) as server:
        answers(config(server), 1, 2)
        assert "changed" not in capfd.readouterr().err
        answers(config(server), 3, 4)
        said = capfd.readouterr().err
        assert (
            said.count(
                "changed in the middle of the turn: it reported tiny-2026-01-01 fp_1 before, and "
                "tiny-2027 fp_1 now"
            )
            == 1
        )
        assert "2 by tiny-2026-01-01 fp_1, 2 by tiny-2027 fp_1" in stage.line()
        with store.accounting("evaluate") as later:
            answers(config(server), 4)
        answers(config(server), 5)
        assert later.versions == {
            config(server).name: {"tiny-2026-01-01 fp_1": 0, "tiny-2027 fp_1": 1}
        }


def test_an_endpoint_that_reports_ever_other_versions_fills_no_log(
    stage: Account, capfd: pytest.CaptureFixture[str]
) -> None:
    with chat_server(
        otherwise=lambda body: Fate(
            body=completion("x").replace(b"fp_1", body["messages"][-1]["content"].encode())
        )
    ) as server:
        assert len(answers(config(server, concurrency=1), *range(10, 40))) == 30
    said = capfd.readouterr().err
    assert (
        said.count("changed in the middle of the turn") == 5 and said.count("not said again") == 1
    )
    assert stage.line().endswith("1 by tiny-2026-01-01 14 and 25 more")


def test_a_version_that_changes_stops_where_that_is_asked(stage: Account) -> None:
    other = Fate(body=completion("other").replace(b"tiny-2026-01-01", b"tiny-2027"))
    with chat_server({"3": [other]}) as server:
        settings = config(server, concurrency=1, on_version_change="stop")
        with (
            settings.open() as model,
            pytest.raises(
                CallError,
                match=r"changed in the middle of the turn.*tiny-2026-01-01 fp_1 and tiny-2027 fp_1",
            ),
        ):
            list(model.generate([ask(str(n)) for n in range(50)]))
        assert server.calls <= 5, "no call that was not under way"
        kept = store.open_store().look([ask(str(n)).key(settings.name) for n in range(4)])
        assert len(kept) == 4, "what was answered is kept"
        called = server.calls
        with settings.open() as model, pytest.raises(CallError, match="changed in the middle"):
            list(model.generate([ask("0"), ask("3"), ask("new")]))
        assert server.calls == called, "the answers of the store tell it too"
        with config(server, concurrency=1).open() as model:
            assert [
                c.text is not None for c in model.generate([ask("0"), ask("3"), ask("new")])
            ] == [True] * 3


CHILD = """\
import sys
from cowest.errors import CoWestError
from cowest.ledger import store
from cowest.models.openai import OpenAIConfig
from tests.contract.test_budget import ask
settings = OpenAIConfig.model_validate_json(sys.argv[1])
with store.accounting("refine"), settings.open() as model:
    try:
        found = list(model.generate(ask(n) for n in range(*map(int, sys.argv[2:]))))
    except CoWestError as error:
        print(type(error).__name__, error)
    else:
        print("answered", sum(c.text is not None for c in found))
"""


def child(settings: OpenAIConfig, *numbers: int) -> subprocess.Popen[str]:
    """Another process that asks for a range of answers."""
    surroundings = {**tiny.surroundings(), "COWEST_STORE": os.environ["COWEST_STORE"]}
    command = [sys.executable, "-c", CHILD, settings.model_dump_json(), *map(str, numbers)]
    return subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, text=True)


def test_processes_that_share_a_store_never_overspend_together() -> None:
    settings = OpenAIConfig(model="m", price=PRICE)
    budget(usd=60 * COST + PRICE.of(*settings.most(ask(100))))
    with chat_server(otherwise=Fate(delay=0.02)) as server:
        shards = [
            child(config(server, concurrency=4), first, first + 100) for first in (100, 200, 300)
        ]
        said = [shard.communicate(timeout=300)[0] for shard in shards]
    assert all(text.startswith("BudgetError") for text in said)
    assert 20 < server.calls < 100 and len(server.asked()) == server.calls
    assert now().usd == pytest.approx(server.calls * COST) and now().usd <= (now().budget.usd or 0)


def test_processes_that_ask_the_same_make_each_call_once() -> None:
    with chat_server(otherwise=Fate(delay=0.02)) as server:
        twins = [child(config(server, concurrency=4), 0, 60) for _ in range(3)]
        said = [twin.communicate(timeout=300)[0] for twin in twins]
    assert said == ["answered 60\n"] * 3
    assert server.calls == 60


def test_processes_that_lost_a_call_each_do_not_wait_for_each_other() -> None:
    """Each takes up the other's call before it tries its own again, and has one place for calls."""
    budget(usd=1)
    both = threading.Barrier(2)
    lost: set[str] = set()

    def first_lost(body: dict[str, Any]) -> Fate:
        text = body["messages"][-1]["content"]
        if text in lost:
            return servers.GOOD
        lost.add(text)
        both.wait(60)
        return servers.DROPPED

    with chat_server(otherwise=first_lost) as server:
        settings = config(server, concurrency=1, backoff=2, timeout=60)
        twins = [child(settings, 1, 3), child(settings, 2, 0, -1)]
        try:
            said = [twin.communicate(timeout=30)[0] for twin in twins]
        finally:
            for twin in twins:
                twin.kill()
                twin.wait()
    assert said == ["answered 2\n"] * 2
    assert server.asked() == {"1": 2, "2": 2}
    assert now().usd == pytest.approx(4 * COST) and claims() == 0, "the lost calls are counted"


def test_a_call_whose_process_was_killed_is_made_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once on SQLite. On PostgreSQL it might have lost its session, so others wait a while."""
    monkeypatch.setattr(postgres, "AWAY", 0.0)
    budget(usd=1)
    with chat_server({"1": [Fate(delay=20)]}) as server:
        killed = child(config(server, timeout=60), 1, 2)
        while not server.calls:
            time.sleep(0.01)
        waiting = threading.Timer(0.5, killed.kill)
        waiting.start()
        started = time.monotonic()
        assert answers(config(server), 1)[0].text == "answer to 1"
        assert 0.4 < time.monotonic() - started < 2, (
            "while the process lived its call was waited for"
        )
        killed.communicate()
    assert server.calls == 2
    assert now().usd == pytest.approx(2 * COST), "the killed call may have been paid for"


def test_a_call_may_take_the_larger_of_two_limits() -> None:
    settings = OpenAIConfig(
        model="m", base_url="http://127.0.0.1/v1", extra={"max_completion_tokens": 500}
    )
    assert settings.most(ask("x"))[1] == 500
    assert settings.model_copy(update={"extra": {"max_tokens": 5}}).most(ask("x"))[1] == 5


def test_a_move_that_no_store_can_make_is_told_to_who_waits_and_the_till_goes_on() -> None:
    """What it is, nobody knows yet: it must not leave a stage waiting forever."""

    async def moves() -> None:
        till = Till(store.open_store())
        good, bad = (
            store.StoredAnswer(key, Completion("x", "m", prompt_tokens=tokens), 0.1)
            for key, tokens in (("a", 1), ("b", 2**70))
        )
        with pytest.raises((OverflowError, StoreError)):
            await asyncio.wait_for(till.settle(bad, 0.0, 1), 5)
        await asyncio.wait_for(till.settle(good, 0.0, 1), 5)
        assert (await till.look(["a", "b"])).keys() == {"a"}
        await till.close()

    asyncio.run(moves())
