"""An OpenAI-compatible endpoint for measurements: a bare protocol on asyncio, with uvloop, so that
it is never the slow one.

    python -m tests.bench.endpoint        says its port

The path says how it answers: /fixed-100/v1 each after 100 ms; /tail-100/v1 one of twenty after ten
times that; /mixed-50/v1 with the faults of `tests.servers.mixed`; /spread-500/v1 the first text
after 500 ms and the rest in the next second. Where a stream is asked for, each good answer is one.
GET /stats says what it did since it was last asked.
"""

import asyncio
import email.utils
import json
import random
import re
import resource
import time
from typing import Any

from tests.servers import SOON, Fate, mixed

TEXT = (
    "An answer of some words, about as long as answers are, for a measurement in which nobody "
    "reads it."
)
HTTP = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"


def answer(text: str) -> bytes:
    """A chat completion as a whole response."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 180, "completion_tokens": 20, "total_tokens": 200}
    body = json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
    ).encode()
    return HTTP % (200, b"", len(body)) + body


def events(text: str) -> list[bytes]:
    """A streamed chat completion: its head with the first text, further texts, and its end."""

    def event(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        data = json.dumps({**body, "choices": [choice], **more}).encode()
        return _chunk(b"data: " + data + b"\n\n")

    texts = [event({"content": f"{word} "}) for word in text.split()]
    texts[0] = STREAM + texts[0]
    usage = {"prompt_tokens": 180, "completion_tokens": 20, "total_tokens": 200}
    done = _chunk(b"data: [DONE]\n\n") + _chunk(b"")
    return [*texts, event({}, "stop", usage=usage) + done]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GOOD = answer(TEXT)
STREAMED = events(TEXT)
SPREAD = 1.0
"""Seconds over which a stream of the kind `spread` gives what follows its first text."""


class Book:
    """What is to happen, and what did."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begins anew: the same calls meet the same again."""
        self.calls, self.waited = 0, 0.0
        self.luck = random.Random(4)
        self.fates: dict[str, list[Fate]] = {}
        self.cpu = _cpu()

    def stats(self) -> bytes:
        """Calls, seconds that they were made to wait, and CPU seconds; then anew."""
        body = json.dumps(
            {"calls": self.calls, "waited": self.waited, "cpu": _cpu() - self.cpu}
        ).encode()
        self.clear()
        return HTTP % (200, b"", len(body)) + body

    def fate(self, kind: str, base: float, body: bytes) -> Fate:
        """What happens to a call."""
        self.calls += 1
        if kind == "tail":
            base *= 10 if self.luck.random() < 0.05 else 1
        self.waited += base
        if kind != "mixed":
            return Fate(delay=base)
        if not self.fates:
            self.fates = mixed(base)
        messages = json.loads(body)["messages"]  # Curator first asks for nothing
        left = self.fates.get(messages[-1]["content"].split(": ")[-1]) if messages else None
        return left.pop(0) if left else Fate(delay=base)


class Connection(asyncio.Protocol):
    """One request after another."""

    def __init__(self, book: Book, loop: asyncio.AbstractEventLoop) -> None:
        self._book, self._loop, self._seen = book, loop, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        end = self._seen.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._seen[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._seen) < end + 4 + length:
            return
        path, body = self._seen.split(b" ", 2)[1], self._seen[end + 4 : end + 4 + length]
        self._seen = b""
        if path == b"/stats":
            self._transport.write(self._book.stats())
            return
        kind, _, milliseconds = path.split(b"/")[1].decode().partition("-")
        fate = self._book.fate(kind, int(milliseconds) / 1000, body)
        if fate == Fate(delay=fate.delay) and re.search(rb'"stream": ?true', body):
            self._stream(fate.delay, SPREAD if kind == "spread" else 0.0)
        else:
            self._answer(fate)

    def _stream(self, delay: float, spread: float) -> None:
        if not spread:
            self._loop.call_later(delay, self._write, b"".join(STREAMED))
            return
        for number, content in enumerate(STREAMED):
            later = spread * number / len(STREAMED)
            self._loop.call_later(delay + later, self._write, content)

    def _answer(self, fate: Fate) -> None:
        if fate == Fate(delay=fate.delay):
            self._loop.call_later(fate.delay, self._write, GOOD)
            return
        headers = b"".join(
            f"{name}: {_date() if value == SOON else value}\r\n".encode()
            for name, value in fate.headers.items()
        )
        body = fate.body if fate.body is not None else GOOD.partition(b"\r\n\r\n")[2]
        content = HTTP % (fate.status, headers, len(body)) + body
        if fate.cut is None:
            self._loop.call_later(fate.delay, self._write, content)
        elif fate.cut:
            self._loop.call_later(
                fate.delay, self._write, content[: len(content) - len(body) + fate.cut]
            )
        if fate.cut is not None:
            self._loop.call_later(fate.delay, self._transport.close)

    def _write(self, content: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(content)


def _date() -> str:
    return email.utils.formatdate(time.time() + 2, usegmt=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def serve() -> None:
    """Until it is killed."""
    loop, book = asyncio.get_running_loop(), Book()
    server = await loop.create_server(lambda: Connection(book, loop), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(serve())
    except ImportError:
        asyncio.run(serve())
