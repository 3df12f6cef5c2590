"""Any OpenAI-compatible endpoint: a provider's API, or a server of one's own (vLLM, llama.cpp).

`generate` is synchronous and lazy; the calls run on a thread of their own, `concurrency` at once. Every answer is in the
call store before it is yielded, and what the store has is not asked again. The settings are in
`endpoint.settings`, how calls are made in `endpoint.calls`, and what a call may cost in `ledger.till`.
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
from cowest.models.endpoint.batch import BatchModel
from cowest.models.endpoint.calls import OpenAIModel
from cowest.models.endpoint.settings import Endpoint
from cowest.net import address
from cowest.protocols import ChatModel


class OpenAIConfig(Endpoint):
    """The settings of an endpoint, and what opens it."""

    @contextmanager
    def open(self, adapter: Path | None = None) -> Iterator[ChatModel]:
        """The model, ready to be asked. Raises ModelError for an adapter, CallError without a key."""
        if adapter is not None:
            raise ModelError(
                f"{self.model} at {self.base_url} takes no adapter: {adapter} needs a local model (provider: hf)"
            )
        key = self._key()
        host = urlsplit(self.base_url).hostname or ""
        if address.leads_astray(host, self.allow_address):
            raise ConfigError(
                f"{self.model}: {self.base_url} leads to a link-local or metadata address, where no model is: name another host "
                "(or this one in allow_address)"
            )
        self._can_keep_a_budget()
        loop = _new_loop()
        thread = threading.Thread(
            target=loop.run_forever, name=f"calls of {self.model}", daemon=True
        )
        thread.start()
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
        """Raises ConfigError where the turn has a budget and nobody could say what a call costs at most."""
        calls = store.open_store()
        budget = calls.read(lambda db: spent(db, calls.turn(db))).budget
        if budget.usd is not None and self.price is None:
            raise ConfigError(
                f"{self.model}: the turn has a budget of ${budget.usd:g}, and the model no price: give it "
                "`price: {prompt: ..., completion: ...}`, in US dollars a million tokens (0 where it costs nothing)"
            )
        limit = self.extra.get(self.limit, 1)
        if (budget.usd is not None or budget.tokens is not None) and not (
            isinstance(limit, int) and limit > 0
        ):
            raise ConfigError(
                f"{self.model}: the turn has a budget, and extra takes {self.limit} out or gives it no end: a call could cost anything"
            )

    def _key(self) -> str | None:
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise CallError(
                f"{self.model}: {self.key_env} is not set: export the key of {self.base_url} under that name, or set key_env to another "
                "name (null for an endpoint that needs no key)"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise CallError(
                f"{self.model}: {self.key_env} holds characters that are in no key: was more than the key copied?"
            )
        return key


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, which takes less CPU."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
