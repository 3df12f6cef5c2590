"""Handles one HTTP request: reads, admits, answers while its client is there, and records it."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from cowest.online.admission import Admission
from cowest.online.answering import Answering, Asked
from cowest.online.around import Around
from cowest.online.bodies import encode, read_json, until_gone
from cowest.online.desk import Desk
from cowest.online.interactions import Interaction
from cowest.online.live import ServeConfig
from cowest.online.log import Log
from cowest.online.metrics import Standing
from cowest.online.refusals import GoneError, RefusalError
from cowest.online.visits import visit_of

DEADLINE = "x-cowest-deadline"
"""Header with the seconds that a client gives a request."""


class Service:
    """Everything that requests share. It is made in the event loop when the server starts."""

    def __init__(self, config: ServeConfig, desk: Desk, log: Log) -> None:
        self.config = config
        self.desk = desk
        self.log = log
        self.admission = Admission(config.concurrency, config.queue)
        self.around = Around(config, self.standing)

    def dead(self) -> str | None:
        """Says why the process has to be started again; None while it need not be."""
        return None if self.desk.alive() else self.desk.problem()

    def unready(self) -> str | None:
        """Says why no requests should be sent here now; None if they can be."""
        return "the service is ending" if self.around.drain.begun else self.desk.reason()

    def detail(self) -> str | None:
        """Says what is wrong while requests are answered all the same; None if nothing is."""
        wrong = []
        if (problem := self.desk.problem()) is not None:
            wrong.append(problem)
        if (failing := self.log.state().failing) is not None:
            wrong.append(f"the log can't be written: {failing}")
        return "; ".join(wrong) or None

    def standing(self) -> Standing:
        """Returns how the service stands just now, for its metrics."""
        log = self.log.state()
        opened = self.desk.opened
        open_breakers = {}
        if opened is not None:
            for role, model in (("policy", opened.policy), ("strong", opened.strong)):
                open_breakers[role] = model.breaker.is_open
        return Standing(
            version=None if opened is None else opened.number,
            ready=self.unready() is None,
            working=self.admission.taken,
            waiting=self.admission.waiting,
            open_breakers=open_breakers,
            log_answers=log.answers,
            log_lost=log.lost,
            log_verdicts=log.verdicts,
            log_refused=log.refused,
            log_failing=log.failing is not None,
        )


class Incoming:
    """A request that arrived: its id, its times, and the way back to its client."""

    def __init__(self, scope: Scope, send: Send, deadline: float, id: str) -> None:
        self.id = id
        self.at = time.time()
        self.began = time.monotonic()
        self.until = self.began + deadline
        self.headers = {}
        for name, value in scope["headers"]:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self.visit = visit_of(scope)
        self.visit.id = id
        self.purse = self.visit.caller
        """Name of the key that pays."""
        self.answered = False
        """True once the status was sent."""
        self._send = send

    def shorten(self) -> None:
        """Takes the client's own deadline, if it is sooner. Raises RefusalError."""
        text = self.headers.get(DEADLINE)
        if text is None:
            return
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not seconds > 0:
            raise RefusalError(400, f"{DEADLINE}: give a number of seconds above 0", param=DEADLINE)
        self.until = min(self.until, self.began + seconds)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends status and headers."""
        self.answered = True
        raw = []
        for name, value in headers.items():
            raw.append((name.encode("latin-1"), value.encode("latin-1", "replace")))
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def body(self, data: bytes, more: bool = False) -> None:
        """Sends a part of the body."""
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def json(self, status: int, value: Any, headers: Mapping[str, str]) -> None:
        """Sends a whole response."""
        data = encode(value)
        sizes = {"content-type": "application/json", "content-length": str(len(data))}
        await self.start(status, {**sizes, **headers})
        await self.body(data)

    async def leave(self) -> None:
        """Ends a request whose client left, or does not read."""
        # What lies around this application waits for a status before it lets a request go: without
        # one, BentoML would hold it for eleven minutes (under `bentoml serve`).
        if not self.answered:
            await self._send({"type": "http.response.start", "status": 499, "headers": []})
            await self._send({"type": "http.response.body", "body": b""})

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Sends a message of ASGI. Raises GoneError for a client that does not read in time."""
        # A server makes us wait here while its buffer is full, so nothing is held beyond that.
        try:
            async with asyncio.timeout(max(self.until - time.monotonic(), 1.0)):
                await self._send(message)
        except (TimeoutError, OSError):
            raise GoneError from None


class Understood(Protocol):
    """A request as one way of asking understood it."""

    @property
    def asked(self) -> Asked: ...

    async def reply(
        self, answering: Answering, incoming: Incoming, record: Callable[[], None]
    ) -> None:
        """Runs the request and sends its answer.

        Calls `record` when the answer is whole and before its end is sent, so that whoever has
        read it can refer to it. Raises RefusalError where nothing was sent yet.
        """
        ...


class Speech(Protocol):
    """A way of asking: how a body is understood, and an error said."""

    def understand(
        self, body: dict[str, Any], incoming: Incoming, config: ServeConfig
    ) -> Understood:
        """Returns what is asked. Raises RefusalError."""
        ...

    def error(self, refusal: RefusalError) -> dict[str, Any]:
        """The body of an error."""
        ...


class Posted:
    """The ASGI endpoint of one way of asking."""

    def __init__(
        self,
        service: Callable[[], Service],
        speech: Speech,
        finished: Callable[[Interaction], None],
    ) -> None:
        self._service = service
        self._speech = speech
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        service = self._service()
        incoming = Incoming(scope, send, service.config.deadline, service.log.new_id())
        try:
            try:
                # Whoever is turned away is turned away before anything is read.
                service.admission.check()
                incoming.shorten()
                most = service.config.limits.body
                body = await read_json(incoming.headers, receive, most, incoming.until)
                turn = self._speech.understand(body, incoming, service.config)
                work = asyncio.create_task(self._answer(service, turn, incoming))
                await until_gone(receive, work)
            except RefusalError as refusal:
                incoming.visit.refused = refusal.code or "invalid_request"
                headers = {"x-request-id": incoming.id, **refusal.headers}
                await incoming.json(refusal.status, self._speech.error(refusal), headers)
        except GoneError:
            await incoming.leave()

    async def _answer(self, service: Service, turn: Understood, incoming: Incoming) -> None:
        async with service.admission.place(incoming.until), service.desk.live() as version:
            answering = Answering(turn.asked, version, service.config)
            recorded = False

            def record() -> None:
                nonlocal recorded
                if not recorded:
                    recorded = True
                    rows = incoming.visit.rows = answering.interactions()
                    for row in rows:
                        self._finished(row)

            try:
                await turn.reply(answering, incoming, record)
            finally:
                record()
