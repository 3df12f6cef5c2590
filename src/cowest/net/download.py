"""Downloads files over HTTP: streamed, up to a limit, and never from a forbidden address.

The address is checked before each request and each redirect, and again right before the connection
is made, so that a name which changes its mind in between gains nothing.
"""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from cowest.errors import ConfigError, InputError
from cowest.net.address import HOPS, MOVED, followed, forbidden, objection, origin
from cowest.net.client import Client, Response
from cowest.net.connections import NOT_HTTP, ForbiddenError, LostError

T = TypeVar("T")
TIMEOUT = 30.0
"""Maximum seconds without a byte."""
REFUSED = {
    401: "it asks for a key: HF_TOKEN names one for the hub",
    403: "it is not ours to read (is the data set gated?)",
    404: "there is nothing there (or it is private, and HF_TOKEN has no key to it)",
    429: "too many requests: wait, and fetch it again",
}
"""Statuses in words."""


class Web:
    """Downloads from the web. `headers` holds headers by host, each sent to that host only."""

    def __init__(self) -> None:
        self.headers: dict[str, Mapping[str, str]] = {}

    def pieces(
        self, url: str, limit: int, headers: Mapping[str, str] | None = None
    ) -> Iterator[bytes]:
        """Yields the content piece by piece.

        Raises InputError for more than `limit` bytes, for less than announced, and for no answer.
        Must not be called where an event loop runs.
        """
        if headers is None:
            headers = self.headers.get(urlsplit(url).netloc, {})
        with asyncio.Runner() as runner:
            download = runner.run(_followed(url, headers))
            try:
                yield from _read(runner, download, limit, _shown(url))
            finally:
                runner.run(download.close())

    def text(self, url: str, limit: int, headers: Mapping[str, str] | None = None) -> str:
        """Downloads a small document. Raises InputError."""
        try:
            return b"".join(self.pieces(url, limit, headers)).decode()
        except UnicodeDecodeError:
            raise InputError(f"{_shown(url)} is not UTF-8") from None


class _Download(NamedTuple):
    """An answer, and the client whose connection it comes on."""

    client: Client
    answer: Response

    async def close(self) -> None:
        self.answer.close()
        await self.client.close()


async def _followed(url: str, headers: Mapping[str, str]) -> _Download:
    """Asks for a URL, and for what redirects lead to. Raises ConfigError and InputError."""
    why = objection(url)
    if why is not None:
        raise ConfigError(f"{_shown(url)} {why}")
    where = _shown(url)
    for _ in range(HOPS + 1):
        download = await _asked(url, headers, where)
        status, location = download.answer.status, download.answer.headers.get("location")
        if 200 <= status < 300:
            return download
        await download.close()
        if status not in MOVED or not location:
            raise InputError(f"{_shown(url)}: {_why(status)}")
        target, why = followed(url, location)
        if why is not None:
            raise ConfigError(f"{_shown(url)} leads to {_shown(target)}, which {why}")
        # The key stays with the origin that it is for.
        if origin(target) != origin(url):
            headers = {
                name: value for name, value in headers.items() if name.lower() != "authorization"
            }
        url = target
    raise InputError(f"{where} can't be fetched: it redirects more than {HOPS} times")


async def _asked(url: str, headers: Mapping[str, str], where: str) -> _Download:
    """Makes one request, with a client of its own. Raises ConfigError and InputError."""
    client = Client(url, None, TIMEOUT, forbidden)
    try:
        asked = client.ask("GET", url, headers={"Accept": "*/*", **headers})
        return _Download(client, await _in_time(asked, where))
    except BaseException:
        await client.close()
        raise


def _read(runner: asyncio.Runner, download: _Download, limit: int, where: str) -> Iterator[bytes]:
    """Yields the content of an answer. Raises InputError if it is not as it should be."""
    headers = download.answer.headers
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise InputError(f"{where} comes packed ({encoding}), which was not asked for")
    size = 0
    while True:
        piece = runner.run(_in_time(download.answer.read(), f"the rest of {where}"))
        if not piece:
            return
        size += len(piece)
        if size > limit:
            raise InputError(
                f"{where} has more than the {limit} bytes that may be: raise the limit, or fetch "
                "a part"
            )
        yield piece


async def _in_time(work: Coroutine[Any, Any, T], where: str) -> T:
    """Waits for a step of a download. Raises ConfigError and InputError."""
    try:
        async with asyncio.timeout(TIMEOUT):
            return await work
    except TimeoutError:
        reason = f"no byte in {TIMEOUT:g} s"
    except ForbiddenError as error:
        raise ConfigError(
            f"{error.host} leads to {error.peer}, a link-local or metadata address: no data are "
            "there"
        ) from None
    except LostError as error:
        reason = "what answers there is no web server" if str(error) == NOT_HTTP else str(error)
    raise InputError(f"{where} can't be fetched: {reason[:200]}")


def _why(status: int) -> str:
    default = "try again later" if status >= 500 else "refused"
    return f"status {status}: {REFUSED.get(status, default)}"


def _shown(url: str) -> str:
    """A URL as it may be shown: without password and query, which may hold a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return repr(url.rpartition("@")[2][:200])
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
