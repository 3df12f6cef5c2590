"""The endpoint provider against a real server on this machine that misbehaves by script."""

import email.utils
import json
import logging
import sqlite3
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cowest.config import Sampling, parse
from cowest.errors import CallError, ConfigError, ModelError, StoreError
from cowest.ledger import store
from cowest.models.endpoint.responses import retry_after
from cowest.models.openai import OpenAIConfig
from cowest.protocols import Completion, Request
from cowest.records import Message
from tests import servers
from tests.endpoints import CANARY, answers, ask, config, faces_of
from tests.servers import Fate, chat_server, error, listening

pytestmark = pytest.mark.usefixtures("own_store", "no_keys")


FAULTS = {
    "429": error(429),
    "429 with 0": error(429, retry_after="0"),
    "503": error(503),
    "500": error(500),
    "408": error(408),
    "dropped": servers.DROPPED,
    "cut short": servers.CUT_SHORT,
    "null": servers.NULL,
    "empty": servers.EMPTY,
    "no choices": servers.NO_CHOICES,
    "truncated": servers.NOT_JSON,
    "html": servers.HTML,
    "error in a 200": Fate(body=b'{"error": {"message": "overloaded"}}'),
    "an array": Fate(body=b"[1]"),
    "hang": Fate(delay=0.6),
    "trickle": Fate(trickle=0.02),
}


def test_every_fault_that_may_pass_is_tried_again_and_no_more() -> None:
    with chat_server({name: [fault, fault] for name, fault in FAULTS.items()}) as server:
        found = answers(config(server, timeout=0.3), *FAULTS, "well")
        assert [c.text for c in found] == [f"answer to {name}" for name in [*FAULTS, "well"]]
        assert server.asked() == {**dict.fromkeys(FAULTS, 3), "well": 1}


def test_a_row_fails_after_the_last_attempt_and_the_others_go_on() -> None:
    with chat_server(
        {"bad": [error(500)] * 9, "blank": [servers.NULL] * 9, "slow": [Fate(delay=0.5)] * 9}
    ) as server:
        bad, blank, slow, good = answers(
            config(server, retries=2, timeout=0.2), "bad", "blank", "slow", "good"
        )
        assert (bad.text, bad.finish, bad.failed) == (
            None,
            "failed",
            "HTTP 500: it said no, at the last of 3 attempts",
        )
        assert (blank.text, blank.failed) == (None, "an empty answer, at the last of 3 attempts")
        assert (slow.text, slow.failed) == (None, "no answer in 0.2 s, at the last of 3 attempts")
        assert good.text == "answer to good"
        assert server.asked() == {"bad": 3, "blank": 3, "slow": 3, "good": 1}


def test_a_poison_row_is_asked_once_and_failed_with_what_the_provider_said() -> None:
    with chat_server(
        {"poison": [error(400, "too long\nby far")] * 9, "unfit": [error(422)] * 9}
    ) as server:
        poison, unfit, good = answers(config(server), "poison", "unfit", "good")
        assert (poison.text, poison.finish, poison.failed) == (
            None,
            "failed",
            "HTTP 400: too long by far",
        )
        assert unfit.failed == "HTTP 422: it said no"
        assert good.text
        assert server.asked() == {"poison": 1, "unfit": 1, "good": 1}


@pytest.mark.parametrize("status", [401, 402, 403, 404, 302])
def test_what_every_call_would_meet_stops_at_once(status: int) -> None:
    refusal = error(status, Location="/elsewhere")
    with (
        chat_server(otherwise=refusal) as server,
        pytest.raises(CallError, match=f"HTTP {status}") as raised,
    ):
        answers(config(server, concurrency=4), *map(str, range(50)))
    assert server.calls <= 4
    assert "tiny at http://127.0.0.1" in str(raised.value) and raised.value.__cause__ is None


def test_used_up_quota_is_not_waited_for() -> None:
    with (
        chat_server(otherwise=error(429, code="insufficient_quota")) as server,
        pytest.raises(CallError, match="quota is used up"),
    ):
        answers(config(server, concurrency=1), "a", "b")
    assert server.calls == 1


