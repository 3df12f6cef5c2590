"""The champion and the strong model behind HTTP: `cowest.online`, mounted on BentoML.

    python -m cowest_serving serve              (in a project's folder, or make serve)
    curl localhost:3000/ask -H 'content-type: application/json' \\
        -d '{"question": "Which country makes the Phoenix fan?"}'
    python -m cowest_serving bento              (packs it for a container)

POST /v1/chat/completions is OpenAI's, POST /ask takes one question: docs/service.md has both, and
what they refuse. GET /livez is 200 at once, and 503 where only a new start helps. GET /readyz is
503 with the reason until both models have answered, then 200. COWEST_PARAMS names the settings file
(params.yaml); its section `serve` is read.
"""

import logging
import os
import sys
from pathlib import Path

from cowest import environment

# Before bentoml is imported, since it reads then whether it may phone home.
environment.settle()
# Where `bentoml serve` has set this, each sample of a metric would be a place in a file.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml  # noqa: E402
from bentoml._internal.configuration.containers import BentoMLContainer  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402

from cowest.config import enter, load, parse, section  # noqa: E402
from cowest.errors import ConfigError  # noqa: E402
from cowest.online import request_log  # noqa: E402
from cowest.online.app import around_of, make_app  # noqa: E402
from cowest.online.front import Front  # noqa: E402
from cowest.online.guard import HOW_TO_KEY  # noqa: E402
from cowest.online.live import LONGEST, ServeConfig  # noqa: E402
from cowest.online.posted import Service  # noqa: E402


def settings() -> ServeConfig:
    """The section `serve`. Makes the settings' folder the working folder. Raises ConfigError."""
    # The project may be mounted anywhere, and its settings name files beside them.
    params = enter(Path(os.environ.get("COWEST_PARAMS") or "params.yaml"))
    return parse(ServeConfig, section(load(params), "serve", str(params)), f"{params}: serve")


def begun(service: Service) -> None:
    """Is called when the service has begun, in the process and thread that answer."""
    log = logging.getLogger("cowest")
    if not service.config.keys:
        log.info("serve.keys has no key, so only this machine is answered: %s", HOW_TO_KEY)
    main = sys.modules["__main__"].__spec__
    is_worker = main is not None and main.name == "_bentoml_impl.worker.service"
    if is_worker:
        # BentoML has set its own form of log lines up by now.
        request_log.begin()
    service.around.drain.watch(os.getppid() if is_worker else None)


def expect_one_process() -> None:
    """Raises ConfigError if BentoML's configuration asks for more processes than one."""
    services = BentoMLContainer.config.get().get("services", {})
    # Settings of this service stand beside those of all services.
    workers = {**services, **services.get("cowest", {})}.get("workers") or 1
    if workers != 1:
        raise ConfigError(
            f"{workers} workers: keys' rates, the queue and the version that answers are of one "
            "process. Leave `workers` out of BentoML's configuration, and raise serve.concurrency"
        )


# Not later: a worker that refuses to begin is begun again by BentoML, and again, without an end.
expect_one_process()
app = make_app(settings, begun=begun)


# BentoML's own deadline has neither a body of the API's shape nor a word on when to come again, and
# under `bentoml serve` it can't be turned off. So it lies beyond every deadline of ours. Its limit
# of requests at once is off.
# BentoML's metrics and its log have a label, or a line, for whatever path a client makes up: ours
# stand in their place.
@bentoml.service(
    name="cowest",
    traffic={"timeout": LONGEST + 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(app, path="/")
class CoWest:
    """A small policy drafts, a strong model refines."""

    async def __is_alive__(self) -> bool:
        reason = app.state.service.dead()
        if reason is not None:
            raise HTTPException(503, reason)
        return True

    async def __is_ready__(self) -> bool:
        reason = app.state.service.unready()
        if reason is not None:
            raise HTTPException(503, reason)
        detail = app.state.service.detail()
        if detail is not None:
            # A body is had from BentoML by an exception alone, whatever its status.
            raise HTTPException(200, f"ready, but {detail}")
        return True


# What BentoML answers by itself stands behind the front, too.
CoWest.add_asgi_middleware(Front, around=around_of(app))


def guarded() -> Starlette:
    """Returns BentoML's application without that of it which stands before the guard.

    It works for people without a key: its deadline holds the head of each request in memory for
    eleven minutes, by a timer that is never cancelled, and its traces (sent nowhere) fail at a
    header in no known encoding, with a 500. `bentoml serve` has both.
    """
    made: Starlette = CoWest.to_asgi()
    order: list[object] = [one.cls for one in made.user_middleware]
    # Starlette makes its stack of these at the first request.
    del made.user_middleware[: order.index(Front)]
    return made
