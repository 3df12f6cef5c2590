"""The seams: a few one-method protocols, and the plain values that cross them."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, Literal, Protocol

from cowest.config import Sampling
from cowest.records import DataSet, Message, Query

BLOCK = 32
"""Queries in a block. A local model decodes a block as one unit, so that a row's bytes do not depend on where a run or
a shard began; shards are whole blocks."""


@lru_cache(maxsize=64)
def _canonical(sampling: Sampling) -> str:
    return json.dumps(
        sampling.model_dump(mode="json", exclude={"n"}),
        sort_keys=True,
        ensure_ascii=False,
        separators=(",", ":"),
    )


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be asked for."""

    messages: tuple[Message, ...]
    sampling: Sampling
    sample: int = 0
    """Which of `sampling.n` completions of these messages."""
    block: int = 0
    """Which block of consecutive queries it belongs to, in the order of the stream."""

    def key(self, model: str) -> str:
        """Identity of the call: the `config.digest` of model, messages, sampling without `n`, and sample.

        Its canonical JSON is written by hand: a stage that goes on asks this of every row, and shots make it long.
        """
        said = ",".join(
            [
                f'["{message.role}",{encode_basestring(message.content)}]'
                for message in self.messages
            ]
        )
        asked = f"[{encode_basestring(model)},[{said}],{_canonical(self.sampling)},{self.sample}]"
        return hashlib.sha256(asked.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back, or why nothing did."""

    text: str | None
    model: str
    finish: Literal["stop", "length", "refused", "failed"] = "stop"
    failed: str | None = None
    logprob: float | None = None
    """Sum of the log-probabilities of the completion's tokens, where the provider gives them."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatModel(Protocol):
    """A model that completes conversations."""

    name: str
    """Identity by content: equal names answer equally."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion for each request, in order; `requests` is read lazily, a bounded window ahead."""
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """How good an answer is, from 0 to 1, and why; `value` is None when scoring failed."""

    value: float | None
    explanation: str | None = None
    failed: str | None = None


class Scorer(Protocol):
    """Says how good answers are."""

    name: str

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """One score for each (query, answer), in order, lazily."""
        ...


class Tracker(Protocol):
    """Where people look a turn up."""

    def record(
        self,
        turn: str,
        *,
        params: dict[str, Any],
        metrics: dict[str, float],
        curves: list[dict[str, float]],
        tags: dict[str, str],
        data: dict[str, DataSet],
        files: list[Path],
    ) -> str:
        """Writes the whole turn once, found again by its key; answers with the run's id."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the registry's log: what was judged, against whom, and how it went."""

    version: int
    turn: str
    promoted: bool
    against: int | None
    """The champion's version at the time of judging; None when there was none."""
    reason: str
    digest: str
    """Of the version's folder."""
    tags: dict[str, str]
    """What else it rests on: digests of data, base model, report."""


class Registry(Protocol):
    """Versions of the policy, and the log of decisions, which is the truth about who is champion."""

    def log(self) -> list[Decision]:
        """All decisions, oldest first."""
        ...

    def champion(self) -> int | None:
        """The version that the log makes champion."""
        ...

    def fetch(self, version: int, folder: Path) -> None:
        """Lays a version's files out in a new folder."""
        ...

    def decide(
        self,
        folder: Path,
        *,
        turn: str,
        promote: bool,
        against: int | None,
        reason: str,
        tags: dict[str, str],
    ) -> Decision:
        """Adds a version with its decision to the log, in one step; moves the alias if it counts.

        A promotion counts only if `against` is the champion of the log before it; otherwise it is recorded as refused.
        A turn that was decided before answers with its decision.
        """
        ...
