"""The egress filter: every request to an endpoint passes here before it leaves.

Personal data, secrets and a user's own terms in it are allowed, masked, or the request is refused.

The filter stands around an endpoint's model, whether that makes calls one by one or in batches.
Everything behind the filter (the call's key, the call store, the request's body) sees what is
sent and nothing else. Masks are undone on this side, and the store holds the answer as it came.
So equal masked requests are one call, whoever they are about.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Literal

from cowest.config import digest
from cowest.detectors import (
    RULE,
    Detection,
    Finding,
    find,
    find_together,
    mask_all,
    unmask,
)
from cowest.detectors.replacing import unmasking
from cowest.ledger import account
from cowest.protocols import AsyncChatModel, ChatModel, Completion, Request, Served
from cowest.records import with_contents

Action = Literal["allow", "mask", "refuse"]
QUICK = 8192
"""Characters of a request that are searched in a moment: about a millisecond."""
REMEMBERED, LONGEST_REMEMBERED = 512, 2**15
"""Texts whose findings are remembered, since shots and system messages are in every request; and
the most characters of such a text."""


FILTERED = re.compile(r"~[0-9a-f]{8}(?=:|$)")
"""The mark of a filter's settings at the end of a model's name, as `EgressConfig.name` makes it."""


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
        return Egress(Filter(self, model.name, counted), model) if self._acts(outside) else model

    def over_async(self, model: AsyncChatModel, outside: bool) -> AsyncChatModel:
        """Does the same for a model that answers people who wait."""
        return AsyncEgress(Filter(self, model.name), model) if self._acts(outside) else model

    def _acts(self, outside: bool) -> bool:
        """Says if the filter does anything. Raises ConfigError."""
        if not self.detect or (self.on_found == "allow" and not outside):
            return False
        # Builds the detectors now, so that a filter that can't work stops all before any call.
        find("", self)
        return True

    def shown(self, texts: Sequence[str]) -> list[str] | None:
        """Returns texts that belong together as they may be shown where requests may not go.

        They are as a request with them would be sent; None if it would not be sent.
        """
        findings = find_together(texts, partial(find, config=self))
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


def unfiltered(name: str) -> str:
    """Returns the name of a model, or of a judge that asks it, without the filter's settings."""
    return FILTERED.sub("", name)


@dataclass(frozen=True, slots=True)
class Passed:
    """A request after the filter."""

    request: Request | None
    """As it may be sent; None if it may not."""
    originals: dict[str, str] = field(default_factory=dict)
    """The originals of its placeholders."""
    found: Counter[str] = field(default_factory=Counter)
    """Number of findings by kind."""


