"""The front of the service: one ASGI middleware that every request passes.

It records the visit, has the guard check it, and reports it when it has ended.
"""

import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from cowest.online import chat_reply
from cowest.online.around import Around
from cowest.online.bodies import encode
from cowest.online.guard import HEALTH, PARTS, values
from cowest.online.refusals import RefusalError
from cowest.online.visits import VISIT, Visit

ROUTES = HEALTH.union(
    *PARTS.values(), {"/ask", "/v1/chat/completions", "/v1/feedback", "/v1/models"}
)
"""Paths that logs and metrics name; all others, which anybody could make up, count as one."""
CROWDED = "cowest.crowded"
"""Key in an ASGI scope, set while too many connections are open."""
SOON = 5.0
"""Seconds after which a client refused for that should try again. By then the server has closed
connections that were kept open after an answer."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Front:
    """ASGI middleware around everything that the service answers."""

    def __init__(self, app: ASGIApp, around: Callable[[], Around]) -> None:
        """`around` is called at each request, since it is there only while the server runs."""
        self._app = app
        self._around = around

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on, or refuses it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        around = self._around()
        visit = scope[VISIT] = _begun(scope)
        crowded = bool(scope.get(CROWDED))
        began = time.monotonic()

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                if around.drain.begun or crowded:
                    # So no client keeps a connection open that will be closed under its hands.
                    headers = [*message.get("headers", ()), (b"connection", b"close")]
                    message = {**message, "headers": headers}
            await send(message)

        try:
            if crowded and scope["path"] not in HEALTH:
                raise _too_many()
            visit.caller = around.look(scope)
        except RefusalError as refusal:
            visit.refused = refusal.code or ""
            await _refuse(scope, sent, refusal)
        else:
            await self._app(scope, receive, sent)
        finally:
            visit.seconds = time.monotonic() - began
            around.ended(visit)


def _begun(scope: Scope) -> Visit:
    parents = values(scope, b"traceparent")
    method, path = scope.get("method", "GET"), scope["path"]
    return Visit(
        method=method if method in METHODS else "_OTHER",
        route=path if path in ROUTES else "other",
        parent=parents[0] if len(parents) == 1 else "",
    )


def _too_many() -> RefusalError:
    reason = "too many connections are open: ask again later, over fewer connections"
    return RefusalError(503, reason, code="too_many_connections", retry_after=SOON)


async def _refuse(scope: Scope, send: Send, refusal: RefusalError) -> None:
    """Sends a refusal, without a look at the body."""
    if scope["type"] == "websocket":
        # Before it was accepted, the server answers this with 403.
        await send({"type": "websocket.close", "code": 1008})
        return
    body = encode(chat_reply.error(refusal))
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    if refusal.status == 401:
        headers["www-authenticate"] = 'Bearer realm="cowest"'
    raw = []
    for name, value in {**headers, **refusal.headers}.items():
        raw.append((name.encode(), value.encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
