"""Any OpenAI-compatible endpoint: a provider's API, or a server of one's own (vLLM, llama.cpp).

`generate` is synchronous and lazy; up to `concurrency` calls at once run on a thread of their own.
Every answer is in the call store before it is yielded, and what the store has is not asked again.
The settings are in `endpoint.settings`, the calls in `endpoint.calls`, and the claims that hold the
budget in `ledger.till`. Calls for people who wait are in `endpoint.served`, with their claims in
`ledger.cashier`.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import model_validator

from cowest.config import file_digest
from cowest.errors import CallError, ConfigError, ModelError
from cowest.ledger import store
from cowest.ledger.claims import Budget, spent
from cowest.models import audit, hf
from cowest.models.endpoint.settings import Endpoint
from cowest.models.hf import HFConfig
from cowest.net import address
from cowest.protocols import AsyncChatModel, ChatModel

ANSWERS_WITHIN = 10
"""Seconds that an endpoint has to say which models it has."""


def _listed(content: bytes) -> set[str] | None:
    """Returns the names in a list of models; None for what is no such list."""
    from cowest.net.client import decode

    try:
        return {one["id"] for one in decode(content)["data"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class OpenAIConfig(Endpoint):
    """Settings of an OpenAI-compatible endpoint (`provider: openai`), and the way to open it."""

    adapters_of: HFConfig | None = None
    """The base that a vLLM server at this endpoint holds, as training names it (`*policy`). The
    server then loads a policy's adapter at run time, and lets it go after. It must see the
    adapter's folder under the same path. null refuses an adapter."""

    @model_validator(mode="after")
    def _holds_it_as_long_as_calls_last(self) -> Self:
        if self.adapters_of is not None and self.batch is not None:
            raise ValueError(
                "adapters_of and batch: a batch may outlive the stage that holds the adapter: set "
                "one of them to null"
            )
        return self

    @contextmanager
    def open(self, adapter: Path | None = None) -> Iterator[ChatModel]:
        """Gives the model, ready to be asked, and closes it afterwards.

        An adapter is loaded by the server first, and unloaded after. Raises ModelError for one that
        it does not take, CallError without a key, and ConfigError for an address that may not be
        called or a budget that can't be kept.
        """
        asked = self._asked_with(adapter)
        key = self.key()
        host = self._host()
        calls = store.open_store()
        self.can_keep(spent(calls, calls.read(calls.turn)).budget)
        # They load aiohttp, which who only reads settings does not need.
        from cowest.models.endpoint.adapters import HeldAdapter
        from cowest.models.endpoint.batch import BatchModel
        from cowest.models.endpoint.calls import OpenAIModel

        loop = _new_loop()
        thread = threading.Thread(
            target=loop.run_forever, name=f"calls of {self.model}", daemon=True
        )
        thread.start()
        # A stage that makes single calls now may have been stopped in a batch before. What those
        # batches brought is collected first, since it is paid for.
        batches = BatchModel(asked, key, loop)
        held = None if adapter is None else HeldAdapter(self, key, asked.model, adapter)
        model = batches if self.batch else OpenAIModel(asked, key, loop, held)
        try:
            if held is not None:
                asyncio.run_coroutine_threadsafe(held.load(), loop).result()
            if not self.batch:
                batches.collect_ended()
            yield self.egress.over(model, address.outside(host))
        finally:
            asyncio.run_coroutine_threadsafe(batches.close(), loop).result()
            asyncio.run_coroutine_threadsafe(model.close(), loop).result()
            if held is not None:
                asyncio.run_coroutine_threadsafe(held.unload(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    @asynccontextmanager
    async def open_async(
        self, adapter: Path | None = None, *, cache: bool = False
    ) -> AsyncIterator[AsyncChatModel]:
        """Gives the model for people who wait, on the event loop that runs now; closes it after.

        With `cache`, an answer that the call store has for the same call of a turn is given at
        once, and a new one is kept there. Raises the same errors as `open`.
        """
        asked = await asyncio.to_thread(self._asked_with, adapter)
        key = self.key()
        from cowest.models.endpoint.adapters import HeldAdapter
        from cowest.models.endpoint.served import ServedEndpoint

        # Names are looked up, and a store may have to be waited for.
        host = await asyncio.to_thread(self._host)
        calls = await asyncio.to_thread(store.open_store)
        held = None if adapter is None else HeldAdapter(self, key, asked.model, adapter)
        model = await asyncio.to_thread(ServedEndpoint, asked, key, calls, cache, held)
        try:
            if held is not None:
                await held.load()
            yield self.egress.over_async(model, address.outside(host))
        finally:
            await model.close()
            if held is not None:
                await held.unload()

    def answers(self) -> str | None:
        """Asks the endpoint for its models, which costs nothing.

        Returns what is to note: it lists other models, or none. Raises CallError if it does not
        answer, redirects or refuses the key, and ConfigError for an address that may not be called.
        """
        key = self.key()
        self._host()
        from cowest.net.client import Client, Reply
        from cowest.net.connections import LostError

        url = f"{self.base_url.rstrip('/')}/models"

        async def asked() -> Reply:
            client = Client(url, key, ANSWERS_WITHIN, self.forbids)
            try:
                return await client.send("GET", url)
            finally:
                await client.close()

        try:
            reply = asyncio.run(asked())
        except LostError as error:
            raise CallError(f"{self.model}: {self.base_url} does not answer: {error}") from None
        if reply.status == 401:
            raise CallError(
                f"{self.model}: {self.base_url} refuses the key in {self.key_env} (status 401)"
            )
        if 300 <= reply.status < 400:
            raise CallError(
                f"{self.model}: {self.base_url} redirects (HTTP {reply.status}), which is not "
                "followed: set base_url to where it leads, if you trust that"
            )
        # 501 is a server that knows no GET.
        if reply.status >= 500 and reply.status != 501:
            raise CallError(f"{self.model}: {self.base_url} answers with status {reply.status}")
        came = f"HTTP {reply.status}" if reply.status != 200 else "what came is no such list"
        listed = _listed(reply.content) if reply.status == 200 else None
        if listed is None:
            # Not every server has such a list, and a key may not be allowed to read it.
            return (
                f"{self.model}: no list of models at {url} ({came}): is base_url an API's (does it "
                "lack /v1?), or a server's that has no list? Its first call will tell"
            )
        if not listed or self.model in listed:
            return None
        return f"{self.base_url} does not list {self.model!r} among its models"

    def _asked_with(self, adapter: Path | None) -> Self:
        """These settings with the name under which the server holds an adapter.

        Raises ModelError for an adapter that it takes none of, or that is of another base.
        """
        if adapter is None:
            return self
        base = self.adapters_of
        if base is None:
            raise ModelError(
                f"{self.model} at {self.base_url} takes no adapter: {adapter} needs a local model "
                "(provider: hf), or a vLLM server that loads it (adapters_of)"
            )
        audit.audit_adapter(adapter)
        hf.same_base(adapter, base.base_name(base.folder()))
        return self.model_copy(update={"model": f"{self.model}+{file_digest(adapter)[:12]}"})

    def _host(self) -> str:
        """The host, which may be called. Raises ConfigError for one that may not."""
        host = urlsplit(self.base_url).hostname or ""
        # The settings only know how the host is written. What its name leads to is known now.
        if address.leads_astray(host, self.allow_address):
            raise ConfigError(
                f"{self.model}: {self.base_url} leads to a link-local or metadata address, where "
                "no model is: name another host (or this one in allow_address)"
            )
        return host

    def can_keep(self, budget: Budget) -> None:
        """Raises ConfigError if the turn has a budget and a call's cost has no upper bound."""
        if budget.usd is None and budget.tokens is None:
            return
        if budget.usd is not None and self.price is None:
            raise ConfigError(
                f"{self.model}: the turn has a budget of ${budget.usd:g}, and the model no price: "
                "give it `price: {prompt: ..., completion: ...}`, in US dollars a million tokens "
                "(0 where it costs nothing)"
            )
        if not self.has_bound:
            raise ConfigError(
                f"{self.model}: the turn has a budget, and extra takes {self.limit} out or gives "
                "it no end: a call could cost anything"
            )

    def key(self) -> str | None:
        """The API key from the environment, or None if the endpoint needs none.

        Raises CallError for one that is not set, or that no endpoint takes.
        """
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise CallError(
                f"{self.model}: {self.key_env} is not set: export the key of {self.base_url} under "
                "that name, or set key_env to another name (null for an endpoint that needs no key)"
            )
        # Such characters could end the header that carries the key and begin another one.
        if not key.isascii() or not key.isprintable() or " " in key:
            raise CallError(
                f"{self.model}: {self.key_env} holds characters that are in no key: was more than "
                "the key copied?"
            )
        return key


def _new_loop() -> asyncio.AbstractEventLoop:
    """Makes an event loop: uvloop's, which takes less CPU, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
