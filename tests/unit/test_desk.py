"""The desk: a version is lent once it answers, and stays open until all have given it back."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from cowest.config import parse
from cowest.errors import ModelError, RegistryError, UpstreamError
from cowest.models.device import is_lost
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.online.breaker import Breaker
from cowest.online.desk import Desk
from cowest.online.live import ServeConfig
from cowest.online.refusals import RefusalError
from cowest.online.upstream import Upstream
from cowest.prompts import Prompts
from tests.factories import PROMPTS
from tests.serving import POLICY, STRONG

CONFIG = parse(
    ServeConfig, {"policy": POLICY, "strong": STRONG, "registry": {"name": "none"}}, "serve"
)


class Versions:
    """Opens versions one after another: `None` says that there is none yet."""

    def __init__(self, *policies: ScriptedConfig | None) -> None:
        self.left = list(policies)
        self.opened = 0
        self.closed = 0
        self.slow = asyncio.Event()
        self.slow.set()

    async def champion(self) -> int:
        if self.left[0] is None:
            self.left.pop(0)
            raise RegistryError("no version is champion yet")
        return self.opened + 1

    @asynccontextmanager
    async def strong(self) -> AsyncIterator[Upstream]:
        async with STRONG.open_async() as model:
            yield Upstream(model, Breaker(CONFIG.breaker, "it"), 0.0)

    @asynccontextmanager
    async def policy(self, number: int) -> AsyncIterator[tuple[Prompts, Upstream]]:
        await self.slow.wait()
        script = self.left.pop(0)
        assert script is not None
        async with script.open_async() as model:
            self.opened += 1
            yield PROMPTS, Upstream(model, Breaker(CONFIG.breaker, "it"), 0.0)
        self.closed += 1


class Breaking(Upstream):
    """A model that breaks off when a test says so."""

    reason: str | None = None

    @property
    def broke(self) -> str | None:
        return self.reason


class Breakable(Versions):
    """Versions whose models can break off; all that were opened."""

    def __init__(self, count: int) -> None:
        super().__init__(*[POLICY] * count)
        self.policies: list[Breaking] = []
        self.strongs: list[Breaking] = []

    async def champion(self) -> int:
        return 7 + len(self.policies)

    @asynccontextmanager
    async def strong(self) -> AsyncIterator[Upstream]:
        async with STRONG.open_async() as model:
            self.strongs.append(Breaking(model, Breaker(CONFIG.breaker, "it"), 0.0))
            yield self.strongs[-1]

    @asynccontextmanager
    async def policy(self, number: int) -> AsyncIterator[tuple[Prompts, Upstream]]:
        await self.slow.wait()
        async with POLICY.open_async() as model:
            self.policies.append(Breaking(model, Breaker(CONFIG.breaker, "it"), 0.0))
            yield PROMPTS, self.policies[-1]
        self.closed += 1


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


async def until(desk: Desk, reason: str | None) -> None:
    while desk.reason() != reason:
        await asyncio.sleep(0.001)


def test_a_version_that_is_lent_stays_open_until_it_is_given_back() -> None:
    async def test() -> None:
        versions = Versions(POLICY)
        desk = Desk(CONFIG, versions)
        with pytest.raises(RefusalError, match="being loaded"):
            async with desk.live():
                pass
        await until(desk, None)
        async with desk.live() as one:
            async with desk.live() as other:
                assert one is other
                closing = asyncio.create_task(desk.close())
                await asyncio.sleep(0.01)
                with pytest.raises(RefusalError, match="being stopped"):
                    async with desk.live():
                        pass
            await asyncio.sleep(0.01)
            assert not closing.done() and not versions.closed
        await closing
        assert versions.closed == 1

    run(test())


class Weights:
    """Something that only the garbage collector frees: it holds itself."""

    def __init__(self) -> None:
        self.itself = self


class Holding(Versions):
    """Versions that hold something while they are open."""

    def __init__(self, *policies: ScriptedConfig) -> None:
        super().__init__(*policies)
        self.held: list[weakref.ref[Weights]] = []

    @asynccontextmanager
    async def policy(self, number: int) -> AsyncIterator[tuple[Prompts, Upstream]]:
        weights = Weights()
        self.held.append(weakref.ref(weights))
        async with super().policy(number) as found:
            yield found


def test_what_lasts_is_not_collected_again_and_what_a_version_held_is() -> None:
    async def test() -> None:
        versions = Holding(POLICY, POLICY)
        desk = Desk(CONFIG.model_copy(update={"watch": 0.01}), versions)
        while versions.closed < 1 or versions.held[0]() is not None:
            await asyncio.sleep(0.01)
        assert versions.held[1]() is not None
        assert gc.get_freeze_count() > 0
        await desk.close()
        assert gc.get_freeze_count() == 0

    run(test())


def test_a_champion_may_come_later_and_one_that_gives_no_answer_is_not_lent() -> None:
    mute = ScriptedConfig(rules=(ScriptRule(match="", failed="it is out of order"),))

    async def test() -> None:
        versions = Versions(None, mute, None, POLICY)
        desk = Desk(CONFIG, versions, retry=0.01)
        seen = set()
        while desk.reason() is not None:
            seen.add(desk.reason())
            await asyncio.sleep(0)
        assert seen >= {
            "no version is champion yet",
            "version 1 is not taken up: the policy gave no draft: it is out of order",
        }
        async with desk.live() as live:
            assert live.number == 2
        await desk.close()
        assert versions.closed == 1

    run(test())


def test_closing_does_not_wait_for_a_version_that_is_being_opened() -> None:
    async def test() -> None:
        versions = Versions(POLICY)
        versions.slow.clear()
        desk = Desk(CONFIG, versions)
        await asyncio.sleep(0.01)
        await desk.close()
        assert versions.opened == 0

    run(test())


def test_a_registry_that_breaks_in_a_way_of_its_own_ends_no_answering(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(Versions):
        looks = 0

        async def champion(self) -> int:
            self.looks += 1
            if self.looks in (2, 3):
                raise AttributeError("no tags")
            return 1

    async def test() -> None:
        versions = Odd(POLICY)
        desk = Desk(CONFIG.model_copy(update={"watch": 0.01}), versions)
        await until(desk, None)
        said = set()
        while versions.looks < 5:
            said.add(desk.problem())
            async with desk.live() as live:
                assert live.number == 1
            await asyncio.sleep(0.001)
        assert said == {"no tags", None}
        await desk.close()

    run(test())
    assert "AttributeError" in caplog.text


def test_a_policy_that_broke_off_is_opened_again_and_the_service_is_not_ready_meanwhile() -> None:
    """Without watching too; then it stays the version that it was."""

    async def test() -> None:
        versions = Breakable(2)
        desk = Desk(CONFIG.model_copy(update={"watch": None}), versions)
        await until(desk, None)
        versions.slow.clear()
        async with desk.live() as before:
            versions.policies[0].reason = "it broke off"
            assert desk.reason() == "it broke off"
            async with desk.live() as meanwhile:
                assert meanwhile is before, "the strong model may answer alone"
            versions.slow.set()
            await until(desk, None)
            async with desk.live() as after:
                assert after.policy is versions.policies[1]
                assert after.number == before.number
            assert not versions.closed, "a request is under way with it"
        await desk.close()
        assert (versions.closed, len(versions.strongs)) == (2, 1)

    run(test())


def test_a_strong_model_that_broke_off_is_opened_again() -> None:
    async def test() -> None:
        versions = Breakable(2)
        desk = Desk(CONFIG, versions)
        await until(desk, None)
        versions.strongs[0].reason = "it broke off"
        assert desk.reason() == "it broke off"
        await until(desk, None)
        async with desk.live() as after:
            assert after.strong is versions.strongs[1]
        await desk.close()
        assert len(versions.policies) == versions.closed == 2

    run(test())


def test_a_version_that_failed_is_tried_at_once_beside_a_strong_model_opened_anew() -> None:
    """It may have failed for want of the memory that the old one held."""

    class Full(Breakable):
        number = 7

        async def champion(self) -> int:
            return self.number

        @asynccontextmanager
        async def policy(self, number: int) -> AsyncIterator[tuple[Prompts, Upstream]]:
            if number == 8 and len(self.strongs) == 1:
                raise ModelError("out of memory")
            async with super().policy(number) as found:
                yield found

    async def test() -> None:
        versions = Full(2)
        # The pause of a version that failed is longer than this test may take.
        desk = Desk(CONFIG.model_copy(update={"watch": 0.01}), versions, retry=100)
        await until(desk, None)
        versions.number = 8
        while "out of memory" not in (desk.problem() or ""):
            await asyncio.sleep(0.001)
        assert desk.reason() is None, "version 7 answers"
        versions.strongs[0].reason = "it broke off"
        while desk.opened is None or desk.opened.number != 8:
            await asyncio.sleep(0.001)
        await desk.close()

    run(test())


class Unopened(Versions):
    """Versions beside a strong model that can't be opened at first, for a reason of its own."""

    def __init__(self, times: int) -> None:
        super().__init__(POLICY)
        self.tries: list[float] = []
        self._times = times

    @asynccontextmanager
    async def strong(self) -> AsyncIterator[Upstream]:
        self.tries.append(time.monotonic())
        if len(self.tries) <= self._times:
            raise RuntimeError("CUDA error: out of memory")
        async with super().strong() as model:
            yield model


