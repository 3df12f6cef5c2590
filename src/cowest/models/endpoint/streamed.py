"""The meaning of an answer that is streamed: the texts that its events bring, and its end.

At its end the events are put together to the body that the endpoint would have sent whole, and that
is read as any other (`responses`): so there is one set of rules for what an answer is.
"""

import re
from typing import Any
from urllib.parse import quote

from cowest.detectors.replacing import Replacing
from cowest.models.endpoint.complaints import SECRET
from cowest.models.endpoint.responses import (
    THOUGHTS,
    AgainError,
    Answered,
    blocks,
    decoded,
    read_error,
    text_of,
    understood,
    usage_of,
    with_whole_letters,
    without,
)
from cowest.net.events import SentEvent

DONE = b"[DONE]"
"""The data of the event that ends a stream."""
NO_ENDING = ("", "null", "none")
"""Finish reasons that some endpoints give while the answer goes on."""


class Streamed:
    """One answer, event by event.

    No text is given before the first word, so that an answer without a word can be asked for again.
    """

    def __init__(self, name: str, key: str | None) -> None:
        """`name` is that of the model. The key is masked in all that is given."""
        self._name, self._key = name, key
        self._masking = _masking(key)
        self._half = ""
        """The first half of a surrogate pair, whose second half may come with the next event."""
        self._texts: list[str] = []
        self._given = 0
        self._has_words = False
        self._refusals: list[str] = []
        self._message: dict[str, Any] = {}
        self._finish: str | None = None
        self._logprobs: list[dict[str, Any]] = []
        self._about: dict[str, Any] = {}
        """Model, fingerprint and usage, as the last events report them."""

    @property
    def finished(self) -> bool:
        """True once the endpoint gave a finish reason. The usage may still come."""
        return self._finish is not None

    def take(self, event: SentEvent) -> str | Answered:
        """Returns the text that an event brings; empty if none, and the answer at its end.

        Raises AgainError, PoisonError or HopelessError.
        """
        content = without(event.data, self._key)
        if content.strip() == DONE:
            return self.end()
        if event.kind == "error":
            return read_error(content, self._name, self._key)
        body = decoded(content)
        if not isinstance(body, dict):
            raise AgainError("an answer that is not JSON objects", None)
        if body.get("error"):
            return read_error(content, self._name, self._key)
        if blocks(body):
            return understood(body, content, self._name)
        self._note(body)
        choice = _choice(body)
        return self._add(choice) if choice is not None else ""

    def end(self) -> Answered:
        """Returns the answer, at its end. Raises AgainError for one that broke off or is none."""
        if self._finish is None:
            raise AgainError("an answer that broke off", None)
        last = self._masking.feed("\ufffd") if self._half else ""
        self._texts += [last, self._masking.end()]
        # The key may come in several events.
        refusal = with_whole_letters("".join(self._refusals)).encode()
        refused = without(refusal, self._key).decode("utf-8", "replace")
        text = "".join(self._texts)
        message = {**self._message, "refusal": refused, "content": text}
        choice = {
            "message": message,
            "finish_reason": self._finish,
            "logprobs": {"content": self._logprobs},
        }
        return understood({**self._about, "choices": [choice]}, b"", self._name)

    def rest(self, text: str) -> str:
        """Returns what was not given of the whole text."""
        return text[self._given :]

    def _note(self, body: dict[str, Any]) -> None:
        """Keeps what an event says about the whole answer."""
        for name in ("model", "system_fingerprint"):
            if body.get(name):
                self._about[name] = body[name]
        # Some endpoints report the tokens so far with each event.
        if usage_of(body) is not None:
            self._about["usage"] = body["usage"]

    def _add(self, choice: dict[str, Any]) -> str:
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish.strip().lower() not in NO_ENDING:
            self._finish = finish
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            # Some endpoints send an answer that comes at once as one event with a whole message.
            delta = choice.get("message")
            if not isinstance(delta, dict) or self._texts:
                return ""
        if isinstance(delta.get("refusal"), str):
            self._refusals.append(delta["refusal"])
        for name in ("tool_calls", *THOUGHTS):
            if delta.get(name):
                self._message[name] = True
        self._add_logprobs(choice.get("logprobs"))
        text = text_of(delta)
        return self._shown(text) if text else ""

    def _add_logprobs(self, logprobs: Any) -> None:
        tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
        if isinstance(tokens, list):
            for token in tokens:
                value = token.get("logprob") if isinstance(token, dict) else None
                self._logprobs.append({"logprob": value})

    def _shown(self, text: str) -> str:
        """Returns as much of the answer as can be given with this text."""
        if self._half or not text.isascii():
            text = self._half + text
            # The halves of a letter may come in two events.
            self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
            text = with_whole_letters(text[:-1] if self._half else text)
        text = self._masking.feed(text)
        self._texts.append(text)
        if not self._has_words:
            self._has_words = bool(text.strip())
            if not self._has_words:
                return ""
            text = "".join(self._texts)
        self._given += len(text)
        return text


def _masking(key: str | None) -> Replacing:
    """Masks the key in a text that comes in pieces, as `without` does it in a body."""
    if not key or len(key) < SECRET:
        return Replacing(re.compile(r"(?!)"), (), {})
    forms = {key: "***", quote(key, safe=""): "***"}
    return Replacing(re.compile("|".join(map(re.escape, forms))), forms, forms)


def _choice(body: dict[str, Any]) -> dict[str, Any] | None:
    """The part of the first completion that an event brings; one completion is asked for."""
    choices = body.get("choices")
    if not isinstance(choices, list):
        return None
    for choice in choices:
        if isinstance(choice, dict) and choice.get("index") in (0, None):
            return choice
    return None
