"""Calls for people who wait, against a real server that misbehaves by script: what is tried again,
what ends a call, and what is given before it does.
"""

import asyncio
import gzip
import json
import logging
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from cowest.errors import CallError, ConfigError, ModelError, UpstreamError
from cowest.models.openai import OpenAIConfig
from cowest.net import events
from cowest.protocols import Completion, Served
from tests import servers
from tests.endpoints import answers, config, parts, priced, serve, short, whole
from tests.servers import DONE, USED, Fate, chat_server, completion, error, event, said, streamed

pytestmark = pytest.mark.usefixtures("own_store", "no_keys")


def ended(finish: str | None, *texts: Any, **delta: Any) -> Fate:
    """A stream that ends by some name."""
    last = event({"delta": delta, "finish_reason": finish})
    return Fate(pieces=[*map(said, texts), last, USED, DONE])


def test_texts_come_as_they_are_written() -> None:
    read = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield said("An")
        assert read.wait(20), "the first text is read before the second is written"
        yield from streamed(" answer in pieces")

    async def ask() -> list[str | Completion]:
        async with priced(server).open_async() as model:
            stream = model.stream(short("a"), Served("r", time.monotonic() + 30))
            first = await anext(stream)
            read.set()
            return [first, *[part async for part in stream]]

    with chat_server(otherwise=Fate(pieces=pieces())) as server:
        answer = asyncio.run(ask())
    assert answer[0] == "An"
    found = whole(answer)
    assert found == Completion(
        "An answer in pieces", found.model, "stop", None, None, 7, 3, usd=37e-6
    )
    (body,) = server.bodies
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


def in_bytes(content: bytes, size: int = 1) -> list[bytes]:
    return [content[place : place + size] for place in range(0, len(content), size)]


THE_SAME = {
    "plain": (completion("An answer."), streamed("An answer.")),
    "cut": (completion("An an", "length"), streamed("An an", "length")),
    "space around": (completion(" \n An answer. "), streamed(" \n An answer. ")),
    "unknown ending": (completion("An answer.", "whatever"), streamed("An answer.", "whatever")),
    "byte by byte": (completion("Ein ä, 😀"), in_bytes(b"".join(streamed("Ein ä, 😀")))),
    "carriage returns": (
        completion("An answer."),
        [b"".join(streamed("An answer.")).replace(b"\n", b"\r\n")],
    ),
    "comments": (completion("An answer."), [b": wait\n\n", *streamed("An answer.")]),
    "halves of a letter": (
        completion("a😀b"),
        [said("a\ud83d"), said("\ude00b", "stop"), USED, DONE],
    ),
    "half a letter": (completion("a\ud83d"), [said("a\ud83d", "stop"), USED, DONE]),
    "text in parts": (
        completion([{"type": "text", "text": "An "}, {"type": "text", "text": "answer."}]),
        [said([{"type": "text", "text": "An answer."}], "stop"), USED, DONE],
    ),
    "thoughts beside it": (
        completion("An answer.", reasoning_content="So."),
        [said("", reasoning_content="So."), *streamed("An answer.")],
    ),
    "thoughts in it": (
        completion("<think>So.</think>An answer."),
        streamed("<think>So.</think>An answer."),
    ),
    "all of it thoughts": (
        completion("", "length", reasoning_content="So"),
        [said(None, reasoning_content="So"), said(None, "length"), USED, DONE],
    ),
    "a refusal": (
        completion(None, refusal="I can't."),
        [said(None, refusal="I "), said(None, refusal="can't."), *streamed("")],
    ),
    "a filter": (completion("", "content_filter"), streamed("", "content_filter")),
    "the usage with each event": (
        completion("An answer."),
        [
            event({"delta": {"content": "An answer."}}, usage={"prompt_tokens": 7}),
            event(
                {"delta": {}, "finish_reason": "stop"},
                usage={"prompt_tokens": 7, "completion_tokens": 3},
            ),
            DONE,
        ],
    ),
    "no end of the stream": (completion("An answer."), [*streamed("An answer.")[:-1], None]),
    "no last empty line": (completion("An answer."), [b"".join(streamed("An answer."))[:-2]]),
    "finish reasons all along": (
        completion("An answer."),
        [said("An ", ""), said("answer.", "null"), *streamed("")],
    ),
    "an event with a whole message": (
        completion("An answer."),
        [event({"message": {"content": "An answer."}, "finish_reason": "stop"}), USED, DONE],
    ),
    "one line of several": (
        completion("An answer."),
        [
            b'data: {"choices": [{"delta":\ndata: {"content": "An answer."}, "finish_reason":\n'
            b'data: "stop"}], "model": "tiny"}\n\n',
            USED,
            DONE,
        ],
    ),
    "another choice": (
        completion("An answer."),
        [
            event({"delta": {"content": "x"}}).replace(b'"index": 0', b'"index": 1'),
            *streamed("An answer."),
        ],
    ),
}


