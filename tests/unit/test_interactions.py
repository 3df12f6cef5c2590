"""The row of an answer, and its id."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from cowest.config import Sampling, parse
from cowest.online.answering import Answering, Asked, Opened
from cowest.online.breaker import Breaker
from cowest.online.interactions import Interaction, ServedCall, new_id
from cowest.online.live import ServeConfig
from cowest.online.refusals import RefusalError
from cowest.online.upstream import Upstream
from cowest.protocols import Completion, Request, Served
from cowest.records import Message
from tests.factories import PROMPTS
from tests.serving import POLICY, STRONG, Faulty

CONFIG = parse(
    ServeConfig, {"policy": POLICY, "strong": STRONG, "registry": {"name": "none"}}, "serve"
)


def test_an_interaction_comes_back_as_it_was_written() -> None:
    row = Interaction(
        id=new_id(),
        at=1.5,
        seconds=0.5,
        model="cowest",
        version=3,
        prompt=(Message(role="user", content="Where?"),),
        draft="Oslo",
        answer="Norway",
        drafting=ServedCall(model="p", finish="stop", seconds=0.1, first=0.05),
        answering=ServedCall(model="s", finish="length", usd=0.01, seconds=0.3),
        finish="length",
    )
    assert Interaction.model_validate_json(row.model_dump_json()) == row


def test_ids_are_never_the_same() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


async def second_refused(
    request: Request, served: Served
) -> AsyncGenerator[str | Completion, None]:
    """Answers the first of two requests, and refuses the second once that has ended."""
    if request.sample == 0:
        yield "It is made in Oslo"
        yield Completion("It is made in Oslo", "strong", "stop")
    else:
        await asyncio.sleep(0.05)
        yield Completion(None, "strong", "refused", "it is not said")


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_nobody_was_shown_is_in_no_row(streamed: bool) -> None:
    """Of a request for several: one is whole, and the next is refused."""

    def opened(model: Faulty) -> Upstream:
        return Upstream(model, Breaker(CONFIG.breaker, "it"), 0.0)

    models = opened(Faulty(POLICY)), opened(Faulty(STRONG, does=second_refused))
    now = time.monotonic()
    asked = Asked(
        id=new_id(),
        model="cowest",
        prompt=(Message(role="user", content="Where?"),),
        sampling=Sampling(n=2, temperature=1.0),
        streamed=streamed,
        at=time.time(),
        began=now,
        until=now + 60,
    )
    answering = Answering(asked, Opened(3, PROMPTS, *models), CONFIG)

    async def answered() -> None:
        async for _ in answering.events():
            pass

    with pytest.raises(RefusalError, match="it is not said"):
        asyncio.run(answered())
    first, second = answering.interactions()
    assert first.answering is not None and first.answering.finish == "stop"
    assert second.answer is None and "it is not said" in (second.failed or "")
    if streamed:
        assert (first.answer, first.finish, first.failed) == ("It is made in Oslo", "stop", None)
    else:
        assert (first.answer, first.finish, first.failed) == (None, "failed", second.failed)
