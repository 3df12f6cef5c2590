"""A model that follows a script: the first pattern that is found in the last message gives the
reply.

It serves dry runs and tests, without weights, network or cost. It answers at once, so it has no
use for the call store.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cowest.config import Config, Sampling, digest
from cowest.errors import ModelError, UpstreamError
from cowest.ledger import account
from cowest.protocols import AsyncChatModel, ChatModel, Completion, Request, Served

PLACES = re.compile(r"\{(\d+)\}")


class ScriptRule(Config):
    """One rule of a script: a pattern, and the replies to a message that it is found in."""

    match: str = ""
    """A regular expression, searched for in the last message; the empty one is found in all."""
    replies: tuple[str, ...] = ()
    """At temperature 0 the first is given, else one of them by the call's key. `{0}` stands for
    what the pattern matched, `{1}` for its first group."""
    failed: str | None = None
    """Fail with this reason instead of replying."""

    @model_validator(mode="after")
    def _can_be_followed(self) -> Self:
        if (self.failed is None) != bool(self.replies):
            raise ValueError("a rule has either replies or failed")
        try:
            groups = re.compile(self.match).groups
        except re.error as error:
            raise ValueError(f"match: {error}") from None
        for reply in self.replies:
            if any(int(place) > groups for place in PLACES.findall(reply)):
                raise ValueError(f"replies: a place beyond the pattern's {groups} groups")
        return self


class ScriptedConfig(Config):
    """A scripted model."""

    provider: Literal["scripted"] = "scripted"
    rules: tuple[ScriptRule, ...] = Field(min_length=1)
    """Rules, tried in order; a message that none matches fails."""

    @contextmanager
    def open(self, adapter: Path | None = None) -> Iterator[ChatModel]:
        """Yields the model. Raises ModelError for an adapter."""
        _take_no_adapter(adapter)
        yield ScriptedModel(self)

    @asynccontextmanager
    async def open_async(self, adapter: Path | None = None) -> AsyncIterator[AsyncChatModel]:
        """Yields the model for people who wait. Raises ModelError for an adapter."""
        _take_no_adapter(adapter)
        yield ScriptedModel(self)


class ScriptedModel:
    """The ChatModel and the AsyncChatModel of a script."""

    def __init__(self, config: ScriptedConfig) -> None:
        self.name = f"scripted:{digest(config)[:12]}"
        self._rules = [(re.compile(rule.match), rule) for rule in config.rules]

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yields one completion per request, in order. Requests are read one at a time."""
        return account.counted(self._completions, requests)

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        """Yields the words of the answer, each with the space before it, and its Completion."""
        completion = self._complete(request)
        for piece in [*re.findall(r"\s*\S+|\s+$", completion.text or ""), completion]:
            if time.monotonic() >= served.until:
                raise UpstreamError(f"{self.name}: no answer before the deadline")
            yield piece
            await asyncio.sleep(0)

    def _completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            yield self._complete(request)

    def _complete(self, request: Request) -> Completion:
        for pattern, rule in self._rules:
            found = pattern.search(request.messages[-1].content)
            if found is None:
                continue
            if rule.failed is not None:
                return Completion(None, self.name, "failed", rule.failed)
            # By the call's key the same call gets the same reply, and another sample another one.
            number = 0
            if request.sampling.temperature > 0:
                number = int(request.key(self.name)[:15], 16)
            reply = rule.replies[number % len(rule.replies)]
            return self._decoded(_filled(reply, found), request)
        return Completion(None, self.name, "failed", "no rule of the script matches")

    def _decoded(self, text: str, request: Request) -> Completion:
        """Ends a text as a model would: before a stop text, or after max_tokens, one per word."""
        sampling: Sampling = request.sampling
        ends = [place for place in map(text.find, sampling.stop) if place >= 0]
        words = list(re.finditer(r"\S+", text[: min(ends, default=len(text))]))
        kept = words[: sampling.max_tokens]
        text = text[: kept[-1].end()] if kept else ""
        asked = sum(len(message.content.split()) for message in request.messages)
        return Completion(
            text,
            self.name,
            "length" if len(words) > len(kept) else "stop",
            prompt_tokens=asked,
            completion_tokens=len(kept),
        )


def _take_no_adapter(adapter: Path | None) -> None:
    """Raises ModelError for an adapter."""
    if adapter is not None:
        raise ModelError(
            f"a scripted model takes no adapter: {adapter} needs a local model (provider: hf)"
        )


def _filled(reply: str, found: re.Match[str]) -> str:
    """Puts what the pattern matched into a reply; a group that took no part in it is empty."""

    def group(place: re.Match[str]) -> str:
        return found[int(place[1])] or ""

    return PLACES.sub(group, reply)
