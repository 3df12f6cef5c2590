"""A model as the service asks it: who is at fault when an answer is late."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from cowest.config import Sampling
from cowest.errors import UpstreamError
from cowest.online.answering import merged
from cowest.online.breaker import Breaker, BreakerConfig
from cowest.online.upstream import LateError, Upstream
from cowest.protocols import Completion, Request, Served
from cowest.records import Message

ASKED = Request((Message(role="user", content="Where is it made?"),), Sampling())


class Slow:
    """A model that needs some time for each of its texts."""

    name = "slow"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        for _ in range(100):
            await asyncio.sleep(self._seconds)
            yield "text "
        yield Completion("text " * 100, self.name)


@pytest.mark.parametrize(("model", "reader", "open_after"), [(0.0, 0.3, False), (9.0, 0.0, True)])
def test_a_client_that_reads_slowly_is_no_fault_of_the_model(
    model: float, reader: float, open_after: bool
) -> None:
    breaker = Breaker(BreakerConfig(failures=1), "the model")
    upstream = Upstream(Slow(model), breaker, patience=0.1)

    async def read() -> None:
        served = Served("id", time.monotonic() + 0.2)
        async for _ in upstream.stream(ASKED, served):
            await asyncio.sleep(reader)

    with pytest.raises(LateError):
        asyncio.run(read())
    assert breaker.is_open is open_after


class Punctual:
    """A model that looks at the deadline itself, as an endpoint's does."""

    name = "punctual"

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        # Not on the loop, whose own timer would be as soon.
        time.sleep(max(served.until - time.monotonic() - 0.001, 0.0))
        raise UpstreamError("gave no answer in time")
        yield ""


@pytest.mark.parametrize(
    ("seconds", "patience", "open_after"),
    [(-1.0, 0.1, False), (0.2, 5.0, False), (0.4, 0.1, True)],
)
def test_a_deadline_of_a_client_in_a_hurry_is_no_fault_of_a_model_that_keeps_it(
    seconds: float, patience: float, open_after: bool
) -> None:
    breaker = Breaker(BreakerConfig(failures=1), "the model")
    upstream = Upstream(Punctual(), breaker, patience)

    async def read() -> None:
        async for _ in upstream.stream(ASKED, Served("id", time.monotonic() + seconds)):
            pass

    with pytest.raises(UpstreamError):
        asyncio.run(read())
    assert breaker.is_open is open_after


def test_who_leaves_a_call_from_before_does_not_end_the_one_that_tries() -> None:
    now = 100.0
    breaker = Breaker(BreakerConfig(failures=1, seconds=10), "the model", lambda: now)
    upstream = Upstream(Slow(9.0), breaker, patience=0.1)

    async def read(id: str) -> None:
        async for _ in upstream.stream(ASKED, Served(id, time.monotonic() + 60)):
            pass

    async def leave() -> None:
        nonlocal now
        before = asyncio.create_task(read("before"))
        await asyncio.sleep(0)
        breaker.fail()
        now += 11
        trying = asyncio.create_task(read("trying"))
        await asyncio.sleep(0)
        before.cancel()
        await asyncio.gather(before, return_exceptions=True)
        with pytest.raises(UpstreamError, match="is not asked for a while"):
            await read("another")
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        # The one that tried is gone, so the next one tries.
        assert breaker.begin("next")

    asyncio.run(leave())


def test_a_request_for_several_answers_closes_the_breaker_after_an_outage() -> None:
    now = 100.0
    breaker = Breaker(BreakerConfig(failures=1, seconds=10), "the model", lambda: now)
    upstream = Upstream(Slow(0.0), breaker, patience=0.1)

    async def ask() -> int:
        served = Served("id", time.monotonic() + 60)
        ended = 0
        async for _, piece in merged([upstream.stream(ASKED, served) for _ in range(3)]):
            ended += isinstance(piece, Completion)
        return ended

    breaker.fail()
    now += 11
    assert asyncio.run(ask()) == 3
    assert not breaker.is_open
