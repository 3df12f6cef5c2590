"""HTTP to an OpenAI-compatible endpoint: one request, and what came back. It knows no retries and no meaning.

HTTP/1.1 on asyncio's streams and not a client library: its part of a call is 0.06 ms, and aiohttp's 0.2,
and nothing of the environment's is sent along. One request at a time on a connection, which is kept for the next.
"""

import asyncio
import base64
import json
import re
import ssl
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from cowest.errors import ConfigError
from cowest.net import address

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

CONNECT = 10.0
"""Seconds for a connection at most."""
KEEP = 30.0
"""Seconds that a connection is kept for another call."""
LARGEST = 32 * 2**20
"""Bytes of a response that is held whole."""
PIECE = 2**16
"""Bytes that are read at a time at most."""
REMARKS = 100
"""Heads before that of the answer, and lines after its last chunk, at most."""
STATUS = re.compile(r"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: |$)")
DIGITS = {10: re.compile(rb"[0-9]+"), 16: re.compile(rb"[0-9A-Fa-f]+")}
"""What a length is written with: Python's int takes more (+5, 0x5, 1_0), which others on the way may read otherwise."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as it came."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes


class LostError(Exception):
    """No whole response came. `reached`: the request may have arrived, and may have been paid for."""

    def __init__(self, reason: str, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


class Stream(NamedTuple):
    """A body that is not held whole."""

    size: int
    """Bytes."""
    pieces: Iterable[bytes]


Sink = Callable[[bytes], object]
"""Takes the pieces of a content."""


class _Link(NamedTuple):
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since: float
    """When it was last used."""


class Transport:
    """The connections to one endpoint, for the loop that it is used on."""

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout: float,
        connections: int,
        forbidden: Callable[[str], bool] = address.forbidden,
    ) -> None:
        """`forbidden`: addresses to which nothing is said. Raises ConfigError for a proxy that can't be spoken to."""
        self._url, self._timeout, self._connections, self._forbidden = (
            url,
            timeout,
            connections,
            forbidden,
        )
        self._proxy = _proxy(url)
        self._secret = f"Authorization: Bearer {key}\r\n" if key else ""
        self._heads: dict[tuple[str, str, str], bytes] = {}
        self._links: list[_Link] = []
        self._ssl: ssl.SSLContext | None = None

    async def post(self, body: dict[str, Any]) -> Reply:
        """One call, within the timeout from first byte to last. Raises LostError."""
        return await self.send("POST", self._url, encode(body))

    async def send(
        self,
        method: str,
        url: str,
        data: bytes | Stream = b"",
        kind: str = "application/json",
        into: Sink | None = None,
    ) -> Reply:
        """Any request to the endpoint's host; redirects are not followed. Raises LostError.

        `into` is given the content of an answer of 200, however large, piece by piece. Then, and for a stream, the timeout is a piece's.
        """
        head = b"%b%d\r\n\r\n" % (
            self._head(method, url, kind),
            data.size if isinstance(data, Stream) else len(data),
        )
        link = None

        def take(piece: bytes) -> None:
            if into is not None:
                into(piece)
                self._prolong(limit)

        try:
            async with asyncio.timeout(self._timeout) as limit:
                link = self._kept() or await self._connected()
                if isinstance(data, Stream):
                    link.writer.write(head)
                    for piece in data.pieces:
                        link.writer.write(piece)
                        await link.writer.drain()
                        self._prolong(limit)
                else:
                    link.writer.write(head + data)
                reply, stays = await _read(link.reader, into and take)
        except TimeoutError:
            raise LostError(f"no answer in {self._timeout:g} s", reached=link is not None) from None
        except (EOFError, OSError):
            raise LostError("connection lost") from None
        except (ValueError, asyncio.LimitOverrunError, zlib.error):
            raise LostError("an answer that is not HTTP") from None
        else:
            if stays and len(self._links) < self._connections:
                self._links.append(_Link(link.reader, link.writer, time.monotonic()))
                link = None
            return reply
        finally:
            if link is not None:
                link.writer.transport.abort()

    def _prolong(self, limit: asyncio.Timeout) -> None:
        limit.reschedule(asyncio.get_running_loop().time() + self._timeout)

    async def close(self) -> None:
        """Ends the connections."""
        for link in self._links:
            link.writer.close()
        self._links.clear()
        await asyncio.sleep(0)  # what closes them runs once more

    def _head(self, method: str, url: str, kind: str) -> bytes:
        """A request up to its length; the same for every call."""
        if found := self._heads.get((method, url, kind)):
            return found
        parts = urlsplit(url)
        host, port = _host(url), f":{parts.port}" if parts.port else ""
        target = quote(parts.path or "/", safe="/:%@~!$&'()*+,;=") + (
            f"?{parts.query}" if parts.query else ""
        )
        if self._proxy and parts.scheme == "http":
            target = f"http://{host}{port}{target}"
        lines = f"{method} {target} HTTP/1.1\r\nHost: {host}{port}\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
        lines += "User-Agent: cowest\r\n"  # firewalls in front of some APIs refuse who has no name
        lines += self._secret
        if self._proxy and parts.scheme == "http":
            lines += _login(self._proxy)
        head = f"{lines}Content-Type: {kind}\r\nContent-Length: ".encode("ascii")
        if url == self._url:
            self._heads[method, url, kind] = head
        return head

    def _kept(self) -> _Link | None:
        while self._links:
            link = self._links.pop()
            if time.monotonic() - link.since < KEEP and not (
                link.reader.at_eof() or link.writer.is_closing() or _stray(link.reader)
            ):
                return link
            link.writer.close()
        return None

    async def _connected(self) -> _Link:
        """A new connection, through the proxy where there is one."""
        place = urlsplit(self._proxy or self._url)
        secure = urlsplit(self._url).scheme == "https"
        if secure and self._ssl is None:
            self._ssl = ssl.create_default_context()
        try:
            async with asyncio.timeout(min(CONNECT, self._timeout)):
                direct = self._ssl if secure and not self._proxy else None
                port = place.port or (443 if place.scheme == "https" else 80)
                reader, writer = await asyncio.open_connection(place.hostname, port, ssl=direct)
                try:
                    await self._secured(reader, writer, place.hostname or "")
                except BaseException:
                    writer.transport.abort()
                    raise
                return _Link(reader, writer, time.monotonic())
        except TimeoutError:
            raise LostError("no connection in time", reached=False) from None
        except asyncio.LimitOverrunError:
            raise LostError("what the proxy says is not HTTP", reached=False) from None
        except (
            OSError,
            EOFError,
            ValueError,
        ) as error:  # ssl's are OSErrors, a name that none can be is a ValueError
            raise LostError(str(error) or "no connection", reached=False) from None

    async def _secured(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str
    ) -> None:
        """Makes sure who is at the other end, before the key goes there. Raises LostError, OSError."""
        # A name may lead elsewhere than when it was looked up.
        if not self._proxy and self._forbidden(writer.get_extra_info("peername")[0]):
            raise LostError(
                f"{host} leads to a link-local or metadata address, where no model is",
                reached=False,
            )
        if self._ssl and self._proxy:
            await _tunnel(reader, writer, self._url, self._proxy)
            await writer.start_tls(self._ssl, server_hostname=_host(self._url).strip("[]"))
        # What came unasked was said before TLS began, by nobody knows whom, and would be read as the first call's answer.
        if _stray(reader):
            raise OSError(
                "it spoke before it was asked: no endpoint of an API, or a proxy that adds to what it hands on"
            )


