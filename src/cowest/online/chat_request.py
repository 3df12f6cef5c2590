"""The body of `POST /v1/chat/completions`: what is taken, and what is refused by name.

A parameter that can't be honoured is never dropped in silence: somebody who asks for a tool and
gets none would look for the mistake in the wrong place. A parameter with its default value (`tools:
null`, `n: 1`, `presence_penalty: 0`) asks for nothing, and is accepted.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from cowest.config import Sampling, complaints
from cowest.online.bodies import shown
from cowest.online.interactions import ServedModel
from cowest.online.live import LimitsConfig
from cowest.online.refusals import RefusalError
from cowest.records import Message

NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "prompt_cache_options": (None,),
    "prompt_cache_retention": (None,),
    "reasoning_effort": (None,),
    "response_format": (None, {"type": "text"}),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Parameters that can't be honoured, each with the values that ask for nothing."""
NOTHING_IN_A_MESSAGE: dict[str, tuple[Any, ...]] = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "name": (None,),
    "refusal": (None,),
    "tool_call_id": (None,),
    "tool_calls": (None, []),
}
"""The same for a message, so that an answer's message can be sent back as it came."""
HINTS = ("metadata", "prompt_cache_key", "safety_identifier", "user")
"""Parameters that change no answer."""


class Strict(BaseModel):
    """Base of what a body holds: types are strict, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


def _kind(value: Any) -> str:
    """Tags of the two forms of content, text and list of parts. No parameter has such a name."""
    return "<parts>" if isinstance(value, list) else "<text>"


Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[TextPart], Field(min_length=1), Tag("<parts>")],
    Discriminator(_kind),
]


Stops = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Tag("<parts>")], Discriminator(_kind)
]


class ChatMessage(Strict):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """`developer` is another word for `system`."""
    content: Content

    @property
    def text(self) -> str:
        """The content; parts are lines of it."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool | None = None
    """A last chunk has the tokens of the whole answer, and no text."""
    include_draft: bool | None = None
    """Sends the draft in a chunk of its own as soon as it is there, before the answer begins. The
    status goes with it, so that a strong model that is down then ends the stream with an error."""
    include_obfuscation: Literal[False] | None = None
    """Only false: nothing is added to a stream."""


class ChatRequest(Strict):
    """A request for an answer."""

    model: str
    """`cowest`: the policy drafts and the strong model refines. `cowest/policy` or `cowest/strong`:
    that model answers alone."""
    messages: list[ChatMessage] = Field(min_length=1)
    """The conversation; the last message is the user's."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Token limit of an answer."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The same by its newer name."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: Stops | None = None
    """Texts that end an answer before they come; at most 4."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    n: int | None = Field(default=None, ge=1)
    """Answers to make; they share one draft. More than 1 needs a temperature above 0."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, max_length=512)
    """Taken, and changes nothing, as do the three below."""
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    safety_identifier: str | None = Field(default=None, max_length=512)
    prompt_cache_key: str | None = Field(default=None, max_length=512)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation as our messages."""
        found = []
        for message in self.messages:
            role = "system" if message.role == "developer" else message.role
            found.append(Message(role=role, content=message.text))
        return tuple(found)

    @property
    def stops(self) -> tuple[str, ...] | None:
        """The texts that end an answer; None where the request names none."""
        if self.stop is None:
            return None
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


MODELS: tuple[ServedModel, ...] = ("cowest", "cowest/policy", "cowest/strong")


def understood(body: dict[str, Any], limits: LimitsConfig) -> tuple[ChatRequest, ServedModel]:
    """Checks a body and returns it with the model that it names. Raises RefusalError."""
    try:
        request = ChatRequest.model_validate(_without_nothing(body))
    except ValidationError as error:
        raise _refusal(error) from None
    _within(request, limits)
    for model in MODELS:
        if model == request.model:
            return request, model
    names = ", ".join(MODELS)
    raise RefusalError(
        404,
        f"The model `{shown(request.model)}` does not exist: there are {names}",
        param="model",
        code="model_not_found",
    )


