"""The servers that `tests.bench.serve` measures, each as a process of its own.

    python -m tests.bench.serve_servers cowest PORT POLICY STRONG
    python -m tests.bench.serve_servers bounded PORT POLICY STRONG
    python -m tests.bench.serve_servers bento PORT POLICY STRONG
    python -m tests.bench.serve_servers starlette PORT POLICY STRONG

POLICY and STRONG are addresses of endpoints, up to /v1. `cowest` is what users start, but for the
shelf: a version of the registry has an adapter, which an endpoint takes none of, so the bench gives
the version; `bounded` is the same with few places. The other two pass requests on as barely as can
be: `cowest/strong` as it comes; `cowest` asks the policy first, and puts its draft before the
strong model.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

MANY = 900
"""Calls at once: never what is measured."""


PLACES, QUEUE = 16, 64
"""Requests at once, and those that wait, where that is measured: the settings' defaults."""


def settings(policy: str, strong: str, places: int = MANY, queue: int = MANY) -> dict[str, Any]:
    """The settings of the service, as a team would write them for hosted models under load."""
    shared = {
        "provider": "openai",
        "key_env": None,
        "concurrency": MANY,
        "price": {"prompt": 0.1, "completion": 0.4},
    }
    return {
        "serve": {
            "policy": {**shared, "model": "small", "base_url": policy},
            "strong": {**shared, "model": "large", "base_url": strong},
            "registry": {"name": "bench"},
            "concurrency": places,
            "queue": queue,
            "drain": 0,
        }
    }


def bounded(port: int, policy: str, strong: str) -> None:
    """Serves as `cowest` does, with so few places that they can be taken."""
    cowest(port, policy, strong, PLACES, QUEUE)


def cowest(port: int, policy: str, strong: str, places: int = MANY, queue: int = MANY) -> None:
    """Serves until it is ended, in the working folder, which has the call store and the log."""
    import yaml

    from cowest.domains.handbook import PROMPTS
    from cowest.online import desk
    from cowest.online.breaker import Breaker
    from cowest.online.shelf import RegistryShelf
    from cowest.online.upstream import Upstream
    from cowest.prompts import Prompts
    from cowest_serving import __main__ as serving

    class BenchShelf(RegistryShelf):
        """One version, whose policy is an endpoint."""

        async def champion(self) -> int:
            return 1

        @asynccontextmanager
        async def policy(self, number: int) -> AsyncIterator[tuple[Prompts, Upstream]]:
            config = self.config
            async with config.policy.open_async() as model:
                yield PROMPTS, Upstream(model, Breaker(config.breaker, "the policy"), 1.0)

    desk.RegistryShelf = BenchShelf  # type: ignore[misc]
    params = Path("params.yaml")
    params.write_text(yaml.safe_dump(settings(policy, strong, places, queue)))
    sys.argv = ["cowest_serving", "serve", "--params", str(params), "--port", str(port)]
    serving.main()


def passing(policy: str, strong: str) -> Any:
    """A Starlette application that passes requests on."""
    import aiohttp
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    @asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[None]:
        connections = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connections) as app.state.client:
            yield

    async def chat(request: Request) -> Response:
        client: aiohttp.ClientSession = request.app.state.client
        body = await request.json()
        if body["model"] == "cowest":
            async with client.post(f"{policy}/chat/completions", json=body) as answer:
                found = await answer.json()
            draft = {"role": "assistant", "content": found["choices"][0]["message"]["content"]}
            body = {**body, "messages": [*body["messages"], draft]}
        async with client.post(f"{strong}/chat/completions", json=body) as answer:
            return Response(await answer.read(), answer.status, media_type="application/json")

    async def ready(_: Request) -> Response:
        return Response("")

    routes = [Route("/v1/chat/completions", chat, methods=["POST"])]
    return Starlette(routes=[*routes, Route("/readyz", ready)], lifespan=living)


def bento(port: int, policy: str, strong: str) -> None:
    """Passes requests on through BentoML, in the server that the service runs in."""
    import bentoml

    @bentoml.service(
        name="bare",
        traffic={"timeout": 660},
        metrics={"enabled": False},
        logging={"access": {"enabled": False}},
    )
    @bentoml.asgi_app(passing(policy, strong), path="/")
    class Bare:
        """Adds nothing."""

    listen(Bare.to_asgi(), port)


def starlette(port: int, policy: str, strong: str) -> None:
    """Passes requests on without BentoML."""
    listen(passing(policy, strong), port)


def listen(app: Any, port: int) -> None:
    """Runs an application as `cowest_serving.server` does."""
    import uvicorn

    uvicorn.run(
        app,
        port=port,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=2048,
    )


SERVERS = {"cowest": cowest, "bounded": bounded, "bento": bento, "starlette": starlette}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](int(sys.argv[2]), sys.argv[3], sys.argv[4])
