"""Bodies of requests: whatever is sent, it is an object that is safe to use, or refused."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest.online.bodies import encode, read_json
from cowest.online.refusals import GoneError, RefusalError

JSON = {"content-type": "application/json"}


def received(*messages: dict[str, Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Makes the `receive` of a server that hands messages on, and waits after the last."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    return receive


def read(
    *parts: bytes, headers: dict[str, str] | None = None, most: int = 1000, seconds: float = 9
) -> Any:
    messages = []
    for number, part in enumerate(parts, 1):
        more = number < len(parts)
        messages.append({"type": "http.request", "body": part, "more_body": more})
    receive = received(*messages)
    until = time.monotonic() + seconds
    return asyncio.run(read_json({**JSON, **(headers or {})}, receive, most, until))


def test_an_object_is_read_in_parts() -> None:
    assert read(b'{"a"', b": [1, ", '"ä"]}'.encode()) == {"a": [1, "ä"]}
    assert read(b"{}", headers={"content-type": "application/json; charset=utf-8"}) == {}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"7", b"null", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a": NaN}',
        b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b'{"a": {"b": 1, "b": 1}}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}', b'{"a": ' + b"9" * 5000 + b"}", b"{" + b'"a":{' * 40 + b"}" * 41,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":' * 100_000, b'{"a": 01}',
    ],
)  # fmt: skip
def test_what_is_no_safe_object_is_refused(body: bytes) -> None:
    with pytest.raises(RefusalError) as refused:
        read(body, most=1_000_000)
    assert refused.value.status == 400
    assert len(refused.value.reason) < 400
    encode({"error": refused.value.reason})


def test_a_body_of_many_values_holds_nobody_up() -> None:
    """Before there was a limit, the 500,000 complaints about this one took three seconds."""
    few = b",".join([b"{}"] * 9_000)
    assert len(read(b'{"messages": [' + few + b"]}", most=1_000_000)["messages"]) == 9_000
    for many in (
        b"[" + b",".join([b"{}"] * 300_000) + b"]",
        b'[{"a": [[' + b"0," * 20_000 + b"0]]}]",
    ):
        with pytest.raises(RefusalError, match="more than 10,000 values") as refused:
            read(b'{"messages": ' + many + b"}", most=1_000_000)
        assert refused.value.status == 400


def test_too_much_is_refused_before_it_is_read() -> None:
    for parts, headers in (
        ((b"{}",), {"content-length": "1001"}),
        ((b"{}",), {"content-length": "9" * 30}),
        ((b" " * 600, b" " * 600, b"never read"), {}),
    ):
        with pytest.raises(RefusalError) as refused:
            read(*parts, headers=headers)
        assert refused.value.status == 413


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-encoding": "gzip"},
    ],
)
def test_what_a_web_page_may_send_anywhere_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(RefusalError) as refused:
        read(b"{}", headers=headers)
    assert refused.value.status == 415


def test_a_body_that_never_ends_and_a_client_that_leaves() -> None:
    receive = received({"type": "http.request", "body": b"{", "more_body": True})
    with pytest.raises(RefusalError) as refused:
        asyncio.run(read_json(JSON, receive, 1000, time.monotonic() + 0.01))
    assert refused.value.status == 408
    receive = received({"type": "http.disconnect"})
    with pytest.raises(GoneError):
        asyncio.run(read_json(JSON, receive, 1000, time.monotonic() + 9))


@given(st.binary(max_size=60))
def test_no_body_is_an_error_of_ours(body: bytes) -> None:
    try:
        found = read(body)
    except RefusalError:
        return
    assert isinstance(found, dict) and encode(found)


def test_what_a_model_says_can_be_sent() -> None:
    assert json.loads(encode({"a": "x\ud800\x00\u2028ä"})) == {"a": "x?\x00\u2028ä"}
