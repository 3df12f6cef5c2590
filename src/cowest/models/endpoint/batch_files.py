"""The files of the batch interface: what goes up, a line a call, and what comes down, a line an outcome. Both may be hostile or huge."""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from cowest.ledger.claims import Ask
from cowest.models.endpoint.batch_api import ENDPOINT
from cowest.models.endpoint.responses import (
    FREE,
    AgainError,
    HopelessError,
    PoisonError,
    Usage,
    read,
    said,
)
from cowest.models.endpoint.settings import Endpoint
from cowest.net.transport import LARGEST, Reply, encode
from cowest.protocols import Completion, Request


class Window:
    """Calls that are asked together: their order, and what is sent for each, in a file that goes with the process."""

    def __init__(self, file: IO[bytes], config: Endpoint) -> None:
        self._file, self._config = file, config
        self.order: list[str] = []
        self.lines: dict[str, tuple[int, int, float, int]] = {}
        """Of each call that is to be made: where its line begins, how long it is; dollars and tokens at most."""

    def add(self, key: str, request: Request | None) -> None:
        """One more; None where it is answered."""
        self.order.append(key)
        if request is None or key in self.lines:
            return
        call = {
            "custom_id": key,
            "method": "POST",
            "url": ENDPOINT,
            "body": self._config.body(request),
        }
        line = encode(call) + b"\n"
        prompt, completion = self._config.most(request)
        self.lines[key] = (
            self._file.tell(),
            len(line),
            self._config.cost(prompt, completion) or 0.0,
            prompt + completion,
        )
        self._file.write(line)

    def ask(self, key: str) -> Ask:
        """The call as it is claimed."""
        _, _, usd, tokens = self.lines[key]
        return Ask(key, usd, tokens)

    def files(self, keys: Iterable[str], most: float) -> Iterator[list[str]]:
        """The calls, parted so that the lines of a part are no more than so many bytes."""
        part: list[str] = []
        size = 0
        for key in keys:
            length = self.lines[key][1]
            if part and size + length > most:
                yield part
                part, size = [], 0
            part.append(key)
            size += length
        if part:
            yield part

    @contextmanager
    def written(self, keys: Iterable[str]) -> Iterator[tuple[IO[bytes], int, str]]:
        """An input file of these calls, with its size and the hex SHA-256 of its bytes."""
        known = hashlib.sha256()
        with tempfile.TemporaryFile() as file:
            for key in keys:
                start, length, _, _ = self.lines[key]
                self._file.seek(start)
                line = self._file.read(length)
                known.update(line)
                file.write(line)
            yield file, file.tell(), known.hexdigest()


class Outcome(NamedTuple):
    """What a line of a batch's output says."""

    key: str
    usage: Usage | None
    """What it cost; None where nobody can tell."""
    completion: Completion | None = None
    version: str | None = None
    failed: str = ""
    """Why there is no answer."""
    again: bool = False
    """Whether asking again may bring one."""
    hopeless: bool = False
    """Whether it is what every call would meet."""
    called: bool = True
    """Whether the call was made at all."""


def outcomes(file: IO[bytes], config: Endpoint, key: str | None) -> Iterator[Outcome]:
    """What the lines of an output or error file say; those that say nothing are left out. A line is held whole, a file is not."""
    file.seek(0)
    while line := file.readline(LARGEST):
        if len(line) == LARGEST and not line.endswith(b"\n"):
            while (rest := file.readline(LARGEST)) and not rest.endswith(b"\n"):
                pass
        elif (outcome := _outcome(line, config, key)) is not None:
            yield outcome


def _outcome(line: bytes, config: Endpoint, secret: str | None) -> Outcome | None:
    try:
        row = json.loads(line)
        key, response, error = row["custom_id"], row.get("response"), row.get("error")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    if not isinstance(key, str) or not (
        key.isascii() and key.isalnum()
    ):  # ours are, and no database minds
        return None
    if not isinstance(response, dict):
        why = error.get("message") or error.get("code") if isinstance(error, dict) else None
        return Outcome(
            key, FREE, failed=said(str(why or "no response"), secret), again=True, called=False
        )
    status, content = response.get("status_code"), json.dumps(response.get("body")).encode()
    if type(status) is not int or (status != 200 and status < 400):
        return Outcome(key, None, failed="a response without a status", again=True)
    try:
        answered = read(
            Reply(status, {}, content), config.name, secret, config.patience, time.time()
        )
        return Outcome(key, answered.usage, answered.completion, answered.version)
    except AgainError as again:
        return Outcome(key, again.usage, failed=str(again), again=True)
    except PoisonError as poison:
        return Outcome(key, FREE, failed=str(poison))
    except HopelessError as hopeless:
        return Outcome(key, FREE, failed=str(hopeless), again=True, hopeless=True)


def complaint(state: dict[str, Any]) -> str:
    """What the provider says is wrong with a batch."""
    errors = state.get("errors")
    data = errors.get("data") if isinstance(errors, dict) else None
    told = [error for error in data if isinstance(error, dict)] if isinstance(data, list) else []
    return "; ".join(
        f"line {error['line']}: {error.get('message')}"
        if error.get("line")
        else str(error.get("message"))
        for error in told[:3]
    ) or ("it does not say why")
