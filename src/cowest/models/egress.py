"""The egress filter: every request to an endpoint passes here before it leaves.

Personal data, secrets and a user's own terms in it are allowed, masked, or the request is refused.

The filter stands around an endpoint's model, whether that makes calls one by one or in batches.
Everything behind the filter (the call's key, the call store, the request's body) sees what is
sent and nothing else. Masks are undone on this side, and the store holds the answer as it came.
So equal masked requests are one call, whoever they are about.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from cowest.config import digest
from cowest.detectors import RULE, Detection, Finding, find, mask_all, unmask
from cowest.ledger import account
from cowest.protocols import ChatModel, Completion, Request
from cowest.records import Message

Action = Literal["allow", "mask", "refuse"]
REMEMBERED = 512
"""Texts whose findings are remembered, since shots and system messages are in every request."""


class EgressConfig(Detection):
    """The filter of requests: the things it looks for, and what it does when it finds one."""

    on_found: Action = "allow"
    """allow: the request is sent as it is, and what was found is counted if the endpoint is
    outside. mask: placeholders such as [EMAIL_1] are sent instead. refuse: the request is not
    sent, and its row fails. Use mask or refuse where drafts may hold data that must not leave."""
    unmask: bool = True
    """With mask: replace placeholders in the answer by the originals. Turn it off to keep answers
    masked."""

    def over(self, model: ChatModel, outside: bool, counted: bool = True) -> ChatModel:
        """Returns the model with the filter in front of it.

        `outside` says that the endpoint is not on our own network, so that what is allowed is
        worth counting; `counted`, that findings go into the stage's account. Raises ConfigError
        if the terms can't be read, or a library that the detectors need is not installed.
        """
        if not self.detect or (self.on_found == "allow" and not outside):
            return model
        # Builds the detectors now, so that a filter that can't work stops the stage before any
        # call.
        find("", self)
        return Egress(self, model, counted)

    def shown(self, texts: Sequence[str]) -> list[str] | None:
        """Returns texts that belong together as they may be shown where requests may not go.

        They are as a request with them would be sent; None if it would not be sent.
        """
        findings = [find(text, self) if self.detect else [] for text in texts]
        if self.on_found == "allow" or not any(findings):
            return list(texts)
        if self.on_found == "refuse":
            return None
        return mask_all(texts, findings)[0]

    def name(self, model: str) -> str:
        """Returns the name of a model behind the filter.

        Masks change what the model is asked, so their settings, and the rules of what is found,
        are part of its name. They are no part of a call's key: that rests on what is sent.
        """
        if self.on_found != "mask" or not self.detect:
            return model
        settings = digest(
            [
                sorted(set(self.detect)),
                sorted(self.all_terms()),
                sorted(self.regions),
                self.unmask,
                RULE,
            ]
        )
        return f"{model}~{settings[:8]}"


@dataclass(frozen=True, slots=True)
class Passed:
    """A request after the filter."""

    request: Request | None
    """As it may be sent; None if it may not."""
    originals: dict[str, str] = field(default_factory=dict)
    """The originals of its placeholders."""
    found: Counter[str] = field(default_factory=Counter)
    """Number of findings by kind."""


class Egress:
    """A ChatModel that is asked only what may leave."""

    def __init__(self, config: EgressConfig, model: ChatModel, counted: bool) -> None:
        self.name = config.name(model.name)
        self._config = config
        self._model = model
        self._counted = counted
        self._refusals: dict[str, Completion] = {}

        @lru_cache(maxsize=REMEMBERED)
        def remembered(text: str) -> tuple[Finding, ...]:
            return tuple(find(text, config))

        self._find = remembered

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yields one completion per request, in order.

        A request that may not leave fails at once; the reason names the kinds that it held.
        """
        # In the order of the requests, one entry for each that has no answer yet: the failure of a
        # refused one, or the originals to put back into the answer of one that was sent.
        waiting: deque[Completion | dict[str, str]] = deque()

        def sent() -> Iterator[Request]:
            for request in requests:
                passed = self.passed(request)
                if passed.found and self._counted:
                    account.filtered(self._config.on_found, passed.found)
                if passed.request is None:
                    waiting.append(self._refused(passed.found))
                else:
                    waiting.append(passed.originals)
                    yield passed.request

        # The model pulls from `sent`, which appends to `waiting`.
        for completion in self._model.generate(sent()):
            yield from _refusals(waiting)
            originals = waiting.popleft()
            assert isinstance(originals, dict), "a model must answer each request once, in order"
            yield self._restored(completion, originals)
        yield from _refusals(waiting)

    def passed(self, request: Request) -> Passed:
        """Returns the request as it may be sent, with what was found in it."""
        texts = [message.content for message in request.messages]
        findings = [self._find(text) for text in texts]
        found: Counter[str] = Counter()
        for of_text in findings:
            found.update(finding.kind for finding in of_text)
        if not found or self._config.on_found == "allow":
            return Passed(request, found=found)
        if self._config.on_found == "refuse":
            return Passed(None, found=found)
        return self._masked(request, texts, findings, found)

    def _masked(
        self,
        request: Request,
        texts: list[str],
        findings: list[tuple[Finding, ...]],
        found: Counter[str],
    ) -> Passed:
        # All messages are masked together, so that one original has one placeholder in all of them.
        masked, originals = mask_all(texts, findings)
        pairs = zip(request.messages, masked, strict=True)
        messages = tuple(Message(role=message.role, content=content) for message, content in pairs)
        return Passed(replace(request, messages=messages), originals, found)

    def _restored(self, completion: Completion, originals: dict[str, str]) -> Completion:
        text = completion.text
        if text is not None and self._config.unmask:
            text = unmask(text, originals)
        # The store knows the answer by the model behind the filter; rows name the filtered one.
        return replace(completion, text=text, model=self.name)

    def _refused(self, found: Counter[str]) -> Completion:
        """Returns the failure of a request. It tells kinds and counts, and never the texts.

        Equal failures are one object, since a stage may hold many of them until the next answer
        comes.
        """
        held = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        if held not in self._refusals:
            self._refusals[held] = Completion(
                None, self.name, "failed", f"not sent: the egress filter found {held}"
            )
        return self._refusals[held]


def _refusals(waiting: "deque[Completion | dict[str, str]]") -> Iterator[Completion]:
    """Takes the refusals that come before the next request that was sent."""
    while waiting and isinstance(waiting[0], Completion):
        refused = waiting.popleft()
        assert isinstance(refused, Completion)
        yield refused
