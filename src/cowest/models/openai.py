"""Any OpenAI-compatible endpoint: a provider's API, or a server of one's own (vLLM, llama.cpp).

`generate` is synchronous and lazy; the calls run on a thread of their own, `concurrency` at once. Every answer is in the
call store before it is yielded, and what the store has is not asked again. Retries are here and nowhere else: the SDK's are off.
"""

import asyncio
import email.utils
import json
import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator

from cowest.config import Config, digest
from cowest.errors import CallError, ConfigError, ModelError
from cowest.models import address, store
from cowest.protocols import ChatModel, Completion, Request

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

AGAIN = {408, 409, 425, 429}
"""Statuses after which the same call may succeed, beside those of 500 and more."""
HOPELESS = {
    401: "the key is not accepted",
    402: "the account has no credit",
    403: "the key may not use this model",
    404: "no such model, or a base_url that is not an API's (does it lack /v1?)",
    405: "this base_url is not an API's",
    410: "the model is gone",
}
"""Statuses that every call would meet."""
LONGEST_BACKOFF = 30.0
"""Seconds between two attempts at most, where the provider names no time."""
CONNECT = 10.0
"""Seconds for a connection at most."""


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


class _AgainError(Exception):
    """One attempt failed and another may not."""

    def __init__(self, reason: str, wait: float | None = None, reached: bool = True) -> None:
        super().__init__(reason)
        self.wait, self.reached = wait, reached


class _PoisonError(Exception):
    """The endpoint will not answer this request, however often it is asked."""


