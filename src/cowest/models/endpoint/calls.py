"""Makes many calls to an endpoint at once.

Requests are read on the caller's thread, and the calls run on a loop of their own. Each call is
claimed before it is made, and its answer is kept before it is yielded (`ledger.till`). The
endpoint's own behaviour limits how many are under way (`pace`). A call that waits for a retry lets
others take its place. Completions are yielded in the order of the requests.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cowest.errors import BudgetError, CallError, CoWestError, ModelError
from cowest.ledger import account, store
from cowest.ledger.claims import ClaimRequest
from cowest.ledger.till import Till
from cowest.models.endpoint.adapters import HeldAdapter
from cowest.models.endpoint.complaints import said
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
)
from cowest.models.endpoint.settings import CALLS, Endpoint
from cowest.models.endpoint.stops import check_version, over_budget, stopped
from cowest.models.endpoint.watch import EMPTY_RETRIES, Watch
from cowest.net.client import Client, Reply
from cowest.net.connections import LostError
from cowest.protocols import Completion, Request

SETTLE = 20.0
"""Seconds given to calls under way, once nobody waits for them, to be answered and kept."""
AHEAD, MOST_AHEAD, LEAST_AHEAD = 32, 4096, 4
"""Requests read ahead of their answers: 32 per concurrent call, at most 4,096 but never under 4 per
call. A slow row then does not hold up the rows behind it."""
SLOW = 2.0
"""Multiple of the median latency after which an answer is late."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call to make, or under way, and everyone who waits for its answer."""

    request: Request
    claim: ClaimRequest
    waiting: list[Future[Completion]] = field(default_factory=list)
    open: int = 0
    """Attempts that are queued or under way."""
    under_way: int = 0
    """Attempts that may be paid for. They are waited for even if nobody wants the answer now."""
    tries: int = 0
    counted: int = 0
    """Tries that count towards `retries`."""
    empty: int = 0
    """Tries that brought an answer without a word."""
    over: bool = False
    """True once nobody waits for it any more: it is answered, failed or given up."""
    answered: bool = False
    """True once it has an answer to keep."""

    @property
    def wanted(self) -> bool:
        return any(not future.cancelled() for future in self.waiting)


@dataclass(slots=True, eq=False)
class _Attempt:
    """One attempt at a call."""

    call: _Call
    began: float = 0.0
    under_way: bool = False
    holds: bool = True
    """True while it holds one of the places that `pace` gives out."""


