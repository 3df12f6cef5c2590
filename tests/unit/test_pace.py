"""How many calls at once: fewer under refusals and rising latency, and as many as before
afterwards.
"""

from cowest.models.endpoint.pace import Pace


class Clock:
    """Rounds of calls, one after another."""

    def __init__(self, most: int) -> None:
        self.pace, self.now = Pace(most), 1.0

    def answered(self, seconds: float, calls: int) -> None:
        for _ in range(calls):
            self.now += seconds / self.pace.limit
            self.pace.answered(self.now - seconds, self.now)

    def refused(self, calls: int) -> list[bool]:
        began = self.now
        self.now += 0.1
        return [self.pace.refused(began, self.now) for _ in range(calls)]


def test_starts_with_what_is_configured_and_keeps_it_while_all_is_well() -> None:
    clock = Clock(64)
    assert clock.pace.limit == 64
    clock.answered(0.1, 1000)
    assert clock.pace.limit == 64


def test_a_single_refusal_is_about_its_row_and_many_in_a_row_are_about_all() -> None:
    clock = Clock(64)
    for _ in range(20):
        assert clock.refused(3) == [False] * 3
        clock.answered(0.1, 1)
    assert clock.pace.limit == 64
    assert clock.refused(10) == [False] * 7 + [True] * 3
    assert clock.pace.limit == 32, "halved once for all that were under way"
    assert Clock(8).refused(1) == [True]


def test_goes_down_to_one_and_comes_back() -> None:
    clock = Clock(64)
    for _ in range(8):
        clock.refused(10)
    assert clock.pace.limit == 1
    assert clock.refused(1) == [True] and clock.pace.limit == 1
    clock.answered(0.1, 200)
    assert 8 < clock.pace.limit < 64
    clock.answered(0.1, 800)
    assert clock.pace.limit == 64


def test_yields_when_answers_take_ever_longer_and_comes_back_though_they_stay_long() -> None:
    clock = Clock(64)
    clock.answered(0.1, 500)
    limits = []
    for _ in range(60):
        clock.answered(0.6, 10)
        limits.append(clock.pace.limit)
    assert 16 <= min(limits) <= 40, "a suspicion takes three quarters at most"
    clock.answered(0.6, 4000)
    assert clock.pace.limit == 64


def test_a_few_slow_answers_are_no_reason() -> None:
    clock = Clock(64)
    clock.answered(0.1, 500)
    for _ in range(100):
        clock.answered(0.1, 19)
        clock.answered(1.0, 1)
        assert clock.pace.limit == 64


def test_knows_the_median() -> None:
    clock = Clock(8)
    clock.answered(0.2, 100)
    clock.answered(5.0, 4)
    assert 0.15 < clock.pace.median < 0.3
