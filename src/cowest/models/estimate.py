"""Estimates what a stage's calls will cost at most, before the first is made.

The stage's own steps run with a model that only counts, so that the estimate asks exactly what
the stage will ask.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from cowest.batched import batched
from cowest.config import Config, Sampling
from cowest.ledger import store
from cowest.ledger.claims import overbilled, spent
from cowest.models.openai import OpenAIConfig
from cowest.protocols import ChatModel, Completion, Request

TOGETHER = 256
"""Requests that are looked up in the store at once."""
LETTERS = 4
"""Bytes per token of a text that is not there yet: an answer of 20 tokens counts as 80 bytes."""


@dataclass(slots=True)
class CostEstimate:
    """The calls that a model will be asked to make, and the most that they can cost."""

    model: str
    paid: bool
    """True for a model behind an endpoint; our own models cost nothing here."""
    calls: int = 0
    stored: int = 0
    """Completions that are in the store already."""
    tokens: int = 0
    usd: float | None = None
    """None if no price is given."""
    discount: float | None = None
    """The share that batches are cheaper by; None if the calls are made one by one."""

    def __str__(self) -> str:
        money = "no price is given"
        if self.usd is not None:
            money = f"${self.usd:,.4f}"
        said = (
            f"{self.calls:,} calls to {self.model} ({self.stored:,} more are in the store): "
            f"at most {self.tokens:,} tokens, {money}"
        )
        if self.discount is not None:
            said += f" in batches, {self.discount:.0%} off"
        return said


class Counting:
    """A ChatModel that answers with the longest text it may, and counts what that would cost.

    Equal calls are counted each time.
    """

    def __init__(self, config: Any) -> None:
        self._store = store.open_store()
        self._config: OpenAIConfig | None = None
        if not isinstance(config, OpenAIConfig):
            self.name = str(getattr(config, "model", config.provider))
            self.estimate = CostEstimate(self.name, paid=False)
            return
        self._config = config
        self.name = config.name
        self._more_usd, self._more_tokens = overbilled(self._store, self.name)
        """What the endpoint billed beyond a call's bound in this turn."""
        self.estimate = CostEstimate(
            self.name,
            paid=True,
            usd=0.0 if config.price else None,
            discount=config.batch.discount if config.batch else None,
        )

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yields a completion of the greatest length per request, in order.

        Some requests are read ahead, so that they are looked up in the store together.
        """
        if self._config is None:
            for request in requests:
                yield self._count(request)
            return
        for part in batched(requests, TOGETHER):
            keys = [request.key(self.name) for request in part]
            found = self._store.look(keys)
            for key, request in zip(keys, part, strict=True):
                if key in found:
                    self.estimate.stored += 1
                    yield found[key]
                else:
                    yield self._count(request)

    def _count(self, request: Request) -> Completion:
        if self._config is not None:
            prompt, completion = self._config.most(request)
            self.estimate.tokens += prompt + completion + self._more_tokens
            cost = self._config.cost(prompt, completion)
            if self.estimate.usd is not None and cost is not None:
                self.estimate.usd += cost + self._more_usd
        self.estimate.calls += 1
        return Completion(longest(request.sampling, self.estimate.calls), self.name)


def longest(sampling: Sampling, number: int) -> str:
    """Returns a text as long as a completion may be.

    Each number gives another text, since equal answers would be judged once.
    """
    return f"{number} ".ljust(sampling.max_tokens * LETTERS, "x")


def as_sent(config: Any, counting: Counting) -> ChatModel:
    """Returns the counting model behind the egress filter that its endpoint has.

    Masks change the calls, and refused ones cost nothing. Raises ConfigError if the terms can't be
    read, or a library that the detectors need is not installed.
    """
    if not isinstance(config, OpenAIConfig):
        return counting
    return config.egress.over(counting, outside=False, counted=False)


def announce(stage: str, config: Config, steps: Callable[[ChatModel], Iterable[object]]) -> None:
    """Says what a stage's calls will cost at most, and what is left of the turn's budget.

    `steps` are what the stage will do with the model. Nothing is said of a model of our own.
    """
    if not isinstance(config, OpenAIConfig):
        return
    counting = Counting(config)
    for _ in steps(as_sent(config, counting)):
        pass
    calls = store.open_store()
    turn = calls.read(calls.turn)
    said = f"{stage}: {counting.estimate}"
    if turn:
        said += f"; {spent(calls, turn)} in this turn"
    print(said, file=sys.stderr)
