"""One attempt at a served call: its request, and its answer text by text.

Nothing is waited for beyond the end of the attempt's time, and no more is read than `net` allows.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cowest.models.endpoint.responses import (
    FREE,
    AgainError,
    Answered,
    HopelessError,
    PoisonError,
)
from cowest.models.endpoint.streamed import Streamed
from cowest.net.client import JSON, Body, Client, Reply, Response, Unpacked, encode
from cowest.net.connections import LostError
from cowest.net.events import BYTE_ORDER_MARK, EventError, SentEvents

LINGER = 1.0
"""Seconds to wait, after an answer is whole, for its usage and for the end of its stream."""
BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:", b":")
"""Ways in which server-sent events begin."""


class Attempt:
    """One attempt. `ask` comes first; `close` or `leave` ends it."""

    def __init__(
        self, client: Client, url: str, body: dict[str, Any], answer: Streamed, until: float
    ) -> None:
        """`answer` takes the events of a stream; `until` is a time by `time.monotonic()`."""
        self._client, self._url, self._streamed = client, url, answer
        self._until = until
        self._seconds = until - time.monotonic()
        self._body = Body(encode(body), JSON)
        self._response: Response | None = None
        self._content: Unpacked | None = None
        self._events = SentEvents()
        self._ready: deque[str | Answered | Exception] = deque()
        self._whole_at: float | None = None
        """Time at which the endpoint said how the answer ended."""

    @property
    def may_be_paid(self) -> bool:
        """True once a part of the request may have arrived."""
        return self._body.begun

    async def ask(self) -> Reply | None:
        """Makes the request. Returns the reply, or None for a stream, which `next` reads.

        Raises AgainError.
        """
        async with self._within(self._until):
            self._response = await self._client.ask("POST", self._url, self._body)
            self._content = Unpacked(self._response)
            head = await self._head(self._content)
            if 200 <= self._response.status < 300 and self._is_stream(head):
                self._take(head)
                return None
            content = bytearray(head)
            while True:
                piece = await self._content.read()
                if not piece:
                    break
                content += piece
        return Reply(self._response.status, self._response.headers, bytes(content))

    async def next(self) -> str | Answered:
        """Returns the next text of a stream, never empty, and the answer after the last of them.

        Raises AgainError, PoisonError or HopelessError.
        """
        while not self._ready:
            self._take(await self._piece())
        part = self._ready.popleft()
        if isinstance(part, Exception):
            raise part
        return part

    def give(self, answered: Answered) -> None:
        """Has `next` give an answer that came whole."""
        if answered.completion.text:
            self._ready.append(answered.completion.text)
        self._ready.append(answered)

    @property
    def is_whole(self) -> bool:
        """True for a stream whose answer is whole: only its end may be missing."""
        return self._streamed.finished

    def close(self) -> None:
        """Cuts the connection, unless the whole answer was read."""
        if self._response is not None:
            self._response.close()

    async def leave(self) -> None:
        """Waits a moment for the end of a stream whose answer is whole, to keep the connection."""
        if self._response is not None:
            await self._response.leave(LINGER)

    def _is_stream(self, head: bytes) -> bool:
        # Some servers name the wrong type for a stream, and some for a whole answer.
        assert self._response is not None
        kind = self._response.headers.get("content-type", "").lower()
        named = kind.startswith("text/event-stream") and head[:1] != b"{"
        return named or head.startswith(BEGINNINGS)

    async def _head(self, pieces: Unpacked) -> bytes:
        """Reads as much of a content as it takes to know what it is."""
        head = b""
        while True:
            may_be_events = any(begin.startswith(head) for begin in BEGINNINGS)
            if head and (head.startswith(BEGINNINGS) or not may_be_events):
                return head
            piece = await pieces.read()
            if not piece:
                return head
            head = (head + piece).removeprefix(BYTE_ORDER_MARK).lstrip()

    async def _piece(self) -> bytes:
        """Reads the next piece of a stream, and b"" at its end."""
        assert self._content is not None
        until = self._until
        if self._whole_at is not None:
            until = min(until, self._whole_at + LINGER)
        try:
            async with self._within(until):
                return await self._content.read()
        except AgainError:
            # The answer is there. What it used, nobody will say now.
            if self._streamed.finished:
                return b""
            raise

    def _take(self, piece: bytes) -> None:
        """Takes a piece of a stream; an empty one is its end."""
        texts: list[str] = []
        end: Answered | Exception | None
        try:
            end = self._read(piece, texts)
        except (AgainError, EventError) as error:
            end = self._after(error)
        except (PoisonError, HopelessError) as error:
            end = error
        if self._streamed.finished and self._whole_at is None:
            self._whole_at = time.monotonic()
        if isinstance(end, Answered):
            texts.append(self._streamed.rest(end.completion.text or ""))
        # Texts that came before an error were said, and are given first.
        text = "".join(texts)
        if text:
            self._ready.append(text)
        if end is not None:
            self._ready.append(end)

    def _read(self, piece: bytes, texts: list[str]) -> Answered | None:
        """Reads the events that end in a piece: adds their texts, and returns the answer's end."""
        for event in self._events.feed(piece) if piece else self._events.end():
            part = self._streamed.take(event)
            if isinstance(part, Answered):
                return part
            texts.append(part)
        return None if piece else self._streamed.end()

    def _after(self, error: AgainError | EventError) -> Answered | AgainError:
        """Returns the answer if it was whole before an error, or else the error."""
        if isinstance(error, EventError):
            error = AgainError(str(error), None)
        if not self._streamed.finished:
            return error
        try:
            return self._streamed.end()
        except AgainError as other:
            return other

    @asynccontextmanager
    async def _within(self, until: float) -> AsyncIterator[None]:
        """Raises AgainError where nothing comes in time, or the connection is lost."""
        try:
            async with asyncio.timeout(until - time.monotonic()):
                yield
        except LostError as lost:
            reached = lost.reached and self._body.begun
            usage = None if reached else FREE
            raise AgainError(str(lost), usage, reached=reached) from None
        except TimeoutError:
            usage = None if self._body.begun else FREE
            raise AgainError(f"no answer in {self._seconds:.1f} s", usage) from None