def _stray(reader: asyncio.StreamReader) -> bool:
    """Whether more came than was an answer: the next call would take it for its own."""
    return bool(reader._buffer)  # type: ignore[attr-defined]


def encode(body: Any) -> bytes:
    """JSON in UTF-8. Half surrogate pairs, which orjson refuses, go as what Python makes of them."""
    if orjson is not None:
        with suppress(TypeError):
            return orjson.dumps(body)
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


async def _tunnel(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str, proxy: str
) -> None:
    """Has a proxy hand everything on (RFC 9110, section 9.3.6). Raises OSError where it won't."""
    place = f"{_host(url)}:{urlsplit(url).port or 443}"
    writer.write(
        f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{_login(proxy)}\r\n".encode("ascii")
    )
    first = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode("latin-1")
    if first.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy refuses: {first[:100]}")


async def _read(reader: asyncio.StreamReader, into: Sink | None = None) -> tuple[Reply, bool]:
    """A response, and whether the connection may be used again. Raises EOFError, OSError; ValueError for what is not HTTP."""
    status, first, headers = await _headed(reader)
    framed, content, unpacked = True, bytearray(), None
    whole = into is None or status != 200
    take = _holding(content) if into is None or whole else into
    if headers.get("content-encoding", "").lower() == "gzip":  # some send it unasked
        unpacked = zlib.decompressobj(wbits=31)
        take = _unpacking(unpacked, take)
    if status in (204, 304):
        pass
    elif "chunked" in headers.get("transfer-encoding", "").lower():
        while size := _size((await reader.readuntil(b"\r\n")).split(b";")[0], 16, whole):
            await _copy(reader, size, take)
            if await reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk without an end")
        for _ in range(REMARKS):
            if await reader.readuntil(b"\r\n") == b"\r\n":
                break
        else:
            raise ValueError("an answer without an end")
    elif "content-length" in headers:
        await _copy(reader, _size(headers["content-length"].encode("latin-1"), 10, whole), take)
    else:
        framed = False
        while part := await reader.read(PIECE):
            take(part)
    if (
        unpacked and not whole and not unpacked.eof
    ):  # JSON that is cut says so itself, the lines of a file do not
        raise EOFError
    stays = (
        framed
        and first.startswith("HTTP/1.1")
        and "close" not in headers.get("connection", "").lower()
    )
    return Reply(status, headers, bytes(content)), stays


