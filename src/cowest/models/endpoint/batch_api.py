"""HTTP to an endpoint's batch interface: a file up, a batch made, looked at or found, a file down. It knows no keys of calls.

As OpenAI has it (https://platform.openai.com/docs/api-reference/batch), and those who speak the same. The API's key goes to
the endpoint's own origin only: a download that is redirected elsewhere is followed without it.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from tempfile import gettempdir
from typing import IO, Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from cowest.errors import CallError
from cowest.models.endpoint.responses import (
    FREE,
    AgainError,
    HopelessError,
    PoisonError,
    backoff,
    refuse,
    said,
)
from cowest.models.endpoint.settings import Endpoint
from cowest.net import address
from cowest.net.transport import PIECE, LostError, Reply, Stream, Transport

T = TypeVar("T")
Send = Callable[[], Coroutine[Any, Any, Reply]]
ENDPOINT = "/v1/chat/completions"
"""What the calls of a batch are, in the interface's words, wherever the API itself is."""
HOPS = 5
PAGES = 50
"""Pages of the list of batches that are looked through at most, of 100 each."""
EARLIER = 3600.0
"""Seconds by which the provider's clock may be behind ours."""
NO_INTERFACE = "has no batch interface there (HTTP 404): set batch to null"


class BatchApi:
    """One endpoint's. Its coroutines run on the loop's thread, its methods are called from another."""

    def __init__(self, config: Endpoint, key: str | None, loop: asyncio.AbstractEventLoop) -> None:
        self._config, self._key, self._loop = config, key, loop
        self._transport = Transport(config.base_url, key, config.timeout, 1, config.forbids)

    def upload(self, file: IO[bytes], size: int) -> str:
        """Sends an input file; its id. Raises CallError."""
        return self._insist(
            lambda: self._sent(file, size), NO_INTERFACE, lambda reply: _id(_json(reply))
        )

    def create(self, file: str, metadata: dict[str, str]) -> str:
        """Makes a batch of a file; its id. One attempt: raises AgainError where nobody knows whether it was made, CallError."""
        body = {
            "input_file_id": file,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": metadata,
        }
        return self._once(
            lambda: self._whole("POST", "/batches", body=body),
            NO_INTERFACE,
            lambda reply: _id(_json(reply)),
        )

    def get(self, batch: str) -> dict[str, Any] | None:
        """How a batch stands; None where the provider knows none of that name. One attempt: raises AgainError, CallError."""
        path = f"/batches/{quote(batch, safe='')}"
        return self._once(
            lambda: self._whole("GET", path),
            None,
            lambda reply: None if reply.status == 404 else _json(reply),
        )

    def find(self, token: str, file: str, since: float) -> str | None:
        """The id of a batch that was made with this token, or of this file, since then; None where there is none. Raises CallError."""
        for made in self._listed():
            metadata = made.get("metadata")
            if (isinstance(metadata, dict) and metadata.get("cowest") == token) or made.get(
                "input_file_id"
            ) == file:
                return str(made["id"])
            if isinstance(at := made.get("created_at"), int | float) and at < since - EARLIER:
                return None
        return None

    def download(self, file: str, into: IO[bytes]) -> bool:
        """Writes a file's content; False where the provider has it no more. Raises CallError."""
        path = f"/files/{quote(file, safe='', errors='replace')}/content"
        for attempt in range(1, self._config.retries + 2):
            if self._insist(
                lambda: self._fetched(path, into), None, lambda reply: reply.status != 404
            ):
                return True
            time.sleep(backoff(self._config.backoff, attempt))  # it may be named before it is there
        return False

    async def close(self) -> None:
        """Ends the connections."""
        await self._transport.close()

    def _insist(self, send: Send, missing: str | None, read: Callable[[Reply], T]) -> T:
        """What is read from a reply of 200 (or of 404, where `missing` is None), however many attempts it takes. Raises CallError."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._once(send, missing, read)
            except AgainError as again:
                if attempt > self._config.retries:
                    raise self.stopped(
                        f"is out of reach ({again}, at the last of {attempt} attempts)"
                    ) from None
                time.sleep(max(backoff(self._config.backoff, attempt), again.wait or 0.0))

    def stopped(self, why: str) -> CallError:
        """An error that says where, and what to do."""
        return CallError(
            f"{self._config.model} at {self._config.base_url} {said(why, self._key, 600)}; "
            "what was answered is kept, and so is what is under way: mend it and run again"
        )

    def _once(self, send: Send, missing: str | None, read: Callable[[Reply], T]) -> T:
        """The same in one attempt. Raises AgainError too."""
        try:
            reply = self._run(send())
            if reply.status == 404 and missing is not None:
                raise self.stopped(missing)
            if reply.status not in (200, 404):
                refuse(reply, self._key, self._config.patience, time.time())
            return read(reply)
        except LostError as lost:
            raise AgainError(
                said(str(lost), self._key), None if lost.reached else FREE, reached=lost.reached
            ) from None
        except HopelessError as hopeless:
            raise self.stopped(str(hopeless)) from None
        except PoisonError as poison:
            raise self.stopped(f"refuses that ({poison})") from None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _listed(self) -> Iterator[dict[str, Any]]:
        """The account's batches, newest first."""
        path = "/batches?limit=100"
        for _ in range(PAGES):
            place = path
            page = self._insist(lambda: self._whole("GET", place), NO_INTERFACE, _json)  # noqa: B023  called at once
            data = page.get("data")
            found = (
                [made for made in data if isinstance(made, dict) and _is_id(made.get("id"))]
                if isinstance(data, list)
                else []
            )
            yield from found
            if not page.get("has_more") or not found:
                return
            path = f"/batches?limit=100&after={quote(found[-1]['id'], safe='')}"

    async def _whole(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        """One exchange with the endpoint itself, the reply held whole. Raises LostError."""
        return await self._transport.send(
            method, f"{self._config.base_url}{path}", json.dumps(body).encode() if body else b""
        )

    async def _sent(self, file: IO[bytes], size: int) -> Reply:
        """An input file, in a form. Raises LostError."""
        boundary = secrets.token_hex(16)
        head, tail = _around(boundary)

        def pieces() -> Iterator[bytes]:
            file.seek(0)
            yield head
            while piece := file.read(PIECE):
                yield piece
            yield tail

        form = Stream(len(head) + size + len(tail), pieces())
        return await self._transport.send(
            "POST",
            f"{self._config.base_url}/files",
            form,
            f"multipart/form-data; boundary={boundary}",
        )

    async def _fetched(self, path: str, into: IO[bytes]) -> Reply:
        """A file, redirects followed: a provider may keep it elsewhere, at an address that is signed. Raises LostError, HopelessError.

        The endpoint's connections carry the key; another host that it redirects to, and whatever comes after, gets connections without.
        """
        url, hop = f"{self._config.base_url}{path}", self._transport

        def write(piece: bytes) -> None:
            try:
                into.write(piece)
            except OSError as error:
                raise HopelessError(
                    f"sends more than can be kept here ({error.strerror}): make room in {gettempdir()}"
                ) from None

        for _ in range(HOPS):
            into.seek(0)
            into.truncate()
            try:
                reply = await hop.send("GET", url, into=write)
            finally:
                if hop is not self._transport:
                    await hop.close()
            if reply.status not in (301, 302, 303, 307, 308) or not reply.headers.get("location"):
                return reply
            url = self._followed(url, reply.headers["location"])
            if hop is not self._transport or _origin(url) != _origin(self._config.base_url):
                hop = Transport(
                    url,
                    None,
                    self._config.timeout,
                    1,
                    lambda host: address.forbidden(host, self._config.allow_address),
                )
        raise HopelessError(f"redirects a download more than {HOPS} times")

    def _followed(self, url: str, location: str) -> str:
        """Where a redirect leads. Raises HopelessError where that is not followed."""
        try:
            url = urljoin(url, location)
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", 0
        schemes = (
            ("https",) if urlsplit(self._config.base_url).scheme == "https" else ("http", "https")
        )
        plain = url.isascii() and url.isprintable() and " " not in url
        if (
            not host
            or port == 0
            or parts.scheme not in schemes
            or parts.username
            or parts.password
            or not plain
        ):
            raise HopelessError(
                "redirects a download to an address that is not followed (no https, or a name and password in it)"
            )
        allowed = self._config.allow_address
        if address.forbidden(host, allowed) or address.leads_astray(host, allowed):
            raise HopelessError(
                "redirects a download to a link-local or metadata address, where no file is: do you trust this endpoint?"
            )
        return url


def _around(boundary: str) -> tuple[bytes, bytes]:
    """What stands before and after the file in a form that uploads it (RFC 7578)."""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="cowest.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n'
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _json(reply: Reply) -> dict[str, Any]:
    """A reply's object. Raises AgainError for anything else."""
    try:
        found = json.loads(reply.content)
    except (ValueError, RecursionError):
        raise AgainError("an answer that is not JSON", None) from None
    if not isinstance(found, dict):
        raise AgainError("an answer that is not an object", None)
    return found


def _id(made: dict[str, Any]) -> str:
    """The id of a file or batch. Raises AgainError where there is none."""
    if not _is_id(made.get("id")):
        raise AgainError("an answer without an id", None)
    return str(made["id"])


def _is_id(found: object) -> bool:
    return (
        isinstance(found, str) and found.isascii() and found.isprintable() and 0 < len(found) <= 200
    )
