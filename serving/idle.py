"""Bounds the number of open connections, and closes idle ones.

Otherwise one client could open so many that it shuts out all others, and uses up the memory and
open files of the process.
"""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from cowest.online.front import CROWDED

PATIENCE = 10.0
"""Seconds between two looks at a connection; one that has no request at both is closed. uvicorn
itself waits for ever for a first request, and for the rest of a slow head or body."""
SPARE = 64
"""Connections beyond the bound that still get an answer to one request, a refusal. Probes of the
service's health are answered there too."""


class IdleProtocol(H11Protocol):
    """uvicorn's HTTP over one connection."""

    most = 512
    """Most connections at once. Further ones get a refusal; those beyond SPARE more are cut."""
    patience = PATIENCE
    _look: asyncio.TimerHandle | None = None

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
        self._look = self.loop.call_later(self.patience, self._close_if_idle, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends that."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _close_if_idle(self, before: Any) -> None:
        """Closes the connection if it is idle, and had no request since the check `before`."""
        cycle: Any = self.cycle
        is_over = cycle is None or cycle.response_complete
        if is_over and cycle is before:
            self.transport.close()
            return
        # Of a request that is over just now, the next may be on its way.
        seen = cycle if is_over else self
        self._look = self.loop.call_later(self.patience, self._close_if_idle, seen)


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
