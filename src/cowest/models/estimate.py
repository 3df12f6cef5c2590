"""What a stage's calls will cost at most, told before the first: the stage's own steps, with a model that only counts."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cowest.config import Config, Sampling
from cowest.ledger import store
from cowest.ledger.claims import spent
from cowest.models.openai import OpenAIConfig
from cowest.protocols import ChatModel, Completion, Request

TOGETHER = 256
"""Requests that are looked up in one go."""
LETTERS = 4
"""Letters of a token, where the text is not there yet: an answer of 20 tokens is taken to be 80 bytes long."""


@dataclass(slots=True)
class Estimate:
    """Calls that a model will be asked to make, and the most that they can cost."""

    model: str
    paid: bool
    """Whether it is behind an endpoint; a model of one's own costs nothing here."""
    calls: int = 0
    stored: int = 0
    """Completions that the store has."""
    tokens: int = 0
    usd: float | None = None
    """None where no price is given."""
    discount: float | None = None
    """What is off, of what the calls would cost one by one; None where they are made so."""

    def __str__(self) -> str:
        money = f"${self.usd:,.4f}" if self.usd is not None else "no price is given"
        said = f"{self.calls:,} calls to {self.model} ({self.stored:,} more are in the store): at most {self.tokens:,} tokens, {money}"
        return said + (f" in batches, {self.discount:.0%} off" if self.discount is not None else "")


class Counting:
    """A ChatModel that answers with as much text as it might, and counts what that would cost. Equal calls are counted each time."""

    def __init__(self, config: Any) -> None:
        self.name = (
            config.name
            if isinstance(config, OpenAIConfig)
            else str(getattr(config, "model", config.provider))
        )
        self._config = config if isinstance(config, OpenAIConfig) else None
        self._store = store.open_store()
        batch = self._config.batch if self._config else None
        usd = 0.0 if self._config and self._config.price else None
        self.estimate = Estimate(
            self.name, self._config is not None, usd=usd, discount=batch.discount if batch else None
        )

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """A completion of the greatest length for each request, in order; some are read ahead, so that they are looked up together."""
        if self._config is None:
            yield from (self._count(request) for request in requests)
            return
        rest = iter(requests)
        while part := [(request.key(self.name), request) for request in islice(rest, TOGETHER)]:
            found = self._store.look([key for key, _ in part])
            for key, request in part:
                if key in found:
                    self.estimate.stored += 1
                    yield found[key]
                else:
                    yield self._count(request)

    def _count(self, request: Request) -> Completion:
        if self._config is not None:
            prompt, completion = self._config.most(request)
            self.estimate.tokens += prompt + completion
            if self._config.price is not None:
                self.estimate.usd = (self.estimate.usd or 0.0) + (
                    self._config.cost(prompt, completion) or 0.0
                )
        self.estimate.calls += 1
        return Completion(longest(request.sampling, self.estimate.calls), self.name)


def longest(sampling: Sampling, number: int) -> str:
    """A text as long as a completion may be, another for each number, since equal answers would be judged once."""
    return f"{number} ".ljust(sampling.max_tokens * LETTERS, "x")


def announce(stage: str, config: Config, steps: Callable[[ChatModel], Iterable[object]]) -> None:
    """Says what a stage's calls will cost at most, and what is left for them; `steps` are what it will do with the model."""
    if not isinstance(config, OpenAIConfig):
        return
    counting = Counting(config)
    for _ in steps(config.egress.over(counting, outside=False, counted=False)):
        pass
    calls = store.open_store()
    turn = calls.read(calls.turn)
    rest = f"; {calls.read(lambda db: spent(db, turn))} in this turn" if turn else ""
    print(f"{stage}: {counting.estimate}{rest}", file=sys.stderr)
