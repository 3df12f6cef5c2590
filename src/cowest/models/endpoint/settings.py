"""Settings of an OpenAI-compatible endpoint: what is sent, what it may cost, what may be called. Pure data."""

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from cowest.config import Config, digest
from cowest.models.egress import EgressConfig
from cowest.net import address
from cowest.protocols import Request


class BatchConfig(Config):
    """How the endpoint's batch interface is used. OpenAI's limits are the defaults."""

    requests: int = Field(default=50_000, ge=1)
    """Calls of a batch at most. So many are read ahead, and their rows held in memory."""
    megabytes: float = Field(default=200, gt=0)
    """Size of an input file at most; what is more goes into another batch."""
    poll: float = Field(default=30, gt=0)
    """Seconds between two looks at a batch."""
    wait: float = Field(default=90_000, gt=0)
    """Seconds that a stage waits for its batches (the provider ends them after 24 hours); then it stops, and they go on."""
    discount: float = Field(default=0.5, ge=0, le=1)
    """What the interface takes off `price`, as a share."""


MESSAGE = 16
"""Tokens that an endpoint puts around a message at most."""
LIMITS = ("max_tokens", "max_completion_tokens")


class Price(Config):
    """What tokens cost, in US dollars a million. Discounts of caches are not looked at: it is never less than was paid."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def of(self, prompt: int, completion: int) -> float:
        """US dollars for so many tokens."""
        return (prompt * self.prompt + completion * self.completion) / 1e6


class Endpoint(Config):
    """A model behind an OpenAI-compatible API: everything that `params.yaml` says of it."""

    provider: Literal["openai"] = "openai"
    model: str = Field(min_length=1)
    """Its name at the endpoint."""
    allow_address: tuple[str, ...] = ()
    """Hosts or addresses that may be called though they are link-local, or a cloud's metadata service, where no model should be."""
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
    """Seconds before the first retry at most, doubled for each after it; a Retry-After that is longer is obeyed."""
    patience: float = Field(default=300, gt=0)
    """Longest Retry-After, in seconds, that is waited for; a longer one stops the stage."""
    hedge: float | None = Field(default=None, gt=0, le=0.2)
    """Share of calls that may be made a second time when their answer takes twice the median: the first answer counts, both are paid
    for and in the budget. null is off."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the most tokens of a completion."""
    system: Literal["keep", "merge"] = "keep"
    """What becomes of a system message: `merge` puts it before the user's first message, for endpoints that take none."""
    price: Price | None = None
    """What its tokens cost: a budget in money needs it, and the ledger shows it."""
    on_version_change: Literal["say", "stop"] = "say"
    """What to do when the endpoint reports another version of the model in the middle of a turn; stop keeps what was answered."""
    egress: EgressConfig = EgressConfig()
    """What may leave for it: on_found allow, mask or refuse; detect, terms, terms_file, regions, unmask."""
    batch: BatchConfig | None = None
    """Asks through the endpoint's batch interface: cheaper, and answered within a day; null is one call a request, at once.
    `{}` takes OpenAI's limits; more in docs/architecture.md: requests, megabytes, poll, wait, discount."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """More fields of the request body, as the endpoint knows them; null takes a field out."""

    @field_validator("base_url")
    @classmethod
    def _may_be_called(cls, url: str, info: ValidationInfo) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("should be http://... or https://...")
        if not url.isprintable() or " " in url:  # urlsplit takes line ends out by itself
            raise ValueError("holds a space or a sign that can't be seen")
        if parts.username or parts.password or "?" in url or "#" in url:
            raise ValueError(
                "holds more than host, port and path: a key belongs into the environment, under the name in key_env"
            )
        try:
            parts.hostname.encode("idna")
        except UnicodeError:
            raise ValueError(
                "names no host that there could be: a part between two points is empty or too long"
            ) from None
        if address.forbidden(parts.hostname, info.data.get("allow_address", ())):
            raise ValueError(
                "is a link-local or metadata address, where machines get their credentials and no model is; "
                "allow_address names one where there is"
            )
        return url.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _leaves_ours_alone(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if ours := sorted({"model", "messages", "n", "stream"} & extra.keys()):
            raise ValueError(f"{', '.join(ours)}: set by CoWest itself")
        return extra

    @property
    def name(self) -> str:
        """Model and endpoint, and a digest of `extra` and `system`: what the answer depends on beside the request."""
        parts = urlsplit(self.base_url)
        port = f":{parts.port}" if parts.port else ""
        more = self.extra | ({"system": self.system} if self.system != "keep" else {})
        extra = f"#{digest(more)[:8]}" if more else ""
        return f"{self.model}@{parts.hostname}{port}{parts.path}{extra}"

    def forbids(self, host: str) -> bool:
        """Whether nothing is said to an address: a link-local or metadata one, unless allow_address names it or base_url's host."""
        named = address.names(self.allow_address, urlsplit(self.base_url).hostname or "")
        return not named and address.forbidden(host, self.allow_address)

    def most(self, request: Request) -> tuple[int, int]:
        """Tokens of prompt and completion that a request can cost at most: a token is a byte or more."""
        prompt = sum(
            len(message.content.encode("utf-8", "surrogatepass")) + MESSAGE
            for message in request.messages
        )
        sent = {self.limit: request.sampling.max_tokens} | self.extra
        limits = [
            sent.get(name) for name in LIMITS
        ]  # an endpoint that is told both may go by either
        return prompt + MESSAGE, max(
            (most for most in limits if isinstance(most, int) and most > 0),
            default=request.sampling.max_tokens,
        )

    def cost(self, prompt: int, completion: int) -> float | None:
        """US dollars for so many tokens, a batch's discount taken off; None without a price."""
        return (
            self.price.of(prompt, completion) * (1 - self.batch.discount if self.batch else 1)
            if self.price
            else None
        )

    def body(self, request: Request) -> dict[str, Any]:
        """What is sent."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self._messages(request),
            "temperature": sampling.temperature,
            self.limit: sampling.max_tokens,
            "top_p": sampling.top_p if sampling.top_p < 1 else None,
            "stop": list(sampling.stop) or None,
        }
        return {name: value for name, value in (body | self.extra).items() if value is not None}

    def _messages(self, request: Request) -> list[dict[str, str]]:
        messages = [
            {"role": message.role, "content": message.content} for message in request.messages
        ]
        if self.system == "keep":
            return messages
        told = [message["content"] for message in messages if message["role"] == "system"]
        rest = [message for message in messages if message["role"] != "system"]
        if told and rest and rest[0]["role"] == "user":
            told.append(rest.pop(0)["content"])
        return [{"role": "user", "content": "\n\n".join(told)}, *rest] if told else rest