@pytest.mark.parametrize("kind", THE_SAME)
def test_a_stream_means_what_the_whole_answer_means(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content, pieces = THE_SAME[kind]
    with chat_server({"q": [Fate(body=content)]}, otherwise=Fate(pieces=pieces)) as server:
        (plain,) = answers(config(server), "q")
        monkeypatch.setenv("COWEST_STORE", str(tmp_path / "other.sqlite"))
        (answer,) = serve(config(server), "q")
        assert server.calls == 2
    assert whole(answer) == plain


WRONG_TYPES = {
    "a whole answer": Fate(body=completion("answer to q")),
    "a whole answer that is called a stream": Fate(
        body=completion("answer to q"), headers={"Content-Type": "text/event-stream"}
    ),
    "a stream that is called JSON": Fate(
        pieces=[b"\n", *streamed("answer to q")], headers={"Content-Type": "application/json"}
    ),
    "a whole answer in pieces": Fate(
        pieces=in_bytes(completion("answer to q"), 7), headers={"Content-Type": "application/json"}
    ),
}


@pytest.mark.parametrize("kind", WRONG_TYPES)
def test_an_answer_is_known_by_its_content(kind: str) -> None:
    with chat_server(otherwise=WRONG_TYPES[kind]) as server:
        (answer,) = serve(priced(server), "q")
    found = whole(answer)
    assert (found.text, found.prompt_tokens, found.usd) == ("answer to q", 7, 37e-6)


BEFORE_A_WORD = {
    "429": error(429),
    "429 with 0": error(429, retry_after="0"),
    "503": error(503),
    "500": error(500),
    "dropped": servers.DROPPED,
    "cut short": servers.CUT_SHORT,
    "html": servers.HTML,
    "truncated": servers.NOT_JSON,
    "no choices": servers.NO_CHOICES,
    "an error in a 200": Fate(body=b'{"error": {"message": "overloaded"}}'),
    "an empty answer": servers.EMPTY,
    "an empty stream": Fate(pieces=[]),
    "nothing but its end": Fate(pieces=[DONE]),
    "a stream without a word": Fate(pieces=streamed(" ")),
    "a stream without an ending": Fate(pieces=[said(""), DONE]),
    "a stream that drops": Fate(pieces=[said(""), said(" "), None]),
    "no JSON": Fate(pieces=[b"data: {oh\n\n", *streamed("x")]),
    "no object": Fate(pieces=[b"data: 7\n\n", *streamed("x")]),
    "an error": Fate(pieces=[said(""), b'data: {"error": {"message": "overloaded"}}\n\n']),
    "a named error": Fate(pieces=[b'event: error\ndata: {"message": "overloaded"}\n\n']),
    "an error with its status": Fate(pieces=[b'data: {"error": {"code": 502}}\n\n']),
    "no UTF-8": Fate(pieces=[b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n']),
}
HANGS = {"hang": Fate(delay=30), "a stream that hangs": Fate(pieces=[said(""), 30.0])}


@pytest.mark.parametrize(("fates", "timeout"), [(BEFORE_A_WORD, 20), (HANGS, 3)])
def test_what_fails_before_the_first_word_is_tried_again_and_no_more(
    fates: dict[str, Fate], timeout: float
) -> None:
    times = 2 if fates is BEFORE_A_WORD else 1
    script = {name: [fate] * times for name, fate in fates.items()}

    async def ask_all() -> list[list[str | Completion]]:
        async with config(server, timeout=timeout, concurrency=99).open_async() as model:
            asked = [parts(model, short(name), seconds=30) for name in script]
            return await asyncio.gather(*asked)

    with chat_server(script) as server:
        found = asyncio.run(ask_all())
        assert [whole(answer).text for answer in found] == [f"answer to {name}" for name in script]
        assert server.asked() == dict.fromkeys(script, times + 1)


LATER = {
    "dropped": ([None], "broke off its answer: connection lost"),
    "no ending": ([DONE], "broke off its answer: an answer that broke off"),
    "no JSON": ([b"data: {oh\n\n", *streamed(" more")], "broke off its answer: an answer that is"),
    "an error": ([b'data: {"error": {"message": "out of\\u001b memory"}}\n\n'], "out of. memory"),
    "a quota": ([b'data: {"error": {"code": "insufficient_quota"}}\n\n'], "the quota is used up"),
    "a failure": (streamed(" more", "error"), "broke off its answer: an answer that broke off"),
    "a tool": (
        [event({"delta": {"tool_calls": [{}]}, "finish_reason": "tool_calls"}), DONE],
        "a call of a tool for an answer",
    ),
    "a hang": ([30.0], "broke off its answer: no answer in 1.0 s"),
}


@pytest.mark.parametrize("kind", LATER)
def test_what_fails_after_the_first_word_ends_the_call(kind: str) -> None:
    rest, why = LATER[kind]
    given: list[Any] = []

    async def ask() -> None:
        async with config(server, timeout=1).open_async() as model:
            stream = model.stream(short("q"), Served("r", time.monotonic() + 20))
            async for part in stream:
                given.append(part)

    with chat_server(otherwise=Fate(pieces=[said("The first"), 0.02, *rest])) as server:
        with pytest.raises(UpstreamError, match=why) as raised:
            asyncio.run(ask())
        assert server.calls == 1, "it is not asked again"
    assert "".join(given).startswith("The first") and raised.value.__cause__ is None


REFUSED_LATER = {
    "a poison": ([b'data: {"error": {"code": 400, "message": "no"}}\n\n'], "failed"),
    "a poison that blames the key": (
        [b'data: {"error": {"code": 400, "message": "invalid api key"}}\n\n'],
        "failed",
    ),
    "a filter": (streamed(" more", "content_filter"), "refused"),
    "a filter's error": ([b'data: {"error": {"code": "content_filter"}}\n\n'], "refused"),
}


@pytest.mark.parametrize("kind", REFUSED_LATER)
def test_a_request_that_is_refused_after_the_first_word_ends_without_an_answer(kind: str) -> None:
    rest, finish = REFUSED_LATER[kind]
    with chat_server(otherwise=Fate(pieces=[said("The first"), *rest])) as server:
        ((*texts, completion),) = serve(priced(server), "q")
        assert server.calls == 1, "it is not asked again"
    assert "".join(map(str, texts)).startswith("The first")
    assert isinstance(completion, Completion)
    assert (completion.text, completion.finish) == (None, finish) and completion.failed


def test_what_came_before_an_error_in_the_same_packet_is_given() -> None:
    given: list[Any] = []

    async def ask() -> None:
        async with config(server).open_async() as model:
            async for part in model.stream(short("q"), Served("r", time.monotonic() + 5)):
                given.append(part)

    pieces = [said("The first") + said(" half") + b"data: {oh\n\n"]
    with chat_server(otherwise=Fate(pieces=pieces)) as server, pytest.raises(UpstreamError):
        asyncio.run(ask())
    assert given == ["The first half"]


def test_a_retry_after_that_fits_the_deadline_is_waited_for() -> None:
    with chat_server({"q": [error(429, retry_after="1")]}) as server:
        assert whole(*serve(config(server), "q")).text
        assert server.waits("q")[0] >= 1.0


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_beyond_the_deadline_is_told(status: int) -> None:
    began = time.monotonic()
    with chat_server(otherwise=error(status, retry_after="30")) as server:
        with pytest.raises(UpstreamError, match=f"HTTP {status}") as raised:
            serve(config(server), "q", seconds=20)
        assert server.calls == 1
    assert raised.value.retry_after == 30 and time.monotonic() - began < 15


@pytest.mark.parametrize("wait", ["1" * 400, "Fri, 31 Dec 9999 23:59:59 GMT", "-1", "soon"])
def test_a_retry_after_is_a_day_at_most(wait: str) -> None:
    with (
        chat_server(otherwise=error(429, retry_after=wait)) as server,
        pytest.raises(UpstreamError) as raised,
    ):
        serve(config(server, retries=0), "q", seconds=5)
    assert raised.value.retry_after in (None, 86_400)


def test_a_call_is_given_up_after_its_last_attempt() -> None:
    script = {"bad": [error(500)] * 9, "blank": [Fate(pieces=streamed(""))] * 9}
    with chat_server(script) as server:
        with pytest.raises(UpstreamError, match="it said no, at the last of 4 attempts"):
            serve(config(server, retries=3), "bad")
        with pytest.raises(UpstreamError, match="an empty answer, at the last of 3 attempts"):
            serve(config(server), "blank")
        assert server.asked() == {"bad": 4, "blank": 3}


def test_the_deadline_ends_all_waiting() -> None:
    began = time.monotonic()
    with chat_server({"hangs": [Fate(delay=30)]}, otherwise=error(429)) as server:
        with pytest.raises(UpstreamError, match=r"no answer in \d\.\d s"):
            serve(config(server), "hangs", seconds=1)
        with pytest.raises(UpstreamError, match="HTTP 429"):
            serve(config(server, backoff=60), "busy", seconds=14)
        with pytest.raises(UpstreamError, match="the deadline had passed"):
            serve(config(server), "late", seconds=-1)
        assert "late" not in server.asked()
    assert time.monotonic() - began < 12


def test_an_endpoint_that_keeps_the_connection_open_is_not_waited_for() -> None:
    began = time.monotonic()
    with chat_server(otherwise=Fate(pieces=[said("yes", "stop"), 30.0])) as server:
        (answer,) = serve(config(server, timeout=60), "q", seconds=60)
    assert whole(answer).text == "yes" and time.monotonic() - began < 20


def test_an_endpoint_out_of_reach_is_said_for_each_call_and_found_when_it_is_back() -> None:
    async def ask_twice() -> list[str | Completion]:
        async with config(server, retries=1).open_async() as model:
            with pytest.raises(UpstreamError, match="is out of reach"):
                await parts(model, short("q"))
            with servers.listening(server):
                return await parts(model, short("q"))

    with chat_server() as server:
        pass
    assert whole(asyncio.run(ask_twice())).text == "answer to q"


@pytest.mark.parametrize("status", [401, 402, 403, 404, 302])
def test_what_every_call_would_meet_ends_this_one_and_not_the_model(status: int) -> None:
    refusal = error(status, Location="/elsewhere")

    async def ask_twice() -> list[str | Completion]:
        async with config(server).open_async() as model:
            with pytest.raises(UpstreamError, match=f"HTTP {status}"):
                await parts(model, short("q"))
            return await parts(model, short("q"))

    with chat_server({"q": [refusal]}) as server:
        assert whole(asyncio.run(ask_twice())).text == "answer to q"
        assert server.calls == 2


def test_a_request_that_will_not_be_answered_has_its_reason_and_no_text() -> None:
    script = {
        "poison": [error(400, "too long\nby far")],
        "filtered": [error(400, "jailbreak", "content_filter")],
        "in a stream": [Fate(pieces=[b'data: {"error": {"code": "content_filter"}}\n\n'])],
        "blocked": [Fate(pieces=[b'data: {"choices": [], "promptFeedback": '
                                 b'{"blockReason": "SAFETY"}}\n\n'])],
    }  # fmt: skip
    with chat_server(script) as server:
        found = [whole(answer) for answer in serve(config(server), "well", *script)]
        assert server.calls == 5
    assert [(one.text, one.finish) for one in found] == [
        ("answer to well", "stop"),
        (None, "failed"),
        (None, "refused"),
        (None, "refused"),
        (None, "refused"),
    ]
    assert found[1].failed == "HTTP 400: too long by far"
    assert "content filter" in str(found[2].failed) and "content filter" in str(found[3].failed)


def test_words_about_every_call_are_taken_so_until_one_was_answered() -> None:
    refusal = error(400, "invalid api key")
    with chat_server({"a": [refusal], "c": [refusal]}) as server:
        with pytest.raises(UpstreamError, match=r"refuses every call .* is the key"):
            serve(config(server), "a")
        assert whole(serve(config(server), "b", "c")[1]).failed == "HTTP 400: invalid api key"


def refuses(field: str, **words: Any) -> Any:
    """A server that does not take a field of the body."""

    def answer(body: dict[str, Any]) -> Fate:
        if not body.get(field):
            return servers.GOOD
        return Fate(400, json.dumps({"error": {"message": "no", **words}}).encode())

    return answer


WORDS = [
    ("stream_options", {"message": "Unrecognized request argument supplied: stream_options"}),
    ("stream_options", {"message": "Extra inputs are not permitted", "param": "stream_options"}),
    ("stream", {"message": "Streaming is not supported"}),
    ("stream", {"message": "must be verified", "param": "stream", "code": "unsupported_value"}),
]


@pytest.mark.parametrize(("field", "words"), WORDS)
def test_an_endpoint_that_takes_no_stream_is_asked_in_another_way(
    field: str, words: dict[str, str]
) -> None:
    with chat_server(otherwise=refuses(field, **words)) as server:
        first, second = serve(config(server), "a", "b")
        assert (whole(first).text, whole(second).text) == ("answer to a", "answer to b")
        assert server.asked() == {"a": 2, "b": 1}, "it is remembered"
    assert server.bodies[-1].get("stream") is (field == "stream_options")


def test_a_poison_that_speaks_of_streams_changes_nothing_for_others() -> None:
    with chat_server({"poison": [error(400, "a stream of nonsense")] * 2}) as server:
        poison, good = serve(config(server), "poison", "good")
    assert whole(poison).failed == "HTTP 400: a stream of nonsense" and whole(good).text
    assert server.bodies[-1]["stream"] is True


def test_an_endpoint_that_knows_no_stream_is_asked_for_whole_answers() -> None:
    with chat_server() as server:
        assert whole(*serve(config(server, extra={"stream": None}), "a")).text
        assert whole(*serve(config(server, extra={"stream_options": None}), "a")).text
    assert "stream" not in server.bodies[0] and "stream_options" not in server.bodies[1]
    assert server.bodies[1]["stream"] is True


async def first_of(stream: AsyncGenerator[str | Completion, None]) -> str | Completion:
    return await anext(stream)


@pytest.mark.parametrize("how", ["close", "cancel", "model"])
def test_who_leaves_cuts_the_connection_at_once(how: str) -> None:
    async def leave() -> float:
        async with config(server).open_async() as model:
            stream = model.stream(short("q"), Served("r", time.monotonic() + 30))
            assert await anext(stream) == "The first"
            if how == "close":
                left = time.monotonic()
                await stream.aclose()
                await _cut(server)
                return left
            reader = asyncio.ensure_future(first_of(stream))
            await asyncio.sleep(0.05)
            left = time.monotonic()
            if how == "cancel":
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                await _cut(server)
                return left
        with pytest.raises(UpstreamError):
            await reader
        await _cut(server)
        return left

    with chat_server(otherwise=Fate(pieces=[said("The first"), 30.0])) as server:
        left = asyncio.run(leave())
        assert server.cut[0] - left < 15


async def _cut(server: servers.ChatServer) -> None:
    until = time.monotonic() + 10
    while not server.cut:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


def test_no_more_calls_at_once_than_asked_for_and_the_others_wait_in_time() -> None:
    async def ask_all() -> list[Any]:
        async with config(server, concurrency=2).open_async() as model:
            asked = [parts(model, short(str(number))) for number in range(6)]
            found = await asyncio.gather(*asked)
            slow = [asyncio.ensure_future(parts(model, short("slow"))) for _ in range(2)]
            while server.asked()["slow"] < 2:
                await asyncio.sleep(0.01)
            with pytest.raises(UpstreamError, match=r"in time: 2 calls at once .concurrency. left"):
                await parts(model, short("late"), seconds=0.2)
            for one in slow:
                one.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            return found

    script = {"slow": [Fate(delay=30)] * 2}
    with chat_server(script, otherwise=Fate(pieces=[0.1, *streamed("yes")])) as server:
        found = asyncio.run(ask_all())
        assert server.busiest == 2 and "late" not in server.asked()
    assert [whole(answer).text for answer in found] == ["yes"] * 6


def test_connections_are_kept_after_a_stream() -> None:
    async def ask_now_and_then() -> None:
        async with config(server).open_async() as model:
            for _ in range(3):
                await parts(model, short("q"))
                await asyncio.sleep(0.2)

    # The end of the content comes a moment after the event that ends the stream.
    with chat_server(otherwise=Fate(pieces=[*streamed("yes"), 0.02])) as server:
        asyncio.run(ask_now_and_then())
        assert server.calls == 3 and len(set(server.ports)) < 3


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LARGEST_EVENT", 2**16)
    endless = Fate(pieces=[b"data: ", *[b"a" * 2**12] * 99])
    with (
        chat_server(otherwise=endless) as server,
        pytest.raises(UpstreamError, match="a line of more than 65536 bytes"),
    ):
        serve(config(server, retries=0), "q")


def test_a_packed_stream_is_unpacked() -> None:
    packed = gzip.compress(b"".join(streamed("An answer.")))
    fate = Fate(pieces=in_bytes(packed, 20), headers={"Content-Encoding": "gzip"})
    with chat_server(otherwise=fate) as server:
        assert whole(*serve(config(server), "q")).text == "An answer."


def test_tokens_that_are_not_reported_are_estimated_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fate = Fate(pieces=streamed("An answer.", usage=False))
    with chat_server(otherwise=fate) as server:
        settings = priced(server)
        found = [whole(answer) for answer in serve(settings, "12345", "12345")]
    assert [(one.prompt_tokens, one.completion_tokens) for one in found] == [(2, 3)] * 2
    assert all(one.estimated for one in found)
    most = settings.cost(*settings.most(short("12345")))
    assert [one.usd for one in found] == [most, most]
    assert capsys.readouterr().err.count("reports no tokens") == 1


def test_without_a_price_no_cost_is_said() -> None:
    with chat_server() as server:
        assert whole(*serve(config(server), "q")).usd is None


def test_what_can_not_be_opened_is_said_before() -> None:
    async def open_it(settings: OpenAIConfig, **given: Any) -> None:
        async with settings.open_async(**given):
            pass

    settings = OpenAIConfig(model="tiny", base_url="http://127.0.0.1:1/v1", key_env=None)
    with pytest.raises(ModelError, match="takes no adapter"):
        asyncio.run(open_it(settings, adapter=Path("adapter")))
    with pytest.raises(CallError, match="OPENAI_API_KEY is not set"):
        asyncio.run(open_it(settings.model_copy(update={"key_env": "OPENAI_API_KEY"})))
    with pytest.raises(ConfigError, match="metadata"):
        asyncio.run(open_it(OpenAIConfig.model_construct(**{
            **settings.model_dump(), "base_url": "http://169.254.1.1/v1",
            "egress": settings.egress,
        })))  # fmt: skip


def test_a_model_that_was_closed_asks_nobody() -> None:
    async def ask() -> None:
        async with config(server).open_async() as model:
            pass
        async with aclosing(model.stream(short("q"), Served("r", time.monotonic() + 5))) as stream:
            await anext(stream)

    with chat_server() as server:
        with pytest.raises(UpstreamError, match="was closed"):
            asyncio.run(ask())
        assert server.calls == 0


CANARY = "sk-canary/aB3dE5gH7jK9mN1p"


def by_number(event: bytes) -> bytes:
    """An event that says the key in the name of the version, too, with letters by their numbers."""
    event = event.replace(b"tiny-2026", CANARY.encode())
    return event.replace(b"sk-canary/", b"\\u0073k-canary\\u002f")


def test_the_key_is_sent_and_seen_nowhere_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """An endpoint says it again, whole and in pieces, in whatever can be said."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    quoted = CANARY.replace("/", "%2F")
    told = json.dumps({"error": {"message": f"no, {CANARY}", "code": CANARY}}).encode()
    inner = b"data: " + told + b"\n\n"
    script = {
        "in pieces": [Fate(pieces=[*map(said, f"By {CANARY}, {quoted}; {CANARY}"), *streamed("")])],
        "in one": [Fate(pieces=streamed(f"By {CANARY} and {quoted}"))],
        "whole": [Fate(body=completion(f"By {CANARY}"))],
        "half": [Fate(pieces=[said(f"By {CANARY[:9]}"), *streamed("")])],
        "refused": [Fate(pieces=[said(None, refusal=f"No: {CANARY}"), *streamed("")])],
        "refused in pieces": [
            Fate(pieces=[*(said(None, refusal=part) for part in f"No: {CANARY}"), *streamed("")])
        ],
        "escaped": [Fate(pieces=[by_number(each) for each in streamed(CANARY)])],
        "refused and escaped": [
            Fate(pieces=[by_number(said(None, refusal=CANARY)), *streamed("")])
        ],
        "poison": [Fate(400, told, {"X-Key": CANARY})],
        "401": [Fate(401, told)],
        "500": [Fate(500, told)] * 2,
        "in the middle": [Fate(pieces=[said("By"), inner])],
        "an ending": [Fate(pieces=streamed("By", CANARY))],
        "no JSON": [Fate(body=CANARY.encode())] * 2,
        "redirect": [Fate(302, told, {"Location": f"https://{CANARY}"})],
    }
    seen: list[str] = []
    texts: dict[str, str | None] = {}

    async def ask_all() -> None:
        settings = priced(server, key_env="OPENAI_API_KEY", retries=1)
        async with settings.open_async(cache=True) as model:
            for name in script:
                try:
                    found = await parts(model, short(name))
                    texts[name] = whole(found).text
                    seen.append(repr(found))
                except UpstreamError as error:
                    seen.append(repr(error) + "".join(traceback.format_exception(error)))

    with chat_server(script) as server:
        asyncio.run(ask_all())
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {CANARY}"}
    assert texts["in pieces"] == "By ***, ***; ***" and texts["in one"] == "By *** and ***"
    assert texts["half"] == f"By {CANARY[:9]}" and len(seen) == len(script)
    assert texts["escaped"] == "***"
    seen += [caplog.text, *capfd.readouterr()]
    seen += [str(path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()]
    assert [text for text in seen if CANARY in text or quoted in text] == []
    assert "***" in "".join(seen)
