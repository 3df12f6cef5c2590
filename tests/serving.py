"""The service as a real server inside a test: uvicorn in a thread, scripted or faulty models."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from cowest.config import parse
from cowest.errors import RegistryError, UpstreamError
from cowest.models.openai import OpenAIConfig
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.online.app import around_of, make_app
from cowest.online.breaker import Breaker
from cowest.online.front import Front
from cowest.online.interactions import Interaction
from cowest.online.live import ServeConfig
from cowest.online.posted import Service
from cowest.online.shelf import Shelf
from cowest.online.upstream import Upstream
from cowest.prompts import Prompts
from cowest.protocols import AsyncChatModel, Completion, Request, Served
from tests.factories import PROMPTS

POLICY = ScriptedConfig(
    rules=(
        ScriptRule(match="out of reach", failed="it has no words for it"),
        ScriptRule(match="", replies=("made in Oslo", "made in Bergen", "made in Norway")),
    )
)
STRONG = ScriptedConfig(
    rules=(
        ScriptRule(match="out of order", failed="it is out of order"),
        ScriptRule(match=r"Notes: (.*)\n", replies=("It is {1} , in the north", "Yes, {1}")),
        ScriptRule(match="^Question", replies=("no idea at all", "who knows ?")),
    )
)


@dataclass
class Faulty:
    """A model behind which a test stands: it does what `does` says, else what the script says, or
    the endpoint.
    """

    script: ScriptedConfig | OpenAIConfig
    name: str = "faulty"
    does: Callable[[Request, Served], AsyncGenerator[str | Completion, None]] | None = None
    asked: list[tuple[Request, Served]] = field(default_factory=list)
    ended: int = 0
    """Calls that came to an end, by themselves or because somebody closed them."""

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        self.asked.append((request, served))
        try:
            if self.does is not None:
                async with contextlib.aclosing(self.does(request, served)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            async with self.script.open_async() as model:
                async for piece in model.stream(request, served):
                    yield piece
        finally:
            self.ended += 1


async def down(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    raise UpstreamError("connection refused")
    yield ""


async def busy(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    raise UpstreamError("HTTP 429", retry_after=17)
    yield ""


async def hanging(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    """Does not look at its deadline either."""
    await asyncio.sleep(3600)
    yield ""


async def stuck(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    yield "It is "
    await asyncio.sleep(3600)


async def dropped(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    yield "It is "
    raise UpstreamError("the connection broke")


async def endless(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    while True:
        yield "x" * 10_000


class Shelved:
    """A shelf that a test moves: `number` is champion."""

    def __init__(self, strong: Upstream, policies: Callable[[int], Upstream]) -> None:
        self.number = 3
        self.gone: str | None = None
        """The reason why the registry can't be reached."""
        self.open: list[int] = []
        """Versions that are open."""
        self._strong = strong
        self._policies = policies

    async def champion(self) -> int:
        if self.gone is not None:
            raise RegistryError(self.gone)
        return self.number

    @contextlib.asynccontextmanager
    async def strong(self) -> AsyncIterator[Upstream]:
        yield self._strong

    @contextlib.asynccontextmanager
    async def policy(self, number: int) -> AsyncIterator[tuple[Prompts, Upstream]]:
        self.open.append(number)
        try:
            yield PROMPTS, self._policies(number)
        finally:
            self.open.remove(number)


class Running:
    """A server on a free port of this machine, over two models."""

    def __init__(
        self,
        policy: AsyncChatModel,
        strong: AsyncChatModel,
        ready: bool = True,
        patience: float = 0.0,
        protocol: Any = "auto",
        config: ServeConfig | None = None,
        shelf: Shelf | None = None,
        **settings: Any,
    ) -> None:
        """Takes a shelf and its settings in place of the two models, for those of a registry."""
        fixed = {"policy": POLICY, "strong": STRONG, "registry": {"name": "none"}}
        given = {**fixed, "log": {"enabled": False}, **settings}
        self.config = config or parse(ServeConfig, given, "serve")
        self.rows: list[Interaction] = []
        self.waited = 0.0
        """Seconds that the breakers believe have passed beside those that did."""
        self._patience = patience
        self.policies: dict[int, AsyncChatModel] = {}
        """The policies of versions that have another than the first."""
        self._first = policy
        self.models = policy, strong
        strongest = Upstream(strong, self._breaker("the strong model"), patience)
        self.shelf = Shelved(strongest, self._policy)
        self.app = make_app(lambda: self.config, self.rows.append, shelf or self.shelf)
        made = uvicorn.Config(
            Front(self.app, around_of(self.app)),
            http=protocol,
            log_config=None,
            lifespan="on",
            ws="none",
        )
        self._server = uvicorn.Server(made)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        # Either it answers, or it has said why not.
        self.wait(lambda: self.service.desk.reason() != "the model is being loaded")
        assert (self.service.desk.reason() is None) is ready

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._server.server_state.connections)

    @property
    def service(self) -> Service:
        found: Service = self.app.state.service
        return found

    def wait(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Waits until something is so."""
        ends = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AttributeError):
                if condition():
                    return
            assert time.monotonic() < ends and self._thread.is_alive()
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()
        self._socket.close()

    def _policy(self, number: int) -> Upstream:
        model = self.policies.get(number, self._first)
        return Upstream(model, self._breaker("the policy"), self._patience)

    def _breaker(self, name: str) -> Breaker:
        return Breaker(self.config.breaker, name, lambda: time.monotonic() + self.waited)


@contextlib.contextmanager
def running(
    policy: AsyncChatModel | None = None, strong: AsyncChatModel | None = None, **settings: Any
) -> Iterator[Running]:
    """A server, stopped at the end."""
    server = Running(
        policy or Faulty(POLICY, "policy"), strong or Faulty(STRONG, "strong"), **settings
    )
    try:
        yield server
    finally:
        server.stop()


def post(
    port: int, body: Any, path: str = "/v1/chat/completions", **headers: str
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of one request; the body is JSON, or the events of a stream."""
    import http.client

    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        given = {"content-type": "application/json"}
        for name, value in headers.items():
            given[name.replace("_", "-")] = value
        connection.request("POST", path, data, given)
        response = connection.getresponse()
        text = response.read().decode()
        found = {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()
    if found.get("content-type", "").startswith("text/event-stream"):
        return response.status, found, events(text)
    return response.status, found, json.loads(text)


def events(text: str) -> list[Any]:
    """The events of a stream; its end is the text `[DONE]`."""
    found: list[Any] = []
    for line in text.split("\n\n"):
        if line:
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def asking(text: str = "Where is it made?", **more: Any) -> dict[str, Any]:
    """A request for a chat completion."""
    return {"model": "cowest", "messages": [{"role": "user", "content": text}], **more}
