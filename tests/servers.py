"""A small OpenAI-compatible server on this machine, which answers as it is told to, and
misbehaves so too.
"""

import email.utils
import json
import re
import select
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
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
    trickle: float | None = None
    """Seconds between two bytes of the body."""
    pieces: Iterable[bytes | float | None] | None = None
    """Pieces that are sent in place of a body, with the seconds between; at None the
    connection drops. Where a stream is asked for and there is no body, `streamed` makes them."""


def completion(text: Any, finish: str = "stop", **message: Any) -> bytes:
    """A chat completion's body."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish,
    }
    model, fingerprint = VERSION.split()
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps(
        {
            "id": "c",
            "model": model,
            "system_fingerprint": fingerprint,
            "choices": [choice],
            "usage": usage,
        }
    ).encode()


def event(choice: Mapping[str, Any] | None = None, **fields: Any) -> bytes:
    """An event of a streamed chat completion, with the part of its one choice, if any."""
    model, fingerprint = VERSION.split()
    body = {
        "id": "c",
        "object": "chat.completion.chunk",
        "model": model,
        "system_fingerprint": fingerprint,
        "choices": [] if choice is None else [{"index": 0, **choice}],
        **fields,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def said(text: Any, finish: str | None = None, **delta: Any) -> bytes:
    """An event with some of an answer's text."""
    return event({"delta": {"content": text, **delta}, "finish_reason": finish})


