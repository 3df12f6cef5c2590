"""The service's desk: opens each new champion, tries it, and lends it to requests."""

import asyncio
import gc
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from cowest.errors import CoWestError, ThoughtShownError
from cowest.models.device import is_lost
from cowest.online.answering import Answering, Asked, Opened
from cowest.online.interactions import new_id
from cowest.online.live import ServeConfig
from cowest.online.refusals import RefusalError
from cowest.online.shelf import RegistryShelf, Shelf
from cowest.online.upstream import Upstream
from cowest.records import Message

RETRY = 15.0
"""Seconds until what could not be opened, or did not answer, is tried again. They are doubled each
time where another version answers meanwhile, and where a hosted model was tried, which is paid
for."""
LONGEST_RETRY = 300.0
"""The longest of these pauses."""
LOOK = 1.0
"""Seconds between two checks that the models of the version in use still work."""
PROBES = 2
"""Attempts to get an answer from a version: the first may find that answers begin in a thought."""
log = logging.getLogger("cowest")


class Lent:
    """An open version, with the number of requests that it is answering."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self.requests = 0
        self.replaced = asyncio.Event()
        """Set when no request is to begin with it any more."""
        self._free = asyncio.Event()
        self._free.set()

    def take(self) -> None:
        """Counts a request that begins."""
        self.requests += 1
        self._free.clear()

    def give_back(self) -> None:
        """Counts a request that ended."""
        self.requests -= 1
        if not self.requests:
            self._free.set()

    async def done(self) -> None:
        """Waits until the version is replaced, and no request is under way."""
        await self.replaced.wait()
        await self._free.wait()


class Desk:
    """Follows the registry's champion until `close` is called.

    A new champion is opened and tried while the one before answers, and then takes its place. New
    requests go to the new champion; those under way stay with the version they began with. A
    champion that does not answer its trial is refused: the one before goes on, and `problem` says
    why. A local model whose thread broke off is opened again, and `reason` says so until it
    answers. For one event loop, and made inside it.
    """

    def __init__(
        self, config: ServeConfig, shelf: Shelf | None = None, retry: float = RETRY
    ) -> None:
        self._config = config
        self._retry = retry
        self._shelf = shelf or RegistryShelf(config)
        self._lent: Lent | None = None
        self._reason: str | None = "the model is being loaded"
        self._failed: int | None = None
        """The version that failed last; it is tried again after `_pause`."""
        self._why: str | None = None
        """The reason for which it failed."""
        self._again = 0.0
        self._pause = retry
        self._tried = False
        """True if the version that is being opened has asked the models."""
        self._lost: str | None = None
        """The reason why a model can be opened by a new process alone; None while this one can."""
        self._closing = asyncio.Event()
        self._versions: set[asyncio.Task[None]] = set()
        """One task per open version, replaced ones included."""
        self._busy: asyncio.Task[Any] | None = None
        """The task that reads the registry or opens a version. A stop does not wait for it."""
        self._task = asyncio.create_task(self._work(), name="desk")
        self._task.add_done_callback(self._say_why)

    @asynccontextmanager
    async def live(self) -> AsyncIterator[Opened]:
        """Lends the version that answers; its models stay open until it is given back.

        Raises RefusalError while there is none.
        """
        lent = self._lent
        if lent is None:
            again = self._again - time.monotonic() if self._failed is not None else 0.0
            wait = max(self._retry, again)
            raise RefusalError(503, self.reason() or "", code="not_ready", retry_after=wait)
        lent.take()
        try:
            yield lent.opened
        finally:
            lent.give_back()

    @property
    def opened(self) -> Opened | None:
        """The version in use, for inspection only; None while there is none."""
        return None if self._lent is None else self._lent.opened

    def reason(self) -> str | None:
        """Says why no version can answer; None if one can."""
        return self.problem() if self._lent is None else self._lent.opened.broke

    def problem(self) -> str | None:
        """Says why the champion does not answer; None if it does.

        Another version may answer meanwhile.
        """
        if self._lost is not None and not self._closing.is_set():
            return self._lost
        if not self.alive():
            return "what loads the model broke off: the server's log says why; start it again"
        return self._reason

    def alive(self) -> bool:
        """False if only a new start of the process helps.

        So it is where what takes up versions ended by a mistake of ours, or the GPU is lost.
        """
        return self._closing.is_set() or (self._lost is None and not self._task.done())

    async def close(self) -> None:
        """Waits for the requests under way, and closes the models."""
        self._reason = "the service is being stopped"
        self._closing.set()
        # A version that is being opened answers nobody, and may take minutes.
        if self._busy is not None:
            self._busy.cancel()
        elif self._lent is None:
            self._task.cancel()
        await asyncio.wait([self._task])
        gc.unfreeze()

    async def _work(self) -> None:
        pause = self._retry
        while not self._closing.is_set():
            try:
                async with self._shelf.strong() as strong:
                    pause = self._retry
                    # A version may have failed for want of what the old model held.
                    self._failed = None
                    try:
                        await self._follow(strong)
                    finally:
                        await self._leave()
            except Exception as error:  # noqa: BLE001
                # Whatever a model breaks on, as a GPU without memory, may be over next time.
                self._say_fault(error)
                await self._wait(pause)
                pause = min(2 * pause, LONGEST_RETRY)

    async def _follow(self, strong: Upstream) -> None:
        """Takes up the champion, and each next one, until the service is stopped.

        Returns too when the strong model has to be opened again, and all versions with it.
        """
        while not self._closing.is_set():
            if strong.broke is not None:
                self._say(strong.broke)
                return
            try:
                await self._look(strong)
            finally:
                self._busy = None
            if self._lent is None:
                await self._wait(self._retry)
            else:
                await self._rest(self._lent.opened)

    async def _look(self, strong: Upstream) -> None:
        """Takes up the present champion, unless it is the version in use."""
        try:
            self._busy = asyncio.create_task(self._wanted())
            number = await self._busy
        except Exception as error:  # noqa: BLE001
            # Whatever a registry breaks on, the version that answers goes on.
            self._say_fault(error)
            return
        opened = self.opened
        if opened is not None and opened.number == number:
            if opened.broke is None:
                self._failed = None
                self._say(None)
                return
            if number != self._failed:
                self._say(opened.broke)
        if number == self._failed and time.monotonic() < self._again:
            self._say(self._why)
            return
        self._pause = min(2 * self._pause, LONGEST_RETRY) if number == self._failed else self._retry
        self._tried = False
        try:
            lent = await self._opened(number, strong)
        except Exception as error:  # noqa: BLE001
            # Whatever a new version breaks on, the one that answers goes on.
            if self._lent is None and not self._tried:
                # Nothing answers, and nothing was asked that is paid for.
                self._pause = self._retry
            self._failed, self._again = number, time.monotonic() + self._pause
            self._why = f"version {number} is not taken up: {_words(error)}"
            self._say_fault(error, self._why)
            return
        before, self._lent, self._failed = self._lent, lent, None
        if before is not None:
            before.replaced.set()
        log.info("version %d answers from now on", number)
        self._say(None)
        settle()

    async def _wanted(self) -> int:
        """Returns the version that should answer. Raises RegistryError if there is none."""
        if self._lent is not None and self._config.watch is None:
            return self._lent.opened.number
        return await self._shelf.champion()

    async def _opened(self, number: int, strong: Upstream) -> Lent:
        """Opens a version and tries it. Raises CoWestError or RefusalError."""
        ready: asyncio.Future[Lent] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._keep(number, strong, ready), name=f"version {number}")
        self._versions.add(task)
        task.add_done_callback(self._versions.discard)
        self._busy = task
        both: list[asyncio.Future[Any]] = [task, ready]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await task
        return await ready

    async def _keep(self, number: int, strong: Upstream, ready: "asyncio.Future[Lent]") -> None:
        """Keeps a version open until it is replaced, and its last request has been answered."""
        async with self._shelf.policy(number) as (prompts, policy):
            opened = Opened(number, prompts, policy, strong)
            # Both models must answer before anybody is let in.
            self._tried = True
            await probe(opened, self._config)
            lent = Lent(opened)
            ready.set_result(lent)
            await lent.done()
        if not self._closing.is_set():
            # What the version held is looked through once more, and its memory is free.
            settle()

    async def _leave(self) -> None:
        """Lends nothing any more, and waits for the requests under way."""
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.replaced.set()
        await asyncio.gather(*self._versions, return_exceptions=True)

    def _say(self, reason: str | None, fault: Exception | None = None) -> None:
        """Keeps the reason why the champion does not answer, and logs one that is new."""
        if self._closing.is_set():
            return
        if reason is not None and reason != self._reason:
            log.warning("%s", reason, exc_info=fault)
        self._reason = reason
        if reason is None:
            self._lost = None

    def _say_fault(self, error: Exception, reason: str | None = None) -> None:
        """Keeps an error as the reason. The log has the whole of one that nobody foresaw."""
        if is_lost(error):
            lost = f"the GPU is lost to this process, so start it again: {_words(error)}"
            if lost != self._lost:
                log.error("%s", lost)
            self._lost = lost
        expected = isinstance(error, CoWestError | RefusalError)
        self._say(reason or _words(error), None if expected else error)

    def _say_why(self, task: asyncio.Task[None]) -> None:
        """Logs what ended the desk's task, if nobody asked for its end."""
        if self._closing.is_set():
            return
        if task.cancelled():
            log.error("what loads the model was cancelled")
        elif task.exception() is not None:
            log.error("what loads the model broke off", exc_info=task.exception())

    async def _rest(self, opened: Opened) -> None:
        """Waits until it is time to look for another champion, or a model breaks off."""
        watch = self._config.watch
        until = math.inf if watch is None else time.monotonic() + watch
        while not self._closing.is_set():
            await self._wait(min(LOOK, max(until - time.monotonic(), 0.0)))
            if time.monotonic() >= until or opened.broke is not None:
                return

    async def _wait(self, seconds: float) -> None:
        """Waits for so many seconds, or until the service is stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()


async def probe(opened: Opened, config: ServeConfig) -> None:
    """Asks both models a question, as a person would. Raises CoWestError or RefusalError."""
    strict = config.model_copy(update={"degrade": ()})
    for attempt in range(1, PROBES + 1):
        # The question is another one each time, in case an answer is kept somewhere.
        question = f"Is anyone there? ({uuid.uuid4().hex[:8]})"
        now = time.monotonic()
        asked = Asked(
            id=new_id(),
            model="cowest",
            prompt=(Message(role="user", content=question),),
            sampling=config.refining.model_copy(update={"n": 1}),
            streamed=True,
            at=time.time(),
            began=now,
            until=now + config.deadline,
        )
        try:
            async with aclosing(Answering(asked, opened, strict).events()) as events:
                async for _ in events:
                    pass
        except RefusalError as refusal:
            if not isinstance(refusal.__cause__, ThoughtShownError) or attempt == PROBES:
                raise
            opened.strong.opened = True
        else:
            return


def settle() -> None:
    """Has the garbage collector look through all that there is, and then leave it alone.

    What was loaded lasts. Each look through it would hold up every request for 70 ms and more, and
    there is one every half minute.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _words(error: Exception) -> str:
    """An error's words, or its name where it has none."""
    return str(error) or type(error).__name__
