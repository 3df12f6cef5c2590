"""Calls to an endpoint, many at once: asked for on the caller's thread, made on a loop of their own, answered in order.

Each call is claimed before it is made and its answer kept before it is handed on (`till`). How many are under way follows from what
the endpoint bears (`pace`). A call that is to be made again waits aside, so that another takes its place.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from cowest.errors import BudgetError, CallError, CoWestError
from cowest.ledger import store
from cowest.ledger.claims import Ask
from cowest.ledger.till import Till
from cowest.models.endpoint.pace import Pace
from cowest.models.endpoint.responses import (
    FREE,
    AgainError,
    Answered,
    HopelessError,
    PoisonError,
    Usage,
    backoff,
    read,
    said,
)
from cowest.models.endpoint.settings import Endpoint
from cowest.net.transport import LostError, Transport
from cowest.protocols import Completion, Request

SETTLE = 20.0
"""Seconds that calls in flight have to be answered, and their answers kept, once nobody waits for them any more."""
AHEAD, AT_LEAST = 32, 4096
"""Requests read ahead for each call at once, and how many may be in any case less than that: slow rows don't hold up those behind."""
SLOW = 2.0
"""Times the median after which an answer is late."""
PAGES_AT_FIRST, PAGES_LATER = 3, 16
"""Rows in a row that get a web page for an answer, before the endpoint is taken to be none: before its first answer, and after."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call that is to be made, or is made."""

    request: Request
    ask: Ask
    waiting: list[Future[Completion]] = field(default_factory=list)
    open: int = 0
    """Attempts that wait for their turn or are made."""
    under_way: int = 0
    """Attempts that may have been paid for: they are waited for, even if nobody wants them any more."""
    tries: int = 0
    counted: int = 0
    """Tries of which `retries` is the limit."""
    over: bool = False
    """Answered or given up."""

    @property
    def wanted(self) -> bool:
        return any(not future.cancelled() for future in self.waiting)


@dataclass(slots=True, eq=False)
class _Attempt:
    call: _Call
    began: float = 0.0
    under_way: bool = False
    holds: bool = True
    """Whether it takes one of the places that calls at once have."""


