"""A model by rule: the first pattern that is found in the last message gives the reply.

For dry runs and tests, without weights, network or cost. It answers at once, so it has no use for the call store.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cowest.config import Config, Sampling, digest
from cowest.errors import ModelError
from cowest.ledger import store
from cowest.protocols import ChatModel, Completion, Request

PLACES = re.compile(r"\{(\d+)\}")


class Rule(Config):
    """What to say to a message."""

    match: str = ""
    """A regular expression, searched for in the last message; the empty one is found in all."""
    replies: tuple[str, ...] = ()
    """The first at temperature 0, else one of them by the call's key; `{0}` is what the pattern matched, `{1}` its first group."""
    failed: str | None = None
    """Fail instead, for this reason."""

    @model_validator(mode="after")
    def _can_be_followed(self) -> Self:
        if (self.failed is None) != bool(self.replies):
            raise ValueError("a rule has either replies or failed")
        try:
            groups = re.compile(self.match).groups
        except re.error as error:
            raise ValueError(f"match: {error}") from None
        if any(int(place) > groups for reply in self.replies for place in PLACES.findall(reply)):
            raise ValueError(f"replies: a place beyond the pattern's {groups} groups")
        return self


class ScriptedConfig(Config):
    """A model that says what it is told to."""

    provider: Literal["scripted"] = "scripted"
    rules: tuple[Rule, ...] = Field(min_length=1)
    """Tried in order; a message that none matches fails."""

    @contextmanager
    def open(self, adapter: Path | None = None) -> Iterator[ChatModel]:
        """The model. Raises ModelError for an adapter."""
        if adapter is not None:
            raise ModelError(
                f"a scripted model takes no adapter: {adapter} needs a local model (provider: hf)"
            )
        yield ScriptedModel(self)


class ScriptedModel:
    """The ChatModel of a script."""

    def __init__(self, config: ScriptedConfig) -> None:
        self.name = f"scripted:{digest(config)[:12]}"
        self._rules = [(re.compile(rule.match), rule) for rule in config.rules]

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion for each request, in order, read one at a time."""
        return store.counted(lambda asked: map(self._complete, asked), requests)

    def _complete(self, request: Request) -> Completion:
        for pattern, rule in self._rules:
            if found := pattern.search(request.messages[-1].content):
                if rule.failed is not None:
                    return Completion(None, self.name, "failed", rule.failed)
                luck = (
                    int(request.key(self.name)[:15], 16) if request.sampling.temperature > 0 else 0
                )
                reply = rule.replies[luck % len(rule.replies)]
                text = PLACES.sub(lambda place, found=found: found[int(place[1])] or "", reply)  # type: ignore[misc]
                return self._decoded(text, request)
        return Completion(None, self.name, "failed", "no rule of the script matches")

    def _decoded(self, text: str, request: Request) -> Completion:
        """As a model would end it: before a stop text, or after max_tokens, where a token is a word."""
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
