"""The record of what was served: one row per answer.

Online there is no `solo`, so an interaction says nothing of a gain.
"""

import secrets
import time
from typing import Literal

from pydantic import Field

from cowest.records import Message, Record

ServedModel = Literal["cowest", "cowest/policy", "cowest/strong"]
"""A model that can be asked for: policy and strong model together, or one of them alone."""
Degraded = Literal["strong_alone", "draft_alone"]
"""Ways of answering when one of two models is down: the strong model answers without a draft, or
the draft is the answer."""


class ServedCall(Record):
    """One call to a model on the way to an answer."""

    model: str
    """Name of the model, with the digest of its adapter where it has one."""
    finish: Literal["stop", "length", "refused", "failed"]
    failed: str | None = None
    """The reason, if the call gave no text."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None
    """US dollars, where the price is known."""
    seconds: float
    """Seconds from the start of the call to its last text."""
    first: float | None = None
    """Seconds from the start of the call to its first text; None if none came."""


class Interaction(Record):
    """One answer of the service, or one that failed. The answers of a request share their draft."""

    id: str = Field(pattern=r"^chatcmpl-[0-9a-f]{32}$")
    """Id of the request, which the person was given with the answer. It begins with the time in
    milliseconds, so ids are in the order of requests."""
    sample: int = Field(default=0, ge=0)
    """Number of this answer among the request's `n`, from 0."""
    at: float
    """Time of the request, in seconds since 1970."""
    seconds: float
    """Time from the request to the end of its answer, with waiting for a place."""
    purse: str = ""
    """Name of the key that asked; empty where there are no keys."""
    model: ServedModel
    version: int
    """The policy's version in the registry; its prompts were asked with, whatever the model."""
    prompt: tuple[Message, ...] = Field(min_length=1)
    """The conversation as the person sent it; the models were shown it in the version's prompts."""
    draft: str | None = None
    """The draft that the strong model was shown, without its thoughts; None if there was none."""
    answer: str | None
    """The answer as the person saw it, whole; None if there was none, or if it broke off."""
    drafting: ServedCall | None = None
    """The policy's call for the draft; None if no draft was asked for."""
    answering: ServedCall | None = None
    """The call of the model that answers; None if it was not asked."""
    degraded: Degraded | None = None
    """The fallback that gave this answer; None if both models answered as asked."""
    finish: Literal["stop", "length", "refused", "failed"]
    """Reason why the answer ended, as the person was told it."""
    failed: str | None = None
    """The reason for a missing answer: both models down, a stream that broke, a person who left."""


def new_id() -> str:
    """Makes the id of a request on which no verdict can be given, such as a probe.

    It is the time in milliseconds, and 20 random digits, in hex.
    """
    return f"chatcmpl-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
