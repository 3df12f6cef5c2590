"""The files of the batch interface: one call per line going up, one outcome per line coming down.

What comes down may be hostile, and both may be huge.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from cowest.ledger.claims import ClaimRequest
from cowest.models.endpoint.batch_api import ENDPOINT
from cowest.models.endpoint.complaints import said
from cowest.models.endpoint.responses import (
    FREE,
    AgainError,
    Answered,
    HopelessError,
    PoisonError,
    Usage,
    read,
)
from cowest.models.endpoint.settings import Endpoint
from cowest.net.client import LARGEST, Reply, encode
from cowest.protocols import Completion, Request

COMPLAINTS = 3
"""Number of a provider's complaints about a batch that are shown."""


class _Line(NamedTuple):
    """Place of a call's line in the window's file, and the most that the call can cost."""

    start: int
    length: int
    usd: float
    tokens: int


class Window:
    """Calls that are asked together: their order in memory, and their lines in an open file."""

    def __init__(self, file: IO[bytes], config: Endpoint) -> None:
        self._file, self._config = file, config
        self.order: list[str] = []
        """Keys of all requests, in order."""
        self.lines: dict[str, _Line] = {}
        """The calls to make, by key."""

    def add(self, key: str, request: Request | None) -> None:
        """Adds a request; None for one that is already answered."""
        self.order.append(key)
        if request is None or key in self.lines:
            return
        call = {
            "custom_id": key,
            "method": "POST",
            "url": ENDPOINT,
            "body": self._config.batched_body(request),
        }
        line = encode(call) + b"\n"
        prompt, completion = self._config.most(request)
        usd = self._config.cost(prompt, completion) or 0.0
        self.lines[key] = _Line(self._file.tell(), len(line), usd, prompt + completion)
        self._file.write(line)

    def claim(self, key: str) -> ClaimRequest:
        """Makes the claim of a call."""
        line = self.lines[key]
        return ClaimRequest(key, line.usd, line.tokens)

    def files(self, keys: Iterable[str], most: float) -> Iterator[list[str]]:
        """Cuts calls into parts whose lines are no more than `most` bytes together."""
        part: list[str] = []
        size = 0
        for key in keys:
            length = self.lines[key].length
            if part and size + length > most:
                yield part
                part, size = [], 0
            part.append(key)
            size += length
        if part:
            yield part

    @contextmanager
    def written(self, keys: Iterable[str]) -> Iterator[tuple[IO[bytes], int, str]]:
        """Gives an input file of these calls, with its size and the hex SHA-256 of its bytes."""
        digest = hashlib.sha256()
        with tempfile.TemporaryFile() as file:
            for key in keys:
                start, length, _, _ = self.lines[key]
                self._file.seek(start)
                line = self._file.read(length)
                digest.update(line)
                file.write(line)
            yield file, file.tell(), digest.hexdigest()


class Outcome(NamedTuple):
    """The meaning of one line of a batch's output."""

    key: str
    usage: Usage | None
    """Tokens that the call cost; None if nobody can tell."""
    completion: Completion | None = None
    version: str | None = None
    failed: str = ""
    """Reason why there is no answer."""
    again: bool = False
    """True if asking again may bring an answer."""
    hopeless: bool = False
    """True for an error that every call would meet."""
    called: bool = True
    """False if the provider never made the call."""
    is_error: bool = False
    """True for a response that the provider counts as failed."""
    response: Answered | AgainError | PoisonError | None = None
    """The response, if the line holds one that is about this call."""

    @property
    def is_empty(self) -> bool:
        """True for an answer that holds no word."""
        return isinstance(self.response, AgainError) and self.response.empty


def outcomes(file: IO[bytes], config: Endpoint, key: str | None) -> Iterator[Outcome]:
    """Reads the lines of an output or error file; lines without a meaning are left out.

    One line is held in memory at a time, and none that is larger than LARGEST.
    """
    file.seek(0)
    while True:
        line = file.readline(LARGEST)
        if not line:
            return
        if len(line) == LARGEST and not line.endswith(b"\n"):
            _skip_line(file)
            continue
        outcome = _outcome(line, config, key)
        if outcome is not None:
            yield outcome


def _skip_line(file: IO[bytes]) -> None:
    """Reads up to the end of a line that is too long to be held."""
    while True:
        rest = file.readline(LARGEST)
        if not rest or rest.endswith(b"\n"):
            return


def _outcome(line: bytes, config: Endpoint, secret: str | None) -> Outcome | None:
    try:
        row = json.loads(line)
        key, response, error = row["custom_id"], row.get("response"), row.get("error")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    # Our keys are hex digits. Anything else is not ours, and some databases can't hold it.
    if not isinstance(key, str) or not (key.isascii() and key.isalnum()):
        return None
    if not isinstance(response, dict):
        why = error.get("message") or error.get("code") if isinstance(error, dict) else None
        failed = said(str(why or "no response"), secret)
        return Outcome(key, FREE, failed=failed, again=True, called=False)
    status, content = response.get("status_code"), json.dumps(response.get("body")).encode()
    # A bool is an int too, and no status.
    if type(status) is not int or (status != 200 and status < 400):
        return Outcome(key, None, failed="a response without a status", again=True)
    # From here on a line means what the same response to a single call means.
    reply = Reply(status, {}, content)
    try:
        answered = read(reply, config.name, secret, config.patience, time.time())
    except AgainError as again:
        return Outcome(
            key,
            again.usage,
            failed=str(again),
            again=True,
            is_error=status != 200,
            response=again,
        )
    except PoisonError as poison:
        return Outcome(key, FREE, failed=str(poison), response=poison)
    except HopelessError as hopeless:
        return Outcome(key, hopeless.usage, failed=str(hopeless), again=True, hopeless=True)
    completion, version = answered.completion, answered.version
    return Outcome(key, answered.usage, completion, version, response=answered)


def complaint(state: dict[str, Any]) -> str:
    """Returns the provider's words about a batch that it failed."""
    errors = state.get("errors")
    data = errors.get("data") if isinstance(errors, dict) else None
    if not isinstance(data, list):
        data = []
    complaints = []
    for error in data:
        if isinstance(error, dict):
            place = f"line {error['line']}: " if error.get("line") else ""
            complaints.append(f"{place}{error.get('message')}")
    return "; ".join(complaints[:COMPLAINTS]) or "it does not say why"
