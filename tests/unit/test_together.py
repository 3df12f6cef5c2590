"""Work that is done together: it is closed only when those who were told have brought theirs."""

import asyncio
from collections.abc import Sequence

import pytest

from cowest.ledger.together import Together


@pytest.mark.parametrize("passes", range(12))
def test_what_is_brought_by_who_was_told_is_done_before_it_is_closed(
    passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def work(items: Sequence[str]) -> Sequence[str]:
        done.extend(items)
        return items

    async def here(function: object, items: Sequence[str]) -> Sequence[str]:
        for _ in range(5):
            await asyncio.sleep(0)
        return work(items)

    async def use() -> None:
        together = Together(work)
        first = together.put("first")
        first.add_done_callback(lambda _: together.put("second"))
        # It may be closed in any pass of the loop, also in that in which the work is done.
        for _ in range(passes):
            await asyncio.sleep(0)
        await together.close()

    monkeypatch.setattr(asyncio, "to_thread", here)
    asyncio.run(use())
    assert done == ["first", "second"]