def test_what_was_answered_before_a_stop_is_kept() -> None:
    script = {str(n): [servers.GOOD] for n in range(5)}
    with chat_server(script, otherwise=error(401)) as server:
        with config(server, concurrency=1).open() as model, pytest.raises(CallError):
            list(model.generate(ask(str(n)) for n in range(9)))
        assert server.calls == 6
        assert [c.text for c in answers(config(server), *map(str, range(5)))] == [
            f"answer to {n}" for n in range(5)
        ]
        assert server.calls == 6


def test_an_endpoint_out_of_reach_stops_the_stage() -> None:
    with chat_server() as server:
        pass
    with pytest.raises(CallError, match="out of reach"):
        answers(config(server, retries=1), "a", "b")


def test_no_such_host_stops_the_stage() -> None:
    settings = OpenAIConfig(
        model="tiny",
        base_url="http://no-such-host.invalid/v1",
        key_env=None,
        backoff=0.01,
        retries=1,
    )
    with pytest.raises(CallError, match="out of reach"):
        answers(settings, "a", "b")


def test_an_endpoint_that_was_reached_is_waited_for_when_it_goes_away() -> None:
    with chat_server(otherwise=Fate(delay=0.02)) as server:
        settings = config(server, concurrency=4, retries=1)
    with settings.open() as model:
        with listening(server):
            found = model.generate(ask(str(n)) for n in range(600))
            first = next(found)
        back = threading.Timer(1.0, lambda: runs.enter_context(listening(server)))
        with ExitStack() as runs:
            back.start()
            rest = list(found)
            back.join()
    assert [c.text for c in [first, *rest]] == [f"answer to {n}" for n in range(600)]
    assert server.calls <= 600 + 4, "only those in flight were made again"
    with (
        config(server, concurrency=4, retries=1, patience=0.3).open() as model,
        pytest.raises(CallError, match="out of reach"),
    ):
        with listening(server):
            found = model.generate(ask(f"more {n}") for n in range(600))
            next(found)
        list(found)


# Seconds that a call has. Far more than the half second that the slowest answer takes: on a busy
# machine an answer came after 0.8 s, and the call was made again.
PATIENCE = 4


def test_a_thousand_rows_with_every_fault() -> None:
    """Each row is answered or set aside with its reason, and no call is made that the faults do
    not force.
    """
    script = servers.mixed(0.05, hang=5)
    poison = {row for row, fates in script.items() if fates[0].status == 400}
    rows = [f"row {n}" for n in range(1000)]
    with chat_server(script, otherwise=Fate(delay=0.05)) as server:
        found = dict(
            zip(
                rows,
                answers(config(server, concurrency=64, backoff=0.1, timeout=PATIENCE), *rows),
                strict=True,
            )
        )
        assert {row: c.failed for row, c in found.items() if c.text is None} == dict.fromkeys(
            poison, "HTTP 400: it is poison"
        )
        assert sum(c.text == f"answer to {row}" for row, c in found.items()) == 992
        assert server.asked() == {
            row: len([f for f in script.get(row, []) if fails(f)]) + 1
            for row in rows
            if row not in poison
        } | {row: 1 for row in poison}
        assert server.calls <= 1242
        for row, fates in script.items():
            if fates[0].headers.get("retry-after"):
                assert server.waits(row)[0] >= 1.0, "Retry-After is obeyed"


def fails(fate: Fate) -> bool:
    return (
        fate.status != 200
        or fate.body is not None
        or fate.cut is not None
        or fate.delay >= PATIENCE
    )


