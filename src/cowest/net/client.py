"""HTTP to an API or a web server: one request, and its answer. No retries, and no meaning.

aiohttp speaks HTTP. The rules are ours: which addresses are connected to (`connections`), which
proxy is asked, how much is read, and whether a request that got no answer may have arrived.
Nothing of the environment is sent along, and no redirect is followed.
"""

import asyncio
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from cowest.net import address, proxies
from cowest.net.connections import CONNECT, LOSSES, NOT_HTTP, Connector, LostError, loss

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

LARGEST = 32 * 2**20
"""Maximum size of a response that is held whole, in bytes."""
PIECE = 2**16
"""Maximum number of bytes read at a time."""
LINE, LINES = 2**15, 256
"""Maximum bytes of one line in the head of a response, and maximum number of lines. The gateways of
some providers put long lines there."""
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as it came."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; the last of several with one name counts."""
    content: bytes


class Stream(NamedTuple):
    """A body that is sent in pieces and never held whole."""

    size: int
    """Bytes of all pieces together."""
    pieces: Iterable[bytes]


Sink = Callable[[bytes], object]
"""Takes a content piece by piece."""


class Body(aiohttp.Payload):
    """The body of a request. `begun` is True once some of it may have been sent."""

    def __init__(self, data: bytes | Stream, kind: str) -> None:
        super().__init__(data, content_type=kind)
        self._pieces = data.pieces if isinstance(data, Stream) else (data,)
        self._size = data.size if isinstance(data, Stream) else len(data)
        self.begun = False
        self.after_piece: Callable[[], None] = _nothing

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.begun = True
        for piece in self._pieces:
            await writer.write(piece)
            self.after_piece()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._pieces).decode(encoding, errors)


