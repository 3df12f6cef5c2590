"""Places for requests: at most so many, in order, and none is ever lost."""

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from cowest.online.admission import Admission
from cowest.online.refusals import RefusalError


def later() -> float:
    return time.monotonic() + 30


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Work:
    """Requests that hold a place until they are let go."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.begun: list[int] = []
        self.go: dict[int, asyncio.Event] = {}

    async def hold(self, number: int, until: float) -> None:
        self.go[number] = asyncio.Event()
        async with self.admission.place(until):
            self.begun.append(number)
            await self.go[number].wait()

    async def start(self, number: int, until: float | None = None) -> asyncio.Task[None]:
        task = asyncio.create_task(self.hold(number, until or later()))
        await settle()
        return task


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def test_so_many_at_once_and_the_others_in_order() -> None:
    async def test() -> None:
        work = Work(Admission(2, 2))
        tasks = [await work.start(number) for number in range(4)]
        assert work.begun == [0, 1] and work.admission.waiting == 2
        with pytest.raises(RefusalError) as refused:
            async with work.admission.place(later()):
                pass
        assert refused.value.status == 429 and int(refused.value.headers["retry-after"]) >= 1
        for number in range(4):
            work.go[number].set()
            await settle()
        assert work.begun == [0, 1, 2, 3]
        await asyncio.gather(*tasks)
        assert (work.admission.taken, work.admission.waiting) == (0, 0)

    run(test())


def test_who_leaves_the_queue_frees_a_place_in_it() -> None:
    async def test() -> None:
        work = Work(Admission(1, 1))
        holding, gone = await work.start(0), await work.start(1)
        gone.cancel()
        await settle()
        waiting = await work.start(2)
        work.go[0].set()
        await settle()
        assert work.begun == [0, 2]
        work.go[2].set()
        await asyncio.gather(holding, waiting)
        assert work.admission.taken == 0

    run(test())


def test_a_wait_ends_at_the_deadline() -> None:
    async def test() -> None:
        work = Work(Admission(1, 1))
        holding = await work.start(0)
        late = await work.start(1, time.monotonic() + 0.01)
        with pytest.raises(RefusalError, match="deadline") as refused:
            await late
        assert refused.value.status == 503 and work.admission.waiting == 0
        work.go[0].set()
        await holding
        assert work.admission.taken == 0

    run(test())


@pytest.mark.parametrize("leaves_first", [True, False])
def test_a_place_that_is_handed_to_someone_who_just_left_is_handed_on(leaves_first: bool) -> None:
    async def test() -> None:
        work = Work(Admission(1, 2))
        tasks = [await work.start(number) for number in range(3)]
        acts = [tasks[1].cancel, work.go[0].set]
        for act in acts if leaves_first else acts[::-1]:
            act()
        if not leaves_first:
            # One step of the loop: the place was handed on, and who has it did not run yet.
            await asyncio.sleep(0)
            tasks[1].cancel()
        await settle()
        for event in work.go.values():
            event.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert 2 in work.begun and (work.admission.taken, work.admission.waiting) == (0, 0)

    run(test())


def test_no_place_is_lost_whatever_happens() -> None:
    async def test() -> None:
        chance = random.Random(0)
        admission = Admission(3, 5)

        async def client() -> None:
            until = time.monotonic() + chance.choice([0.0, 0.001, 5])
            try:
                async with admission.place(until):
                    assert admission.taken <= 3
                    await asyncio.sleep(chance.choice([0, 0, 0.001]))
            except RefusalError:
                pass

        tasks = []
        for _ in range(400):
            tasks.append(asyncio.create_task(client()))
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission.taken, admission.waiting) == (0, 0)

    run(test())
