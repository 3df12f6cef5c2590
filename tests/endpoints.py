"""Settings and questions for a server of `tests.servers`, and what its calls cost a turn."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from cowest.config import Sampling
from cowest.ledger import store
from cowest.ledger.claims import Budget, Spent, open_turn, spent
from cowest.models.endpoint.settings import Price
from cowest.models.openai import OpenAIConfig
from cowest.protocols import AsyncChatModel, Completion, Request, Served
from cowest.records import Message

PRICE = Price(prompt=1.0, completion=10.0)
MAX_TOKENS = 20


def config(server: Any, **settings: Any) -> OpenAIConfig:
    """The settings of a model behind a server that has a `url`."""
    given = {
        "model": "tiny",
        "base_url": server.url,
        "key_env": None,
        "backoff": 0.01,
        "timeout": 5,
        **settings,
    }
    return OpenAIConfig(**given)


def priced(server: Any, **settings: Any) -> OpenAIConfig:
    """The same, for a model whose tokens cost something."""
    return config(server, **{"price": PRICE, **settings})


def ask(text: str, **sampling: Any) -> Request:
    return Request((Message(role="user", content=text),), Sampling(**sampling))


def short(text: object) -> Request:
    """A request whose answer has MAX_TOKENS tokens at most."""
    return ask(str(text), max_tokens=MAX_TOKENS)


def answers(settings: OpenAIConfig, *texts: str) -> list[Completion]:
    with settings.open() as model:
        return list(model.generate([ask(text) for text in texts]))


def short_answers(settings: OpenAIConfig, *texts: object) -> list[Completion]:
    with settings.open() as model:
        return list(model.generate([short(text) for text in texts]))


def budget(usd: float | None = None, tokens: int | None = None) -> None:
    """Opens the turn `t` with a budget, or changes the one that it has."""
    open_turn(store.open_store(), "t", Budget(usd=usd, tokens=tokens))


def now() -> Spent:
    """The money and tokens that the turn `t` has spent."""
    return spent(store.open_store(), "t")


def claims() -> int:
    """Calls that are claimed and not settled."""
    ((count,),) = store.open_store().fetch("SELECT COUNT(*) FROM claims")
    return int(count)


async def parts(model: AsyncChatModel, request: Request, **served: Any) -> list[str | Completion]:
    """Returns what a model answers a person who waits so many `seconds`, and how it ends."""
    seconds = served.pop("seconds", 10)
    given = Served("r", time.monotonic() + seconds, **served)
    async with aclosing(model.stream(request, given)) as stream:
        return [part async for part in stream]


def serve(
    settings: OpenAIConfig, *texts: str, cache: bool = False, **served: Any
) -> list[list[str | Completion]]:
    """Returns its answers to people who ask one after the other."""

    async def ask_all() -> list[list[str | Completion]]:
        async with settings.open_async(cache=cache) as model:
            return [await parts(model, short(text), **served) for text in texts]

    return asyncio.run(ask_all())


def whole(answer: list[str | Completion]) -> Completion:
    """The completion at the end of an answer, whose text is that of the parts before it."""
    *texts, completion = answer
    assert isinstance(completion, Completion)
    assert completion.text == ("".join(map(str, texts)) if texts else None)
    return completion


CANARY = "sk-canary0123456789"


def faces_of(raised: BaseException) -> Iterator[str]:
    """An error with all that it was raised from or during."""
    seen: BaseException | None = raised
    while seen is not None:
        yield f"{seen!r} {seen}"
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
