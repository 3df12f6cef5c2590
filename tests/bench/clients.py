"""The clients that are measured, each in a process of its own.

    python tests/bench/clients.py CLIENT URL CALLS CONCURRENCY [SETTING=VALUE ...]

It says how long the calls took, what CPU time they took, and how many brought an answer, as one
line of JSON. The peers run in an environment of their own, so nothing of CoWest is imported here
but for CoWest itself.
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

BACKGROUND = "Background that a draft may hold. " * 20
WARM = 64
Ask = Callable[[str], Awaitable[str | None]]


def prompts(calls: int, warm: bool = False) -> Iterator[str]:
    """As long as a short refinement's."""
    return (f"{BACKGROUND}: {'warm' if warm else 'row'} {n}" for n in range(calls))


def measured(run: Callable[[], int], calls: int) -> None:
    """Says what a run took."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    answered = run()
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        json.dumps(
            {
                "wall": wall,
                "cpu": cpu / calls * 1000,
                "answered": answered,
                "peak": after.ru_maxrss / 1024,
            }
        )
    )


def cowest(url: str, calls: int, concurrency: int, warm: bool = True, **settings: Any) -> None:
    """With the store, a budget, claims and retries."""
    from cowest.config import Sampling
    from cowest.ledger import store
    from cowest.ledger.claims import Budget, open_turn
    from cowest.models.openai import OpenAIConfig
    from cowest.protocols import Request
    from cowest.records import Message

    folder = tempfile.TemporaryDirectory(prefix="bench", dir=Path.cwd())
    os.environ.setdefault("COWEST_STORE", f"{folder.name}/calls.sqlite")
    price = {"prompt": 1, "completion": 2}
    config = OpenAIConfig(
        model="m", base_url=url, key_env=None, concurrency=concurrency, price=price, **settings
    )

    def ask(texts: Iterator[str]) -> int:
        requests = (Request((Message(role="user", content=text),), Sampling()) for text in texts)
        return sum(completion.text is not None for completion in model.generate(requests))

    with store.accounting("bench"):
        open_turn(store.open_store(), "bench", Budget(usd=1e6))
        with config.open() as model:
            if warm:
                ask(prompts(WARM, warm=True))
            measured(lambda: ask(prompts(calls)), calls)


def gathered(
    make: Callable[[], Awaitable[Ask]],
    calls: int,
    concurrency: int,
    loop: str = "asyncio",
    warm: bool = True,
) -> None:
    """A peer's coroutine, so many at once."""

    async def all_of(ask: Ask, texts: Iterator[str]) -> int:
        answered = 0

        async def work() -> None:
            nonlocal answered
            for text in texts:
                try:
                    found = await ask(text)
                    answered += bool(found)
                except Exception as error:  # noqa: BLE001  whatever a peer raises is a row that it lost
                    lost[type(error).__name__] = lost.get(type(error).__name__, 0) + 1

        await asyncio.gather(*(work() for _ in range(concurrency)))
        return answered

    lost: dict[str, int] = {}
    if loop == "uvloop":
        import uvloop

        asyncio.set_event_loop(uvloop.new_event_loop())
        running = asyncio.get_event_loop()
    else:
        running = asyncio.new_event_loop()
    ask = running.run_until_complete(make())  # type: ignore[arg-type]
    if warm:
        running.run_until_complete(all_of(ask, prompts(WARM, warm=True)))
    measured(lambda: running.run_until_complete(all_of(ask, prompts(calls))), calls)
    if lost:
        print(lost, file=sys.stderr)
    os._exit(0)  # what a peer leaves open is not measured


