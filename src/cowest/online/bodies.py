"""Reads and checks bodies of requests under limits, and writes bodies of responses.

Whatever a client sends is hostile until it is checked: no body may cause an internal error.
"""

import asyncio
import json
import re
import time
from typing import Any, NoReturn

from starlette.types import Receive

from cowest.online.refusals import GoneError, RefusalError

DEPTH = 32
"""Levels of lists and objects in a body."""
VALUES = 10_000
"""Values in a body. Each takes time to check, in which nobody else is answered: the reasons against
a million of them take seconds."""
SHOWN = 80
"""Length, in characters, to which a client's words are cut in messages."""
HALVES = re.compile("[\ud800-\udfff]")
"""Surrogates: halves of characters, which JSON can hold and UTF-8 can't."""


async def read_json(
    headers: dict[str, str], receive: Receive, most: int, until: float
) -> dict[str, Any]:
    """Reads a body of at most `most` bytes until `until` (by `time.monotonic()`) as an object.

    Raises RefusalError for a body that is too large, too slow, or no JSON object; GoneError if the
    client leaves.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        # A web page may send other types to any host without asking first.
        raise RefusalError(415, "the body must be JSON: send `content-type: application/json`")
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise RefusalError(415, "the body must not be compressed: send no content-encoding")
    try:
        async with asyncio.timeout(until - time.monotonic()):
            body = await _read(headers, receive, most)
    except TimeoutError:
        raise RefusalError(408, "the body did not arrive before the deadline") from None
    return _parse(body)


async def _read(headers: dict[str, str], receive: Receive, most: int) -> bytes:
    """Reads a body, and no more of it than may be kept."""
    too_large = RefusalError(413, f"the body has more than {most} bytes (serve.limits.body)")
    length = headers.get("content-length", "")
    if length.isdigit() and (len(length) > 18 or int(length) > most):
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        body += message.get("body", b"")
        if len(body) > most:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


def _parse(body: bytes) -> dict[str, Any]:
    """Parses a JSON object strictly. Raises RefusalError."""
    try:
        found = json.loads(
            body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once
        )
        _check(found)
    except RecursionError:
        raise RefusalError(400, "the body is nested too deeply") from None
    except ValueError as error:
        # It is a JSONDecodeError, a UnicodeDecodeError, a number of too many digits, or ours.
        raise RefusalError(400, f"the body is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise RefusalError(400, "the body must be a JSON object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are unique: of two values, one would be dropped in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _check(found: Any) -> None:
    """Raises ValueError for too many values, or too deep ones, half a character, a huge number."""
    waiting = [(found, DEPTH)]
    seen = 1
    while waiting:
        value, depth = waiting.pop()
        if depth < 0:
            raise ValueError(f"more than {DEPTH} levels")
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            raise ValueError("a number is too large")
        texts = [value] if isinstance(value, str) else []
        inside: list[Any] = []
        if isinstance(value, dict):
            texts, inside = list(value), list(value.values())
        elif isinstance(value, list):
            inside = value
        if any(HALVES.search(text) for text in texts):
            raise ValueError("a text holds half of a surrogate pair, which is no character")
        seen += len(inside)
        if seen > VALUES:
            raise ValueError(f"more than {VALUES:,} values")
        waiting += [(one, depth - 1) for one in inside]


def shown(text: str) -> str:
    """A client's own words, cut to what a message may repeat."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def encode(value: Any) -> bytes:
    """JSON in UTF-8; a half of a character that a model gave is replaced."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


async def until_gone(receive: Receive, work: asyncio.Task[None]) -> None:
    """Waits for the work that answers a client, and cancels it if the client leaves.

    The server does not cancel a handler whose client left: the handler has to listen for that.
    Raises GoneError if the client left, and whatever the work raises.
    """
    left = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
            return
        raise GoneError
    finally:
        for task in (work, left):
            task.cancel()
        await asyncio.gather(work, left, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
