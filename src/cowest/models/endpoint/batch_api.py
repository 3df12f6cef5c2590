"""HTTP to an endpoint's batch interface: files up and down, batches made, looked at and found.

The interface is OpenAI's (https://platform.openai.com/docs/api-reference/batch), which others speak
as well. Nothing here knows the keys of calls. The API's key goes to the endpoint's own origin only:
a download that is redirected elsewhere is followed without it.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from tempfile import gettempdir
from typing import IO, Any, TypeVar
from urllib.parse import quote

from cowest.errors import CallError
from cowest.models.endpoint.complaints import said
from cowest.models.endpoint.responses import (
    FREE,
    AgainError,
    HopelessError,
    PoisonError,
    backoff,
    refuse,
)
from cowest.models.endpoint.settings import Endpoint
from cowest.models.endpoint.stops import stopped
from cowest.net import address
from cowest.net.client import PIECE, Client, Reply, Stream
from cowest.net.connections import LostError

T = TypeVar("T")
Send = Callable[[], Coroutine[Any, Any, Reply]]
ENDPOINT = "/v1/chat/completions"
"""Name that the interface has for our kind of call, whatever the URL of the API."""
PAGES = 50
"""Maximum number of pages (of 100 batches each) that a search of the batches looks through."""
EARLIER = 3600.0
"""Seconds by which the provider's clock may be behind ours."""
NO_INTERFACE = "has no batch interface there (HTTP 404): set batch to null"


