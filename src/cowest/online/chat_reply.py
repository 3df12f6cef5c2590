"""Replies to a chat client: answers, chunks of a stream, and errors.

The shapes are OpenAI's. The API has no place for drafts, versions and costs. They are in the field
`cowest`, which an answer, the last chunk that ends a text, and the chunk with the draft have, and
in the headers `x-cowest-...`.
"""

from typing import Any

from cowest.online.answering import Answering, Finish
from cowest.online.interactions import ServedCall
from cowest.online.refusals import RefusalError

FINISHES: dict[Finish, str] = {"stop": "stop", "length": "length", "refused": "content_filter"}


def completion(answering: Answering) -> dict[str, Any]:
    """A whole answer."""
    choices = []
    for number, reply in enumerate(answering.replies):
        choices.append(
            {
                "index": number,
                "message": {"role": "assistant", "content": reply.text, "refusal": None},
                "finish_reason": FINISHES.get(reply.finish, "stop"),
                "logprobs": None,
            }
        )
    return {
        **_head(answering, "chat.completion"),
        "choices": choices,
        "usage": usage(answering),
        "cowest": extension(answering),
    }


def chunk(
    answering: Answering, sample: int, delta: dict[str, Any], finish: Finish | None = None
) -> dict[str, Any]:
    """A chunk of a stream with a part of one answer, or its end."""
    choice = {
        "index": sample,
        "delta": delta,
        "finish_reason": None if finish is None else FINISHES.get(finish, "stop"),
        "logprobs": None,
    }
    return {**_head(answering, "chat.completion.chunk"), "choices": [choice]}


def usage_chunk(answering: Answering) -> dict[str, Any]:
    """The chunk after all texts with the token counts, if the request asked for it."""
    head = _head(answering, "chat.completion.chunk")
    return {**head, "choices": [], "usage": usage(answering)}


def usage(answering: Answering) -> dict[str, int]:
    """Tokens of the model that wrote the answers, over all answers. The draft's tokens are in the
    extension, since they have another price.
    """
    calls = []
    for reply in answering.replies:
        if reply.call is not None:
            calls.append(reply.call)
    if answering.degraded == "draft_alone" and answering.drafting is not None:
        calls = [answering.drafting]
    asked = sum(call.prompt_tokens for call in calls)
    said = sum(call.completion_tokens for call in calls)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def extension(answering: Answering) -> dict[str, Any]:
    """The field `cowest`, with all that is known and that a chat API has no field for."""
    calls = [reply.call for reply in answering.replies]
    return {
        "version": answering.version.number,
        "draft": answering.draft,
        "degraded": answering.degraded,
        "drafting": _call(answering.drafting),
        "answering": [_call(call) for call in calls if call is not None],
        "usd": _dollars([answering.drafting, *calls]),
    }


def headers(answering: Answering) -> dict[str, str]:
    """The headers of an answer, as far as they are known when it begins."""
    found = {
        "x-request-id": answering.asked.id,
        "x-cowest-id": answering.asked.id,
        "x-cowest-version": str(answering.version.number),
    }
    if answering.degraded is not None:
        found["x-cowest-degraded"] = answering.degraded
    timings = []
    if answering.drafting is not None:
        timings.append(f"draft;dur={1000 * answering.drafting.seconds:.1f}")
    calls = [reply.call for reply in answering.replies if reply.call is not None]
    if calls:
        timings.append(f"answer;dur={1000 * max(call.seconds for call in calls):.1f}")
    if timings:
        found["server-timing"] = ", ".join(timings)
    usd = extension(answering)["usd"]
    if usd is not None:
        found["x-cowest-usd"] = f"{usd:.6f}"
    return found


def error(refusal: RefusalError) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kind = "server_error"
    if refusal.code == "insufficient_quota":
        kind = "insufficient_quota"
    elif refusal.status == 429:
        kind = "rate_limit_error"
    elif refusal.status < 500:
        kind = "invalid_request_error"
    return {
        "error": {
            "message": refusal.reason,
            "type": kind,
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def error_event(refusal: RefusalError) -> dict[str, Any]:
    """The last event of a stream that breaks: the error, with what headers would have said.

    `retry_after` is the header Retry-After, in seconds; `retry` is False where the same request
    would end the same way.
    """
    seconds = refusal.headers.get("retry-after")
    again = None if seconds is None else int(seconds)
    return {**error(refusal), "cowest": {"retry_after": again, "retry": refusal.retry}}


def _head(answering: Answering, kind: str) -> dict[str, Any]:
    asked = answering.asked
    return {
        "id": asked.id,
        "object": kind,
        "created": int(asked.at),
        "model": asked.model,
        "system_fingerprint": f"version-{answering.version.number}",
    }


def _call(call: ServedCall | None) -> dict[str, Any] | None:
    if call is None:
        return None
    found = call.model_dump(exclude={"failed"})
    return {**found, "failed": call.failed} if call.failed is not None else found


def _dollars(calls: list[ServedCall | None]) -> float | None:
    """The cost of the calls whose price is known; None if none is."""
    known = [call.usd for call in calls if call is not None and call.usd is not None]
    return sum(known) if known else None
