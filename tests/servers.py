"""A small OpenAI-compatible server on this machine, which answers as it is told to, and misbehaves so too."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = "tiny-2026-01-01 fp_1"


@dataclass(frozen=True)
class Fate:
    """What happens to one call."""

    status: int = 200
    body: bytes | None = None
    """None: a good answer to the last message."""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the answer."""
    cut: int | None = None
    """Bytes after which the connection drops; 0 is before the headers."""


def completion(text: str | None, finish: str = "stop", **message: Any) -> bytes:
    """A chat completion's body."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    model, fingerprint = VERSION.split()
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps({"id": "c", "model": model, "system_fingerprint": fingerprint, "choices": [choice], "usage": usage}).encode()


def error(status: int, message: str = "it said no", code: str | None = None, **headers: str) -> Fate:
    """An error as OpenAI words it."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": code}}).encode()
    return Fate(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


GOOD = Fate()
DROPPED = Fate(cut=0)
CUT_SHORT = Fate(cut=20)
NULL = Fate(body=completion(None))
EMPTY = Fate(body=completion(" "))
NO_CHOICES = Fate(body=b'{"choices": [], "usage": null}')
NOT_JSON = Fate(body=b'{"choices": [{"message": {"con')
HTML = Fate(body=b"<html>Our service is back soon</html>", headers={"Content-Type": "text/html"})


class ChatServer:
    """What was asked of the server, and what is still to happen."""

    def __init__(self, script: Mapping[str, Sequence[Fate]], otherwise: Fate) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.busiest = 0
        """Most calls at once."""
        self._left = {prompt: list(fates) for prompt, fates in script.items()}
        self._otherwise = otherwise
        self._lock = threading.Lock()
        self._now = 0

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self.bodies)

    def asked(self) -> Counter[str]:
        """How often each last message was asked."""
        return Counter(body["messages"][-1]["content"] for body in self.bodies)

    def begin(self, body: dict[str, Any], headers: dict[str, str]) -> Fate:
        """Notes a call and says what is to happen to it: the next fate of its last message."""
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self._now += 1
            self.busiest = max(self.busiest, self._now)
            left = self._left.get(body["messages"][-1]["content"])
            return left.pop(0) if left else self._otherwise

    def end(self) -> None:
        """Notes that a call is over."""
        with self._lock:
            self._now -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.server.chat
        fate = chat.begin(body, {name.lower(): value for name, value in self.headers.items()})
        try:
            time.sleep(fate.delay)
            self._answer(fate, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            chat.end()

    def _answer(self, fate: Fate, body: dict[str, Any]) -> None:
        content = fate.body if fate.body is not None else completion(f"answer to {body['messages'][-1]['content']}")
        if not self.path.endswith("/chat/completions"):
            fate, content = Fate(404), b"{}"
        if fate.cut == 0:
            self.close_connection = True
            return
        self.send_response(fate.status)
        for name, value in {"Content-Type": "application/json", **fate.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: fate.cut])
        self.close_connection = fate.cut is not None

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    chat: ChatServer


@contextmanager
def chat_server(script: Mapping[str, Sequence[Fate]] | None = None, otherwise: Fate = GOOD) -> Iterator[ChatServer]:
    """A server whose `script` gives the fates of a message's first calls; all others meet `otherwise`."""
    chat = ChatServer(script or {}, otherwise)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.chat = chat
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
