"""Work of many coroutines that is done together, on a thread.

Whatever comes in while one transaction is being written is written together in the next one, so
that all who wait share one flush to the disk. The rate of flushes then follows from what the disk
can do.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Together(Generic[T, R]):
    """Does the work of one event loop; all that ask for it run on that loop."""

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]]) -> None:
        """`work` takes items in the order in which they came, and gives one result for each."""
        self._work = work
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, item: T) -> "asyncio.Future[R]":
        """Has an item done, whether or not somebody waits for its result."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work_off())
        return future

    async def close(self) -> None:
        """Waits until everything is done."""
        while True:
            task = self._task
            if task is not None and not task.done():
                await asyncio.wait([task])
            # Whoever is told that something was done hears of it in the next pass of the loop, and
            # may bring more.
            await asyncio.sleep(0)
            if self._task is task:
                return

    async def _work_off(self) -> None:
        while self._waiting:
            # Coroutines that run in this pass of the loop bring more, which is done with it.
            await asyncio.sleep(0)
            taken, self._waiting = self._waiting, []
            try:
                results = await asyncio.to_thread(self._work, [item for item, _ in taken])
            except Exception as error:  # noqa: BLE001
                # Whoever waits raises the error, and would wait forever without it.
                for _, future in taken:
                    future.set_exception(error)
                    # This marks the error as seen: if nobody waits any more, asyncio would print a
                    # warning.
                    future.exception()
                continue
            for (_, future), result in zip(taken, results, strict=True):
                future.set_result(result)
