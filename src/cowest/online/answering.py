"""Answers one request: the draft, the answers with it, and the fallbacks while a model is down."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from cowest import collaboration
from cowest.config import Sampling
from cowest.errors import BudgetError, StoreError, ThoughtShownError, UpstreamError
from cowest.online.interactions import Degraded, Interaction, ServedCall, ServedModel
from cowest.online.live import ServeConfig
from cowest.online.refusals import RefusalError
from cowest.online.upstream import LateError, TimedCall, Upstream
from cowest.prompts import Prompts
from cowest.protocols import Completion, Request, Served
from cowest.records import Message
from cowest.thoughts import without_thoughts

Finish = Literal["stop", "length", "refused", "failed"]
LEFT = "the client left before the answer ended"
"""Recorded as the reason for an answer whose client left."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, checked and parsed."""

    id: str
    model: ServedModel
    prompt: tuple[Message, ...]
    sampling: Sampling
    """Settings of the answer; `n` answers are made. The draft is made as `serve.drafting` says."""
    streamed: bool
    """True if texts are sent as they come, and can't be taken back."""
    at: float
    """Time of the request, in seconds since 1970."""
    began: float
    """The same by `time.monotonic()`."""
    until: float
    """The end of the deadline, by `time.monotonic()`."""
    purse: str = ""


@dataclass(frozen=True, slots=True)
class DraftMade:
    """Event: the draft is there, or the request goes on without one."""


@dataclass(frozen=True, slots=True)
class TextMade:
    """A text of an answer."""

    sample: int
    text: str


@dataclass(frozen=True, slots=True)
class AnswerEnded:
    """The end of an answer."""

    sample: int
    finish: Finish


Event = DraftMade | TextMade | AnswerEnded


@dataclass(slots=True)
class AnswerMade:
    """One of the answers to a request."""

    text: str | None = None
    """The whole answer, once it has ended."""
    call: ServedCall | None = None
    finish: Finish = "failed"


@dataclass(slots=True)
class Opened:
    """A version that answers, with its models."""

    number: int
    prompts: Prompts
    policy: Upstream
    strong: Upstream

    @property
    def broke(self) -> str | None:
        """The reason why one of its models can't answer any more; None if both can."""
        return self.policy.broke or self.strong.broke


