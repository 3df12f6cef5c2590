"""The seams: a few small protocols, and the plain values that cross them."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from cowest.config import Sampling, call_key
from cowest.records import Decision, Message, Query

BLOCK = 32
"""Queries per block. A local model decodes a block as one unit, so that the bytes of a row do not
depend on where a run or a shard began; shards are whole blocks."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be asked for."""

    messages: tuple[Message, ...]
    sampling: Sampling
    sample: int = 0
    """Number of this completion among the `sampling.n` of these messages, from 0."""
    block: int = 0
    """Number of the block of consecutive queries that it belongs to, in the order of the stream."""

    def key(self, model: str) -> str:
        """Identity of the call, whoever makes it: equal keys are one answer in the call store."""
        return call_key(model, self.messages, self.sampling, self.sample)


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to a request; `text` is None if there is none, and `failed` says why."""

    text: str | None
    model: str
    finish: Literal["stop", "length", "refused", "failed"] = "stop"
    failed: str | None = None
    logprob: float | None = None
    """Sum of the log-probabilities of the completion's tokens, if the provider gives them."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None
    """US dollars that a served call cost, where its price is known."""
    estimated: bool = False
    """True for token counts of a served call whose endpoint reports none."""


class ChatModel(Protocol):
    """A model that completes conversations."""

    name: str
    """Identity by content: equal names answer equally."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion per request, in order.

        `requests` is read lazily, a bounded window ahead of the completions.
        """
        ...


@dataclass(slots=True)
class Held:
    """The time that a served call spent on its purse, which is no lateness of the model."""

    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Served:
    """A call that somebody waits for: the request it is part of, who pays, and its deadline."""

    id: str
    """Id of the request to the service. It is part of the call's key, so that two people who ask
    the same are two calls, and neither waits for the other."""
    until: float
    """Time by `time.monotonic()` at which the call is given up."""
    purse: str = ""
    """Name of the key that pays; empty where nobody's budget is kept."""
    held: Held = field(default_factory=Held, compare=False)
    """The wait for that purse, to which the model adds."""


class AsyncChatModel(Protocol):
    """A model that completes conversations for people who wait, each as it comes."""

    name: str
    """Identity by content, equal to that of the ChatModel of the same settings."""

    def stream(self, request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
        """Yields the texts of an answer as they come, and its Completion last.

        The texts joined are the completion's text, and equal what a ChatModel answers. A request
        that can't be answered gives a Completion without a text. Texts may come before it: a
        content filter may cut an answer that had begun. Raises UpstreamError where the model is
        down, late or busy, also between two texts, and BudgetError where the purse is empty.
        Closing the generator ends the call.
        """
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """The score of an answer, from 0 to 1, with its reason; `value` is None if scoring failed."""

    value: float | None
    explanation: str | None = None
    failed: str | None = None


class Scorer(Protocol):
    """Scores answers."""

    name: str

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """One score per (query, answer), in order, lazily."""
        ...


@dataclass(frozen=True, slots=True)
class Serving:
    """How a version is asked: with it, the registry keeps the version as a model that loads."""

    settings: Mapping[str, Any]
    """Policy, strong, drafting and refining, as `serve` has them."""
    example: tuple[Message, ...]
    """A question, as a conversation that ends with it."""


Act = Literal["turn", "rollback", "approval", "hold", "release"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line that is to be added to the registry's log."""

    turn: str
    """Key of the turn, or of a person's act: what has the same key is decided once."""
    against: int | None
    """The champion that it was judged against, or that it removes."""
    promote: bool
    reason: str
    kind: Act = "turn"
    of: int | None = None
    """The version whose files are entered again; None for a turn, which brings its own."""
    waits: bool = False
    """A turn that passed is not promoted until a person approves."""
    contents: tuple[str, ...] = ()
    """Digests of a turn's version: of its files, and of what its answers follow from."""
    tags: dict[str, str] = field(default_factory=dict)


class Registry(Protocol):
    """Versions of the policy, and the log of decisions, which says who is champion."""

    place: str
    """Address, without secrets."""

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
        serving: Serving | None = None,
        waits: bool = False,
    ) -> Decision:
        """Adds a version with its decision to the log, in one step; moves the alias if it counts.

        A promotion counts only if `against` is the champion of the log before it; otherwise it is
        recorded as late. A turn that was decided before answers with its decision. While promotions
        are held, and where it `waits` for approval, what would be promoted is left waiting.
        """
        ...

    def enter(self, entry: Entry) -> Decision:
        """Adds a person's act to the log, in one step, with the files of the version it is `of`."""
        ...
