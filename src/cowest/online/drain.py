"""Ends the service: first it says that it is not ready, and a few seconds later it stops.

A load balancer, or Kubernetes, needs a moment to see that one of several services leaves. A server
that closed its socket at once would refuse the requests sent meanwhile.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOOK = 1.0
"""Seconds between two looks at whether the parent process lives."""


class Drain:
    """Passes SIGTERM and SIGINT on to the server after `drain` seconds. `begun` is true meanwhile.

    A second SIGINT is passed on at once, for somebody at a terminal who won't wait.
    """

    def __init__(self, drain: float) -> None:
        self._drain = drain
        self.begun = False

    def watch(self, parent: int | None = None) -> None:
        """Takes over the server's signals. The server has to run already, in this thread.

        With `parent`, the end also begins when that process is no longer our parent: it was killed,
        and nobody else would end us.
        """
        loop = asyncio.get_running_loop()
        for sent in SIGNALS:
            passing = signal.getsignal(sent)
            if callable(passing):
                signal.signal(sent, partial(self._take, loop, passing))
        if parent is not None:
            loop.call_later(LOOK, self._look, loop, parent)

    def _take(
        self,
        loop: asyncio.AbstractEventLoop,
        passing: Callable[[int, FrameType | None], Any],
        sent: int,
        frame: FrameType | None,
    ) -> None:
        if self.begun:
            if sent == signal.SIGINT:
                passing(sent, frame)
            return
        self.begun = True
        # Not `call_later` alone: a loop that waits for something to happen has to wake up for it.
        loop.call_soon_threadsafe(loop.call_later, self._drain, passing, sent, None)

    def _look(self, loop: asyncio.AbstractEventLoop, parent: int) -> None:
        if os.getppid() == parent:
            loop.call_later(LOOK, self._look, loop, parent)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
