"""Connections to a host for aiohttp: which are made, which are used again, and why one failed."""

import asyncio
import socket
import ssl
import weakref
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError

from cowest.net import proxies

CONNECT = 10.0
"""Maximum seconds to connect."""
KEEP = 30.0
"""Seconds that an idle connection is kept for another request."""
NOT_HTTP = (
    "an answer that is not HTTP: does base_url name the API's own port, and begin with https:// if "
    "it is encrypted?"
)
TWO_LENGTHS = (
    "an answer that is not HTTP: it names two lengths, which a proxy or gateway on the way may "
    "have added: try without it"
)
SPOKE_FIRST = (
    "it spoke before it was asked: no endpoint of an API, or a proxy that adds to what it hands on"
)
NO_PROXY = "what the proxy says is not HTTP: does HTTPS_PROXY name its port?"
LOSSES = (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError)
"""The errors of aiohttp. A RuntimeError is that of a read from a connection that is closed.
HttpProcessingError is what the parser in Python raises, where aiohttp has none in C."""
LENGTH_TWICE = ("Content-Length", "Transfer-Encoding")
"""Headers that the parser names when a head gives the length of its body more than once."""


class LostError(Exception):
    """No whole response came.

    `reached` is False if the request can't have arrived; otherwise it may have been paid for.
    """

    def __init__(self, reason: str, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


class ForbiddenError(LostError):
    """A host leads to `peer`, an IP address that is not connected to."""

    def __init__(self, host: str, peer: str) -> None:
        super().__init__(
            f"{host} leads to a link-local or metadata address, where no model is", reached=False
        )
        self.host, self.peer = host, peer


class _RefusedError(OSError):
    """An address that is not connected to, as aiohttp lets it through."""

    def __init__(self, peer: str) -> None:
        super().__init__("a link-local or metadata address")
        self.peer = peer


class Connector(aiohttp.TCPConnector):
    """Makes connections under the rules for addresses, and reuses those that are silent."""

    def __init__(self, forbidden: Callable[[str], bool] | None, secure: bool) -> None:
        """No connection is made to an IP address that is `forbidden`.

        For `secure` ones, the certificates to trust are read now: SSL_CERT_FILE, SSL_CERT_DIR.
        """
        super().__init__(
            ssl=ssl.create_default_context() if secure else True,
            # The pace of the calls is the limit.
            limit=0,
            keepalive_timeout=KEEP,
            # The system's own reading of a name, also where a package for DNS is installed.
            resolver=aiohttp.ThreadedResolver(),
            socket_factory=self._socket,
        )
        self._forbidden = forbidden
        self._known: weakref.WeakSet[ResponseHandler] = weakref.WeakSet()

    def _socket(self, place: Any) -> socket.socket:
        """Makes the socket for one address: the last look at where a connection leads.

        Each address comes by here right before it is connected to, also one that stands in the URL
        and one that a name has only now.
        """
        family, kind, protocol, _, peer = place
        if self._forbidden is not None and self._forbidden(peer[0]):
            raise _RefusedError(peer[0])
        return socket.socket(family, kind, protocol)

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Connection:
        """Gives a connection on which nothing was said yet that an answer could be taken for.

        Raises LostError with `reached` False for whatever goes wrong, since nothing is sent yet.
        """
        while True:
            try:
                connection = await super().connect(req, traces, timeout)
            except Exception as error:  # noqa: BLE001  none of them is ours
                raise _unconnected(error, req.url.host) from None
            protocol = connection.protocol
            if protocol is None:
                return connection
            known = protocol in self._known
            if known:
                # Some servers close a connection right after an answer, and the loop, which is
                # still at that answer, does not know it yet. The first time it looks, and the
                # second time it has seen what there was.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            if known and not protocol.is_connected():
                connection.close()
                continue
            if not protocol.should_close:
                if not known:
                    self._known.add(protocol)
                    if protocol.closed is not None:
                        protocol.closed.add_done_callback(_ended)
                return connection
            # Bytes came that nobody asked for. The next request would take them for its answer.
            connection.close()
            if not known:
                raise LostError(SPOKE_FIRST, reached=False)


def _ended(closed: "asyncio.Future[None]") -> None:
    """Takes note of how a connection ended: asyncio logs an error that nobody looked at."""
    if not closed.cancelled():
        closed.exception()


def _unconnected(error: Exception, host: str) -> LostError:
    """The loss that an error means which came up before anything was sent."""
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, _RefusedError):
            return ForbiddenError(host, cause.peer)
        return LostError(str(cause) or "no connection", reached=False)
    if isinstance(error, TimeoutError):
        return LostError("no connection in time", reached=False)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        first = f"HTTP/1.1 {error.status} {error.message}"
        return LostError(proxies.refusal(first, host), reached=False)
    if isinstance(error, aiohttp.ClientResponseError):
        return LostError(NO_PROXY, reached=False)
    # The rest has no class in common: a name that no host can have, a proxy that hangs up, and
    # what uvloop says by a RuntimeError.
    return LostError(str(error) or "no connection", reached=False)


def loss(error: Exception) -> LostError:
    """The loss that an error of LOSSES means: the request may have been sent."""
    if isinstance(error, aiohttp.ClientResponseError):
        twice = any(name in error.message for name in LENGTH_TWICE)
        return LostError(TWO_LENGTHS if twice else NOT_HTTP)
    if isinstance(error, HttpProcessingError) or str(error) == NOT_HTTP:
        return LostError(NOT_HTTP)
    if isinstance(error, aiohttp.InvalidURL):
        return LostError(f"{error.url} is no address to call", reached=False)
    return LostError("connection lost")