class OpenAIModel:
    """A ChatModel that makes one call per request to an endpoint, many at once.

    `generate` runs on the caller's thread, and all coroutines run on the thread of the loop.
    """

    def __init__(
        self,
        config: Endpoint,
        key: str | None,
        loop: asyncio.AbstractEventLoop,
        held: HeldAdapter | None = None,
    ) -> None:
        self.name, self._held = config.name, held
        self._config, self._key, self._loop = config, key, loop
        self._till = Till(store.open_store())
        self._client = Client(f"{config.base_url}{CALLS}", key, config.timeout, config.forbids)
        self._pace = Pace(config.concurrency)
        ahead = min(AHEAD * config.concurrency, MOST_AHEAD)
        self._window = max(LEAST_AHEAD * config.concurrency, ahead)
        self._inbox: deque[tuple[str, Request, Future[Completion]]] = deque()
        self._notified = False
        """True while the loop knows that the inbox holds something."""
        self._calls: dict[str, _Call] = {}
        self._ready: deque[_Call] = deque()
        self._tasks: dict[asyncio.Task[None], _Attempt] = {}
        self._looks: set[asyncio.Task[None]] = set()
        self._places_held = 0
        self._resume_at = 0.0
        self._heard: float | None = None
        """Time of the endpoint's last reply of any kind."""
        self._watch = Watch(config, key, store.open_store())
        self._made = self._hedged = 0
        self._end: CoWestError | None = None

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yields one completion per request, in order.

        Requests are read ahead: 32 per concurrent call, at most 4,096 but never under 4 per call.
        A request that can't be answered gives a failed Completion. Raises CallError if the endpoint
        refuses every call, and BudgetError if the turn's budget is spent.
        """
        return account.counted(self._completions, requests)

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
            # A reader who stops early wants no more answers: what has not begun does not begin.
            for future in waiting:
                future.cancel()

    def _asked(self, request: Request) -> Future[Completion]:
        """Puts a request into the inbox and returns the future of its completion."""
        future: Future[Completion] = Future()
        self._inbox.append((request.key(self.name), request, future))
        # Waking the loop costs a system call. One wake-up serves all requests that lie in the inbox
        # by the time the loop empties it.
        if not self._notified:
            self._notified = True
            self._loop.call_soon_threadsafe(self._take)
        return future

    async def close(self) -> None:
        """Waits for calls that may be paid for, keeps their answers, and closes the connections."""
        self._halt(CallError(f"{self.name} was closed"))
        for task, attempt in self._tasks.items():
            if not attempt.under_way:
                task.cancel()
        tasks = {*self._tasks, *self._looks}
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLE)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._till.close()
        await self._client.close()
        await self._loop.shutdown_default_executor()

    def _take(self) -> None:
        """Empties the inbox. Equal requests share one call."""
        # The flag falls before we read, so that a request which comes in meanwhile wakes us again.
        self._notified = False
        fresh = []
        while self._inbox:
            key, request, future = self._inbox.popleft()
            call = self._calls.get(key)
            if call is None:
                prompt, completion = self._config.most(request)
                usd = self._config.cost(prompt, completion) or 0.0
                call = self._calls[key] = _Call(
                    request, ClaimRequest(key, usd, prompt + completion)
                )
                fresh.append(call)
            call.waiting.append(future)
        if fresh:
            task = self._loop.create_task(self._look(fresh))
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _look(self, calls: list[_Call]) -> None:
        """Looks calls up in the store, and queues those that it has no answer for."""
        try:
            found = await self._till.look([call.claim.key for call in calls])
            check_version(self._config, self.name)
        except Exception as error:  # noqa: BLE001
            # Whatever goes wrong is raised where somebody waits, who would else wait forever.
            if isinstance(error, CoWestError):
                self._halt(error)
            for call in calls:
                self._fail(call, error)
            return
        for call in calls:
            completion = found.get(call.claim.key)
            if completion is None:
                self._queue(call)
                continue
            if completion.text is not None:
                self._watch.remembered()
            self._finish(call, completion)
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
        """Begins as many calls as may be under way now, and none that nobody waits for."""
        while self._ready and self._places_held < self._pace.limit:
            call = self._ready.popleft()
            if call.over:
                continue
            if not call.wanted:
                self._forget(call)
                continue
            self._places_held += 1
            attempt = _Attempt(call)
            task = self._loop.create_task(self._attempt(attempt))
            self._tasks[task] = attempt
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        attempt = self._tasks.pop(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(attempt.call, error)
            if isinstance(error, CoWestError):
                self._halt(error)
        self._make_room(attempt)

    def _make_room(self, attempt: _Attempt) -> None:
        if attempt.holds:
            attempt.holds = False
            self._places_held -= 1
            self._begin()

    async def _attempt(self, attempt: _Attempt) -> None:
        """Makes one attempt at a call: claims it before, and settles it after."""
        call = attempt.call
        if not await self._claimed(call):
            return
        attempt.under_way, attempt.began = True, time.monotonic()
        call.under_way += 1
        call.tries += 1
        self._made += 1
        late = None
        if self._config.hedge and self._watch.has_answered:
            late = self._loop.call_later(SLOW * self._pace.median, self._hedge, call)
        try:
            answered = await self._posted(call)
        except AgainError as again:
            await self._unclaim(call, again.usage)
            call.under_way -= 1
            await self._again(attempt, again)
        except PoisonError as poison:
            await self._unclaim(call, FREE)
            call.open -= 1
            call.under_way -= 1
            self._watch.saw(call.claim.key, poison)
            self._stop_if_hopeless()
            # Another attempt that is under way may still be answered.
            if not call.over and not call.under_way:
                self._give_up(call, str(poison))
        except HopelessError as hopeless:
            await self._unclaim(call, hopeless.usage)
            raise stopped(self._config, self._key, str(hopeless)) from None
        else:
            self._pace.answered(attempt.began, time.monotonic())
            self._watch.saw(call.claim.key, answered)
            if call.answered:
                # Another attempt was quicker. Its settlement counts this one as paid for, too.
                self._till.lose(call.claim)
                return
            # An answer is kept even if the call failed meanwhile: it was paid for.
            call.answered = call.over = True
            self._end_others(attempt)
            # The next call's claim goes into the transaction that keeps this answer, and that call
            # is made after the commit. So no more than `concurrency` calls are ever unsettled, and
            # each costs one flush.
            self._loop.call_soon(self._make_room, attempt)
            await self._settle(call.claim, answered, time.monotonic() - attempt.began)
            self._finish(call, answered.completion)
            self._stop_if_hopeless()
        finally:
            if late is not None:
                late.cancel()

    def _may_hedge(self, call: _Call) -> bool:
        share = self._config.hedge
        return share is not None and call.under_way == 1 and self._hedged + 1 <= share * self._made

    def _hedge(self, call: _Call) -> None:
        """Makes a call whose answer is late once more beside the first attempt.

        The first answer counts. Both attempts are claimed, and both are taken to be paid for.
        """
        if not call.over and self._end is None and self._may_hedge(call):
            self._hedged += 1
            account.hedged()
            self._queue(call, first=True)
            self._begin()

    def _end_others(self, attempt: _Attempt) -> None:
        """Cancels the slower attempts at a call. Their claims are settled at this answer's cost."""
        if attempt.call.open > 1:
            for task, other in self._tasks.items():
                if other.call is attempt.call and other is not attempt:
                    task.cancel()

    async def _claimed(self, call: _Call) -> bool:
        """Claims a call; False if no call is needed any more. Raises BudgetError and StoreError."""
        try:
            found = await self._till.claim(partial(self._watch.reserved, call.claim))
        except BudgetError as reached:
            raise over_budget(self._config, str(reached)) from None
        if found is not None:
            self._finish(call, found)
            return False
        # A Retry-After holds for every call. It may be prolonged while we sleep, so we look again.
        left = self._resume_at - time.monotonic()
        try:
            while left > 0 and not call.over:
                await asyncio.sleep(left)
                left = self._resume_at - time.monotonic()
        except asyncio.CancelledError:
            # The call will not be made, and holds no part of the budget.
            await self._till.release(call.claim, 0.0, 0)
            raise
        if call.over:
            await self._till.release(call.claim, 0.0, 0)
        return not call.over

    async def _posted(self, call: _Call) -> Answered:
        """Makes a call as `_post` does, and closes its claim where that says not what it cost."""
        try:
            return await self._post(call.request)
        except (AgainError, PoisonError, HopelessError):
            raise
        except ModelError:
            # The server has let go of the adapter and loads it no more: nothing was answered.
            await self._unclaim(call, FREE)
            raise
        except BaseException:
            # The request may have arrived, and be paid for: its claim stays in the budget.
            self._till.lose(call.claim)
            raise

    async def _post(self, request: Request) -> Answered:
        account.attempted()
        try:
            body = self._config.body(request)
            reply = await self._replied(body)
            self._heard = time.monotonic()
            return read(reply, self.name, self._key, self._config.patience, time.time())
        except LostError as lost:
            usage = None if lost.reached else FREE
            raise AgainError(said(str(lost), self._key), usage, reached=lost.reached) from None

    async def _replied(self, body: dict[str, Any]) -> Reply:
        """Makes one call. Raises LostError, and ModelError for an adapter that is not loaded."""
        if self._held is None:
            return await self._client.post(body)
        try:
            return await self._held.answered(lambda: self._client.post(body))
        except CallError as error:
            # The server was lost while it was to load the adapter; the call was not made.
            raise LostError(str(error), reached=False) from None

    async def _unclaim(self, call: _Call, usage: Usage | None) -> None:
        """Releases the claim of an attempt without an answer at what it cost.

        None means that nobody knows whether it was paid for: then the claim stays.
        """
        if usage is None:
            self._till.lose(call.claim)
            return
        usd, tokens = self._config.cost(*usage) or 0.0, sum(usage)
        over = self._watch.billed(call.claim, usd, tokens)
        await self._till.release(call.claim, usd, tokens)
        if over:
            await asyncio.to_thread(self._watch.remember)

    async def _settle(self, claim: ClaimRequest, answered: Answered, seconds: float) -> None:
        """Keeps an answer and its cost. Without a reported usage, the most that it could cost."""
        cost, tokens, over = None, claim.tokens, False
        if answered.usage is not None:
            cost, tokens = self._config.cost(*answered.usage), sum(answered.usage)
            over = self._watch.billed(claim, cost or 0.0, tokens)
        elif self._config.price is not None:
            cost = claim.usd
        answer = store.StoredAnswer(claim.key, answered.completion, seconds, cost, answered.version)
        await self._till.settle(answer, cost or 0.0, tokens)
        if over:
            await asyncio.to_thread(self._watch.remember)
        check_version(self._config, self.name)

    async def _again(self, attempt: _Attempt, again: AgainError) -> None:
        """Schedules a retry or gives the call up. Raises CallError if no call would fare better."""
        call = attempt.call
        call.open -= 1
        call.empty += again.empty
        self._watch.saw(call.claim.key, again)
        self._stop_if_hopeless()
        busy = again.busy and self._pace.refused(attempt.began, time.monotonic())
        if call.over or call.open:
            return
        now = time.monotonic()
        # An endpoint that could be reached a moment ago is waited for without counting the tries,
        # since nothing is paid for meanwhile.
        waits = (
            not again.reached
            and self._heard is not None
            and now - self._heard < self._config.patience
        )
        if not waits:
            call.counted += 1
        tired = call.counted > self._config.retries or call.empty > EMPTY_RETRIES
        if not tired and call.wanted:
            wait = max(backoff(self._config.backoff, call.tries), again.wait or 0.0)
            if busy and again.wait is not None:
                self._resume_at = max(self._resume_at, now + again.wait)
            self._loop.call_later(wait, self._retry, call)
            return
        if not again.reached and call.wanted:
            raise stopped(self._config, self._key, f"is out of reach ({again})")
        self._give_up(call, f"{again}, at the last of {call.tries} attempts")

    def _retry(self, call: _Call) -> None:
        if not call.over:
            self._queue(call, first=True)
            self._begin()

    def _stop_if_hopeless(self) -> None:
        """Raises CallError if the replies so far show that no call will be answered."""
        why = self._watch.hopeless()
        if why is not None:
            raise stopped(self._config, self._key, why)

    def _give_up(self, call: _Call, reason: str) -> None:
        self._finish(call, Completion(None, self.name, "failed", reason))

    def _finish(self, call: _Call, completion: Completion) -> None:
        self._forget(call)
        for future in call.waiting:
            # Whoever waited may have cancelled meanwhile.
            with suppress(InvalidStateError):
                future.set_result(completion)

    def _fail(self, call: _Call, error: BaseException) -> None:
        self._forget(call)
        for future in call.waiting:
            with suppress(InvalidStateError):
                future.set_exception(error)

    def _forget(self, call: _Call) -> None:
        call.over = True
        if self._calls.get(call.claim.key) is call:
            del self._calls[call.claim.key]

    def _halt(self, error: CoWestError) -> None:
        """Begins no more calls: those queued fail with `error`, those under way are answered."""
        self._end = self._end or error
        for call in list(self._calls.values()):
            if not call.under_way:
                self._fail(call, self._end)
        self._ready.clear()
