"""HTTP to an OpenAI-compatible endpoint: one request, and what came back. It knows no retries and no meaning.

HTTP/1.1 on asyncio's streams and not a client library: a call takes a third of the time of aiohttp's and a tenth of the provider's SDK's,
and nothing of the environment's is sent along. One request at a time on a connection, which is kept for the next.
"""

import asyncio
import base64
import json
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from cowest.errors import ConfigError
from cowest.models import address

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

CONNECT = 10.0
"""Seconds for a connection at most."""
KEEP = 30.0
"""Seconds that a connection is kept for another call."""
LARGEST = 32 * 2**20
"""Bytes of a response at most."""


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


class _Link(NamedTuple):
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since: float
    """When it was last used."""


class Transport:
    """The connections to one endpoint, for the loop that it is used on."""

    def __init__(
        self, url: str, key: str | None, timeout: float, connections: int, forbidden: Callable[[str], bool] = address.forbidden
    ) -> None:
        """`forbidden`: addresses to which nothing is said. Raises ConfigError for a proxy that can't be spoken to."""
        self._url, self._timeout, self._connections, self._forbidden = url, timeout, connections, forbidden
        self._proxy = _proxy(url)
        self._secret = f"Authorization: Bearer {key}\r\n" if key else ""
        self._heads: dict[tuple[str, str, str], bytes] = {}
        self._links: list[_Link] = []
        self._ssl: ssl.SSLContext | None = None

    async def post(self, body: dict[str, Any]) -> Reply:
        """One call, within the timeout from first byte to last. Raises LostError."""
        return await self.send("POST", self._url, encode(body))

    async def send(self, method: str, url: str, data: bytes = b"", kind: str = "application/json") -> Reply:
        """Any request to the endpoint's host; redirects are not followed. Raises LostError."""
        request = b"%b%d\r\n\r\n%b" % (self._head(method, url, kind), len(data), data)
        link = None
        try:
            async with asyncio.timeout(self._timeout):
                link = self._kept() or await self._connected()
                link.writer.write(request)
                reply, stays = await _read(link.reader)
        except TimeoutError:
            raise LostError(f"no answer in {self._timeout:g} s", reached=link is not None) from None
        except (EOFError, OSError):
            raise LostError("connection lost") from None
        except (ValueError, asyncio.LimitOverrunError, zlib.error):
            raise LostError("an answer that is not HTTP") from None
        else:
            if stays and len(self._links) < self._connections and not _stray(link.reader):
                self._links.append(_Link(link.reader, link.writer, time.monotonic()))
                link = None
            return reply
        finally:
            if link is not None:
                link.writer.transport.abort()

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
        target = quote(parts.path or "/", safe="/:%@~!$&'()*+,;=") + (f"?{parts.query}" if parts.query else "")
        if self._proxy and parts.scheme == "http":
            target = f"http://{host}{port}{target}"
        lines = f"{method} {target} HTTP/1.1\r\nHost: {host}{port}\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
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
            if time.monotonic() - link.since < KEEP and not (link.reader.at_eof() or link.writer.is_closing() or _stray(link.reader)):
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
                # A name may lead elsewhere than when it was looked up: the other end is looked at before the key goes there.
                if not self._proxy and self._forbidden(writer.get_extra_info("peername")[0]):
                    writer.transport.abort()
                    raise LostError(f"{place.hostname} leads to a link-local or metadata address, where no model is", reached=False)
                if secure and self._proxy:
                    await _tunnel(reader, writer, self._url, self._proxy)
                    await writer.start_tls(self._ssl or ssl.create_default_context(), server_hostname=_host(self._url).strip("[]"))
        except TimeoutError:
            raise LostError("no connection in time", reached=False) from None
        except (OSError, EOFError, ValueError) as error:  # ssl's are OSErrors, a name that none can be is a ValueError
            raise LostError(str(error) or "no connection", reached=False) from None
        return _Link(reader, writer, time.monotonic())


def _stray(reader: asyncio.StreamReader) -> bool:
    """Whether more came than was an answer: the next call would take it for its own."""
    return bool(reader._buffer)  # type: ignore[attr-defined]


def encode(body: Any) -> bytes:
    """JSON in UTF-8. Half surrogate pairs, which orjson refuses, go as what Python makes of them."""
    if orjson is not None:
        with suppress(TypeError):
            return orjson.dumps(body)
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def decode(content: bytes) -> Any:
    """Raises ValueError or RecursionError for what is not JSON. What orjson alone refuses (NaN, half surrogate pairs) is read by Python."""
    if orjson is not None:
        with suppress(ValueError):
            return orjson.loads(content)
    return json.loads(content)


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str, proxy: str) -> None:
    """Has a proxy hand everything on (RFC 9110, section 9.3.6). Raises OSError where it won't."""
    place = f"{_host(url)}:{urlsplit(url).port or 443}"
    writer.write(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{_login(proxy)}\r\n".encode("ascii"))
    first = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode("latin-1")
    if first.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy refuses: {first[:100]}")


async def _read(reader: asyncio.StreamReader) -> tuple[Reply, bool]:
    """A response, and whether the connection may be used again. Raises EOFError, OSError; ValueError for what is not HTTP."""
    status = 0
    while status < 200:  # 1xx are remarks on the way
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        if not first.startswith("HTTP/1."):
            raise ValueError(first)
        status = int(first[9:12])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    framed = True
    if status in (204, 304):
        content = b""
    elif "chunked" in headers.get("transfer-encoding", "").lower():
        content = await _read_chunks(reader)
    elif "content-length" in headers:
        content = await reader.readexactly(_size(headers["content-length"], 10))
    else:
        content, framed = await _read_rest(reader), False
    if headers.get("content-encoding", "").lower() == "gzip":  # some send it unasked
        content = zlib.decompressobj(wbits=31).decompress(content, LARGEST)
    stays = framed and first.startswith("HTTP/1.1") and headers.get("connection", "").lower() != "close"
    return Reply(status, headers, content), stays


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    content = bytearray()
    while size := _size((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        content += await reader.readexactly(size)
        _size(str(len(content)), 10)
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk without an end")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(content)


async def _read_rest(reader: asyncio.StreamReader) -> bytes:
    content = bytearray()
    while part := await reader.read(2**16):
        content += part
        _size(str(len(content)), 10)
    return bytes(content)


def _size(text: str | bytes, base: int) -> int:
    size = int(text, base)
    if not 0 <= size <= LARGEST:
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
    if urlsplit(proxy).scheme != "http":
        raise ConfigError(f"{parts.scheme.upper()}_PROXY names a proxy that is not spoken to by http://...: name one that is")
    return proxy
