"""Calls to an endpoint that people wait for: one streamed call each, on the caller's event loop.

A call has a deadline, and a purse pays for it (`ledger.cashier`). It is tried again only as long as
none of its answer was given. Closing the generator, or cancelling who reads it, cuts the
connection. What one call meets ends no other: the next one asks the endpoint again.
"""

import asyncio
import math
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal

from cowest.errors import CallError, ModelError, UpstreamError
from cowest.ledger.cashier import Cashier
from cowest.ledger.claims import ClaimRequest
from cowest.ledger.purses import DAY, PurseClaim
from cowest.ledger.store import CallStore, StoredAnswer
from cowest.models.endpoint.adapters import TIMES, UNKNOWN, HeldAdapter
from cowest.models.endpoint.attempt import Attempt
from cowest.models.endpoint.complaints import complaint_in, refuses_streaming, said
from cowest.models.endpoint.responses import (
    FREE,
    AgainError,
    Answered,
    HopelessError,
    PoisonError,
    Usage,
    backoff,
    read,
)
from cowest.models.endpoint.settings import CALLS, Endpoint
from cowest.models.endpoint.stops import LONGEST
from cowest.models.endpoint.streamed import Streamed
from cowest.models.endpoint.watch import EMPTY_RETRIES, Watch
from cowest.net.client import Client, Reply
from cowest.protocols import Completion, Request, Served

Way = Literal["with usage", "streamed", "whole"]
"""The way in which an answer is asked for. Endpoints that take no way may take the next one."""
UNTAKEN = {400, 405, 415, 422, 501}
"""Statuses with which endpoints refuse a field of the body."""
LETTERS = 4
"""Bytes of text per token, roughly."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call, over all of its attempts."""

    request: Request
    served: Served
    most: ClaimRequest
    """The most that an attempt can cost. Its key is that of the call in a turn."""
    way: Way
    claim: PurseClaim | None = None
    """The claim that is open. An attempt that cost nothing leaves it to the next one."""
    attempt: Attempt | None = None
    """The attempt that is under way."""
    began: float = 0.0
    """Time at which that began."""
    tries: int = 0
    empty: int = 0
    """Tries that brought an answer without a word."""
    given: bool = False
    """True once some of an answer was given."""

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.served.until - time.monotonic()