async def _headed(reader: asyncio.StreamReader) -> tuple[int, str, dict[str, str]]:
    """Status, first line and headers of a response; 1xx are remarks on the way."""
    for _ in range(REMARKS):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        if (found := STATUS.match(first)) is None:
            raise ValueError(first)
        if (status := int(found[1])) >= 200:
            break
    else:
        raise ValueError("remarks and no answer")
    pairs = [
        (name.strip().lower(), value.strip())
        for name, _, value in (line.partition(":") for line in lines)
    ]
    if (
        len({value for name, value in pairs if name == "content-length"}) > 1
    ):  # where the next answer begins, nobody could tell
        raise ValueError("several lengths")
    return status, first, dict(pairs)


async def _copy(reader: asyncio.StreamReader, size: int, take: Sink) -> None:
    while size:
        part = await reader.read(min(size, PIECE))
        if not part:
            raise EOFError
        take(part)
        size -= len(part)


def _holding(content: bytearray) -> Sink:
    """Holds a content whole, up to LARGEST bytes."""

    def hold(part: bytes) -> None:
        if len(content) + len(part) > LARGEST:
            raise LostError(f"an answer of more than {LARGEST} bytes")
        content.extend(part)

    return hold


def _unpacking(unpacked: "zlib._Decompress", take: Sink) -> Sink:
    def unpack(part: bytes) -> None:
        while part:
            take(unpacked.decompress(part, PIECE))
            part = unpacked.unconsumed_tail

    return unpack


def _size(text: bytes, base: int, whole: bool) -> int:
    if not DIGITS[base].fullmatch(text.strip()):
        raise ValueError(text)
    size = int(text, base)
    if whole and size > LARGEST:
        raise LostError(f"an answer of more than {LARGEST} bytes")
    return size


def _host(url: str) -> str:
    """As it stands in a request."""
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host if host.isascii() else host.encode("idna").decode()


def _login(proxy: str) -> str:
    parts = urlsplit(proxy)
    if parts.username is None:
        return ""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for such an address (HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        place = urlsplit(proxy)
        fit = place.scheme == "http" and bool(place.hostname) and place.port != 0
    except ValueError:
        fit = False
    if not fit:  # it may hold a password, and is not shown
        raise ConfigError(
            f"{parts.scheme.upper()}_PROXY names no proxy that is spoken to by http://host:port: name one that is"
        )
    return proxy
