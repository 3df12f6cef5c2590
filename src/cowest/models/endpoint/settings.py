"""Settings of an OpenAI-compatible endpoint, and what follows from them: request body and cost.

Pure data: nothing here opens a connection. `models.openai` opens the endpoint.
"""

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from cowest.config import Config, digest
from cowest.models.egress import EgressConfig
from cowest.net import address
from cowest.protocols import Request


class BatchConfig(Config):
    """Settings of an endpoint's batch interface. The defaults are OpenAI's limits."""

    requests: int = Field(default=50_000, ge=1)
    """Maximum number of calls per batch. As many requests are read ahead, and their rows are held
    in memory: lower it if memory is short, or if the provider takes smaller batches only."""
    megabytes: float = Field(default=200, gt=0)
    """Maximum size of an input file, in MB (a million bytes). Calls beyond it go into another
    batch."""
    poll: float = Field(default=30, gt=0)
    """Seconds between two looks at the status of a batch."""
    wait: float = Field(default=90_000, gt=0)
    """Seconds that a stage waits for its batches before it stops. The batches go on (the provider
    ends them after 24 hours), and the same command collects them later."""
    discount: float = Field(default=0.5, ge=0, le=1)
    """Share of `price` that the batch interface takes off: 0.5 is half the price."""


MESSAGE = 16
"""Upper bound on the tokens that an endpoint adds to a message, such as its role and separators."""
CALLS = "/chat/completions"
"""Path of calls, below `base_url`."""
OTHER_INTERFACES = ("/completions", "/responses", "/embeddings", "/messages")
"""Paths of interfaces that CoWest does not speak."""
DELIVERY = ("stream", "stream_options")
"""Fields that say how an answer is sent, and change none."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""Both names that endpoints give to the token limit of a completion."""