class OpenAIModel:
    """The ChatModel of an endpoint. Its coroutines run on the loop's thread, `generate` on the caller's."""

    def __init__(self, config: OpenAIConfig, key: str | None, loop: asyncio.AbstractEventLoop) -> None:
        self.name = config.name
        self._config = config
        self._loop = loop
        self._store = store.open_store()
        self._client, self._options = _client(config, key), _options(key)
        self._key = key
        self._slots = asyncio.Semaphore(config.concurrency)
        self._window = 4 * config.concurrency
        self._resume_at = 0.0
        self._hopeless: str | None = None
        self._unsaved: list[store.Answer] = []
        self._saving = asyncio.Lock()

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion for each request, in order; at most four times `concurrency` requests are read ahead.

        Raises CallError where the endpoint refuses every call; a request that it can't answer is a failed Completion.
        """
        waiting: deque[tuple[str, Future[Completion]]] = deque()
        flying: dict[str, Future[Completion]] = {}

        def answered() -> Completion:
            key, future = waiting.popleft()
            flying.pop(key, None)
            return future.result()

        try:
            for request in requests:
                key = request.key(self.name)
                flying[key] = flying.get(key) or self._asked(key, request)
                waiting.append((key, flying[key]))
                while waiting and (len(waiting) >= self._window or waiting[0][1].done()):
                    yield answered()
            while waiting:
                yield answered()
        finally:
            for _, future in waiting:
                future.cancel()

    async def close(self) -> None:
        """Ends what is still under way, and the connections."""
        ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)
        await self._loop.shutdown_default_executor()  # answers that are being written are written
        await self._client.close()

    def _asked(self, key: str, request: Request) -> Future[Completion]:
        if (found := self._store.get([key]).get(key)) is not None:
            stored: Future[Completion] = Future()
            stored.set_result(found)
            return stored
        return asyncio.run_coroutine_threadsafe(self._answer(key, request), self._loop)

    async def _answer(self, key: str, request: Request) -> Completion:
        """The completion, however many attempts it takes, kept before it is handed on."""
        async with self._slots:
            attempt = 0
            while True:
                attempt += 1
                try:
                    answer = await self._attempt(key, request)
                    break
                except _PoisonError as poison:
                    return self._failed(str(poison))
                except _AgainError as again:
                    if attempt > self._config.retries:
                        if not again.reached:
                            self._stop(f"is out of reach ({again})")
                        return self._failed(f"{again}, at the last of {attempt} attempts")
                    await self._wait(again, attempt)
        await self._keep(answer)
        return answer.completion

    async def _attempt(self, key: str, request: Request) -> store.Answer:
        """One call. Raises _AgainError, _PoisonError, or CallError."""
        import httpx2
        import openai

        while (left := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(left)
        if self._hopeless is not None:
            raise CallError(self._hopeless)
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await self._client.post(
                    "/chat/completions", cast_to=httpx2.Response, body=self._body(request), options=self._options
                )
        except openai.APIStatusError as error:
            self._refuse(error)
        except (TimeoutError, openai.APIConnectionError) as error:
            if isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout):
                raise _AgainError(self._said(str(error.__cause__)) or "no connection", reached=False) from None
            late = isinstance(error, TimeoutError | openai.APITimeoutError)
            raise _AgainError(f"no answer in {self._config.timeout:g} s" if late else "connection lost") from None
        completion, version = read_body(response.content, self.name)
        return store.Answer(key, completion, seconds=time.monotonic() - started, version=version)

    def _refuse(self, error: "APIStatusError") -> NoReturn:
        """What a status means: raises _AgainError, _PoisonError, or CallError for it."""
        status, body = error.status_code, error.body
        detail = self._said(str(body.get("message") or body.get("detail") or "") if isinstance(body, dict) else "")
        said = f"HTTP {status}: {detail}" if detail else f"HTTP {status}"
        if 300 <= status < 400:
            self._stop(f"redirects (HTTP {status}), which is not followed: set base_url to where it leads, if you trust that")
        if status in HOPELESS or error.code == "insufficient_quota":
            self._stop(f"refuses every call: {HOPELESS.get(status, 'the quota is used up')} ({said})")
        if status in AGAIN or status >= 500:
            wait = retry_after(error.response.headers, time.time())
            if wait is not None and wait > self._config.patience:
                self._stop(f"asks to come back in {wait:.0f} s (HTTP {status}), longer than patience ({self._config.patience:g} s)")
            raise _AgainError(f"HTTP {status}", wait) from None
        raise _PoisonError(said) from None

    def _stop(self, why: str) -> NoReturn:
        """No call after this one: raises CallError here, and in every call that has not begun."""
        self._hopeless = f"{self._config.model} at {self._config.base_url} {why}; what was answered is kept: mend it and run again"
        raise CallError(self._hopeless) from None  # the SDK's error may quote the key

    async def _wait(self, again: _AgainError, attempt: int) -> None:
        """Before the next attempt: this call backs off; a provider that names a time is left alone by all calls until then."""
        backoff = min(self._config.backoff * 2.0 ** (attempt - 1), LONGEST_BACKOFF) * random.uniform(0.75, 1.25)  # noqa: S311
        if again.wait is not None:
            self._resume_at = max(self._resume_at, time.monotonic() + again.wait)
        await asyncio.sleep(max(backoff, again.wait or 0.0))

    async def _keep(self, answer: store.Answer) -> None:
        """Durable when it returns. Answers that come in while others are written are written together, by whoever is next."""
        self._unsaved.append(answer)
        async with self._saving:
            batch, self._unsaved = self._unsaved, []
            if not batch:
                return
            try:
                await asyncio.to_thread(self._store.put, batch)
            except BaseException:
                self._unsaved = batch + self._unsaved
                raise

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": sampling.temperature,
            self._config.limit: sampling.max_tokens,
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "stop": list(sampling.stop) or None,
        }
        return {name: value for name, value in (body | self._config.extra).items() if value is not None}

    def _failed(self, reason: str) -> Completion:
        return Completion(None, self.name, "failed", reason)

    def _said(self, text: str) -> str:
        """What the other side said, in one line, without the key."""
        return " ".join((text.replace(self._key, "***") if self._key else text).split())[:200]


def read_body(content: bytes, name: str) -> tuple[Completion, str | None]:
    """A response's body as a completion, and the version that the provider reports. Raises _AgainError for one that is no answer.

    A refusal, or a completion that a content filter cut, has no text; one that reached the token limit has what there is.
    """
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (ValueError, RecursionError):
        raise _AgainError("an answer that is not JSON") from None
    except (LookupError, TypeError, AttributeError):
        raise _AgainError("an answer without choices") from None
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    tokens = {kind: usage[kind] if isinstance(usage.get(kind), int) else 0 for kind in ("prompt_tokens", "completion_tokens")}
    version = " ".join(str(body[part]) for part in ("model", "system_fingerprint") if body.get(part)) or None
    if finish == "content_filter" or refusal:
        reason = f"refused: {' '.join(str(refusal).split())[:200]}" if refusal else "refused by the provider's content filter"
        return Completion(None, name, "refused", reason, None, **tokens), version
    if not isinstance(text, str) or not text.strip():
        if finish == "length":
            return Completion(None, name, "failed", "max_tokens were used up before the answer began: raise it", None, **tokens), version
        raise _AgainError("an empty answer")
    # JSON may hold half a surrogate pair, which no file can: U+FFFD in its place
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return Completion(text, name, "length" if finish == "length" else "stop", None, _logprob(choice), **tokens), version


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the provider asks us to wait, said in seconds or as a date (RFC 9110, section 10.2.3); None where it doesn't."""
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.replace(".", "", 1).isdigit():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _logprob(choice: dict[str, Any]) -> float | None:
    try:
        return sum(float(token["logprob"]) for token in choice["logprobs"]["content"]) if choice["logprobs"]["content"] else None
    except (LookupError, TypeError, ValueError):
        return None


def _client(config: OpenAIConfig, key: str | None) -> "AsyncOpenAI":
    """The SDK's client, its retries off: told that it has no key, it would take OPENAI_API_KEY to whatever base_url is."""
    from httpx2 import Timeout
    from openai import AsyncOpenAI

    timeout = Timeout(config.timeout, connect=min(config.timeout, CONNECT))
    return AsyncOpenAI(api_key=key or "none", base_url=config.base_url, timeout=timeout, max_retries=0)


def _options(key: str | None) -> dict[str, Any]:
    """Of each call: our key or none, whatever the environment holds for the SDK (OPENAI_CUSTOM_HEADERS, OPENAI_ORG_ID); no redirects."""
    from openai import Omit

    headers = {"Authorization": f"Bearer {key}" if key else Omit(), "OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
    return {"headers": headers, "follow_redirects": False}
