"""Builds the service's ASGI application: its routes, and all that lives as long as it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from cowest.online import chat_reply, openapi
from cowest.online.around import Around
from cowest.online.asking import AskSpeech
from cowest.online.bodies import encode, shown
from cowest.online.chat import ChatSpeech
from cowest.online.chat_request import MODELS
from cowest.online.desk import Desk
from cowest.online.feedback import FeedbackEndpoint
from cowest.online.interactions import Interaction
from cowest.online.keys import set_budgets
from cowest.online.live import ServeConfig
from cowest.online.page import page
from cowest.online.posted import Posted, Service
from cowest.online.refusals import RefusalError
from cowest.online.shelf import Shelf


def make_app(
    settings: Callable[[], ServeConfig],
    finished: Callable[[Interaction], None] | None = None,
    shelf: Shelf | None = None,
    begun: Callable[[Service], None] | None = None,
) -> Starlette:
    """Makes the application. `app.state.service` is there while the server runs.

    settings: called when the server starts. finished: told each answer, one call per answer;
    it must return at once and raise nothing. shelf: has the versions that answer; the registry's
    if it is left out. begun: told of the service in the server's event loop, before any request.
    """

    @asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[None]:
        config = settings()
        if config.keys:
            await asyncio.to_thread(set_budgets, config.keys)
        with config.log.open() as log:
            desk = Desk(config, shelf)
            app.state.service = Service(config, desk, log)
            try:
                if begun is not None:
                    begun(app.state.service)
                yield
            finally:
                await desk.close()
                await asyncio.to_thread(app.state.service.around.close)

    def service() -> Service:
        found: Service = app.state.service
        return found

    def tell(answer: Interaction) -> None:
        service().log.keep(answer)
        if finished is not None:
            finished(answer)

    def metrics(request: Request) -> Response:
        return service().around.metrics(request)

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/v1/chat/completions", Posted(service, ChatSpeech(), tell), methods=["POST"]),
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/models/{model:path}", _model, methods=["GET"]),
        Route("/v1/openapi.json", _document, methods=["GET"]),
        Route("/ask", Posted(service, AskSpeech(), tell), methods=["POST"]),
        Route("/v1/feedback", FeedbackEndpoint(service), methods=["POST"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]
    app = Starlette(
        # The last route answers what no other does, in the shape that clients of the API read.
        routes=[*routes, Route("/v1/{rest:path}", Unknown(routes))],
        lifespan=living,
        exception_handlers={HTTPException: _http_error, 500: _broken},
    )
    return app


def around_of(app: Starlette) -> Callable[[], Around]:
    """Returns a function that gives the application's `Around` while the server runs."""

    def around() -> Around:
        service: Service = app.state.service
        return service.around

    return around


class Unknown:
    """The ASGI endpoint of unknown addresses under /v1."""

    def __init__(self, routes: list[Route]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 405 if another method would be right, else 404."""
        method, path = scope["method"], shown(scope["path"])
        allowed: set[str] = set()
        for route in self._routes:
            if route.matches(scope)[0] is Match.PARTIAL:
                allowed |= route.methods or set()
        if allowed:
            refusal = RefusalError(405, f"Not allowed to {method} on {path}")
        else:
            reason = f"Unknown request URL: {method} {path}"
            refusal = RefusalError(404, reason, code="unknown_url")
        headers = {"allow": ", ".join(sorted(allowed))} if allowed else None
        await _refused(refusal, headers)(scope, receive, send)


def _models(_: Request) -> Response:
    data = [_described(name) for name in MODELS]
    return _response(200, {"object": "list", "data": data})


def _model(request: Request) -> Response:
    name = request.path_params["model"]
    if name in MODELS:
        return _response(200, _described(name))
    reason = f"The model `{shown(name)}` does not exist: there are {', '.join(MODELS)}"
    return _refused(RefusalError(404, reason, param="model", code="model_not_found"))


def _described(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "cowest"}


def _document(_: Request) -> Response:
    return _response(200, openapi.document())


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refused(RefusalError(error.status_code, error.detail), error.headers)


def _broken(_: Request, error: Exception) -> Response:
    """The answer to an internal error. The server's log has the error itself."""
    return _refused(RefusalError(500, "an error of the service: its log says more", retry=False))


def _refused(refusal: RefusalError, headers: Any = None) -> Response:
    found = {**refusal.headers, **(headers or {})}
    return _response(refusal.status, chat_reply.error(refusal), found)


def _response(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(value), status, headers, "application/json")