class Price(Config):
    """Price of a model's tokens.

    Cache discounts are ignored, so that a computed cost is never less than what was paid.
    """

    prompt: float = Field(ge=0)
    """US dollars per million prompt tokens."""
    completion: float = Field(ge=0)
    """US dollars per million completion tokens."""

    def of(self, prompt: int, completion: int) -> float:
        """Returns the full price of this many tokens in US dollars."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


class Endpoint(Config):
    """A model behind an OpenAI-compatible API, with all that `params.yaml` sets for it."""

    provider: Literal["openai"] = "openai"
    model: str = Field(min_length=1)
    """Name of the model at the endpoint."""
    allow_address: tuple[str, ...] = ()
    """Hosts or addresses that may be called although they are link-local or a cloud's metadata
    service. Name one only if a model really runs there."""
    base_url: str = "https://api.openai.com/v1"
    """URL of the API: http or https, with its path (mostly `/v1`). One that holds the whole path of
    a call, up to `/chat/completions`, means the same."""
    key_env: str | None = Field(default="OPENAI_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$")
    """NAME of the environment variable that holds the API key, and not the key itself; null for an
    endpoint that needs none."""
    concurrency: int = Field(default=16, ge=1, le=1000)
    """Maximum number of calls at once. Fewer are made while the endpoint shows that it is too
    busy."""
    timeout: float = Field(default=120, gt=0)
    """Seconds that one attempt may take, from its first byte to the last of the answer."""
    retries: int = Field(default=5, ge=0)
    """Number of retries of a call before its row fails. After answers without a word, which are
    paid for, there are two at most."""
    backoff: float = Field(default=0.5, gt=0)
    """Longest wait before the first retry, in seconds. It doubles with every further retry, up to
    30 s; a longer Retry-After of the endpoint is obeyed."""
    patience: float = Field(default=300, gt=0)
    """Longest Retry-After that is waited for, in seconds; a longer one stops the stage. An endpoint
    that answered before and is out of reach now is waited for as long."""
    hedge: float | None = Field(default=None, gt=0, le=0.2)
    """Share of calls that may be made a second time when their answer takes twice the median. The
    first answer counts; both calls are paid for and count for the budget. null is off."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the completion's token limit in the request body. Change it if the endpoint refuses
    the default."""
    system: Literal["keep", "merge"] = "keep"
    """Handling of system messages: `keep` sends them; `merge` puts them before the user's first
    message, for endpoints that take none."""
    price: Price | None = None
    """Price of the model's tokens. A budget in US dollars needs it, and the ledger shows costs only
    with it."""
    on_version_change: Literal["say", "stop"] = "say"
    """Reaction to another version of the model reported in the middle of a turn: `say` prints a
    line; `stop` ends the stage and keeps what was answered."""
    egress: EgressConfig = EgressConfig()
    """Filter on what leaves for this endpoint: on_found allow, mask or refuse; detect, terms,
    terms_file, regions, unmask."""
    batch: BatchConfig | None = None
    """Uses the endpoint's batch interface: cheaper, and answered within a day. `{}` takes OpenAI's
    limits (requests, megabytes, poll, wait, discount: see docs/architecture.md). null makes one
    call per request, at once."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """More fields of the request body, under the endpoint's own names; null takes a field out.
    `stream: null` is for an endpoint that knows no such field: what is served then comes whole.
    `stream_options` are sent only where an answer is streamed."""

    @field_validator("base_url")
    @classmethod
    def _may_be_called(cls, url: str, info: ValidationInfo) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("should be http://... or https://...")
        # We look at the text as it was given, since urlsplit silently drops line ends.
        if not url.isprintable() or " " in url:
            raise ValueError(
                "holds a space or a character that can't be seen, as copying may bring along: type "
                "it anew"
            )
        if "api-version=" in url:
            raise ValueError(
                "holds an api-version: Azure takes https://RESOURCE.openai.azure.com/openai/v1 "
                "without one, and the deployment's name as `model`"
            )
        if parts.username or parts.password or "?" in url or "#" in url:
            raise ValueError(
                "holds more than host, port and path: a key belongs into the environment, "
                "under the name in key_env"
            )
        try:
            parts.hostname.encode("idna")
        except UnicodeError:
            raise ValueError(
                "names no host that there could be: a part between two points is empty or too long"
            ) from None
        if address.forbidden(parts.hostname, info.data.get("allow_address", ())):
            raise ValueError(
                "is a link-local or metadata address, where machines get their credentials and "
                "no model is; allow_address names one where there is"
            )
        url = url.rstrip("/").removesuffix(CALLS).rstrip("/")
        # The paths of other interfaces are copied from a provider's page as easily.
        for other in OTHER_INTERFACES:
            if url.endswith(other):
                raise ValueError(
                    f"ends in {other}, which is another interface: give the part before it; "
                    f"CoWest calls {CALLS} below that"
                )
        return url

    @field_validator("extra")
    @classmethod
    def _leaves_ours_alone(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        ours = sorted({"model", "messages", "n"} & extra.keys())
        if ours:
            raise ValueError(f"{', '.join(ours)}: set by CoWest itself")
        if extra.get("stream"):
            raise ValueError(
                "stream: an answer is read whole, so false is sent; leave stream out, or give null "
                "to an endpoint that does not take the field"
            )
        # What is sent anyway changes no answer, so it must not change the name that calls are
        # found again by.
        return {name: value for name, value in extra.items() if name != "stream" or value is None}

    @property
    def name(self) -> str:
        """Model and endpoint, with a digest of `extra` and `system` where they are set.

        The name holds everything that an answer depends on beside the request itself.
        """
        more = {name: value for name, value in self.extra.items() if name not in DELIVERY}
        if self.system != "keep":
            more["system"] = self.system
        parts = urlsplit(self.base_url)
        port = f":{parts.port}" if parts.port else ""
        name = f"{self.model}@{parts.hostname}{port}{parts.path}"
        return f"{name}#{digest(more)[:8]}" if more else name

    def forbids(self, host: str) -> bool:
        """True for a link-local or metadata address that must not be connected to.

        An address in `allow_address` may be, and every address may if `base_url`'s host is there.
        """
        if address.names(self.allow_address, urlsplit(self.base_url).hostname or ""):
            return False
        return address.forbidden(host, self.allow_address)

    @property
    def has_bound(self) -> bool:
        """False if `extra` takes the token limit out, or gives it no end: then all may cost any."""
        limit = self.extra.get(self.limit, 1)
        return isinstance(limit, int) and limit > 0

    def most(self, request: Request) -> tuple[int, int]:
        """Returns upper bounds on the prompt and completion tokens of a request.

        A token stands for at least one byte, so the bytes of the messages bound the prompt.
        """
        prompt = MESSAGE
        for message in request.messages:
            prompt += len(message.content.encode("utf-8", "surrogatepass")) + MESSAGE
        sent = {self.limit: request.sampling.max_tokens} | self.extra
        limits = []
        # `extra` may hold the limit under its other name: an endpoint that gets both may use
        # either.
        for name in LIMITS:
            limit = sent.get(name)
            if isinstance(limit, int) and limit > 0:
                limits.append(limit)
        return prompt, max(limits, default=request.sampling.max_tokens)

    def cost(self, prompt: int, completion: int, discount: float | None = None) -> float | None:
        """Returns the cost of this many tokens in US dollars, or None without a price.

        `discount` is the share that is taken off, by default that of the `batch` settings. A batch
        under way has the one that its journal keeps, since the settings may have changed meanwhile.
        """
        if self.price is None:
            return None
        if discount is None:
            discount = self.batch.discount if self.batch is not None else 0.0
        return self.price.of(prompt, completion) * (1 - discount)

    def body(self, request: Request) -> dict[str, Any]:
        """Returns the body of a single call, as JSON fields.

        It says `stream: false`, since some endpoints stream unless they are told not to.
        """
        body = self.batched_body(request)
        if "stream" not in self.extra:
            body["stream"] = False
        return body

    def batched_body(self, request: Request) -> dict[str, Any]:
        """Returns the body of a call in a batch, where nothing can be streamed."""
        sampling = request.sampling
        seed = sampling.seed
        if seed is not None:
            # With one seed for all, an endpoint that keeps to it would answer all samples alike.
            seed += request.sample
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self._messages(request),
            "temperature": sampling.temperature,
            self.limit: sampling.max_tokens,
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "stop": list(sampling.stop) or None,
            "seed": seed,
        }
        body |= {name: value for name, value in self.extra.items() if name not in DELIVERY}
        return {name: value for name, value in body.items() if value is not None}

    def streamed_body(self, request: Request, usage: bool) -> dict[str, Any]:
        """Returns the body of a call whose answer is to come piece by piece.

        With `usage`, it asks for the number of tokens at the end.
        """
        options = self.extra.get("stream_options", {"include_usage": True})
        body = self.batched_body(request) | {"stream": True}
        if usage and options is not None:
            body["stream_options"] = options
        return body

    def _messages(self, request: Request) -> list[dict[str, str]]:
        messages = [
            {"role": message.role, "content": message.content} for message in request.messages
        ]
        if self.system == "keep":
            return messages
        merged = [message["content"] for message in messages if message["role"] == "system"]
        if not merged:
            return messages
        rest = [message for message in messages if message["role"] != "system"]
        if rest and rest[0]["role"] == "user":
            merged.append(rest.pop(0)["content"])
        return [{"role": "user", "content": "\n\n".join(merged)}, *rest]