def test_web_pages_for_every_call_stop_at_once() -> None:
    page = Fate(
        body=b"<!DOCTYPE html><html><title>Sign in to\nthe network</title>",
        headers={"Content-Type": "text/html"},
    )
    with (
        chat_server(otherwise=page) as server,
        pytest.raises(CallError, match=r"web pages \(Sign in to the network\): base_url is not"),
    ):
        answers(config(server, concurrency=4), *map(str, range(100)))
    assert server.calls <= 3 + 4
    script = {str(n): [servers.HTML] for n in range(0, 100, 7)}
    with chat_server(script) as server:
        assert all(
            c.text for c in answers(config(server, concurrency=1), "first", *map(str, range(100)))
        )
        assert server.calls == 101 + len(script)
    with chat_server({"only": [page] * 9}) as server:
        (failed,) = answers(config(server, retries=2), "only")
        assert failed.failed == "a web page for an answer, at the last of 3 attempts"
    with (
        chat_server({str(n): [servers.GOOD] for n in range(5)}, otherwise=page) as server,
        pytest.raises(CallError, match="web pages"),
    ):
        answers(config(server, concurrency=2), *map(str, range(500)))
    assert server.calls < 120, "a login that ran out half way: 16 rows, each with its retries"


def test_a_server_that_comes_back_is_waited_for() -> None:
    script = {"x": [error(503, retry_after="1"), servers.GOOD]}
    with chat_server(script) as server:
        (found,) = answers(config(server), "x")
        assert found.text == "answer to x"
        assert server.times[1] - server.times[0] >= 1.0


def test_retry_after_holds_for_all_calls() -> None:
    with chat_server({"0": [error(429, retry_after="0.7")]}) as server:
        found = answers(config(server, concurrency=1), "0", "1", "2")
        assert all(c.text for c in found)
        assert max(b - a for a, b in pairwise(server.times)) >= 0.7
    with chat_server({"0": [error(429, retry_after="0.7")], "1": [Fate(delay=0.2)]}) as server:
        answers(config(server, concurrency=2), "0", "1", "2", "3")
        assert server.times[2] - server.times[0] >= 0.7, (
            "no call of any row before the time that was named"
        )


