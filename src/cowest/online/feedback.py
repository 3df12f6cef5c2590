"""POST /v1/feedback: a verdict on an answer, acknowledged when the disk has it.

    curl localhost:3000/v1/feedback -H 'content-type: application/json' \\
        -d '{"id": "chatcmpl-...", "verdict": "good"}'

200: it is kept. 400: it is no verdict, or contradicts itself. 404: no answer has this id. 409: the
log is off. 413: it is too long. 503: it could not be kept, and may be sent again. The same verdict
sent twice counts once; a later one on the same answer replaces it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from cowest.config import complaints
from cowest.online import chat_reply
from cowest.online.bodies import read_json, shown
from cowest.online.interactions import new_id
from cowest.online.log import Log
from cowest.online.posted import Incoming, Service
from cowest.online.refusals import GoneError, RefusalError
from cowest.online.verdicts import AnswerVerdict, KeptVerdict

LARGEST = 300 * 2**10
"""Bytes of a body: the longest better answer and comment, each letter written as an escape."""
LONGEST_REASON = 1_000
"""Characters of a reason."""
AGAIN = 5.0
"""Seconds after which a verdict that could not be kept may be sent again."""


class FeedbackEndpoint:
    """The ASGI endpoint of verdicts."""

    def __init__(self, service: Callable[[], Service]) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keeps one verdict and acknowledges it, or says why not."""
        service = self._service()
        incoming = Incoming(scope, send, service.config.deadline, new_id())
        try:
            try:
                body = await read_json(incoming.headers, receive, LARGEST, incoming.until)
                given = understood(body)
                await keep(service.log, given, incoming.purse)
                kept = {"object": "feedback", "id": given.id, "sample": given.sample}
                await incoming.json(200, kept, {})
            except RefusalError as refusal:
                incoming.visit.refused = refusal.code or "invalid_request"
                await incoming.json(refusal.status, chat_reply.error(refusal), refusal.headers)
        except GoneError:
            await incoming.leave()


def understood(body: dict[str, Any]) -> AnswerVerdict:
    """Returns the verdict of a body. Raises RefusalError."""
    try:
        return AnswerVerdict.model_validate(body)
    except ValidationError as error:
        place = error.errors(include_input=False, include_url=False)[0]["loc"]
        param = shown(str(place[0])) if place else None
        # The names of fields come from the body, too.
        reason = f"no verdict: {complaints(error)[:LONGEST_REASON]}"
        raise RefusalError(400, reason, param=param) from None


async def keep(log: Log, given: AnswerVerdict, purse: str = "") -> None:
    """Returns when the disk has a verdict. `purse` names the key that gave it.

    Raises RefusalError if it can't be kept.
    """
    if not log.enabled:
        raise RefusalError(409, "no verdict is kept: the log is off (serve.log.enabled)")
    if not log.ready:
        raise RefusalError(503, f"not kept: {log.state().failing}", retry_after=AGAIN)
    if not log.made(given.id):
        raise RefusalError(404, "no answer of this service has this id", param="id")
    kept = log.keep_verdict(KeptVerdict(**given.model_dump(), at=time.time(), purse=purse))
    try:
        # Shielded: a person who leaves now may have been heard all the same.
        await asyncio.shield(asyncio.wrap_future(kept))
    except OSError as error:
        raise RefusalError(503, f"not kept: {error}", retry_after=AGAIN) from None
