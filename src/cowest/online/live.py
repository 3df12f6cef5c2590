"""The live version: the registry's champion, loaded, and the strong model beside it."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import Field, field_validator

from cowest import collaboration, version
from cowest.config import Config
from cowest.errors import CallError, RegistryError
from cowest.models.answer_config import AnswerConfig
from cowest.online.ask_api import Answer
from cowest.online.baked import Baked, BakedConfig
from cowest.online.breaker import BreakerConfig
from cowest.online.interactions import Degraded
from cowest.online.keys import KeyConfig, OpenPart
from cowest.online.log import LogConfig
from cowest.protocols import ChatModel, Registry
from cowest.records import Message
from cowest.registry.mlflow import RegistryConfig
from cowest.version import Version

LONGEST = 600
"""The longest deadline of a request, in seconds."""


class LimitsConfig(Config):
    """Limits of one request. A request beyond one of them is refused."""

    body: int = Field(default=1_000_000, ge=1_000)
    """Most bytes of a request's body."""
    messages: int = Field(default=64, ge=1)
    """Most messages of a conversation."""
    characters: int = Field(default=100_000, ge=1)
    """Most characters of all messages together. Lower it to what the models' contexts hold."""
    n: int = Field(default=4, ge=1)
    """Most answers to one request. Each is a call to the strong model; all share one draft."""
    max_tokens: int = Field(default=4096, ge=1)
    """Most tokens that a request may ask for per answer."""