DONE = b"data: [DONE]\n\n"
USED = event(usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
"""The event that reports tokens, where `stream_options` asks for it."""


def streamed(text: str, finish: str = "stop", usage: bool = True) -> list[bytes]:
    """A streamed chat completion, word by word."""
    words = [said("", role="assistant"), *map(said, re.findall(r"\s*\S+|\s+$", text))]
    return [*words, event({"delta": {}, "finish_reason": finish}), *[USED] * usage, DONE]


def error(
    status: int, message: str = "it said no", code: str | None = None, **headers: str
) -> Fate:
    """An error as OpenAI words it."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": code}}).encode()
    return Fate(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


SOON = "a date one or two seconds from now"
"""A Retry-After that is written when it is sent."""
GOOD = Fate()
DROPPED = Fate(cut=0)
CUT_SHORT = Fate(cut=20)
NULL = Fate(body=completion(None))
EMPTY = Fate(body=completion(" "))
NO_CHOICES = Fate(body=b'{"choices": [], "usage": null}')
NOT_JSON = Fate(body=b'{"choices": [{"message": {"con')
HTML = Fate(body=b"<html>Our service is back soon</html>", headers={"Content-Type": "text/html"})


def mixed(delay: float, hang: float | None = None) -> dict[str, list[Fate]]:
    """A thousand rows, of which 8 are poison, 198 meet faults that may pass (242 calls more in
    all), and 50 are ten times slower. Two of those that meet faults hang at first, for `hang`
    seconds (20 times the delay by default).
    """
    hang = 20 * delay if hang is None else hang
    faults = [
        *[[error(429, retry_after="1")]] * 20,
        *[[error(429, retry_after=SOON)]] * 20,
        *[[error(429)]] * 20,
        *[[error(503)]] * 46,
        *[[error(500)] * 3] * 22,
        *[[DROPPED]] * 20,
        *[[CUT_SHORT]] * 20,
        *[[NOT_JSON]] * 7,
        *[[NO_CHOICES]] * 7,
        *[[NULL]] * 7,
        *[[HTML]] * 7,
        *[[Fate(delay=hang)]] * 2,
        *[[error(400, "it is poison")] * 9] * 8,
        *[[Fate(delay=10 * delay)]] * 50,
    ]
    places = [n * 617 % 1000 for n in range(1000)]  # spread out, and the same each time
    return {
        f"row {place}": [
            Fate(f.status, f.body, f.headers, max(f.delay, delay), f.cut) for f in fates
        ]
        for place, fates in zip(places, faults, strict=False)
    }


class ChatServer:
    """What was asked of the server, and what is still to happen."""

    def __init__(
        self,
        script: Mapping[str, Sequence[Fate]],
        otherwise: Fate | Callable[[dict[str, Any]], Fate],
    ) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.ports: list[int] = []
        """Of those who called: one for each connection."""
        self.capacity: int | None = None
        """Calls at once; more are refused with a 429."""
        self.busiest = 0
        """Most calls at once; a call is over before its caller reads its last bytes."""
        self.adapters: dict[str, str] | None = None
        """Folders of the adapters that it holds, by name, as a vLLM server that loads them does."""
        self.unloads = True
        self.forgets = False
        """True for one that has no adapter any more when it is called for it."""
        self.cut: list[float] = []
        """Times at which callers hung up in the middle of an answer in pieces."""
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
            if self.capacity is not None and self._now > self.capacity:
                return error(429)
            name = str(body.get("model"))
            known = {} if self.forgets else self.adapters
            if known is not None and "+" in name and name not in known:
                return error(404, f"The model `{name}` does not exist.")
            left = self._left.get(body["messages"][-1]["content"])
            if left:
                return left.pop(0)
        return self._otherwise(body) if callable(self._otherwise) else self._otherwise

    def adapter(self, path: str, body: dict[str, str], headers: dict[str, str]) -> Fate:
        """Loads or unloads an adapter, in the words of vLLM 0.32."""
        self.headers.append(headers)
        name = body["lora_name"]
        if self.adapters is None:
            return Fate(404, b'{"detail": "Not Found"}')
        if path.endswith("/unload_lora_adapter"):
            if not self.unloads:
                return error(500, "it keeps it")
            known = self.adapters.pop(name, None)
            return Fate() if known else error(404, f"The lora adapter '{name}' cannot be found.")
        if name in self.adapters:
            return error(400, f"The lora adapter '{name}' has already been loaded. If you want")
        folder = Path(body["lora_path"])
        if not (folder / "adapter_config.json").is_file():
            return error(404, f"Loading lora {name} failed: No adapter found for {folder}")
        if json.loads((folder / "adapter_config.json").read_text())["r"] > 4:
            return error(500, "LoRA rank 8 is greater than max_lora_rank 4")
        self.adapters[name] = str(folder)
        return Fate()

    def waits(self, prompt: str) -> list[float]:
        """Seconds between the calls of a last message."""
        times = [
            at
            for at, body in zip(self.times, self.bodies, strict=True)
            if body["messages"][-1]["content"] == prompt
        ]
        return [after - before for before, after in pairwise(times)]

    def end(self) -> None:
        """Notes that a call is over."""
        with self._lock:
            self._now -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"
    counted = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.server.chat
        chat.ports.append(self.client_address[1])
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path.endswith("load_lora_adapter"):
            fate = chat.adapter(self.path, body, headers)
            self._send(fate, fate.body or b"Success")
            return
        fate = chat.begin(body, headers)
        self.counted = True
        try:
            time.sleep(fate.delay)
            self._answer(fate, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self._over()

    def _over(self) -> None:
        """Counts the call among those at once no longer; called before what ends it is sent.

        Its caller may make the next call as soon as it reads that, before this thread runs again.
        """
        if self.counted:
            self.counted = False
            self.server.chat.end()

    def _answer(self, fate: Fate, body: dict[str, Any]) -> None:
        content = (
            fate.body
            if fate.body is not None
            else completion(f"answer to {body['messages'][-1]['content']}")
        )
        if not self.path.endswith("/chat/completions"):
            fate, content = Fate(404), b"{}"
        elif fate.pieces is not None:
            self._send_pieces(fate, fate.pieces)
            return
        elif body.get("stream") and fate.body is None and fate.cut is None:
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            answer = f"answer to {body['messages'][-1]['content']}"
            self._send_pieces(fate, streamed(answer, usage=usage))
            return
        self._send(fate, content)

    def _send(self, fate: Fate, content: bytes) -> None:
        if fate.cut == 0:
            self.close_connection = True
            return
        if fate.trickle is None:
            self._over()
        self.send_response(fate.status)
        for name, value in {
            "Content-Type": "application/json",
            **fate.headers,
            "Content-Length": str(len(content)),
        }.items():
            self.send_header(
                name,
                email.utils.formatdate(time.time() + 2, usegmt=True) if value == SOON else value,
            )
        self.end_headers()
        if fate.trickle is not None:
            for byte in content:
                self.wfile.write(bytes([byte]))
                time.sleep(fate.trickle)
            return
        self.wfile.write(content[: fate.cut])
        self.close_connection = fate.cut is not None

    def _send_pieces(self, fate: Fate, pieces: Iterable[bytes | float | None]) -> None:
        self.send_response(fate.status)
        headers = {"Content-Type": "text/event-stream", **fate.headers}
        for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in pieces:
            if piece is None or self._has_hung_up(piece):
                self.close_connection = True
                return
            if isinstance(piece, bytes):
                if b"[DONE]" in piece:
                    self._over()
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _has_hung_up(self, piece: bytes | float) -> bool:
        """Waits the seconds between two pieces; True once the caller hangs up meanwhile."""
        seconds = piece if isinstance(piece, float | int) else 0
        if not select.select([self.connection], [], [], seconds)[0]:
            return False
        self.server.chat.cut.append(time.monotonic())
        return True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    chat: ChatServer

    def __init__(self, port: int) -> None:
        self.connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: clients that go away are what tests are about."""


@contextmanager
def chat_server(
    script: Mapping[str, Sequence[Fate]] | None = None,
    otherwise: Fate | Callable[[dict[str, Any]], Fate] = GOOD,
    tls: ssl.SSLContext | None = None,
) -> Iterator[ChatServer]:
    """A server whose `script` gives the fates of a message's first calls; all others meet
    `otherwise`, or what that says to a body.
    """
    chat = ChatServer(script or {}, otherwise)
    with listening(chat, tls):
        yield chat


@contextmanager
def listening(chat: ChatServer, tls: ssl.SSLContext | None = None) -> Iterator[None]:
    """Has a server answer, at the same port each time; what comes before and after is refused."""
    server = _Server(int(chat.url.split(":")[-1].split("/")[0]) if chat.url else 0)
    server.chat = chat
    chat.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}/v1"
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        for connection in server.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()


def planted_in(planted: Mapping[str, str], value: Any) -> set[str]:
    """Kinds of what was planted that are in a value, in whatever case."""
    text = json.dumps(value, ensure_ascii=False).lower()
    return {kind for kind, one in planted.items() if one.lower() in text}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def raw_server(*replies: bytes) -> Iterator[str]:
    """The URL of a server that answers one request on each connection with these bytes, and
    hangs up.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for reply in replies:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(2**16)
                    connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