class BatchApi:
    """The batch interface of one endpoint.

    Its methods are called from another thread than the loop's, on which its coroutines run.
    """

    def __init__(self, config: Endpoint, key: str | None, loop: asyncio.AbstractEventLoop) -> None:
        self._config, self._key, self._loop = config, key, loop
        self._client = Client(config.base_url, key, config.timeout, config.forbids)

    def upload(self, file: IO[bytes], size: int) -> str:
        """Uploads an input file of `size` bytes and returns its id. Raises CallError."""
        return self._insist(partial(self._sent, file, size), NO_INTERFACE, _id)

    def create(self, file: str, metadata: dict[str, str]) -> str:
        """Makes a batch of an uploaded file and returns its id, in a single attempt.

        Raises AgainError if the batch may or may not have been made, and CallError.
        """
        body = {
            "input_file_id": file,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": metadata,
        }
        return self._once(partial(self._whole, "POST", "/batches", body), NO_INTERFACE, _id)

    def get(self, batch: str) -> dict[str, Any] | None:
        """Returns the state of a batch, or None if the provider knows none of that id.

        Makes a single attempt. Raises AgainError and CallError.
        """
        path = f"/batches/{quote(batch, safe='')}"
        return self._once(partial(self._whole, "GET", path), None, _state)

    def find(self, token: str, file: str, since: float) -> str | None:
        """Finds a batch with this token, or of this file, that was made since then.

        Returns its id, or None if there is none. Raises CallError.
        """
        for made in self._listed():
            metadata = made.get("metadata")
            is_ours = isinstance(metadata, dict) and metadata.get("cowest") == token
            if is_ours or made.get("input_file_id") == file:
                return str(made["id"])
            # The list has the newest first, so all that follow are older still.
            at = made.get("created_at")
            if isinstance(at, int | float) and at < since - EARLIER:
                return None
        return None

    def download(self, file: str, into: IO[bytes]) -> bool:
        """Writes a file's content; False if the provider has no such file. Raises CallError."""
        path = f"/files/{quote(file, safe='', errors='replace')}/content"
        for attempt in range(1, self._config.retries + 2):
            if self._insist(partial(self._fetched, path, into), None, _is_there):
                return True
            # The name of an output file may be given out before the file can be read.
            time.sleep(backoff(self._config.backoff, attempt))
        return False

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def stopped(self, why: str) -> CallError:
        """Makes the error for an endpoint that refuses us: where, why, and what to do."""
        kept = "what was answered is kept, and so is what is under way"
        return stopped(self._config, self._key, why, kept)

    def _insist(self, send: Send, missing: str | None, read: Callable[[Reply], T]) -> T:
        """Reads the reply to a request, with up to `retries` retries.

        `read` is given replies of status 200, and of 404 if `missing` is None; otherwise `missing`
        is the error that a 404 means. Raises CallError.
        """
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

    def _once(self, send: Send, missing: str | None, read: Callable[[Reply], T]) -> T:
        """Makes one attempt of `_insist`. Raises AgainError and CallError."""
        try:
            reply = self._run(send())
            if reply.status == 404 and missing is not None:
                raise self.stopped(missing)
            if reply.status not in (200, 404):
                refuse(reply, self._key, self._config.patience, time.time())
            return read(reply)
        except LostError as lost:
            usage = None if lost.reached else FREE
            raise AgainError(said(str(lost), self._key), usage, reached=lost.reached) from None
        except HopelessError as hopeless:
            raise self.stopped(str(hopeless)) from None
        except PoisonError as poison:
            raise self.stopped(f"refuses that ({poison})") from None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # An interrupt reaches this thread only; the coroutine on the loop would go on.
            future.cancel()
            raise

    def _listed(self) -> Iterator[dict[str, Any]]:
        """Yields the account's batches, newest first."""
        path = "/batches?limit=100"
        for _ in range(PAGES):
            page = self._insist(partial(self._whole, "GET", path), NO_INTERFACE, _json)
            data = page.get("data")
            listed = data if isinstance(data, list) else []
            found = [made for made in listed if isinstance(made, dict) and _is_id(made.get("id"))]
            yield from found
            if not page.get("has_more") or not found:
                return
            path = f"/batches?limit=100&after={quote(found[-1]['id'], safe='')}"

    async def _whole(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        """Makes one request to the endpoint and holds its reply whole. Raises LostError."""
        content = json.dumps(body).encode() if body else None
        return await self._client.send(method, f"{self._config.base_url}{path}", content)

    async def _sent(self, file: IO[bytes], size: int) -> Reply:
        """Sends an input file in a form. Raises LostError."""
        boundary = secrets.token_hex(16)
        head, tail = _around(boundary)

        def pieces() -> Iterator[bytes]:
            file.seek(0)
            yield head
            yield from iter(partial(file.read, PIECE), b"")
            yield tail

        form = Stream(len(head) + size + len(tail), pieces())
        kind = f"multipart/form-data; boundary={boundary}"
        return await self._client.send("POST", f"{self._config.base_url}/files", form, kind)

    async def _fetched(self, path: str, into: IO[bytes]) -> Reply:
        """Downloads a file, which the provider may keep elsewhere, behind redirects.

        Raises LostError, and HopelessError for a redirect that is not followed.
        """
        url, hop = f"{self._config.base_url}{path}", self._client

        def write(piece: bytes) -> None:
            try:
                into.write(piece)
            except OSError as error:
                raise HopelessError(
                    f"sends more than can be kept here ({error.strerror}): make room in "
                    f"{gettempdir()}"
                ) from None

        for _ in range(address.HOPS + 1):
            into.seek(0)
            into.truncate()
            try:
                reply = await hop.send("GET", url, into=write)
            finally:
                if hop is not self._client:
                    await hop.close()
            location = reply.headers.get("location")
            if reply.status not in address.MOVED or not location:
                return reply
            url, why = address.followed(url, location, self._config.allow_address)
            if why is not None:
                raise HopelessError(
                    f"redirects a download to an address that {why}: do you trust this endpoint?"
                )
            # The endpoint's own connections carry the key. Another origin gets connections without
            # it, and so does all that comes after: it may send us back with a path of its choice.
            if hop is not self._client or not self._is_ours(url):
                forbids = partial(address.forbidden, allowed=self._config.allow_address)
                hop = Client(url, None, self._config.timeout, forbids)
        raise HopelessError(f"redirects a download more than {address.HOPS} times")

    def _is_ours(self, url: str) -> bool:
        """True if a URL has the endpoint's own origin, which the key is for."""
        return address.origin(url) == address.origin(self._config.base_url)


def _around(boundary: str) -> tuple[bytes, bytes]:
    """The bytes before and after the file in a form that uploads it (RFC 7578)."""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="cowest.jsonl"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


def _json(reply: Reply) -> dict[str, Any]:
    """The JSON object that a reply holds. Raises AgainError for anything else."""
    try:
        found = json.loads(reply.content)
    except (ValueError, RecursionError):
        raise AgainError("an answer that is not JSON", None) from None
    if not isinstance(found, dict):
        raise AgainError("an answer that is not an object", None)
    return found


def _state(reply: Reply) -> dict[str, Any] | None:
    """The state of a batch, or None for one that the provider does not know."""
    return _json(reply) if _is_there(reply) else None


def _is_there(reply: Reply) -> bool:
    return reply.status != 404


def _id(reply: Reply) -> str:
    """The id of the file or batch that a reply is about. Raises AgainError if it has none."""
    made = _json(reply)
    if not _is_id(made.get("id")):
        raise AgainError("an answer without an id", None)
    return str(made["id"])


def _is_id(found: object) -> bool:
    return (
        isinstance(found, str) and found.isascii() and found.isprintable() and 0 < len(found) <= 200
    )