def test_a_longer_wait_than_patience_stops() -> None:
    date = email.utils.formatdate(time.time() + 3600, usegmt=True)
    with (
        chat_server(otherwise=error(429, retry_after=date)) as server,
        pytest.raises(CallError, match=r"asks to come back in 3[56]"),
    ):
        answers(config(server, patience=60), "a")
    assert server.calls == 1


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("Thu Jan  1 00:01:40 1970", 40.0),
        ("Thursday, 01-Jan-70 00:01:40 GMT", 40.0),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("²", None),
        ("1e9", None),
    ],
)
def test_reads_retry_after(
    said: str,
    seconds: float | None,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    request.addfinalizer(lambda: (monkeypatch.undo(), time.tzset()))
    assert retry_after({"retry-after": said}, now=60.0) == seconds


def test_no_more_calls_at_once_than_configured_and_as_many() -> None:
    with chat_server(otherwise=Fate(delay=0.05)) as server:
        answers(config(server, concurrency=4), *map(str, range(24)))
        assert server.busiest == 4


def test_calls_at_once_yield_to_what_the_endpoint_bears_and_come_back() -> None:
    with chat_server(otherwise=Fate(delay=0.02)) as server:
        server.capacity = 6
        with config(server, concurrency=32, retries=50).open() as model:
            assert all(c.text for c in model.generate(ask(str(n)) for n in range(300)))
            refused = server.calls - 300
            assert refused < 150, "of 32 at once 26 would be refused, again and again"
            server.capacity, server.busiest = None, 0
            assert all(c.text for c in model.generate(ask(str(n)) for n in range(300, 1000)))
            assert server.busiest == 32


def test_equal_requests_in_flight_are_one_call() -> None:
    with chat_server(otherwise=Fate(delay=0.1)) as server:
        found = answers(config(server), *["same"] * 8)
        assert {c.text for c in found} == {"answer to same"} and server.calls == 1


def test_an_answer_is_in_the_store_before_it_is_seen(own_store: Path) -> None:
    with chat_server() as server, config(server).open() as model:
        for number, completion_ in enumerate(model.generate(ask(str(n)) for n in range(20))):
            key = ask(str(number)).key(model.name)
            assert store.CallStore(own_store / "calls.sqlite").get([key])[key] == completion_


def test_a_store_that_fails_yields_nothing(own_store: Path) -> None:
    requests = [ask(str(n)) for n in range(8)]
    with chat_server(otherwise=Fate(delay=0.4)) as server, config(server).open() as model:
        other = sqlite3.connect(
            own_store / "calls.sqlite", isolation_level=None, check_same_thread=False
        )
        locks = threading.Timer(
            0.2, lambda: other.execute("BEGIN IMMEDIATE")
        )  # the answers wait to be written
        breaks = threading.Timer(
            0.8, lambda: [other.execute(line) for line in ("DROP TABLE calls", "COMMIT")]
        )
        locks.start(), breaks.start()
        found: list[Completion] = []
        with pytest.raises(StoreError, match="no such table"):
            found.extend(model.generate(requests))
        breaks.join()
        assert found == [] and server.calls == 8


def test_failed_calls_are_asked_again_by_the_next_run() -> None:
    with chat_server({"x": [error(400)]}) as server:
        assert answers(config(server), "x")[0].failed
        assert answers(config(server), "x")[0].text == "answer to x"


def test_keeps_tokens_version_and_seconds(own_store: Path) -> None:
    with chat_server(otherwise=Fate(delay=0.05)) as server:
        (found,) = answers(config(server), "x")
    assert (found.prompt_tokens, found.completion_tokens) == (7, 3)
    rows = store.CallStore(own_store / "calls.sqlite").read(
        lambda db: db.execute("SELECT version, seconds, cost FROM calls").fetchall()
    )
    assert rows[0][0] == servers.VERSION and 0.05 <= rows[0][1] < 5 and rows[0][2] is None


def test_what_is_sent() -> None:
    with chat_server() as server:
        answers(config(server), "plain")
        extra = config(
            server, limit="max_completion_tokens", extra={"temperature": None, "seed": 3}
        )
        with extra.open() as model:
            list(
                model.generate(
                    [ask("full", temperature=0.7, top_p=0.9, max_tokens=5, stop=("\n",))]
                )
            )
        assert model.name.startswith(config(server).name + "#")
    plain, full = server.bodies
    assert plain == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "plain"}],
        "temperature": 0.0,
        "max_tokens": 256,
        "stream": False,
    }
    assert full == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "full"}],
        "max_completion_tokens": 5,
        "top_p": 0.9,
        "stop": ["\n"],
        "seed": 3,
        "stream": False,
    }


def test_a_seed_is_sent_with_the_number_of_the_sample_where_one_is_set() -> None:
    def sent(seed: int | None, sample: int, extra: dict[str, Any] | None = None) -> Any:
        sampling = Sampling(temperature=1.0, n=2, seed=seed)
        request = Request((Message(role="user", content="x"),), sampling, sample)
        return OpenAIConfig(model="m", extra=extra or {}).body(request).get("seed")

    assert [sent(5, 0), sent(5, 1), sent(0, 0)] == [5, 6, 0]
    assert sent(None, 1) is None
    assert sent(5, 1, {"seed": None}) is None, "for an endpoint that takes none"


def test_the_name_is_model_and_endpoint() -> None:
    assert OpenAIConfig(model="m").name == "m@api.openai.com/v1"
    assert (
        OpenAIConfig(model="m", base_url="http://LOCALHOST:8000/v1/").name == "m@localhost:8000/v1"
    )
    for path in ("/v1/chat/completions", "/v1/chat/completions/"):
        whole = OpenAIConfig(model="m", base_url=f"https://api.openai.com{path}")
        assert (whole.name, whole.base_url) == ("m@api.openai.com/v1", "https://api.openai.com/v1")
    for told in ({"stream": False}, {"stream": None}):
        assert OpenAIConfig(model="m", extra=told).name == "m@api.openai.com/v1"
        seeded = OpenAIConfig(model="m", extra={"seed": 3, **told})
        assert seeded.name == OpenAIConfig(model="m", extra={"seed": 3}).name
    same = OpenAIConfig(model="m", concurrency=3, retries=1, timeout=9)
    assert same.name == OpenAIConfig(model="m").name, "how calls are made is not what they ask"