def sampling_of(request: ChatRequest, base: Sampling) -> Sampling:
    """The settings of the answer: those of the service, with the request's in their place.

    Raises RefusalError for settings that don't go together.
    """
    asked: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_completion_tokens or request.max_tokens,
        "stop": request.stops,
        "seed": request.seed,
        "n": request.n or 1,
    }
    settings = base.model_dump()
    for name, value in asked.items():
        if value is not None:
            settings[name] = value
    try:
        return Sampling.model_validate(settings)
    except ValidationError as error:
        # Each setting is checked already, so this is about n and the temperature.
        raise RefusalError(400, complaints(error), param="n", code="invalid_value") from None


def _without_nothing(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the body without parameters that ask for nothing. Raises RefusalError for what can't
    be honoured."""
    kept = _kept(body, NOTHING, "")
    messages = kept.get("messages")
    if isinstance(messages, list):
        found = []
        for number, message in enumerate(messages):
            place = f"messages[{number}]."
            if isinstance(message, dict):
                message = _kept(message, NOTHING_IN_A_MESSAGE, place)
            found.append(message)
        kept["messages"] = found
    return kept


def _kept(
    values: dict[str, Any], nothing: dict[str, tuple[Any, ...]], place: str
) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        if name not in nothing:
            kept[name] = value
        elif not _is_one_of(value, nothing[name]):
            raise RefusalError(
                400,
                f"{place}{name} can't be honoured here: leave it out",
                param=f"{place}{name}",
                code="unsupported_parameter",
            )
    return kept


def _is_one_of(value: Any, known: tuple[Any, ...]) -> bool:
    """Compares as JSON does: false is not 0 as it is in Python, and 0.0 is 0."""
    same = [one for one in known if isinstance(one, bool) == isinstance(value, bool)]
    return value in same


def _within(request: ChatRequest, limits: LimitsConfig) -> None:
    """Raises RefusalError for a request beyond the limits, or without a question."""

    def refuse(reason: str, param: str) -> RefusalError:
        return RefusalError(400, reason, param=param, code="invalid_value")

    if len(request.messages) > limits.messages:
        raise refuse(f"more than {limits.messages} messages (serve.limits.messages)", "messages")
    characters = sum(len(message.text) for message in request.messages)
    if characters > limits.characters:
        raise refuse(
            f"more than {limits.characters} characters (serve.limits.characters)", "messages"
        )
    last = request.messages[-1]
    if last.role != "user" or not last.text.strip():
        raise refuse("the last message must be the user's, and not empty", "messages")
    if request.n is not None and request.n > limits.n:
        raise refuse(f"at most {limits.n} answers (serve.limits.n)", "n")
    for name in ("max_tokens", "max_completion_tokens"):
        tokens = getattr(request, name)
        if tokens is not None and tokens > limits.max_tokens:
            raise refuse(f"at most {limits.max_tokens} tokens (serve.limits.max_tokens)", name)
    given = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(given) > 1:
        raise refuse("max_tokens and max_completion_tokens differ: give one", "max_tokens")
    stops = request.stops or ()
    if len(stops) > 4 or not all(stops) or max(map(len, stops), default=0) > 256:
        raise refuse("at most 4 texts of 1 to 256 characters", "stop")
    if request.stream_options is not None and not request.stream:
        raise refuse("only with `stream: true`", "stream_options")


def _refusal(error: ValidationError) -> RefusalError:
    """The first error in a body, with the parameter's name in the API."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = ""
    for part in found["loc"]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif not part.startswith("<"):
            param += f".{part}" if param else part
    param = shown(param)
    if found["type"] == "extra_forbidden":
        reason = f"Unknown parameter: {param}"
        return RefusalError(400, reason, param=param, code="unknown_parameter")
    if found["type"] == "missing":
        reason = f"Missing required parameter: {param}"
        return RefusalError(400, reason, param=param, code="missing_required_parameter")
    return RefusalError(400, f"{param}: {found['msg']}", param=param, code="invalid_value")
