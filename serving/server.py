"""The process that serves: BentoML's application in uvicorn, as this process alone.

`bentoml serve` starts two: one that watches, with ports that control it, and one that answers. When
the first is killed, the second lives on. And while the second ends, the first holds its socket
open, so that new connections wait for an answer that never comes. With one process neither happens.
"""

import logging
import os
import resource
import signal
import socket
import sys
from contextlib import suppress

import uvicorn

from cowest.errors import ConfigError, CoWestError
from cowest.ledger import store
from cowest.online import request_log
from cowest.online.live import ServeConfig
from cowest_serving.idle import SPARE, bounded
from cowest_serving.service import guarded

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
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CoWestError(f"can't listen on {host}, port {port}: {reason}") from None


def run(listening: socket.socket, config: ServeConfig) -> None:
    """Answers requests until SIGTERM or SIGINT. Raises ConfigError."""
    request_log.begin()
    settings = uvicorn.Config(
        guarded(),
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
        _Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:
        _done()


class _Server(uvicorn.Server):
    """uvicorn's server. When the service has ended, it ends the process."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        except (SystemExit, KeyboardInterrupt):
            self._leave()
            raise
        # After Ctrl-C the task is cancelled, which nothing here waits for.
        self._leave()

    def _leave(self) -> None:
        """Ends the process with 0, if the service began and has ended well.

        Python itself would wait for threads that nobody can stop: one that loads a model, or looks
        the champion up in a registry that does not answer.
        """
        if not self.started or not self.lifespan.shutdown_event.is_set():
            # The log is still open, as where somebody pressed Ctrl-C twice.
            return
        # Another signal breaks nothing off here any more.
        for sent in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sent, signal.SIG_IGN)
        try:
            with suppress(CoWestError):
                store.close()
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)


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
