"""The process that serves: BentoML's application in uvicorn, as this process alone.

`bentoml serve` starts two: one that watches, with ports that control it, and one that answers. When
the first is killed, the second lives on. And while the second ends, the first holds its socket
open, so that new connections wait for an answer that never comes. With one process neither happens.
"""

import logging
import resource
import signal
import socket
import sys

import uvicorn

from cowest.errors import ConfigError, CoWestError
from cowest.online import request_log
from cowest.online.live import ServeConfig
from cowest_serving.idle import SPARE, bounded
from cowest_serving.service import CoWest

MORE = 10
"""Seconds beyond a request's deadline until a request that does not end is broken off at the end
of the service."""
BACKLOG = 256
"""Connections that wait to be accepted. All of them may be open for a moment, before those beyond
the bound are cut."""
OTHERS = 192
"""Open files needed beside connections: models, log, call store, calls to hosted models."""


def bound(host: str, port: int) -> socket.socket:
    """Returns a socket that listens there. Raises CoWestError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        raise CoWestError(f"can't listen on {host}, port {port}: {reason}") from None


def run(listening: socket.socket, config: ServeConfig) -> None:
    """Answers requests until SIGTERM or SIGINT. Raises ConfigError."""
    request_log.begin()
    settings = uvicorn.Config(
        CoWest.to_asgi(),
        # Its heads are bounded (64 KiB). That of the other parser, where it is installed, is not.
        http=bounded(_connections(config)),
        backlog=BACKLOG,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing here believes what a proxy says about a client.
        proxy_headers=False,
        timeout_graceful_shutdown=int(config.deadline) + MORE,
    )
    # Before uvicorn takes the signals, and once more when it has ended by one.
    signal.signal(signal.SIGTERM, _done)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    logging.getLogger("cowest").info("listens on http://%s:%d", shown, port)
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:
        _done()


def _connections(config: ServeConfig) -> int:
    """Connections at once, for which the process may open enough files. Raises ConfigError."""
    most = config.most_connections
    needed = most + SPARE + BACKLOG + OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ConfigError(
            f"serve.connections: {most} connections need up to {needed} open files, and this "
            f"process may have {hard}: lower it, or raise the limit (`ulimit -n`)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return most


def _done(*_: object) -> None:
    sys.exit(0)