def raw(url: str, calls: int, concurrency: int, **more: Any) -> None:
    """asyncio's streams and json: the least that a Python client can do. No retries, nothing
    kept.
    """
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(text: str) -> str | None:
        data = json.dumps(
            {
                "model": "m",
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": 256,
            }
        ).encode()
        reader, writer = (
            free.pop() if free else await asyncio.open_connection(parts.hostname, parts.port)
        )
        head = (
            f"POST {parts.path}/chat/completions HTTP/1.1\r\nHost: "
            f"{parts.netloc}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        writer.write(head.encode() + data)
        found = await reader.readuntil(b"\r\n\r\n")
        length = int(found.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        free.append((reader, writer))
        return str(json.loads(body)["choices"][0]["message"]["content"])

    async def make() -> Ask:
        return ask

    gathered(make, calls, concurrency, **more)


def aiohttp(url: str, calls: int, concurrency: int, **more: Any) -> None:
    """aiohttp with uvloop and orjson. No retries, nothing kept."""
    import aiohttp as library
    import orjson

    async def make() -> Ask:
        session = library.ClientSession(
            connector=library.TCPConnector(limit=concurrency), cookie_jar=library.DummyCookieJar()
        )

        async def ask(text: str) -> str | None:
            body = orjson.dumps(
                {
                    "model": "m",
                    "messages": [{"role": "user", "content": text}],
                    "temperature": 0,
                    "max_tokens": 256,
                }
            )
            async with session.post(
                f"{url}/chat/completions", data=body, headers={"Content-Type": "application/json"}
            ) as response:
                return orjson.loads(await response.read())["choices"][0]["message"]["content"]  # type: ignore[no-any-return]

        return ask

    gathered(make, calls, concurrency, loop="uvloop", **more)


def openai(url: str, calls: int, concurrency: int, **more: Any) -> None:
    """The official client with five retries."""
    from openai import AsyncOpenAI

    async def make() -> Ask:
        client = AsyncOpenAI(base_url=url, api_key="none", max_retries=5, timeout=5)

        async def ask(text: str) -> str | None:
            found = await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": text}],
                temperature=0,
                max_tokens=256,
            )
            return found.choices[0].message.content

        return ask

    gathered(make, calls, concurrency, **more)


def litellm(url: str, calls: int, concurrency: int, **more: Any) -> None:
    """litellm with five retries."""
    os.environ.update(LITELLM_TELEMETRY="False", LITELLM_LOCAL_MODEL_COST_MAP="True")
    import litellm as library

    library.telemetry, library.suppress_debug_info = False, True

    async def make() -> Ask:
        async def ask(text: str) -> str | None:
            found = await library.acompletion(
                model="openai/m",
                messages=[{"role": "user", "content": text}],
                api_base=url,
                api_key="none",
                temperature=0,
                max_tokens=256,
                num_retries=5,
                timeout=5,
            )
            return found.choices[0].message.content  # type: ignore[no-any-return]

        return ask

    gathered(make, calls, concurrency, **more)


def curator(url: str, calls: int, concurrency: int, warm: bool = True) -> None:
    """Bespoke Curator, with its cache on and its retries."""
    folder = tempfile.TemporaryDirectory(prefix="curator", dir=Path.cwd())
    os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_TELEMETRY="False")
    import litellm as beside  # it brings the tokens' table that Curator would load

    tokens = Path(beside.__file__).parent / "litellm_core_utils" / "tokenizers"
    os.environ.update(
        {name: folder.name for name in ("CURATOR_CACHE_DIR", "HF_DATASETS_CACHE", "HF_HOME")}
    )
    os.environ.update(
        TIKTOKEN_CACHE_DIR=str(tokens),
        TELEMETRY_ENABLED="0",
        CURATOR_VIEWER="0",
        CURATOR_DISABLE_RICH_DISPLAY="1",
    )
    os.environ.update(
        LITELLM_LOCAL_MODEL_COST_MAP="True", OPENAI_API_KEY="none", HF_HUB_OFFLINE="1"
    )
    from bespokelabs import curator as library

    limits = {
        "max_requests_per_minute": 10_000_000,
        "max_tokens_per_minute": 10_000_000_000,
        "max_concurrent_requests": concurrency,
    }
    params = {
        "base_url": url,
        "max_retries": 5,
        "request_timeout": 5,
        "require_all_responses": False,
        **limits,
    }

    class Asker(library.LLM):  # type: ignore[misc,name-defined]
        def prompt(self, row: dict[str, str]) -> str:
            return row["prompt"]

        def parse(self, row: dict[str, str], response: str | None) -> dict[str, str]:
            return {"response": response or ""}

    model = Asker(
        model_name="m",
        backend="openai",
        backend_params=params,
        generation_params={"temperature": 0, "max_tokens": 256},
    )

    def ask(texts: Iterator[str]) -> int:
        found = model([{"prompt": text} for text in texts])
        return sum(bool(row["response"]) for row in getattr(found, "dataset", found))

    if warm:
        ask(prompts(WARM, warm=True))
    measured(lambda: ask(prompts(calls)), calls)


CLIENTS = {
    "cowest": cowest,
    "raw": raw,
    "aiohttp": aiohttp,
    "openai": openai,
    "litellm": litellm,
    "curator": curator,
}

if __name__ == "__main__":
    name, url, calls, concurrency, *more = sys.argv[1:]
    # a client's own name must not shadow the library of that name
    sys.path[:] = [
        place for place in sys.path if Path(place or ".").resolve() != Path(__file__).parent
    ]
    CLIENTS[name](
        url,
        int(calls),
        int(concurrency),
        **{key: json.loads(value) for key, _, value in (word.partition("=") for word in more)},
    )
