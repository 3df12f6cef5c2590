"""`POST /ask`: one question, and its answer with the draft behind it."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cowest.config import complaints
from cowest.online import chat_reply
from cowest.online.answering import Answering, Asked
from cowest.online.ask_api import Answer, Ask
from cowest.online.live import ServeConfig
from cowest.online.posted import Incoming
from cowest.online.refusals import RefusalError


class AskSpeech:
    """`POST /ask` as a way of asking."""

    def understand(
        self, body: dict[str, Any], incoming: Incoming, config: ServeConfig
    ) -> "AskTurn":
        """Returns what is asked. Raises RefusalError."""
        try:
            prompt = Ask.model_validate(body).prompt
        except ValidationError as error:
            raise RefusalError(400, complaints(error)[:500]) from None
        limits = config.limits
        if len(prompt) > limits.messages:
            raise RefusalError(400, f"more than {limits.messages} messages (serve.limits.messages)")
        if sum(len(message.content) for message in prompt) > limits.characters:
            raise RefusalError(
                400, f"more than {limits.characters} characters (serve.limits.characters)"
            )
        asked = Asked(
            id=incoming.id,
            model="cowest",
            prompt=prompt,
            sampling=config.refining.model_copy(update={"n": 1}),
            streamed=False,
            at=incoming.at,
            began=incoming.began,
            until=incoming.until,
            purse=incoming.purse,
        )
        return AskTurn(asked)

    def error(self, refusal: RefusalError) -> dict[str, Any]:
        """The body of an error."""
        return {"error": refusal.reason}


@dataclass(frozen=True, slots=True)
class AskTurn:
    """One question."""

    asked: Asked

    async def reply(
        self, answering: Answering, incoming: Incoming, record: Callable[[], None]
    ) -> None:
        """Runs the request and sends its answer. Raises RefusalError."""
        async with aclosing(answering.events()) as events:
            async for _ in events:
                pass
        record()
        drafting, (reply,) = answering.drafting, answering.replies
        assert drafting is not None and reply.call is not None and reply.text is not None
        answer = Answer(
            answer=reply.text,
            draft=answering.draft or "",
            version=answering.version.number,
            policy=drafting.model,
            strong=reply.call.model,
        ).model_dump()
        if answering.degraded is not None:
            answer["degraded"] = answering.degraded
        await incoming.json(200, answer, chat_reply.headers(answering))
