"""A small server on this machine that speaks OpenAI's files and batches, answers as it is told to,
and misbehaves so too.

One call at a time it answers as `tests.servers` does, so that both modes can be asked the same.
"""

import email
import email.policy
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.servers import GOOD, Fate, completion

EXPIRED = "expired"
"""A row's fate: the provider had no time for it."""
MISSING = "missing"
"""A row's fate: no line says what became of it, though it was made."""


@dataclass(frozen=True)
class Fault:
    """What happens to one HTTP request, before it has its effect or after."""

    status: int | None = None
    """Answered instead, without any effect."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": {"message": "it said no"}}'
    before: float = 0.0
    """Seconds."""
    after: float = 0.0
    lost: bool = False
    """The effect comes, and the reply does not."""


@dataclass
class Made:
    """A batch."""

    id: str
    file: str
    metadata: dict[str, str]
    at: float
    ends: str
    """The status that it comes to."""
    rows: list[dict[str, Any]]
    complaint: str = ""
    done: bool = False
    output: str | None = None
    errors: str | None = None
    completed: int = 0
    failed: int = 0


class BatchServer:
    """What was asked of the server, and what is still to happen."""

    def __init__(
        self, script: Mapping[str, Sequence[Fate | str]], takes: float, ends: Sequence[str]
    ) -> None:
        self.url = ""
        self.takes = takes
        """Seconds from a batch's making to its end."""
        self.ends = list(ends)
        """The statuses that the next batches come to; then `completed`."""
        self.faults: dict[str, list[Fault]] = {}
        """What happens to the next requests of a kind, such as `POST /batches`."""
        self.rewrites: list[Callable[[bytes], bytes]] = []
        """What becomes of the next output files."""
        self.elsewhere: str | None = None
        """Where downloads are redirected to: `{file}` is the file's name."""
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Made] = {}
        self._bought: Counter[str] = Counter()
        self.direct: Counter[str] = Counter()
        """And one by one."""
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Each HTTP request's kind and headers."""
        self._left = {prompt: list(fates) for prompt, fates in script.items()}
        self._numbers = itertools.count(1)
        self.lock = threading.RLock()

    @property
    def bought(self) -> Counter[str]:
        """Counts how often each last message was answered in a batch, or will be: who made a batch
        pays for it, collected or not.
        """
        with self.lock:
            for made in self.batches.values():
                if not made.done:
                    self._answer(made)
            return self._bought

    def asked(self, kind: str) -> int:
        """How many requests of a kind there were."""
        return sum(asked == kind for asked, _ in self.requests)

    def upload(self, body: bytes, content_type: str) -> dict[str, Any]:
        """Takes a form."""
        form = email.message_from_bytes(
            f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=email.policy.HTTP
        )
        fields = {
            part.get_param("name", header="content-disposition"): part for part in form.iter_parts()
        }  # type: ignore[attr-defined]
        assert fields["purpose"].get_content().strip() == "batch"
        name = f"file-in{next(self._numbers)}"
        self.files[name] = fields["file"].get_payload(decode=True)
        return {"id": name, "object": "file", "bytes": len(self.files[name]), "purpose": "batch"}

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Makes a batch."""
        assert body["endpoint"] == "/v1/chat/completions" and body["completion_window"] == "24h"
        content = self.files[body["input_file_id"]]
        rows = [json.loads(line) for line in content.splitlines()]
        ends, complaint = self.ends.pop(0) if self.ends else "completed", ""
        if len({row["custom_id"] for row in rows}) < len(rows) or any(
            row["url"] != body["endpoint"] for row in rows
        ):
            ends, complaint = "failed", "a custom_id twice, or a url that is not the endpoint"
        if ends == "failed":
            complaint = complaint or "Enqueued token limit reached"
        made = Made(
            f"batch_{next(self._numbers)}",
            body["input_file_id"],
            body["metadata"],
            time.time(),
            ends,
            rows,
            complaint,
        )
        self.batches[made.id] = made
        return self.state(made)

    def state(self, made: Made) -> dict[str, Any]:
        """A batch as it stands; one whose time has come is answered first."""
        over = time.time() >= made.at + self.takes
        if over and not made.done:
            self._answer(made)
        status = (
            made.ends
            if over
            else "validating"
            if time.time() < made.at + self.takes / 4
            else "in_progress"
        )
        return {
            "id": made.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": made.file,
            "status": status,
            "errors": {"data": [{"code": "x", "line": 1, "message": made.complaint}]}
            if over and made.complaint
            else None,
            "output_file_id": made.output,
            "error_file_id": made.errors,
            "created_at": int(made.at),
            "metadata": made.metadata,
            "request_counts": {
                "total": len(made.rows),
                "completed": made.completed,
                "failed": made.failed,
            },
        }

    def _answer(self, made: Made) -> None:
        made.done = True
        if made.ends == "failed":
            return
        late = len(made.rows) if made.ends == "completed" else len(made.rows) // 2
        output, errors = [], []
        for number, row in enumerate(made.rows):
            prompt = row["body"]["messages"][-1]["content"]
            left = self._left.get(prompt)
            fate = EXPIRED if number >= late else left.pop(0) if left else GOOD
            line: dict[str, Any] = {
                "id": f"r{number}",
                "custom_id": row["custom_id"],
                "response": None,
                "error": None,
            }
            if isinstance(fate, str):
                made.completed += fate == MISSING
                made.failed += fate == EXPIRED
                line["error"] = {
                    "code": "batch_expired",
                    "message": "could not be executed before the completion window expired",
                }
                errors += [line] if fate == EXPIRED else []
                continue
            body = json.loads(
                fate.body if fate.body is not None else completion(f"answer to {prompt}")
            )
            line["response"] = {"status_code": fate.status, "request_id": "q", "body": body}
            self._bought.update([prompt] * (fate.status == 200))
            made.completed += fate.status == 200
            made.failed += fate.status != 200
            (output if fate.status == 200 else errors).append(line)
        made.output, made.errors = self._file(output[::-1]), self._file(errors)
        if made.output and self.rewrites:
            self.files[made.output] = self.rewrites.pop(0)(self.files[made.output])

    def _file(self, lines: list[dict[str, Any]]) -> str | None:
        if not lines:
            return None
        name = f"file-out{next(self._numbers)}"
        self.files[name] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        return name

    def listed(self, after: str | None) -> dict[str, Any]:
        """Two batches of the list, newest first."""
        newest = list(self.batches.values())[::-1]
        names = [made.id for made in newest]
        start = names.index(after) + 1 if after else 0
        return {
            "object": "list",
            "data": [self.state(made) for made in newest[start : start + 2]],
            "has_more": start + 2 < len(newest),
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_POST(self) -> None:
        self._do(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self) -> None:
        self._do(b"")

    def _do(self, body: bytes) -> None:
        batch, parts = self.server.batch, urlsplit(self.path)
        words = parts.path.split("/")[2:]
        kind = f"{self.command} /{'/'.join([words[0], *('*' for _ in words[1:2]), *words[2:]])}"
        with batch.lock:
            batch.requests.append(
                (kind, {name.lower(): value for name, value in self.headers.items()})
            )
            faults = batch.faults.get(kind)
            fault = faults.pop(0) if faults else Fault()
        try:
            time.sleep(fault.before)
            if fault.status is not None:
                self._reply(fault.status, fault.body, fault.headers)
                return
            with batch.lock:
                status, content, headers = self._effect(kind, words, parse_qs(parts.query), body)
            time.sleep(fault.after)
            if fault.lost:
                self.close_connection = True
                return
            self._reply(status, content, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _effect(
        self, kind: str, words: list[str], query: dict[str, list[str]], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        batch = self.server.batch
        if kind == "POST /files":
            return _json(batch.upload(body, self.headers["Content-Type"]))
        if kind == "POST /batches":
            return _json(batch.create(json.loads(body)))
        if kind == "GET /batches":
            return _json(batch.listed(query.get("after", [None])[0]))
        if kind == "GET /batches/*" and words[1] in batch.batches:
            return _json(batch.state(batch.batches[words[1]]))
        if kind == "GET /files/*/content" and words[1] in batch.files:
            if batch.elsewhere:
                return 302, b"", {"Location": batch.elsewhere.format(file=words[1])}
            return 200, batch.files[words[1]], {}
        if kind == "POST /chat/*":
            prompt = json.loads(body)["messages"][-1]["content"]
            batch.direct[prompt] += 1
            return 200, completion(f"answer to {prompt}"), {}
        return 404, b'{"error": {"message": "no such thing"}}', {}

    def _reply(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            **headers,
            "Content-Length": str(len(content)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _json(value: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(value).encode(), {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    batch: BatchServer


@contextmanager
def batch_server(
    script: Mapping[str, Sequence[Fate | str]] | None = None,
    takes: float = 0.0,
    ends: Sequence[str] = (),
) -> Iterator[BatchServer]:
    """A server whose `script` gives the fates of a message's first calls in batches; all others
    are answered well.
    """
    batch = BatchServer(script or {}, takes, ends)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.batch = batch
    batch.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield batch
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
