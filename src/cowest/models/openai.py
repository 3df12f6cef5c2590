"""Any OpenAI-compatible endpoint: a provider's API, or a server of one's own (vLLM, llama.cpp).

`generate` is synchronous and lazy; the calls run on a thread of their own, `concurrency` at once. Every answer is in the
call store before it is yielded, and what the store has is not asked again. HTTP is in `transport`, what a response means
in `responses`, and what a call may cost in `till`.
"""

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator

from cowest.config import Config, digest
from cowest.errors import BudgetError, CallError, ConfigError, CoWestError, ModelError, StoreError
from cowest.models import address, store
from cowest.models.claims import Ask, spent
from cowest.models.responses import FREE, AgainError, Answered, HopelessError, PoisonError, backoff, read_body, refuse, said
from cowest.models.till import Till
from cowest.models.transport import LostError, Transport
from cowest.protocols import ChatModel, Completion, Request

SETTLE = 20.0
"""Seconds that calls in flight have to be answered, and their answers kept, once nobody waits for them any more."""
MESSAGE = 16
"""Tokens that an endpoint puts around a message at most."""


class Price(Config):
    """What tokens cost, in US dollars a million. Discounts (caches, batches) are not looked at: it is never less than was paid."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def of(self, prompt: int, completion: int) -> float:
        """US dollars for so many tokens."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


class OpenAIConfig(Config):
    """A model behind an OpenAI-compatible API."""

    provider: Literal["openai"] = "openai"
    model: str = Field(min_length=1)
    """Its name at the endpoint."""
    base_url: str = "https://api.openai.com/v1"
    """Where the API is: http or https, with its path."""
    key_env: str | None = Field(default="OPENAI_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$")
    """Name of the environment variable that holds the key; null for an endpoint that needs none."""
    concurrency: int = Field(default=16, ge=1, le=1000)
    """Calls at once."""
    timeout: float = Field(default=120, gt=0)
    """Seconds that one attempt may take, from first byte to last."""
    retries: int = Field(default=5, ge=0)
    """Attempts after the first, before the row fails."""
    backoff: float = Field(default=0.5, gt=0)
    """Seconds before the first retry, doubled for each after it; a Retry-After that is longer is obeyed."""
    patience: float = Field(default=300, gt=0)
    """Longest Retry-After, in seconds, that is waited for; a longer one stops the stage."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the most tokens of a completion."""
    price: Price | None = None
    """What its tokens cost: a budget in money needs it, and the ledger shows it."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """More fields of the request body, as the endpoint knows them; null takes a field out."""

    @field_validator("base_url")
    @classmethod
    def _may_be_called(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("should be http://... or https://...")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("holds more than host, port and path: a key belongs into the environment, under the name in key_env")
        if address.forbidden(parts.hostname):
            raise ValueError("is a link-local or metadata address, where machines get their credentials and no model is")
        return url.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _leaves_ours_alone(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if ours := sorted({"model", "messages", "n", "stream"} & extra.keys()):
            raise ValueError(f"{', '.join(ours)}: set by CoWest itself")
        return extra

    @property
    def name(self) -> str:
        """Model and endpoint, and a digest of `extra`: what the answer depends on beside the request."""
        parts = urlsplit(self.base_url)
        port = f":{parts.port}" if parts.port else ""
        extra = f"#{digest(self.extra)[:8]}" if self.extra else ""
        return f"{self.model}@{parts.hostname}{port}{parts.path}{extra}"

    @contextmanager
    def open(self, adapter: Path | None = None) -> Iterator[ChatModel]:
        """The model, ready to be asked. Raises ModelError for an adapter, CallError without a key."""
        if adapter is not None:
            raise ModelError(f"{self.model} at {self.base_url} takes no adapter: {adapter} needs a local model (provider: hf)")
        key = self._key()
        if address.leads_astray(urlsplit(self.base_url).hostname or ""):
            raise ConfigError(
                f"{self.model}: {self.base_url} leads to a link-local or metadata address, where no model is: name another host"
            )
        self._can_keep_a_budget()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name=f"calls of {self.model}", daemon=True)
        thread.start()
        model = OpenAIModel(self, key, loop)
        try:
            yield model
        finally:
            asyncio.run_coroutine_threadsafe(model.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def most(self, request: Request) -> tuple[int, int]:
        """Tokens of prompt and completion that a request can cost at most: a token is a byte or more."""
        prompt = sum(len(message.content.encode("utf-8", "surrogatepass")) + MESSAGE for message in request.messages)
        limit = self.body(request).get(self.limit)
        return prompt + MESSAGE, limit if isinstance(limit, int) else request.sampling.max_tokens

    def body(self, request: Request) -> dict[str, Any]:
        """What is sent."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": sampling.temperature,
            self.limit: sampling.max_tokens,
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "stop": list(sampling.stop) or None,
        }
        return {name: value for name, value in (body | self.extra).items() if value is not None}

    def _can_keep_a_budget(self) -> None:
        """Raises ConfigError where the turn has a budget and nobody could say what a call costs at most."""
        calls = store.open_store()
        budget = calls.read(lambda db: spent(db, calls.turn(db))).budget
        if budget.usd is not None and self.price is None:
            raise ConfigError(
                f"{self.model}: the turn has a budget of ${budget.usd:g}, and the model no price: give it "
                "`price: {prompt: ..., completion: ...}`, in US dollars a million tokens (0 where it costs nothing)"
            )
        limited = self.limit not in self.extra or isinstance(self.extra[self.limit], int)
        if (budget.usd is not None or budget.tokens is not None) and not limited:
            raise ConfigError(f"{self.model}: the turn has a budget, and extra takes {self.limit} out: a call could cost anything")

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
            raise CallError(f"{self.model}: {self.key_env} holds characters that are in no key: was more than the key copied?")
        return key


