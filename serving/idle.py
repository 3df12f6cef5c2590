"""Bounds the number of open connections, and closes those that are idle or read nothing.

Otherwise one client could open so many that it shuts out all others, and uses up the memory and
open files of the process.
"""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from cowest.online.front import CROWDED

PATIENCE = 10.0
"""Seconds between two looks at a connection; one that has no request at both is closed, and so is
one whose client took nothing of an answer between them. uvicorn itself waits for ever for a first
request, for the rest of a slow head or body, and for an answer to be read."""
SPARE = 64
"""Connections beyond the bound that still get an answer to one request, a refusal. Probes of the
service's health are answered there too."""


class IdleProtocol(H11Protocol):
    """uvicorn's HTTP over one connection."""

    most = 512
    """Most connections at once. Further ones get a refusal; those beyond SPARE more are cut."""
    patience = PATIENCE
    _look: asyncio.TimerHandle | None = None
    _drained = 0
    """Times at which the client had read enough for the next part of an answer to be written."""

    def connection_made(self, transport: Any) -> None:
        """Begins to watch the connection."""
        super().connection_made(transport)
        beyond = len(self.connections) - self.most
        if beyond > SPARE:
            transport.abort()
            return
        if beyond > 0:
            # Its place is needed soon by the next, who is to be told, too.
            self.app: Any = _Crowded(self.app)
            self.patience = self.patience / 10
        self._look = self.loop.call_later(self.patience, self._close_if_idle, self._seen())

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends that."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Notes that the client reads."""
        self._drained += 1
        super().resume_writing()

    def _seen(self) -> tuple[Any, int, int] | None:
        """The last request, and how far its answer got; None while the service works on it."""
        cycle: Any = self.cycle
        is_over = cycle is None or cycle.response_complete
        if is_over or self.flow.write_paused or self.transport.is_closing():
            return cycle, self.transport.get_write_buffer_size(), self._drained
        return None

    def _close_if_idle(self, before: tuple[Any, int, int] | None) -> None:
        """Closes the connection if nothing happened on it since it was `before`."""
        seen = self._seen()
        if seen is None or seen != before:
            # Of a request that is over just now, the next may be on its way.
            self._look = self.loop.call_later(self.patience, self._close_if_idle, seen)
        elif seen[1]:
            # `close` would wait until the client has read the rest.
            self.transport.abort()
        else:
            self.transport.close()


def bounded(connections: int) -> type[IdleProtocol]:
    """The protocol with a bound on connections at once."""

    class BoundedProtocol(IdleProtocol):
        most = connections

    return BoundedProtocol


class _Crowded:
    """Tells the application that a request came over a connection beyond the bound."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CROWDED] = True
        await self._app(scope, receive, send)
