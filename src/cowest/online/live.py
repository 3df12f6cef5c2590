"""The live version: the registry's champion, loaded, and the strong model beside it."""

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import BaseModel, Field, field_validator

from cowest import collaboration, version
from cowest.config import Config, Sampling
from cowest.errors import CallError, RegistryError
from cowest.models import AnyProvider
from cowest.models.openai import OpenAIConfig
from cowest.protocols import ChatModel, Registry
from cowest.records import Message
from cowest.registry.mlflow import RegistryConfig
from cowest.version import Version


class AnswerConfig(Config):
    """The models that answer and their settings, which are those of `evaluate`.

    So the version that is served behaves as it did when it was judged.
    """

    policy: AnyProvider
    """The base that the version's adapter belongs to."""
    strong: AnyProvider
    drafting: Sampling = Sampling(max_tokens=128)
    refining: Sampling = Sampling()

    @field_validator("policy", "strong")
    @classmethod
    def _answers_at_once(cls, model: AnyProvider) -> AnyProvider:
        if isinstance(model, OpenAIConfig) and model.batch is not None:
            raise ValueError(
                "a question can't wait for a batch: name the model without it here, "
                "{<<: *strong, batch: null}"
            )
        return model


class ServeConfig(AnswerConfig):
    """What answers, and the registry whose champion it is."""

    registry: RegistryConfig


class Answer(BaseModel):
    """One answered question."""

    answer: str = Field(description="the strong model's answer, with the draft before it")
    draft: str = Field(description="what the policy wrote for it")
    version: int = Field(description="the policy's version in the registry")
    policy: str
    strong: str


class Live:
    """Answers questions with one version of the policy.

    Safe for threads: it answers one question at a time.
    """

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
        # The models were opened once, and are not made for two callers at a time.
        self._lock = threading.Lock()

    def answer(self, prompt: tuple[Message, ...]) -> Answer:
        """Returns the draft and the answer. Raises CallError if a model gave none."""
        with self._lock:
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
    if not config.registry.begun():
        raise RegistryError(
            "no turn was run here yet, so there is no version to ask: run `cowest turn`"
        )
    registry = config.registry.open()
    if number is None:
        number = _choose(registry, refused_too)
    with ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="cowest."))
        folder = Path(temporary) / "version"
        registry.fetch(number, folder)
        policy = stack.enter_context(config.policy.open(adapter=folder / "adapter"))
        strong = stack.enter_context(config.strong.open())
        yield Live(number, version.expect(folder), policy, strong, config)


def _choose(registry: Registry, refused_too: bool) -> int:
    champion = registry.champion()
    if champion is not None:
        return champion
    log = registry.log()
    if log and refused_too:
        last = log[-1]
        print(
            f"no version is champion yet: this is version {last.version}, "
            f"which was refused ({last.reason})",
            file=sys.stderr,
        )
        return last.version
    raise RegistryError(
        "no version is champion yet: run a turn (`cowest turn`), "
        "or see `cowest status` for why the last was refused"
    )