class OpenAIModel:
    """The ChatModel of an endpoint. Its coroutines run on the loop's thread, `generate` on the caller's."""

    def __init__(self, config: Endpoint, key: str | None, loop: asyncio.AbstractEventLoop) -> None:
        self.name = config.name
        self._config, self._key, self._loop = config, key, loop
        self._till = Till(store.open_store())
        self._transport = Transport(
            f"{config.base_url}/chat/completions",
            key,
            config.timeout,
            config.concurrency,
            config.forbids,
        )
        self._pace = Pace(config.concurrency)
        self._window = max(4 * config.concurrency, min(AHEAD * config.concurrency, AT_LEAST))
        self._inbox: deque[tuple[str, Request, Future[Completion]]] = deque()
        self._told = False
        """Whether the loop knows that there is something in the inbox."""
        self._calls: dict[str, _Call] = {}
        self._ready: deque[_Call] = deque()
        self._tasks: dict[asyncio.Task[None], _Attempt] = {}
        self._looks: set[asyncio.Task[None]] = set()
        self._held = 0
        self._resume_at = 0.0
        self._heard: float | None = None
        """When the endpoint last said anything."""
        self._answered = False
        self._made = self._hedged = 0
        self._pages: set[str] = set()
        self._end: CoWestError | None = None

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion for each request, in order, a bounded number of requests read ahead (32 for each call at once, some 4,096).

        Raises CallError where the endpoint refuses every call, BudgetError where the turn's budget is reached; a request
        that it can't answer is a failed Completion.
        """
        return store.counted(self._completions, requests)

    def _completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        waiting: deque[Future[Completion]] = deque()
        try:
            for request in requests:
                waiting.append(self._asked(request))
                while waiting and (len(waiting) >= self._window or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _asked(self, request: Request) -> Future[Completion]:
        """Lays a request into the inbox; the loop is told once for all that it finds there."""
        future: Future[Completion] = Future()
        self._inbox.append((request.key(self.name), request, future))
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._take)
        return future

    async def close(self) -> None:
        """Waits for what may have been paid for, keeps it, and ends the connections."""
        self._halt(CallError(f"{self.name} was closed"))
        for task, attempt in self._tasks.items():
            if not attempt.under_way:
                task.cancel()
        if tasks := {*self._tasks, *self._looks}:
            await asyncio.wait(tasks, timeout=SETTLE)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._till.close()
        await self._transport.close()
        await self._loop.shutdown_default_executor()

    def _take(self) -> None:
        """Takes what is in the inbox; those who ask for the same share one call."""
        self._told = False
        fresh = []
        while self._inbox:
            key, request, future = self._inbox.popleft()
            if (call := self._calls.get(key)) is None:
                prompt, completion = self._config.most(request)
                ask = Ask(key, self._cost(prompt, completion) or 0.0, prompt + completion)
                call = self._calls[key] = _Call(request, ask)
                fresh.append(call)
            call.waiting.append(future)
        if fresh:
            task = self._loop.create_task(self._look(fresh))
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _look(self, calls: list[_Call]) -> None:
        """What the store has is not asked again."""
        try:
            found = await self._till.look([call.ask.key for call in calls])
            self._watch()
        except Exception as error:  # noqa: BLE001  those who wait raise it; they would wait forever
            if isinstance(error, CoWestError):
                self._halt(error)
            for call in calls:
                self._fail(call, error)
            return
        for call in calls:
            if call.ask.key in found:
                self._finish(call, found[call.ask.key])
            else:
                self._queue(call)
        self._begin()

    def _queue(self, call: _Call, first: bool = False) -> None:
        if self._end is not None:
            self._fail(call, self._end)
            return
        call.open += 1
        if first:
            self._ready.appendleft(call)
        else:
            self._ready.append(call)

    def _begin(self) -> None:
        """Begins as many calls as may be made now. One that nobody waits for any more is not begun."""
        while self._ready and self._held < self._pace.limit:
            call = self._ready.popleft()
            if call.over:
                continue
            if not call.wanted:
                self._forget(call)
                continue
            self._held += 1
            attempt = _Attempt(call)
            task = self._loop.create_task(self._attempt(attempt))
            self._tasks[task] = attempt
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        attempt = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(attempt.call, error)
            if isinstance(error, CoWestError):
                self._halt(error)
        self._make_room(attempt)

    def _make_room(self, attempt: _Attempt) -> None:
        if attempt.holds:
            attempt.holds = False
            self._held -= 1
            self._begin()

    async def _attempt(self, attempt: _Attempt) -> None:
        """One attempt at a call, claimed before and settled after."""
        call = attempt.call
        if not await self._claimed(call):
            return
        attempt.under_way, attempt.began = True, time.monotonic()
        call.under_way += 1
        call.tries += 1
        self._made += 1
        hedge = (
            self._loop.call_later(SLOW * self._pace.median, self._hedge, call)
            if self._config.hedge and self._answered
            else None
        )
        try:
            answered = await self._post(call.request)
        except asyncio.CancelledError:
            self._till.lose()
            raise
        except AgainError as again:
            await self._unclaim(call, again.usage)
            call.under_way -= 1
            await self._again(attempt, again)
        except PoisonError as poison:
            await self._unclaim(call, FREE)
            if not call.over:
                await self._give_up(call, str(poison))
        except HopelessError as hopeless:
            await self._unclaim(call, FREE)
            raise self._stopped(str(hopeless)) from None
        else:
            self._pace.answered(attempt.began, time.monotonic())
            self._answered = True
            self._pages.clear()
            if call.over:  # another attempt was quicker
                self._till.lose()
                return
            call.over = True
            self._end_others(attempt)
            # The next call's claim goes into the transaction that keeps this answer, and it is made after that.
            self._loop.call_soon(self._make_room, attempt)
            await self._settle(call.ask, answered, time.monotonic() - attempt.began)
            self._finish(call, answered.completion)
        finally:
            if hedge is not None:
                hedge.cancel()

    def _may_hedge(self, call: _Call) -> bool:
        share = self._config.hedge
        return share is not None and call.under_way == 1 and self._hedged + 1 <= share * self._made

    def _hedge(self, call: _Call) -> None:
        """A call whose answer is late is made once more beside it. The first answer counts; both are claimed, and taken to be paid for."""
        if not call.over and self._end is None and self._may_hedge(call):
            self._hedged += 1
            store.hedged()
            self._queue(call, first=True)
            self._begin()

    def _end_others(self, attempt: _Attempt) -> None:
        """What was slower is not waited for: the connection is cut, and its claim is settled at what the answer cost."""
        if attempt.call.open > 1:
            for task, other in self._tasks.items():
                if other.call is attempt.call and other is not attempt:
                    task.cancel()

    async def _claimed(self, call: _Call) -> bool:
        """Whether the call may be made now. Raises BudgetError, StoreError."""
        try:
            found = await self._till.claim(call.ask)
        except BudgetError as error:
            raise BudgetError(
                f"{self._config.model}: {error}; what was answered is kept: raise pin.budget and run again"
            ) from None
        if found is not None:
            self._finish(call, found)
            return False
        while not call.over and (left := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(left)
        if call.over:
            await self._till.release(call.ask, 0.0, 0)
        return not call.over

    async def _post(self, request: Request) -> Answered:
        store.attempted()
        try:
            reply = await self._transport.post(self._config.body(request))
            self._heard = time.monotonic()
            return read(reply, self.name, self._key, self._config.patience, time.time())
        except LostError as lost:
            raise AgainError(
                said(str(lost), self._key), None if lost.reached else FREE, reached=lost.reached
            ) from None

    async def _unclaim(self, call: _Call, usage: Usage | None) -> None:
        """The attempt brought no answer. None: it may have been paid for, and its claim stays."""
        if usage is None:
            self._till.lose()
        else:
            await self._till.release(call.ask, self._cost(*usage) or 0.0, sum(usage))

    async def _settle(self, ask: Ask, answered: Answered, seconds: float) -> None:
        """An endpoint that doesn't say what it used is taken to have used the most."""
        cost = (
            self._cost(*answered.usage)
            if answered.usage
            else ask.usd
            if self._config.price
            else None
        )
        tokens = sum(answered.usage) if answered.usage else ask.tokens
        await self._till.settle(
            store.Answer(ask.key, answered.completion, seconds, cost, answered.version),
            cost or 0.0,
            tokens,
        )
        self._watch()

    def _watch(self) -> None:
        """Raises CallError where the model became another in the middle of the turn, and that is to stop it."""
        if (
            self._config.on_version_change == "stop"
            and len(versions := store.reported(self.name)) > 1
        ):
            raise CallError(
                f"{self.name} changed in the middle of the turn: it reported {' and '.join(versions)}; what was answered is kept. Name the "
                "version that you want as `model`, or set on_version_change to say to go on with answers of both"
            )

    async def _again(self, attempt: _Attempt, again: AgainError) -> None:
        """Has the call made again after a while, or gives it up. Raises CallError where no call would fare better."""
        call = attempt.call
        call.open -= 1
        self._look_for_pages(call, again)
        busy = again.busy and self._pace.refused(attempt.began, time.monotonic())
        if call.over or call.open:
            return
        now = time.monotonic()
        # An endpoint that could be reached before is waited for: nothing is paid for meanwhile.
        waits = (
            not again.reached
            and self._heard is not None
            and now - self._heard < self._config.patience
        )
        call.counted += not waits
        if call.counted <= self._config.retries and call.wanted:
            wait = max(backoff(self._config.backoff, call.tries), again.wait or 0.0)
            if busy and again.wait is not None:
                self._resume_at = max(self._resume_at, now + again.wait)
            self._loop.call_later(wait, self._retry, call)
            return
        if not again.reached and call.wanted:
            raise self._stopped(f"is out of reach ({again})")
        await self._give_up(call, f"{again}, at the last of {call.tries} attempts")

    def _retry(self, call: _Call) -> None:
        if not call.over:
            self._queue(call, first=True)
            self._begin()

    def _look_for_pages(self, call: _Call, again: AgainError) -> None:
        """Web pages for all who ask are no answers that might come later. Raises CallError."""
        if again.page is None:
            return
        self._pages.add(call.ask.key)
        if len(self._pages) >= (PAGES_LATER if self._answered else PAGES_AT_FIRST):
            raise self._stopped(
                f"answers with web pages ({said(again.page, self._key)}): base_url is not an API's (does it lack /v1?), "
                "or a proxy or login page stands in between"
            )

    async def _give_up(self, call: _Call, reason: str) -> None:
        await self._till.leave(call.ask)
        self._finish(call, Completion(None, self.name, "failed", reason))

    def _finish(self, call: _Call, completion: Completion) -> None:
        self._forget(call)
        for future in call.waiting:
            with suppress(InvalidStateError):  # cancelled meanwhile
                future.set_result(completion)

    def _fail(self, call: _Call, error: BaseException) -> None:
        self._forget(call)
        for future in call.waiting:
            with suppress(InvalidStateError):
                future.set_exception(error)

    def _forget(self, call: _Call) -> None:
        call.over = True
        if self._calls.get(call.ask.key) is call:
            del self._calls[call.ask.key]

    def _halt(self, error: CoWestError) -> None:
        """No call after this: those that have not begun fail with it, those under way are answered."""
        self._end = self._end or error
        for call in list(self._calls.values()):
            if not call.under_way:
                self._fail(call, self._end)
        self._ready.clear()

    def _stopped(self, why: str) -> CallError:
        return CallError(
            f"{self._config.model} at {self._config.base_url} {why}; what was answered is kept: mend it and run again"
        )

    def _cost(self, prompt: int, completion: int) -> float | None:
        return self._config.price.of(prompt, completion) if self._config.price else None