def test_takes_no_adapter(tmp_path: Path) -> None:
    with (
        chat_server() as server,
        pytest.raises(ModelError, match="takes no adapter"),
        config(server).open(adapter=tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "file:///etc/passwd",
        "api.openai.com/v1",
        "http://",
        "https://user:pass@host/v1",
        "https://host/v1?key=1",
        "http://169.254.169.254/latest",
        "http://169.254.1.1:80/v1",
        "http://[fe80::1]/v1",
        "http://[fe80::1%25eth0]/v1",
        "http://metadata.google.internal/v1",
        "http://Metadata.Google.Internal./v1",
        "http://2852039166/v1",
        "http://0xA9FEA9FE/v1",
        "http://169.254.43518/v1",
        "http://[::ffff:169.254.169.254]/v1",
        "http://[64:ff9b::a9fe:a9fe]/v1",
        "http://100.100.100.200/v1",
        "http://host:99999/v1",
        "http://[::1/v1",
        "http://a..b/v1",
        "http://\u4f8b..jp/v1",
        f"http://{'a' * 64}.com/v1",
        "http://h/v1\r\nX-A: b",
        "http://h /v1",
        "http://h\x0b/v1",
        "http://h/v1?",
        "http://h/v1#",
        "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
        "https://h/v1/completions",
        "https://h/v1/responses",
        "https://h/v1/messages/",
    ],
)
def test_base_urls_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url: "):
        parse(OpenAIConfig, {"provider": "openai", "model": "m", "base_url": url}, "test")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "http://127.0.0.1:8000/v1",
        "http://[::1]:8000/v1",
        "http://10.0.0.8/v1",
    ],
)
def test_base_urls_taken(url: str) -> None:
    assert parse(OpenAIConfig, {"model": "m", "base_url": url}, "test").base_url == url


@pytest.mark.parametrize(
    "settings",
    [
        {"key_env": CANARY},
        {"extra": {"n": 2}},
        {"extra": {"model": "other"}},
        {"retry": 3},
        {"extra": {"stream": True}},
    ],
)
def test_settings_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(OpenAIConfig, {"model": "m", **settings}, "test")
    assert CANARY not in str(raised.value)
    if "key_env" in settings:
        assert "key_env: not of the form that it should be: NAME of the env" in str(raised.value)
        assert "and not the key itself" in str(raised.value)


@pytest.mark.parametrize(
    "value", [None, "  ", f"{CANARY} and more", f"{CANARY}\nmore", f"{CANARY}é"]
)
def test_no_key_or_a_broken_one_is_told_before_any_call(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with chat_server() as server, pytest.raises(CallError, match="OPENAI_API_KEY") as raised:
        answers(config(server, key_env="OPENAI_API_KEY"), "x")
    assert server.calls == 0 and CANARY not in str(raised.value)


def test_the_environment_of_the_sdk_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_ORG_ID", CANARY)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {CANARY}")
    monkeypatch.setenv("MY_KEY", "mine")
    with chat_server() as server:
        answers(config(server), "without")
        answers(config(server, key_env="MY_KEY"), "with")
    without, own = server.headers
    assert "authorization" not in without and own["authorization"] == "Bearer mine"
    assert CANARY not in str(server.headers)


