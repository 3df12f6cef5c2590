"""A local model for people who wait: each answer as it is decoded, many of them together."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress

from cowest.errors import CoWestError, UpstreamError
from cowest.models.batching import Batching, Call
from cowest.models.decoding import HFModel
from cowest.protocols import Completion, Request, Served


class AsyncHFModel:
    """An AsyncChatModel over loaded weights.

    Nothing that it answers comes from the call store, or goes into it.
    """

    def __init__(self, model: HFModel, rows: int) -> None:
        self.name = model.name
        self._batching = Batching(model, rows)

    @property
    def broke(self) -> str | None:
        """The reason why it answers nothing until it is opened again; None while it may answer."""
        return self._batching.broke

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        """Yields the texts of an answer as they are decoded, and its Completion last.

        Raises ModelError for a conversation that the chat template refuses.
        """
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[str | Completion | CoWestError] = asyncio.Queue()

        def tell(piece: str | Completion | CoWestError) -> None:
            # A loop that is closed has nobody who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(told.put_nowait, piece)

        call = Call(request, served.until, tell)
        self._batching.take(call)
        try:
            while True:
                piece = await self._next(told, served)
                if isinstance(piece, CoWestError):
                    raise piece
                yield piece
                if isinstance(piece, Completion):
                    return
        finally:
            call.gone = True

    async def close(self) -> None:
        """Ends the thread that decodes; answers that are under way end with an UpstreamError."""
        await asyncio.to_thread(self._batching.close)

    async def _next(
        self, told: "asyncio.Queue[str | Completion | CoWestError]", served: Served
    ) -> str | Completion | CoWestError:
        try:
            async with asyncio.timeout(served.until - time.monotonic()):
                return await told.get()
        except TimeoutError:
            raise UpstreamError(f"{self.name}: no answer before the deadline") from None