@dataclass(slots=True)
class _Call:
    """A call that is to be made, or is made."""

    task: "asyncio.Task[Completion]"
    wanted: int = 0
    """How many wait for it."""
    under_way: bool = False
    """Whether it may have been paid for: then it is waited for, even if nobody wants it any more."""


class OpenAIModel:
    """The ChatModel of an endpoint. Its coroutines run on the loop's thread, `generate` on the caller's."""

    def __init__(self, config: OpenAIConfig, key: str | None, loop: asyncio.AbstractEventLoop) -> None:
        self.name = config.name
        self._config, self._key, self._loop = config, key, loop
        self._store = store.open_store()
        self._till = Till(self._store)
        self._transport = Transport(f"{config.base_url}/chat/completions", key, config.timeout, config.concurrency)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._window = 4 * config.concurrency
        self._calls: dict[str, _Call] = {}
        self._resume_at = 0.0
        self._hopeless: CoWestError | None = None

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion for each request, in order; at most four times `concurrency` requests are read ahead.

        Raises CallError where the endpoint refuses every call, BudgetError where the turn's budget is reached; a request
        that it can't answer is a failed Completion.
        """
        return store.counted(self._completions, requests)

    def _completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        waiting: deque[Future[Completion]] = deque()
        try:
            for request in requests:
                waiting.append(self._asked(request.key(self.name), request))
                while waiting and (len(waiting) >= self._window or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    async def close(self) -> None:
        """Waits for what may have been paid for, keeps it, and ends the connections."""
        tasks = {call.task for call in self._calls.values()}
        for call in list(self._calls.values()):
            if not call.under_way:
                call.task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLE)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._till.close()
        await self._transport.close()
        await self._loop.shutdown_default_executor()

    def _asked(self, key: str, request: Request) -> Future[Completion]:
        if (found := self._store.get([key]).get(key)) is not None:
            stored: Future[Completion] = Future()
            stored.set_result(found)
            return stored
        return asyncio.run_coroutine_threadsafe(self._shared(key, request), self._loop)

    async def _shared(self, key: str, request: Request) -> Completion:
        """The completion of a call that all who ask for it share. One that nobody waits for any more is not begun."""
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _Call(asyncio.create_task(self._answer(key, request)))
            call.task.add_done_callback(lambda task: self._forget(key, task))
        call.wanted += 1
        try:
            return await asyncio.shield(call.task)
        finally:
            call.wanted -= 1
            if not (call.wanted or call.under_way):
                call.task.cancel()

    def _forget(self, key: str, task: "asyncio.Task[Completion]") -> None:
        del self._calls[key]
        if not task.cancelled():
            task.exception()  # whoever waits for it gets it

    async def _answer(self, key: str, request: Request) -> Completion:
        """The completion, however many attempts it takes, kept before it is handed on."""
        call, attempt = self._calls[key], 0
        prompt, completion = self._config.most(request)
        ask = Ask(key, self._cost(prompt, completion) or 0.0, prompt + completion)
        async with self._slots:
            while True:
                attempt += 1
                try:
                    return await self._attempt(call, ask, request)
                except PoisonError as poison:
                    reason = str(poison)
                except AgainError as again:
                    if attempt <= self._config.retries and call.wanted:
                        await self._wait(again, attempt)
                        continue
                    if not again.reached and call.wanted:
                        self._stop(f"is out of reach ({again})")
                    reason = f"{again}, at the last of {attempt} attempts"
                await self._till.leave(ask)
                return Completion(None, self.name, "failed", reason)

    async def _attempt(self, call: _Call, ask: Ask, request: Request) -> Completion:
        """One call, claimed before and settled after. Raises AgainError, PoisonError, CallError, BudgetError."""
        while (left := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(left)
        if self._hopeless is not None:
            raise self._hopeless
        try:
            if (found := await self._till.claim(ask)) is not None:
                return found
        except BudgetError as error:
            self._hopeless = BudgetError(f"{self._config.model}: {error}; what was answered is kept: raise pin.budget and run again")
            raise self._hopeless from None
        call.under_way = True
        started = time.monotonic()
        try:
            answered = await self._post(request)
        except AgainError as again:
            if again.usage is None:
                self._till.lose()
            else:
                await self._till.release(ask, self._cost(*again.usage) or 0.0, sum(again.usage))
            raise
        except (PoisonError, CallError):
            await self._till.release(ask, 0.0, 0)
            raise
        else:
            await self._settle(ask, answered, time.monotonic() - started)
            return answered.completion
        finally:
            call.under_way = False

    async def _post(self, request: Request) -> Answered:
        store.attempted()
        try:
            reply = await self._transport.post(self._config.body(request))
            if reply.status != 200:
                refuse(reply, self._key, self._config.patience, time.time())
            return read_body(reply.content, self.name)
        except LostError as lost:
            raise AgainError(said(str(lost), self._key), None if lost.reached else FREE, reached=lost.reached) from None
        except HopelessError as hopeless:
            self._stop(str(hopeless))

    async def _settle(self, ask: Ask, answered: Answered, seconds: float) -> None:
        """An endpoint that doesn't say what it used is taken to have used the most."""
        cost = self._cost(*answered.usage) if answered.usage else ask.usd if self._config.price else None
        tokens = sum(answered.usage) if answered.usage else ask.tokens
        try:
            await self._till.settle(store.Answer(ask.key, answered.completion, seconds, cost, answered.version), cost or 0.0, tokens)
        except StoreError as error:
            self._hopeless = error  # no call whose answer can't be kept
            raise

    def _cost(self, prompt: int, completion: int) -> float | None:
        return self._config.price.of(prompt, completion) if self._config.price else None

    def _stop(self, why: str) -> NoReturn:
        """No call after this one: raises CallError here, and in every call that has not begun."""
        self._hopeless = CallError(
            f"{self._config.model} at {self._config.base_url} {why}; what was answered is kept: mend it and run again"
        )
        raise self._hopeless from None

    async def _wait(self, again: AgainError, attempt: int) -> None:
        """Before the next attempt: this call backs off; a provider that names a time is left alone by all calls until then."""
        if again.wait is not None:
            self._resume_at = max(self._resume_at, time.monotonic() + again.wait)
        await asyncio.sleep(max(backoff(self._config.backoff, attempt), again.wait or 0.0))