def test_the_key_is_sent_and_seen_nowhere_else(
    own_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {CANARY}\n")
    caplog.set_level(logging.DEBUG)
    told = error(400, f"Incorrect API key provided: {CANARY}")
    stop = error(401, f"Incorrect API key provided: {CANARY}")
    with chat_server(
        {"poison": [told], "flaky": [error(500), servers.DROPPED], "stop": [stop]}
    ) as server:
        # One after the other: words about a key are believed of an endpoint that never answered.
        settings = config(server, key_env="OPENAI_API_KEY", retries=3, concurrency=1)
        found = answers(settings, "fine", "poison", "flaky")
        with pytest.raises(CallError) as raised:
            answers(settings, "stop")
    assert found[1].failed == "HTTP 400: Incorrect API key provided: ***"
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {CANARY}"}
    seen = [
        *faces_of(raised.value),
        str(found),
        repr(settings),
        settings.model_dump_json(),
        caplog.text,
        *capfd.readouterr(),
    ]
    assert not any(CANARY in text for text in seen)
    files = [path for path in own_store.rglob("*") if path.is_file()]
    assert files and not any(CANARY.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("word", ["none", "EMPTY", "1"])
def test_a_word_in_a_keys_place_changes_no_answer(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", word)
    with chat_server() as server:
        (found,) = answers(config(server, key_env="OPENAI_API_KEY"), "none of 1, EMPTY")
    assert found.text == "answer to none of 1, EMPTY" and found.completion_tokens == 3


def with_part(**parts: Any) -> Fate:
    return Fate(body=json.dumps(json.loads(servers.completion("well")) | parts).encode())


def test_an_endpoint_that_says_what_no_database_or_file_can_hold_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    choice = json.loads(servers.completion("well"))["choices"][0]
    odd = {
        "tokens": with_part(usage={"prompt_tokens": 2**63, "completion_tokens": 1}),
        "version": with_part(model="m\ud800\x1b[2J" + "x" * 10_000),
        "refusal": Fate(body=servers.completion(None, refusal="no\ud800\x1b[2J")),
        "logprob": with_part(choices=[choice | {"logprobs": {"content": [{"logprob": 10**400}]}}]),
        "endless": with_part(
            choices=[choice | {"logprobs": {"content": [{"logprob": float("inf")}]}}]
        ),
        "poison": Fate(400, json.dumps({"error": {"message": "no\ud800\x1b[2J"}}).encode()),
    }
    with chat_server({name: [fate] for name, fate in odd.items()}) as server:
        found = dict(zip(odd, answers(config(server, concurrency=1), *odd), strict=True))
        assert server.calls == len(odd)
    assert [found[name].text for name in odd] == ["well", "well", None, "well", "well", None]
    assert (found["tokens"].prompt_tokens, found["logprob"].logprob, found["endless"].logprob) == (
        0,
        None,
        None,
    )
    assert (
        found["refusal"].failed == "refused: no\ufffd\ufffd[2J"
        and found["poison"].failed == "HTTP 400: no\ufffd\ufffd[2J"
    )
    assert (
        "\x1b" not in (said := capfd.readouterr().err)
        and "m\ufffd\ufffd[2Jxxx" in said
        and len(said) < 1000
    )


def escaped(text: str, letters: str) -> bytes:
    """A text in JSON, where some letters of it are written by their numbers."""
    for letter in letters:
        text = text.replace(letter, f"\\u{ord(letter):04X}")
    return text.replace("/", "\\/").encode()


@pytest.mark.parametrize(
    ("letters", "encoding"), [("", "utf-8"), ("+", "utf-8"), ("s9/", "utf-8"), ("", "utf-16")]
)
def test_an_endpoint_that_says_the_key_gets_it_into_nothing(
    letters: str, encoding: str, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-can/ary+01=23456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    written = escaped(key, letters)

    def saying(body: bytes) -> bytes:
        return body.replace(b"KEY", written).decode().encode(encoding)

    body = servers.completion("Your key is KEY.").replace(b"tiny-2026-01-01", b"KEY")
    refusal = servers.completion(None, refusal="Not with KEY")
    with chat_server(
        {"refuse": [Fate(body=saying(refusal))]},
        otherwise=Fate(body=saying(body), headers={"X-Key": key}),
    ) as server:
        found = answers(config(server, key_env="OPENAI_API_KEY"), "x", "refuse")
    assert [c.text for c in found] == ["Your key is ***.", None] and found[
        1
    ].failed == "refused: Not with ***"
    kept = b"".join(path.read_bytes() for path in own_store.rglob("*") if path.is_file())
    assert b"Your key is ***." in kept and b"*** fp_1" in kept and b"sk-can" not in kept