class Response:
    """An answer whose head has come. Its content is read piece by piece, as it was sent.

    `close` has to be called in any case.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._closed: asyncio.Future[None] | None = None
        connection = response.connection
        if connection is None or connection.protocol is None:
            return
        self._closed = connection.protocol.closed
        if self._closed is None:
            self._end()
        else:
            self._closed.add_done_callback(self._end)

    def _end(self, _: object = None) -> None:
        """Has `read` raise where the connection is closed and the content has no end."""
        # aiohttp closes a connection on a broken chunk, and says nothing to who waits for the rest.
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError(NOT_HTTP))

    async def read(self) -> bytes:
        """Returns the next piece, and b"" at the end. Raises LostError."""
        content = self._response.content
        if content.at_eof():
            return b""
        try:
            return await content.read(PIECE)
        except LOSSES as error:
            raise loss(error) from None

    def close(self) -> None:
        """Cuts the connection, unless all of the content was read: then it may be used again."""
        if self._closed is not None:
            self._closed.remove_done_callback(self._end)
        # Whatever still comes on the connection belongs to this answer. Another request would take
        # it for its own.
        if not self._response.closed:
            self._response.close()

    async def leave(self, seconds: float) -> None:
        """Reads what little may be left of an answer, so that the connection can be used again.

        One whose content does not end within that time, or goes on, is cut.
        """
        try:
            async with asyncio.timeout(seconds):
                # The end of a content may come by itself, after its last byte.
                await self.read()
        except (LostError, TimeoutError):
            pass
        finally:
            self.close()


class Unpacked:
    """The content of an answer as it comes, unpacked where it is packed, up to LARGEST bytes."""

    def __init__(self, answer: Response) -> None:
        self._answer = answer
        self._ready: deque[bytes] = deque()
        self._size = 0
        self._unpacking = _Unpacking(self._take) if _is_packed(answer) else None

    async def read(self) -> bytes:
        """Returns the next piece, and b"" at the end. Raises LostError."""
        while not self._ready:
            piece = await self._answer.read()
            if not piece:
                if self._unpacking is not None and not self._unpacking.is_whole:
                    raise LostError("connection lost")
                return b""
            if self._unpacking is None:
                self._take(piece)
            else:
                self._unpack(self._unpacking, piece)
        return self._ready.popleft()

    def _unpack(self, unpacking: "_Unpacking", piece: bytes) -> None:
        try:
            unpacking.unpack(piece)
        # The content is not packed as its head says.
        except zlib.error:
            raise LostError(NOT_HTTP) from None

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > LARGEST:
            raise LostError(f"an answer of more than {LARGEST} bytes")
        if piece:
            self._ready.append(piece)


class Client:
    """Connections to one origin. They belong to the event loop that first uses them."""

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout: float,
        forbidden: Callable[[str], bool] = address.forbidden,
    ) -> None:
        """`url` takes the calls of `post`; `timeout` is in seconds.

        No connection is made to an IP address that is `forbidden`; a proxy of the environment may
        have any. Raises ConfigError if the environment names a proxy that we can't use.
        """
        self._url, self._timeout, self._forbidden = url, timeout, forbidden
        self._proxy = proxies.proxy_of(url)
        # Firewalls in front of some APIs refuse a client without a name (User-Agent).
        self._headers = {
            "Accept": JSON,
            "Accept-Encoding": "identity",
            "User-Agent": "cowest",
        }
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._through: dict[str, Any] = {}
        if self._proxy is not None:
            self._ask_through(self._proxy)
        self._session: aiohttp.ClientSession | None = None

    def _ask_through(self, proxy: str) -> None:
        """Has a proxy asked, which is given its own password.

        A proxy for plain HTTP is given the whole request. For https it is only asked for a tunnel,
        and sees neither the request nor the key.
        """
        login = proxies.login(proxy)
        self._through["proxy"] = proxies.without_login(proxy)
        if urlsplit(self._url).scheme == "https":
            self._through["proxy_headers"] = {"User-Agent": "cowest", **login}
        else:
            self._headers |= login

    async def post(self, body: dict[str, Any]) -> Reply:
        """Makes one call, within the timeout from first byte to last. Raises LostError."""
        return await self.send("POST", self._url, encode(body))

    async def send(
        self,
        method: str,
        url: str,
        data: bytes | Stream | None = None,
        kind: str = JSON,
        into: Sink | None = None,
    ) -> Reply:
        """Makes any request to the origin. Raises LostError.

        If `into` is given, it takes the content of a reply of status 200 piece by piece, however
        large that is. Then, and when a Stream is sent, the timeout holds for each piece.
        """
        body = Body(data, kind) if data is not None else None
        answer = None
        try:
            async with asyncio.timeout(self._timeout) as limit:

                def prolong() -> None:
                    limit.reschedule(asyncio.get_running_loop().time() + self._timeout)

                if body is not None and isinstance(data, Stream):
                    body.after_piece = prolong
                answer = await self.ask(method, url, body)
                # Only an answer is handed on in pieces. An error is short, and is wanted whole.
                if into is None or answer.status != 200:
                    content = await _held(answer)
                else:
                    content = b""
                    await _handed_on(answer, into, prolong)
                return Reply(answer.status, answer.headers, content)
        except TimeoutError:
            reached = body is None or body.begun
            raise LostError(f"no answer in {self._timeout:g} s", reached) from None
        # The content is not packed as its head says.
        except zlib.error:
            raise LostError(NOT_HTTP) from None
        finally:
            if answer is not None:
                answer.close()

    async def ask(
        self,
        method: str,
        url: str,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Makes any request to the origin, and returns once the head of its answer has come.

        No time is set but for connecting. Raises LostError.
        """
        if self._session is None:
            self._session = self._opened()
        target = _as_written(address.canonical(url))
        headers = {**self._headers, **headers} if headers else self._headers
        try:
            response = await self._session.request(
                method, target, data=body, headers=headers, allow_redirects=False, **self._through
            )
        except LOSSES as error:
            raise loss(error) from None
        # The parser takes 020 for a status. 101 would be another protocol, which nobody asked for.
        if response.status < 200:
            response.close()
            raise LostError(NOT_HTTP)
        return Response(response)

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        """Makes the session, which belongs to the loop that runs now."""
        secure = urlsplit(self._url).scheme == "https"
        connecting = aiohttp.ClientTimeout(total=None, connect=min(CONNECT, self._timeout))
        forbidden = None if self._proxy else self._forbidden
        return aiohttp.ClientSession(
            connector=Connector(forbidden, secure),
            # It has no headers of its own: aiohttp would send them to a proxy, the key with them.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=connecting,
            auto_decompress=False,
            trust_env=False,
            read_bufsize=PIECE,
            max_line_size=LINE,
            max_field_size=LINE,
            max_headers=LINES,
        )