def test_a_strong_model_that_opens_after_errors_of_its_own_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        versions = Unopened(3)
        desk = Desk(CONFIG, versions, retry=0.01)
        await until(desk, "CUDA error: out of memory")
        assert desk.alive()
        await until(desk, None)
        await desk.close()
        waits = [after - before for before, after in pairwise(versions.tries)]
        assert all(wait >= 0.01 * 2**number for number, wait in enumerate(waits)), waits

    run(test())
    assert "RuntimeError" in caplog.text


def test_a_version_that_fails_is_paid_for_ever_more_seldom_and_another_is_tried_at_once() -> None:
    """A strong model of an endpoint is paid for each time that a version is tried."""
    mute = ScriptedConfig(rules=(ScriptRule(match="", failed="it is out of order"),))

    class Tried(Versions):
        def __init__(self) -> None:
            super().__init__()
            self.number = 1
            self.looks = 0
            self.tries: list[tuple[int, float]] = []

        async def champion(self) -> int:
            self.looks += 1
            return self.number

        @asynccontextmanager
        async def policy(self, number: int) -> AsyncIterator[tuple[Prompts, Upstream]]:
            self.tries.append((number, time.monotonic()))
            self.left.append(mute if number == 1 else POLICY)
            async with super().policy(number) as found:
                yield found

    async def test() -> None:
        versions = Tried()
        desk = Desk(CONFIG, versions, retry=0.01)
        while len(versions.tries) < 6:
            await asyncio.sleep(0.001)
        times = [at for _, at in versions.tries]
        waits = [after - before for before, after in pairwise(times)]
        assert all(wait >= 0.01 * 2**number for number, wait in enumerate(waits)), waits
        assert versions.looks > len(versions.tries), "the registry is looked at all the time"
        assert "version 1 is not taken up" in (desk.reason() or "")
        versions.number = 2
        await until(desk, None)
        assert versions.tries[-1][0] == 2
        await desk.close()

    run(test())


