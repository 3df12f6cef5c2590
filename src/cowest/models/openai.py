"""Any OpenAI-compatible endpoint: a provider's API, or a server of one's own (vLLM, llama.cpp).

`generate` is synchronous and lazy; up to `concurrency` calls at once run on a thread of their own.
Every answer is in the call store before it is yielded, and what the store has is not asked again.
The settings are in `endpoint.settings`, the calls in `endpoint.calls`, and the claims that hold the
budget in `ledger.till`.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cowest.errors import CallError, ConfigError, ModelError
from cowest.ledger import store
from cowest.ledger.claims import spent
from cowest.models.endpoint.settings import Endpoint
from cowest.net import address
from cowest.protocols import ChatModel


class OpenAIConfig(Endpoint):
    """Settings of an OpenAI-compatible endpoint (`provider: openai`), and the way to open it."""

    @contextmanager
    def open(self, adapter: Path | None = None) -> Iterator[ChatModel]:
        """Gives the model, ready to be asked, and closes it afterwards.

        Raises ModelError for an adapter, CallError without a key, and ConfigError for an address
        that may not be called or a budget that can't be kept.
        """
        if adapter is not None:
            raise ModelError(
                f"{self.model} at {self.base_url} takes no adapter: {adapter} needs a local model "
                "(provider: hf)"
            )
        key = self._key()
        host = urlsplit(self.base_url).hostname or ""
        # The settings only know how the host is written. What its name leads to is known now.
        if address.leads_astray(host, self.allow_address):
            raise ConfigError(
                f"{self.model}: {self.base_url} leads to a link-local or metadata address, where "
                "no model is: name another host (or this one in allow_address)"
            )
        self._can_keep_a_budget()
        # They load aiohttp, which who only reads settings does not need.
        from cowest.models.endpoint.batch import BatchModel
        from cowest.models.endpoint.calls import OpenAIModel

        loop = _new_loop()
        thread = threading.Thread(
            target=loop.run_forever, name=f"calls of {self.model}", daemon=True
        )
        thread.start()
        # A stage that makes single calls now may have been stopped in a batch before. What those
        # batches brought is collected first, since it is paid for.
        batches = BatchModel(self, key, loop)
        model = batches if self.batch else OpenAIModel(self, key, loop)
        try:
            if not self.batch:
                batches.collect_ended()
            yield self.egress.over(model, address.outside(host))
        finally:
            asyncio.run_coroutine_threadsafe(batches.close(), loop).result()
            asyncio.run_coroutine_threadsafe(model.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _can_keep_a_budget(self) -> None:
        """Raises ConfigError if the turn has a budget and a call's cost has no upper bound."""
        calls = store.open_store()
        budget = spent(calls, calls.read(calls.turn)).budget
        if budget.usd is None and budget.tokens is None:
            return
        if budget.usd is not None and self.price is None:
            raise ConfigError(
                f"{self.model}: the turn has a budget of ${budget.usd:g}, and the model no price: "
                "give it `price: {prompt: ..., completion: ...}`, in US dollars a million tokens "
                "(0 where it costs nothing)"
            )
        limit = self.extra.get(self.limit, 1)
        if not isinstance(limit, int) or limit <= 0:
            raise ConfigError(
                f"{self.model}: the turn has a budget, and extra takes {self.limit} out or gives "
                "it no end: a call could cost anything"
            )

    def _key(self) -> str | None:
        """The API key from the environment, or None if the endpoint needs none."""
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
