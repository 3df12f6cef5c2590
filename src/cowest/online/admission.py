"""Places for requests: some at once, some more in a queue; all others are refused at once.

In a queue without end, each request of an overload would wait longer than the one before. The
queue's length bounds the wait of every admitted request.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cowest.online.refusals import RefusalError

SMOOTHING = 0.1
"""Weight of the newest request in the moving average of the time per request."""


class Admission:
    """Hands out places in the order in which they were asked for. For one event loop."""

    def __init__(self, concurrency: int, queue: int) -> None:
        """Takes the number of requests at once, and of requests that may wait."""
        self._concurrency = concurrency
        self._queue = queue
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean = 1.0

    @property
    def taken(self) -> int:
        """Requests that have a place."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    def check(self) -> None:
        """Raises RefusalError if no place and no room in the queue is left."""
        if self._taken >= self._concurrency and len(self._waiting) >= self._queue:
            raise RefusalError(
                429,
                "too many requests at once: ask again later",
                code="overloaded",
                retry_after=self._clears(),
            )

    @asynccontextmanager
    async def place(self, until: float) -> AsyncIterator[None]:
        """Holds a place, after waiting for one until `until` (by `time.monotonic()`) at most.

        Raises RefusalError where the queue is full, or no place came in time.
        """
        self.check()
        if self._taken < self._concurrency:
            self._taken += 1
        else:
            await self._wait(until)
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean += SMOOTHING * (time.monotonic() - began - self._mean)
            self._release()

    async def _wait(self, until: float) -> None:
        """Waits for a place that another request hands on."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await turn
        except TimeoutError:
            self._leave(turn)
            raise RefusalError(
                503,
                "no place came free before the deadline: ask again later",
                code="overloaded",
                retry_after=self._clears(),
            ) from None
        except asyncio.CancelledError:
            self._leave(turn)
            raise

    def _leave(self, turn: asyncio.Future[None]) -> None:
        """Ends a wait."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled():
            # The place came in the same moment as the end of the wait.
            self._release()

    def _release(self) -> None:
        """Hands a place on to the request that waits longest, or gives it back."""
        while self._waiting:
            turn = self._waiting.popleft()
            # One whose client left in this moment is done, and takes no place.
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1

    def _clears(self) -> float:
        """Seconds until the present queue should be worked off."""
        return min(60.0, self._mean * (1 + len(self._waiting) / self._concurrency))
