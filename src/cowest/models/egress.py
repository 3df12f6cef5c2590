"""What leaves for an endpoint passes here: personal data, secrets and one's own terms are let go, masked, or kept in.

The filter stands around an endpoint's model, whatever way that is asked (one call at a time, in batches), so that all that
lies behind it (the call's key, the call store, the request's body) sees what is sent and nothing else. Masks are undone on this
side: the store holds the answer as it came. So the same masked request is one call, whoever it is about.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from cowest.config import digest
from cowest.detectors import Detection, Finding, find, mask_all, unmask
from cowest.ledger import store
from cowest.protocols import ChatModel, Completion, Request
from cowest.records import Message

Action = Literal["allow", "mask", "refuse"]
REMEMBERED = 512
"""Texts whose findings are remembered: shots and system messages stand in every request."""


class EgressConfig(Detection):
    """What may leave for the endpoint, and what becomes of what may not."""

    on_found: Action = "allow"
    """allow: it is sent as it is, and counted where the endpoint is outside; mask: placeholders are sent in its place
    ([EMAIL_1]); refuse: the request is not sent, and its row fails."""
    unmask: bool = True
    """With mask: puts what a placeholder stands for back into the answer."""

    def over(self, model: ChatModel, outside: bool, counted: bool = True) -> ChatModel:
        """The model with the filter before it. `outside`: whether its endpoint is, so that what is let go is worth counting;
        `counted`: whether what is found goes into the stage's account.

        Raises ConfigError where the terms can't be read, or what the detectors need is not installed.
        """
        if not self.detect or (self.on_found == "allow" and not outside):
            return model
        find("", self)
        return Egress(self, model, counted)

    def name(self, model: str) -> str:
        """The name of a model behind the filter: masks change what it is asked, so they are a part of it."""
        if self.on_found != "mask" or not self.detect:
            return model
        return f"{model}~{digest([sorted(set(self.detect)), sorted(self.all_terms()), sorted(self.regions), self.unmask])[:8]}"


@dataclass(frozen=True, slots=True)
class Passed:
    """What became of a request."""

    request: Request | None
    """As it may be sent; None where it may not."""
    originals: dict[str, str] = field(default_factory=dict)
    """What its placeholders stand for."""
    found: Counter[str] = field(default_factory=Counter)
    """How much was found, by kind."""


class Egress:
    """A ChatModel that is asked only what may leave."""

    def __init__(self, config: EgressConfig, model: ChatModel, counted: bool) -> None:
        self.name = config.name(model.name)
        self._config, self._model, self._counted = config, model, counted
        self._refusals: dict[str, Completion] = {}
        self._find = lru_cache(maxsize=REMEMBERED)(lambda text: tuple(find(text, config)))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion for each request, in order. One that may not leave is failed at once, with what kinds it held."""
        waiting: deque[Completion | dict[str, str]] = (
            deque()
        )  # one that was refused, or what is to be put back

        def sent() -> Iterator[Request]:
            for request in requests:
                passed = self.passed(request)
                if passed.found and self._counted:
                    store.filtered(self._config.on_found, passed.found)
                if passed.request is None:
                    waiting.append(self._refused(passed.found))
                else:
                    waiting.append(passed.originals)
                    yield passed.request

        for completion in self._model.generate(sent()):
            yield from _refusals(waiting)
            originals = waiting.popleft()
            assert isinstance(originals, dict), "a model must answer each request once, in order"
            yield self._restored(completion, originals)
        yield from _refusals(waiting)

    def passed(self, request: Request) -> Passed:
        """The request as it may be sent, and what was found in it."""
        texts = [message.content for message in request.messages]
        findings = [self._find(text) for text in texts]
        found: Counter[str] = Counter(finding.kind for its in findings for finding in its)
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
        masked, originals = mask_all(texts, findings)
        pairs = zip(request.messages, masked, strict=True)
        messages = tuple(Message(role=message.role, content=content) for message, content in pairs)
        return Passed(replace(request, messages=messages), originals, found)

    def _restored(self, completion: Completion, originals: dict[str, str]) -> Completion:
        text = completion.text
        if text is not None and self._config.unmask:
            text = unmask(text, originals)
        return replace(completion, text=text, model=self.name)

    def _refused(self, found: Counter[str]) -> Completion:
        """Equal refusals are one object: a stage may hold many of them before the next answer comes."""
        held = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        if held not in self._refusals:
            self._refusals[held] = Completion(
                None, self.name, "failed", f"not sent: the egress filter found {held}"
            )
        return self._refusals[held]


def _refusals(waiting: "deque[Completion | dict[str, str]]") -> Iterator[Completion]:
    """Those that wait before the next that was sent."""
    while waiting and isinstance(waiting[0], Completion):
        refused = waiting.popleft()
        assert isinstance(refused, Completion)
        yield refused