class Filter:
    """Filters one request at a time, and puts the originals back into its answer."""

    def __init__(self, config: EgressConfig, model: str, counted: bool = True) -> None:
        """`model` is the name of the model behind the filter."""
        self.name = config.name(model)
        self.config = config
        self._counted = counted

        @lru_cache(maxsize=REMEMBERED)
        def remembered(text: str) -> tuple[Finding, ...]:
            return tuple(find(text, config))

        @lru_cache(maxsize=REMEMBERED)
        def refusal(held: str) -> Completion:
            failed = f"not sent: the egress filter found {held}"
            return Completion(None, self.name, "failed", failed)

        self._remembered, self._refusal = remembered, refusal

    def count(self, passed: Passed) -> None:
        """Counts what was found in a request, for the account."""
        if passed.found and self._counted:
            account.filtered(self.config.on_found, passed.found)

    def passed(self, request: Request) -> Passed:
        """Returns the request as it may be sent, with what was found in it."""
        # The texts that end an answer are sent too, and are a person's own in what is served.
        texts = [message.content for message in request.messages] + list(request.sampling.stop)
        findings = find_together(texts, self._find)
        found: Counter[str] = Counter()
        for of_text in findings:
            found.update(finding.kind for finding in of_text)
        if not found or self.config.on_found == "allow":
            return Passed(request, found=found)
        if self.config.on_found == "refuse":
            return Passed(None, found=found)
        return self._masked(request, texts, findings, found)

    def _masked(
        self,
        request: Request,
        texts: list[str],
        findings: list[list[Finding]],
        found: Counter[str],
    ) -> Passed:
        # All texts are masked together, so that one original has one placeholder in all of them: a
        # model that sees the placeholder writes it, and it ends the answer as the original would.
        masked, originals = mask_all(texts, findings)
        count = len(request.messages)
        messages = with_contents(request.messages, masked[:count])
        stop = tuple(masked[count:])
        sampling = request.sampling
        if stop != sampling.stop:
            sampling = sampling.model_copy(update={"stop": stop})
        passed = replace(request, messages=messages, sampling=sampling)
        return Passed(passed, originals, found)

    def restored(self, completion: Completion, originals: dict[str, str]) -> Completion:
        """Returns an answer with what was masked put back."""
        text = completion.text
        if text is not None and self.config.unmask:
            text = unmask(text, originals)
        # The store knows the answer by the model behind the filter; rows name the filtered one.
        return replace(completion, text=text, model=self.name)

    def refused(self, found: Counter[str]) -> Completion:
        """Returns the failure of a request. It tells kinds and counts, and never the texts.

        Equal failures are one object, since a stage may hold many of them until the next answer
        comes.
        """
        held = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        return self._refusal(held)

    def _find(self, text: str) -> tuple[Finding, ...]:
        if len(text) <= LONGEST_REMEMBERED:
            return self._remembered(text)
        return tuple(find(text, self.config))


class Egress:
    """A ChatModel that is asked only what may leave."""

    def __init__(self, filter_: Filter, model: ChatModel) -> None:
        self.name = filter_.name
        self._filter = filter_
        self._model = model

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yields one completion per request, in order.

        A request that may not leave fails at once; the reason names the kinds that it held.
        """
        # In the order of the requests, one entry for each that has no answer yet: the failure of a
        # refused one, or the originals to put back into the answer of one that was sent.
        waiting: deque[Completion | dict[str, str]] = deque()

        def sent() -> Iterator[Request]:
            for request in requests:
                passed = self._filter.passed(request)
                self._filter.count(passed)
                if passed.request is None:
                    waiting.append(self._filter.refused(passed.found))
                else:
                    waiting.append(passed.originals)
                    yield passed.request

        # The model pulls from `sent`, which appends to `waiting`.
        for completion in self._model.generate(sent()):
            yield from _refusals(waiting)
            originals = waiting.popleft()
            assert isinstance(originals, dict), "a model must answer each request once, in order"
            yield self._filter.restored(completion, originals)
        yield from _refusals(waiting)


class AsyncEgress:
    """An AsyncChatModel that is asked only what may leave."""

    def __init__(self, filter_: Filter, model: AsyncChatModel) -> None:
        self.name = filter_.name
        self._filter = filter_
        self._model = model

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        """Yields texts with what was masked put back, and their Completion.

        A text that may be the beginning of a placeholder is held back until it is known. A request
        that may not leave fails at once; the reason names the kinds that it held.
        """
        size = sum(len(message.content) for message in request.messages)
        size += sum(map(len, request.sampling.stop))
        if size < QUICK:
            passed = self._filter.passed(request)
        else:
            # The other people who wait are not held up by a long text.
            passed = await asyncio.to_thread(self._filter.passed, request)
        self._filter.count(passed)
        if passed.request is None:
            yield self._filter.refused(passed.found)
            return
        originals = passed.originals if self._filter.config.unmask else {}
        unmasked = unmasking(originals)
        async with aclosing(self._model.stream(passed.request, served)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    text = unmasked.feed(part)
                    if text:
                        yield text
                    continue
                rest = unmasked.end()
                if rest:
                    yield rest
                yield self._filter.restored(part, originals)


def _refusals(waiting: "deque[Completion | dict[str, str]]") -> Iterator[Completion]:
    """Takes the refusals that come before the next request that was sent."""
    while waiting and isinstance(waiting[0], Completion):
        refused = waiting.popleft()
        assert isinstance(refused, Completion)
        yield refused