class ServedEndpoint:
    """An AsyncChatModel that makes one call per request to an endpoint, several at once."""

    def __init__(
        self,
        config: Endpoint,
        key: str | None,
        store: CallStore,
        cache: bool = False,
        held: HeldAdapter | None = None,
    ) -> None:
        """With `cache`, answers are taken from the call store, and kept there."""
        self.name, self._held = config.name, held
        self._config, self._key, self._cache = config, key, cache
        self._url = f"{config.base_url}{CALLS}"
        self._client = Client(self._url, key, config.timeout, config.forbids)
        self._cashier = Cashier(store)
        self._places = asyncio.Semaphore(config.concurrency)
        self._watch = Watch(config, key, store)
        self._way: Way = "whole" if "stream" in config.extra else "with usage"
        self._says_usage = True
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        """Yields the texts of an answer as they come, and its Completion last.

        Raises UpstreamError and BudgetError (see `AsyncChatModel`), and StoreError if the store
        can't be written.
        """
        if self._closed:
            raise self._down("was closed")
        tokens = self._config.most(request)
        usd = self._config.cost(*tokens, 0.0) or 0.0
        key = request.key(self.name) if self._cache else ""
        call = _Call(request, served, ClaimRequest(key, usd, sum(tokens)), self._way)
        if call.left <= 0:
            raise self._down("was not asked: the deadline had passed")
        found = await self._found(call) if self._cache else None
        if found is not None:
            if found.text:
                yield found.text
            yield found
            return
        try:
            while True:
                try:
                    async with self._place(call):
                        await self._claim(call)
                        attempt = await self._asked(call)
                        part = await attempt.next()
                        while isinstance(part, str):
                            call.given = True
                            yield part
                            part = await attempt.next()
                        completion = await self._settled(call, part)
                    break
                except AgainError as again:
                    wait = self._wait(call, again)
                await asyncio.sleep(wait)
        except PoisonError as poison:
            completion = self._poisoned(call, poison)
        except HopelessError as hopeless:
            self._pay(call, hopeless.usage)
            raise self._down(str(hopeless)) from None
        finally:
            self._end(call)
        yield completion

    async def close(self) -> None:
        """Cuts all connections, and waits until all costs are written."""
        self._closed = True
        await self._client.close()
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._cashier.close()

    async def _found(self, call: _Call) -> Completion | None:
        """Returns the answer that the store has for a call of a turn, which costs nothing."""
        async with self._in_time(call, "the call store gave no answer"):
            found = await self._cashier.find(call.most.key)
        if found is None:
            return None
        return replace(found, usd=None if self._config.price is None else 0.0)

    @asynccontextmanager
    async def _place(self, call: _Call) -> AsyncIterator[None]:
        """Gives one of the places for calls at once. Raises UpstreamError if none is free in time.

        A call that waits for its next attempt has none.
        """
        busy = f"{self._config.concurrency} calls at once (concurrency) left no room"
        async with self._in_time(call, busy):
            await self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    @asynccontextmanager
    async def _in_time(self, call: _Call, late: str) -> AsyncIterator[None]:
        """Raises UpstreamError if something is late for the deadline."""
        try:
            async with asyncio.timeout(call.left):
                yield
        except TimeoutError:
            raise self._down(f"gave no answer in time: {late}") from None

    async def _claim(self, call: _Call) -> None:
        """Claims an attempt at a call. Raises BudgetError, StoreError and UpstreamError."""
        if call.claim is not None:
            return
        most = self._watch.reserved(call.most)
        usd, tokens = None, None
        if self._config.has_bound:
            usd = None if self._config.price is None else most.usd
            tokens = most.tokens
        claim = PurseClaim(call.served.purse, usd, tokens)
        began = time.monotonic()
        try:
            await self._cashier.claim(claim, call.left)
        except TimeoutError:
            raise self._down("was not asked: the call store took no claim in time") from None
        finally:
            call.served.held.seconds += time.monotonic() - began
        call.claim = claim

    async def _asked(self, call: _Call) -> Attempt:
        """Asks the endpoint, in a way that it takes. Raises AgainError and others of `read`."""
        call.tries += 1
        loads = 0
        while True:
            attempt = self._attempt(call)
            reply = await attempt.ask()
            if reply is None:
                return attempt
            if self._held is not None and reply.status == UNKNOWN and loads < TIMES:
                loads += 1
                attempt.close()
                await self._load_again(call, self._held)
                continue
            less = _less(call.way, reply)
            if less is None:
                attempt.give(read(reply, self.name, self._key, math.inf, time.time()))
                return attempt
            attempt.close()
            call.way = less

    async def _load_again(self, call: _Call, held: HeldAdapter) -> None:
        """Has an adapter loaded that the server has let go. Raises UpstreamError."""
        async with self._in_time(call, "it was still loading the adapter"):
            try:
                await held.load()
            except (CallError, ModelError) as error:
                raise self._down(f"has let its adapter go: {error}") from None

    def _attempt(self, call: _Call) -> Attempt:
        body = self._config.body(call.request)
        if call.way != "whole":
            body = self._config.streamed_body(call.request, usage=call.way == "with usage")
        call.began = time.monotonic()
        until = min(call.served.until, call.began + self._config.timeout)
        answer = Streamed(self.name, self._key)
        call.attempt = Attempt(self._client, self._url, body, answer, until)
        return call.attempt

    async def _settled(self, call: _Call, answered: Answered) -> Completion:
        """Settles a call at the cost of its answer, and returns the completion with it."""
        self._let_go(call)
        self._way = call.way
        self._watch.saw("", answered)
        completion = answered.completion
        usd: float | None = None
        usage = answered.usage
        # A filter may end an answer of which some was given: that was made.
        if completion.text is None and usage == FREE and call.given:
            usage = None
        tokens = call.most.tokens
        if usage is not None:
            usd, tokens = self._config.cost(*usage, 0.0), sum(usage)
            self._watch.billed(call.most, usd or 0.0, tokens)
        elif self._config.price is not None:
            usd = call.most.usd
        kept = None
        if self._cache:
            seconds = time.monotonic() - call.began
            kept = StoredAnswer(call.most.key, completion, seconds, usd, answered.version)
        assert call.claim is not None, "a call that was answered was claimed"
        written = self._cashier.settle(call.claim, usd or 0.0, tokens, kept)
        call.claim = None
        if kept is not None:
            # Whoever asks next finds it. That it can't be kept is no reason to fail an answer.
            await asyncio.wait([written], timeout=call.left)
        if answered.usage is None:
            completion = self._estimated(call, completion)
        return replace(completion, usd=usd)

    def _estimated(self, call: _Call, completion: Completion) -> Completion:
        """Puts an estimate in place of the tokens that the endpoint does not report."""
        if self._says_usage:
            self._says_usage = False
            where = said(f"{self._config.model} at {self._config.base_url}", self._key)
            print(
                f"cowest: {where} reports no tokens for its answers: they are estimated, and each "
                "call counts as the most that it can cost",
                file=sys.stderr,
            )
        prompt = 0
        for message in call.request.messages:
            prompt += _tokens(message.content)
        return replace(
            completion,
            prompt_tokens=prompt,
            completion_tokens=_tokens(completion.text or ""),
            estimated=True,
        )

    def _poisoned(self, call: _Call, poison: PoisonError) -> Completion:
        """The completion of a request that the endpoint will not answer, however often asked."""
        self._pay(call, FREE)
        # Such words are about every call, as long as none was answered.
        answers = call.given or self._watch.has_answered
        if poison.everyone is not None and not answers:
            raise self._down(f"refuses every call ({poison}): {poison.everyone}") from None
        return Completion(None, self.name, "failed", str(poison))

    def _wait(self, call: _Call, again: AgainError) -> float:
        """Returns the seconds until the next attempt at a call that failed.

        Raises UpstreamError if there is none.
        """
        self._pay(call, again.usage)
        call.empty += again.empty
        if call.given:
            raise self._down(f"broke off its answer: {again}") from None
        wait = max(backoff(self._config.backoff, call.tries), again.wait or 0.0)
        tired = call.tries > self._config.retries or call.empty > EMPTY_RETRIES
        if not tired and not self._closed and wait < call.left:
            return wait
        why = f"fails: {again}"
        if not again.reached:
            why = f"is out of reach ({again})"
        if call.tries > 1:
            why += f", at the last of {call.tries} attempts"
        # An endpoint may name any time; who asks is told a day at most.
        later = None if again.wait is None else min(again.wait, DAY)
        raise self._down(why, later) from None

    def _pay(self, call: _Call, usage: Usage | None) -> None:
        """Pays for an attempt without an answer. None means that nobody knows what it cost."""
        self._let_go(call)
        # What was given was made, whatever the endpoint says about its error.
        if usage == FREE and call.given:
            usage = None
        if call.claim is None or usage == FREE:
            return
        if usage is None:
            self._cashier.lose(call.claim)
        else:
            usd, tokens = self._config.cost(*usage, 0.0) or 0.0, sum(usage)
            self._watch.billed(call.most, usd, tokens)
            self._cashier.settle(call.claim, usd, tokens)
        call.claim = None

    def _end(self, call: _Call) -> None:
        """Cuts the attempt that is under way, if any, and gives back a claim that is not needed."""
        if call.attempt is not None:
            # It may have arrived, and be paid for: then its claim goes on counting.
            self._pay(call, None if call.attempt.may_be_paid else FREE)
        if call.claim is not None:
            self._cashier.release(call.claim)
            call.claim = None

    def _let_go(self, call: _Call) -> None:
        """Ends the attempt that is under way. The connection of a whole answer is kept."""
        attempt, call.attempt = call.attempt, None
        if attempt is None:
            return
        if not attempt.is_whole:
            attempt.close()
            return
        task = asyncio.get_running_loop().create_task(attempt.leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _down(self, why: str, retry_after: float | None = None) -> UpstreamError:
        """Makes the error of a call: where, and why. The key stands in none."""
        where = f"{self._config.model} at {self._config.base_url}"
        return UpstreamError(said(f"{where} {why}", self._key, LONGEST), retry_after)


def _less(way: Way, reply: Reply) -> Way | None:
    """Returns the next way to ask an endpoint that refuses one, or None if that is not why."""
    if reply.status not in UNTAKEN or way == "whole":
        return None
    field = refuses_streaming(complaint_in(reply.content))
    if field == "stream_options" and way == "with usage":
        return "streamed"
    return "whole" if field == "stream" else None


def _tokens(text: str) -> int:
    """An estimate of a text's tokens."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // LETTERS)