@dataclass
class Answering:
    """A request on its way through the models, and its outcome at the end."""

    asked: Asked
    version: Opened
    config: ServeConfig
    draft: str | None = None
    """The draft that the strong model was shown."""
    drafting: ServedCall | None = None
    degraded: Degraded | None = None
    replies: list[AnswerMade] = field(default_factory=list)
    failed: str | None = None
    """The reason why the request got no whole answer."""
    _no_draft: Exception | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yields the draft once it has ended, then the texts and the ends of the answers. Raises
        RefusalError."""
        self.replies = [AnswerMade() for _ in range(self.asked.sampling.n)]
        # It stays so only if something happens that nobody foresaw.
        self.failed = "an error of the service"
        try:
            async with aclosing(self._events()) as events:
                async for event in events:
                    yield event
            self.failed = None
        except (asyncio.CancelledError, GeneratorExit):
            self.failed = LEFT
            raise
        except RefusalError as refusal:
            self.failed = refusal.reason
            raise
        except BudgetError as error:
            self.failed = str(error)
            raise RefusalError(
                429,
                str(error),
                code="insufficient_quota",
                retry_after=error.retry_after,
                retry=False,
            ) from error
        except StoreError as error:
            self.failed = str(error)
            raise RefusalError(503, str(error), retry_after=self.config.breaker.seconds) from error

    def interactions(self) -> list[Interaction]:
        """The rows of the request, one per answer."""
        asked = self.asked
        rows = []
        for sample, reply in enumerate(self.replies):
            text, finish = reply.text, reply.finish
            if self.failed is not None and not asked.streamed and text is not None:
                # Another answer of the request failed, so the person was shown none.
                text, finish = None, "failed"
            rows.append(
                Interaction(
                    id=asked.id,
                    sample=sample,
                    at=asked.at,
                    seconds=time.monotonic() - asked.began,
                    purse=asked.purse,
                    model=asked.model,
                    version=self.version.number,
                    prompt=asked.prompt,
                    draft=self.draft,
                    answer=text,
                    drafting=self.drafting,
                    answering=reply.call,
                    degraded=self.degraded,
                    finish=finish,
                    failed=None if text is not None else self.failed,
                )
            )
        return rows

    async def _events(self) -> AsyncGenerator[Event, None]:
        if self.asked.model == "cowest":
            await self._make_draft()
        yield DraftMade()
        began = False
        try:
            async with aclosing(self._answers()) as events:
                async for event in events:
                    began = True
                    yield event
        except UpstreamError as error:
            can_take_back = not (began and self.asked.streamed)
            if self.draft is None or "draft_alone" not in self.config.degrade or not can_take_back:
                raise self._down(error) from error
            self.degraded = "draft_alone"
            for sample in range(len(self.replies)):
                yield TextMade(sample, self.draft)
                yield self._end_with_draft(sample)

    async def _make_draft(self) -> None:
        """Asks the policy; notes why if there is no draft. Raises RefusalError if one is needed."""
        served = self._served(self.config.draft_share)
        request = collaboration.ask_draft(
            self.asked.prompt, self.version.prompts, self.config.drafting
        )
        call = TimedCall(self.version.policy)
        try:
            completion = await collaboration.whole_answer(call, request, served)
        except UpstreamError as error:
            self._no_draft = error
            self.drafting = call.broke(str(error))
        else:
            self.drafting = call.answered(completion)
            self.draft = completion.text
        if self.draft is not None:
            return
        if "strong_alone" not in self.config.degrade:
            reason = f"the policy gave no draft: {self.drafting.failed}"
            raise self._refusal(reason, self._no_draft)
        self.degraded = "strong_alone"

    async def _answers(self) -> AsyncGenerator[Event, None]:
        """Asks for all answers at once. Raises UpstreamError for a model that is down, and
        RefusalError for a call that the model itself failed.
        """
        model = self.version.strong
        if self.asked.model == "cowest/policy":
            model = self.version.policy
        served = self._served()
        calls = []
        streams = []
        for sample in range(len(self.replies)):
            calls.append(TimedCall(model))
            streams.append(self._pieces(model, calls[sample], self._request(sample), served))
        broke = "it was broken off"
        try:
            async with aclosing(merged(streams)) as pieces:
                async for sample, piece in pieces:
                    if isinstance(piece, str):
                        yield TextMade(sample, piece)
                    else:
                        yield self._end(sample, calls[sample].answered(piece), piece)
        except UpstreamError as error:
            broke = str(error)
            raise
        finally:
            for reply, call in zip(self.replies, calls, strict=True):
                if reply.call is None:
                    reply.call = call.broke(broke)

    def _request(self, sample: int) -> Request:
        """The request for one answer."""
        prompt, prompts, sampling = self.asked.prompt, self.version.prompts, self.asked.sampling
        if self.asked.model == "cowest/policy":
            request = collaboration.ask_draft(prompt, prompts, sampling)
            return Request(request.messages, sampling, sample)
        if self.draft is None:
            return collaboration.ask_solo(prompt, prompts, sampling, sample)
        return collaboration.ask_refinement(prompt, self.draft, prompts, sampling, sample)

    async def _pieces(
        self, model: Upstream, call: TimedCall, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        """Yields the texts of one answer and its completion; without streaming, only the
        completion."""
        if not self.asked.streamed:
            yield await collaboration.whole_answer(call, request, served)
            return
        held = model.begins_in_thought
        try:
            answer = collaboration.stream_answer(call, request, served, held)
            async with aclosing(answer) as pieces:
                async for piece in pieces:
                    yield piece
        except ThoughtShownError:
            # This answer is lost.
            model.saw(surprise=True)
            raise
        if call.text is not None:
            model.saw(surprise=held and without_thoughts(call.text) != call.text)

    def _end(self, sample: int, call: ServedCall, completion: Completion) -> AnswerEnded:
        """Notes an answer. Raises RefusalError for a completion without a text."""
        reply = self.replies[sample]
        reply.call = call
        reply.finish = completion.finish
        if completion.text is None:
            role = "policy" if self.asked.model == "cowest/policy" else "strong model"
            reason = f"the {role} gave no answer: {completion.failed}"
            if completion.finish == "refused":
                raise RefusalError(400, reason, code="content_filter", param="messages")
            # It was answered, and paid for: the same request would end the same way.
            raise RefusalError(502, reason, code="no_answer", retry=False)
        reply.text = completion.text
        return AnswerEnded(sample, completion.finish)

    def _end_with_draft(self, sample: int) -> AnswerEnded:
        """Gives the draft as the answer."""
        assert self.drafting is not None
        reply = self.replies[sample]
        reply.text = self.draft
        reply.finish = self.drafting.finish
        return AnswerEnded(sample, reply.finish)

    def _served(self, share: float = 1.0) -> Served:
        """The request for a model, with a share of the time that is left."""
        now = time.monotonic()
        until = now + share * (self.asked.until - now)
        return Served(self.asked.id, until, self.asked.purse)

    def _down(self, error: UpstreamError) -> RefusalError:
        """The refusal for an answering model that is down."""
        role = "policy" if self.asked.model == "cowest/policy" else "strong model"
        if self._no_draft is not None:
            reason = f"both models are out of reach: {self._no_draft}; {error}"
            seconds = error.retry_after or self.config.breaker.seconds
            return RefusalError(503, reason, code="models_down", retry_after=seconds)
        return self._refusal(f"the {role} gave no answer: {error}", error)

    def _refusal(self, reason: str, error: Exception | None) -> RefusalError:
        """The refusal for a model that is late, overloaded, or broke off."""
        if isinstance(error, LateError):
            return RefusalError(504, reason, code="deadline")
        if isinstance(error, UpstreamError) and error.retry_after is not None:
            return RefusalError(503, reason, code="model_down", retry_after=error.retry_after)
        return RefusalError(502, reason, code="model_down", retry=error is not None)


async def merged(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """Yields the items of several streams as they come, each with its stream's number. The first
    error of a stream is raised, and ends the other streams; so does closing.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as pieces:
            async for piece in pieces:
                yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, T] | asyncio.Task[None]] = asyncio.Queue()
    read = [asyncio.Semaphore(0) for _ in streams]

    async def pump(number: int, stream: AsyncGenerator[T, None]) -> None:
        # Each stream is read by a task of its own, and runs ahead of who reads by one piece.
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                queue.put_nowait((number, piece))
                await read[number].acquire()

    pumps = [asyncio.create_task(pump(*one)) for one in enumerate(streams)]
    for task in pumps:
        task.add_done_callback(queue.put_nowait)
    try:
        running = len(pumps)
        while running:
            found = await queue.get()
            if isinstance(found, asyncio.Task):
                found.result()
                running -= 1
            else:
                yield found
                read[found[0]].release()
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