class ServeConfig(AnswerConfig):
    """Settings of the service: its models, its registry, its limits, its keys and its log."""

    registry: RegistryConfig
    """The registry whose champion answers."""
    baked: BakedConfig | None = None
    """A version in a folder that answers in place of the registry's champion; images have it."""
    deadline: float = Field(default=120.0, gt=0, le=LONGEST)
    """Seconds that one request may take, from its first byte to the last of its answer, with both
    calls and all waiting. The header `x-cowest-deadline` shortens it for one request."""
    draft_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the remaining time that the policy may take for its draft. A later draft is given
    up, and the strong model answers without it in the time that is left."""
    degrade: tuple[Degraded, ...] = ("strong_alone",)
    """Fallbacks while a model is down or late. `strong_alone`: without a draft, the strong model
    answers alone. `draft_alone`: without the strong model, the draft is the answer, unrefined. Such
    answers are marked as degraded. If no fallback applies, the request fails.
    """
    breaker: BreakerConfig = BreakerConfig()
    """The circuit breaker: a model that keeps failing is not asked for a while."""
    concurrency: int = Field(default=16, ge=1)
    """Requests that are answered at the same time. Raise it for hosted models, up to their own
    `concurrency`; local models decode simultaneous requests in one batch."""
    queue: int = Field(default=64, ge=0)
    """Requests that may wait while `concurrency` requests are answered. Further ones are refused at
    once (429) with the time to ask again. The longest wait is about queue / concurrency times the
    time of one request."""
    connections: int | None = Field(default=None, ge=1)
    """Most connections open at once, idle ones included. Further ones are refused (503) with the
    time to ask again, and beyond 64 more they are cut without an answer. null: twice `concurrency`
    and `queue` together, at least 512. Raise it if more clients keep a connection open; each may
    hold memory for a request (`limits.body`)."""
    limits: LimitsConfig = LimitsConfig()
    """Limits of one request."""
    cache: bool = False
    """Take answers of hosted models to earlier calls, by turns or by people, from the call store,
    and keep new answers there. A repeated question then costs nothing, and the store holds the
    answers that people got."""
    log: LogConfig = LogConfig()
    """The log of answers and verdicts."""
    watch: float | None = Field(default=10.0, ge=0.1, le=3600)
    """Seconds between two looks at the registry for a new champion, which is then taken up while
    the service runs. null: the service keeps its first version until it is restarted."""
    keys: tuple[KeyConfig, ...] = ()
    """Keys; each request needs one (`Authorization: Bearer KEY`). `cowest key` makes them. Without
    keys, the service answers only the machine that it runs on."""
    open: tuple[OpenPart, ...] = ()
    """Parts that need no key: `metrics` (/metrics), `docs` (the descriptions of the API), `page`
    (/). Everybody who can reach the service can then read them. /livez and /readyz never need a
    key."""
    drain: float = Field(default=5.0, ge=0, le=300)
    """Seconds from the signal to end (SIGTERM) to the end. Meanwhile /readyz says 503, and requests
    are still answered. Raise it to the time that your load balancer takes to notice."""

    @property
    def most_connections(self) -> int:
        """Connections at once."""
        return self.connections or max(512, 2 * (self.concurrency + self.queue))

    @field_validator("keys")
    @classmethod
    def _each_its_own(cls, keys: tuple[KeyConfig, ...]) -> tuple[KeyConfig, ...]:
        for name in ("name", "sha256"):
            given = [getattr(key, name) for key in keys]
            for value in given:
                if given.count(value) > 1:
                    raise ValueError(f"two keys have the {name} {value}: remove one")
        return keys


class Live:
    """Answers questions with one version of the policy, one at a time."""

    def __init__(
        self,
        number: int,
        trained: Version,
        policy: ChatModel,
        strong: ChatModel,
        config: ServeConfig,
    ) -> None:
        self.number = number
        self._trained = trained
        self._policy = policy
        self._strong = strong
        self._config = config

    def answer(self, prompt: tuple[Message, ...]) -> Answer:
        """Returns the draft and the answer. Raises CallError if a model gave none."""
        drafted, refined = collaboration.answer(
            prompt,
            self._policy,
            self._strong,
            self._trained.prompts,
            self._config.drafting,
            self._config.refining,
        )
        if drafted.text is None or refined is None:
            raise CallError(f"the policy gave no draft: {drafted.failed}")
        if refined.text is None:
            raise CallError(f"the strong model gave no answer: {refined.failed}")
        return Answer(
            answer=refined.text,
            draft=drafted.text,
            version=self.number,
            policy=drafted.model,
            strong=refined.model,
        )


@contextmanager
def open_live(
    config: ServeConfig, number: int | None = None, refused_too: bool = False
) -> Iterator[Live]:
    """Opens the champion, or the version `number`.

    With `refused_too`, opens the last version if there is no champion yet. Raises RegistryError if
    there is nothing to serve.
    """
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="cowest."))
        folder = Path(temporary) / "version"
        number = fetch(config, folder, number, refused_too)
        policy = stack.enter_context(config.policy.open(adapter=folder / "adapter"))
        strong = stack.enter_context(config.strong.open())
        yield Live(number, version.expect(folder), policy, strong, config)


def fetch(
    config: ServeConfig, folder: Path, number: int | None = None, refused_too: bool = False
) -> int:
    """Lays out the version that `open_live` would choose, and returns its number.

    Raises RegistryError if there is nothing to serve.
    """
    registry = opened(config)
    if number is None:
        number = _last(registry) if refused_too else champion_of(registry)
    registry.fetch(number, folder)
    return number


def opened(config: ServeConfig) -> Registry | Baked:
    """Opens the registry. Raises RegistryError where no turn was run yet."""
    if config.baked is not None:
        return config.baked.open()
    if not config.registry.begun():
        raise RegistryError(
            "no turn was run here yet, so there is no version to ask: run `cowest turn`"
        )
    return config.registry.open()


def champion_of(registry: Registry | Baked) -> int:
    """Returns the champion's number. Raises RegistryError if there is none."""
    champion = registry.champion()
    if champion is None:
        raise RegistryError(
            "no version is champion yet: run a turn (`cowest turn`), "
            "or see `cowest status` for why the last was refused"
        )
    return champion


def _last(registry: Registry | Baked) -> int:
    """Returns the champion's number, or the last version's if there is none yet."""
    # A hold and a release have a number too, and no version of the policy.
    turns = [one for one in registry.log() if one.kind in ("turn", "waiting")]
    if registry.champion() is not None or not turns:
        return champion_of(registry)
    last = turns[-1]
    became = {"waiting": "waits for approval", "late": "came late"}.get(last.verdict, "was refused")
    print(
        f"no version is champion yet: this is version {last.version}, which {became} "
        f"({last.reason})",
        file=sys.stderr,
    )
    return last.version
