"""The service's desk: opens the live version in the background, tries it, and hands it out."""

import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self

from pydantic import Field, model_validator

from cowest.errors import CoWestError
from cowest.online.live import Live, ServeConfig, open_live
from cowest.records import Message, Record

RETRY = 15.0
"""Seconds between two attempts to open a version: a first champion or a server may come."""


class Ask(Record):
    """The body of a request: a question, or the messages of a conversation that ends with one."""

    question: str | None = Field(default=None, min_length=1, max_length=20_000)
    messages: tuple[Message, ...] | None = Field(default=None, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.question is None) == (self.messages is None):
            raise ValueError("give either question or messages")
        last = self.prompt[-1]
        if last.role != "user" or not last.content.strip():
            raise ValueError("the last message must be the user's, and not empty")
        return self

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation as messages; a question is one message of the user."""
        return self.messages or (Message(role="user", content=self.question or ""),)


class Desk:
    """Opens a version in a thread of its own and retries if that fails, until `close` is called."""

    def __init__(
        self,
        config: ServeConfig,
        opening: Callable[[ServeConfig], AbstractContextManager[Live]] = open_live,
    ) -> None:
        self._config, self._opening = config, opening
        self._live: Live | None = None
        self._reason = "the model is being loaded"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="desk", daemon=True)
        self._thread.start()

    def live(self) -> Live | None:
        """Returns the version that answers, or None while there is none; `reason` says why."""
        return self._live

    def reason(self) -> str:
        """Says why there is no version to answer yet."""
        if self._thread.is_alive():
            return self._reason
        return "what loads the model broke off: the server's log says why; start it again"

    def close(self) -> None:
        """Closes the models."""
        self._closed.set()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._closed.is_set():
            try:
                with self._opening(self._config) as live:
                    # Both models must answer before anybody is let in. The question is another one
                    # each time: the call store would answer one that was asked before.
                    question = f"Is anyone there? ({uuid.uuid4().hex[:8]})"
                    live.answer((Message(role="user", content=question),))
                    self._live = live
                    self._closed.wait()
                    self._live = None
            except CoWestError as error:
                self._live, self._reason = None, str(error)
                self._closed.wait(RETRY)