def test_a_registry_that_breaks_at_the_start_is_said_and_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(Versions):
        async def champion(self) -> int:
            if self.left[0] is None:
                self.left.pop(0)
                raise IndexError
            return 1

    async def test() -> None:
        desk = Desk(CONFIG, Odd(None, POLICY), retry=0.01)
        await until(desk, "IndexError")
        assert desk.alive()
        await until(desk, None)
        await desk.close()

    run(test())
    assert "Traceback" in caplog.text


ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"


class Lost(Breakable):
    """Versions whose GPU is lost once the first has broken off, until a test says otherwise."""

    error: Exception | None = None

    @asynccontextmanager
    async def policy(self, number: int) -> AsyncIterator[tuple[Prompts, Upstream]]:
        if self.policies and self.error is not None:
            raise self.error
        async with super().policy(number) as opened:
            yield opened


def test_a_gpu_that_is_lost_asks_for_a_new_start(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        versions = Lost(9)
        desk = Desk(CONFIG, versions, retry=0.001)
        await until(desk, None)
        # What a server says of a GPU of its own is no news of ours.
        versions.error = UpstreamError(f"the endpoint answered 500: {ASSERT}")
        versions.policies[0].reason = "it broke off"
        while "not taken up" not in (desk.problem() or ""):
            await asyncio.sleep(0.001)
        assert desk.alive()
        versions.error = RuntimeError(ASSERT)
        while desk.alive():
            await asyncio.sleep(0.001)
        assert (desk.problem() or "").startswith(
            "the GPU is lost to this process, so start it again: CUDA error: device-side assert"
        )
        await asyncio.sleep(0.02)
        versions.error = None
        while not desk.alive():
            await asyncio.sleep(0.001)
        assert desk.problem() is None
        versions.error = RuntimeError(ASSERT)
        versions.policies[-1].reason = "it broke off"
        while desk.alive():
            await asyncio.sleep(0.001)
        await desk.close()
        assert "being stopped" in (desk.problem() or "")

    run(test())
    lost = [one.message for one in caplog.records if one.message.startswith("the GPU is lost")]
    assert len(lost) == 2, "it is said once for each time, however often it is tried"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA driver error: an illegal memory access was encountered"), True),
        (RuntimeError("HIP error: unspecified launch failure"), True),
        (RuntimeError("CUDA error: Invalid access of peer GPU memory over nvlink"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: invalid argument"), False),
        (ValueError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_an_error_says_if_the_gpu_is_lost(error: Exception, expected: bool) -> None:
    assert is_lost(error) is expected
    outer = ModelError("it failed")
    outer.__cause__ = error
    assert is_lost(outer) is expected
    error.__context__ = outer
    assert is_lost(outer) is expected, "also in a circle of causes"


def test_torch_may_say_it_by_a_number() -> None:
    error = RuntimeError("CUDA error: words of a newer release")
    assert not is_lost(error)
    error.error_code = 810  # type: ignore[attr-defined]
    assert is_lost(error)


def test_a_desk_that_ended_unasked_is_dead() -> None:
    class Cancelling(Versions):
        async def champion(self) -> int:
            raise asyncio.CancelledError

    async def test() -> None:
        desk = Desk(CONFIG, Cancelling(POLICY))
        assert desk.alive()
        await until(
            desk, "what loads the model broke off: the server's log says why; start it again"
        )
        assert not desk.alive()
        await desk.close()
        assert desk.alive(), "it was stopped"

    run(test())
