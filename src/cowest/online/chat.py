"""`POST /v1/chat/completions`: answers a conversation as OpenAI's API does, whole or streamed."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from cowest.online import chat_reply
from cowest.online.answering import AnswerEnded, Answering, Asked, DraftMade, TextMade
from cowest.online.bodies import encode
from cowest.online.chat_request import ChatRequest, StreamOptions, sampling_of, understood
from cowest.online.live import ServeConfig
from cowest.online.posted import Incoming
from cowest.online.refusals import RefusalError

STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    # A proxy would hold texts back until it has a buffer full.
    "x-accel-buffering": "no",
}


class ChatSpeech:
    """OpenAI's API as a way of asking."""

    def understand(
        self, body: dict[str, Any], incoming: Incoming, config: ServeConfig
    ) -> "ChatTurn":
        """Returns what is asked. Raises RefusalError."""
        request, model = understood(body, config.limits)
        base = config.drafting if model == "cowest/policy" else config.refining
        asked = Asked(
            id=incoming.id,
            model=model,
            prompt=request.prompt,
            sampling=sampling_of(request, base),
            streamed=bool(request.stream),
            at=incoming.at,
            began=incoming.began,
            until=incoming.until,
            purse=incoming.purse,
        )
        return ChatTurn(asked, request)

    def error(self, refusal: RefusalError) -> dict[str, Any]:
        """The body of an error."""
        return chat_reply.error(refusal)


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One request for a chat completion."""

    asked: Asked
    request: ChatRequest

    async def reply(
        self, answering: Answering, incoming: Incoming, record: Callable[[], None]
    ) -> None:
        """Runs the request and sends its answer. Raises RefusalError where nothing was sent."""
        if self.asked.streamed:
            options = self.request.stream_options or StreamOptions()
            await Events(answering, incoming, options).send(record)
            return
        async with aclosing(answering.events()) as events:
            async for _ in events:
                pass
        record()
        whole = chat_reply.completion(answering)
        await incoming.json(200, whole, chat_reply.headers(answering))


class Events:
    """One answer as server-sent events."""

    def __init__(self, answering: Answering, incoming: Incoming, options: StreamOptions) -> None:
        self._answering = answering
        self._incoming = incoming
        self._options = options
        self._begun: set[int] = set()
        self._ended = 0

    async def send(self, record: Callable[[], None]) -> None:
        """Sends all events. Raises RefusalError for a failure before the first event. A later
        failure is sent as the last event, without `[DONE]`.
        """
        try:
            async with aclosing(self._answering.events()) as events:
                async for event in events:
                    match event:
                        case DraftMade():
                            await self._drafted()
                        case TextMade(sample, text):
                            await self._chunk(sample, self._delta(sample, text))
                        case AnswerEnded(sample, _):
                            await self._end(event)
        except RefusalError as refusal:
            if not self._incoming.answered:
                raise
            record()
            await self._data(encode(chat_reply.error_event(refusal)))
        else:
            record()
            if self._options.include_usage:
                await self._data(encode(chat_reply.usage_chunk(self._answering)))
            await self._data(b"[DONE]")
        await self._incoming.body(b"")

    async def _drafted(self) -> None:
        """Sends the draft, if the request asked for it before the answer."""
        if self._options.include_draft and self._answering.draft is not None:
            found = chat_reply.chunk(self._answering, 0, self._delta(0, ""))
            await self._object({**found, "cowest": chat_reply.extension(self._answering)})

    def _delta(self, sample: int, text: str) -> dict[str, Any]:
        """Sends a text of an answer; the first one has the role."""
        if sample in self._begun:
            return {"content": text}
        self._begun.add(sample)
        return {"role": "assistant", "content": text}

    async def _chunk(self, sample: int, delta: dict[str, Any]) -> None:
        await self._object(chat_reply.chunk(self._answering, sample, delta))

    async def _end(self, event: AnswerEnded) -> None:
        """Sends the end of an answer; the last answer's end has the extension of the whole
        request."""
        if event.sample not in self._begun:
            await self._chunk(event.sample, self._delta(event.sample, ""))
        self._ended += 1
        found = chat_reply.chunk(self._answering, event.sample, {}, event.finish)
        if self._ended == self._answering.asked.sampling.n:
            found["cowest"] = chat_reply.extension(self._answering)
        await self._object(found)

    async def _object(self, value: dict[str, Any]) -> None:
        if self._options.include_usage:
            value["usage"] = None
        await self._data(encode(value))

    async def _data(self, data: bytes) -> None:
        """Sends one event; before the first one, the status."""
        if not self._incoming.answered:
            await self._incoming.start(200, {**STREAM, **chat_reply.headers(self._answering)})
        await self._incoming.body(b"data: " + data + b"\n\n", more=True)