def _nothing() -> None:
    """Does nothing."""


def _as_written(url: str) -> URL:
    """The URL as it is written; one that can't go into a request so is quoted."""
    # Of what is quoted, yarl would write some plain (%7E, %27), and the signature of an address
    # holds for how it was written.
    return URL(url, encoded=url.isascii() and url.isprintable() and " " not in url)


def encode(body: Any) -> bytes:
    """Encodes JSON in UTF-8, by orjson where it is installed."""
    if orjson is not None:
        # It refuses half surrogate pairs. They go out as Python encodes them.
        with suppress(TypeError):
            return orjson.dumps(body)
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def decode(content: bytes) -> Any:
    """Decodes JSON, by orjson where it is installed. Raises ValueError or RecursionError."""
    if orjson is not None:
        # It refuses NaN and half surrogate pairs, which Python reads.
        with suppress(ValueError):
            return orjson.loads(content)
    return json.loads(content)


async def _held(answer: Response) -> bytes:
    """Reads a content whole, up to LARGEST bytes. Raises LostError."""
    # The parser lets no length through that is not a number.
    if int(answer.headers.get("content-length", 0)) > LARGEST:
        raise LostError(f"an answer of more than {LARGEST} bytes")
    content = bytearray()

    def hold(piece: bytes) -> None:
        if len(content) + len(piece) > LARGEST:
            raise LostError(f"an answer of more than {LARGEST} bytes")
        content.extend(piece)

    await _copy(answer, hold)
    return bytes(content)


async def _handed_on(answer: Response, into: Sink, after_piece: Callable[[], None]) -> None:
    """Hands a content on piece by piece. Raises LostError."""

    def take(piece: bytes) -> None:
        into(piece)
        after_piece()

    # JSON that was cut is no JSON any more. The lines of a file that was cut look whole.
    if not await _copy(answer, take):
        raise LostError("connection lost")


async def _copy(answer: Response, take: Sink) -> bool:
    """Reads a content; False if it is packed and was cut. Raises LostError and zlib.error."""
    unpacked = None
    if _is_packed(answer):
        unpacked = _Unpacking(take)
        take = unpacked.unpack
    while True:
        piece = await answer.read()
        if not piece:
            return unpacked is None or unpacked.is_whole
        take(piece)


def _is_packed(answer: Response) -> bool:
    """True for gzip: some servers pack an answer although we asked them not to."""
    return answer.headers.get("content-encoding", "").lower() == "gzip"


class _Unpacking:
    """Unpacks gzip for a sink: one or several members, one after the other (RFC 1952)."""

    def __init__(self, take: Sink) -> None:
        self._take = take
        self._member = zlib.decompressobj(wbits=31)

    @property
    def is_whole(self) -> bool:
        return self._member.eof

    def unpack(self, part: bytes) -> None:
        # A few packed bytes may stand for gigabytes, so they are unpacked a piece at a time.
        while True:
            if self._member.eof and part:
                self._member = zlib.decompressobj(wbits=31)
            piece = self._member.decompress(part, PIECE)
            self._take(piece)
            part = self._member.unconsumed_tail or self._member.unused_data
            if not part and len(piece) < PIECE:
                return
