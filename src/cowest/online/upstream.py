"""A model with a circuit breaker and a deadline for each call, as the service asks it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from cowest.errors import CallError, UpstreamError
from cowest.models.hf_async import AsyncHFModel
from cowest.online.breaker import Breaker
from cowest.online.interactions import ServedCall
from cowest.protocols import AsyncChatModel, Completion, Held, Request, Served

SURPRISES = 2
"""Answers in a row that end a thought which they had not begun; after them, answers are held."""
EARLY = 0.01
"""Seconds before the deadline at which a model may see it as passed: timers are not exact."""


class LateError(UpstreamError):
    """A model gave no answer before the call's deadline."""


class Upstream:
    """The AsyncChatModel that a version is served with."""

    def __init__(self, model: AsyncChatModel, breaker: Breaker, patience: float) -> None:
        """Takes the seconds of waiting after which a late answer counts as the model's failure."""
        self.name = model.name
        self.opened = False
        """True if the trial question showed that the model's prompt opens a thought."""
        self._surprises = 0
        self.breaker = breaker
        self._model = model
        self._patience = patience

    @property
    def begins_in_thought(self) -> bool:
        """True if an answer is held until a mark ends its thought."""
        return self.opened or self._surprises >= SURPRISES

    def saw(self, surprise: bool) -> None:
        """Notes a streamed answer: True if it ended a thought that it had not begun.

        One such answer may only speak of a mark, as somebody asked it to.
        """
        self._surprises = self._surprises + 1 if surprise else 0

    @property
    def broke(self) -> str | None:
        """The reason why the model has to be opened again; None while it can answer.

        Only a model of this process can break so: an endpoint comes back by itself.
        """
        return self._model.broke if isinstance(self._model, AsyncHFModel) else None

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        """Yields as the model does. Raises LateError at the deadline, whatever the model does, and
        UpstreamError at once while the breaker is open.
        """
        trying = self.breaker.begin(served.id)
        ended = False
        waited = 0.0
        served = replace(served, held=Held())
        try:
            async with aclosing(self._model.stream(request, served)) as pieces:
                while not ended:
                    began = time.monotonic()
                    try:
                        piece = await _next(pieces, served.until, self.name)
                    finally:
                        waited += time.monotonic() - began
                    ended = isinstance(piece, Completion)
                    if ended:
                        self.breaker.succeed()
                    yield piece
        except UpstreamError as error:
            # Some models look at the deadline themselves, and say so in their own words.
            late = isinstance(error, LateError) or time.monotonic() >= served.until - EARLY
            # A client that gives a second, reads its answer slowly until the deadline, or has spent
            # its budget, may not have others find the model shut.
            if not late or waited - served.held.seconds >= self._patience:
                self.breaker.fail(error.retry_after)
            raise
        except CallError as error:
            # It refuses every call: no key, or no such model. Who asks us can't mend it.
            self.breaker.fail()
            raise UpstreamError(str(error)) from error
        finally:
            # A call that began before the model was left alone says nothing of the one that tries.
            if trying and not ended:
                self.breaker.abandon(served.id)


async def _next(
    pieces: AsyncGenerator[str | Completion, None], until: float, name: str
) -> str | Completion:
    """The next piece of a stream, which has not ended yet. Raises UpstreamError."""
    try:
        async with asyncio.timeout(until - time.monotonic()):
            return await anext(pieces)
    except TimeoutError:
        raise LateError(f"{name} gave no whole answer before the deadline") from None
    except StopAsyncIteration:
        raise UpstreamError(f"{name} ended its stream without an end of its answer") from None


class TimedCall:
    """One call to a model, with its times: an AsyncChatModel for one request."""

    def __init__(self, upstream: Upstream) -> None:
        self.name = upstream.name
        self.text: str | None = None
        """The whole answer with its thoughts, once it has ended."""
        self._upstream = upstream
        self._began = time.monotonic()
        self._first: float | None = None
        self._seconds = 0.0

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        """Yields as the upstream does."""
        self._began = time.monotonic()
        async with aclosing(self._upstream.stream(request, served)) as pieces:
            async for piece in pieces:
                self._seconds = time.monotonic() - self._began
                if self._first is None and isinstance(piece, str):
                    self._first = self._seconds
                if isinstance(piece, Completion):
                    self.text = piece.text
                yield piece

    def answered(self, completion: Completion) -> ServedCall:
        """The row of a call that ended with a completion."""
        return ServedCall(
            model=completion.model,
            finish=completion.finish,
            failed=completion.failed,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            usd=completion.usd,
            seconds=self._seconds,
            first=self._first,
        )

    def broke(self, reason: str) -> ServedCall:
        """The row of a call that ended without a completion."""
        return ServedCall(
            model=self.name,
            finish="failed",
            failed=reason,
            seconds=time.monotonic() - self._began,
            first=self._first,
        )
