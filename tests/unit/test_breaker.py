"""The breaker: open after failures in a row, tried by one request, closed by an answer."""

import pytest

from cowest.errors import UpstreamError
from cowest.online.breaker import Breaker, BreakerConfig


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock, failures: int = 3) -> Breaker:
    breaker = Breaker(BreakerConfig(failures=failures, seconds=10), "the model", clock)
    for _ in range(failures):
        breaker.begin("one")
        breaker.fail()
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(BreakerConfig(failures=3), "the model", Clock())
    for fails in (True, True, False, True, True):
        breaker.begin("one")
        if fails:
            breaker.fail()
        else:
            breaker.succeed()
    breaker.begin("one")
    breaker.fail()
    with pytest.raises(
        UpstreamError, match="the model is not asked for a while: 3 calls"
    ) as refused:
        breaker.begin("one")
    assert refused.value.retry_after == 10


def test_one_request_tries_it_and_decides() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10.1
    breaker.begin("one")
    with pytest.raises(UpstreamError):
        breaker.begin("another")
    breaker.fail()
    with pytest.raises(UpstreamError):
        breaker.begin("one")
    clock.now += 10.1
    breaker.begin("one")
    breaker.succeed()
    for _ in range(5):
        breaker.begin("one")


def test_a_try_that_was_broken_off_leaves_it_to_the_next() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += 11
    breaker.begin("one")
    breaker.abandon("one")
    breaker.begin("another")


def test_all_calls_of_one_request_try_it() -> None:
    clock = Clock()
    breaker = broken(clock)
    clock.now += 11
    assert breaker.begin("one") and breaker.begin("one")
    breaker.abandon("one")
    with pytest.raises(UpstreamError):
        breaker.begin("another")
    breaker.abandon("one")
    assert breaker.begin("another")
    # What is left of a request before says nothing of the one that tries.
    breaker.abandon("one")
    with pytest.raises(UpstreamError):
        breaker.begin("one")
    breaker.succeed()
    breaker.abandon("another")
    assert not breaker.is_open and not breaker.begin("one")


def test_a_model_that_asks_for_patience_gets_it() -> None:
    clock = Clock()
    breaker = broken(clock, 1)
    clock.now += 11
    breaker.begin("one")
    breaker.fail(retry_after=60)
    clock.now += 59
    with pytest.raises(UpstreamError):
        breaker.begin("one")
    clock.now += 2
    breaker.begin("one")
