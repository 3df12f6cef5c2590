"""What a response of an OpenAI-compatible endpoint means: an answer, or whether asking again is of any use."""

import email.utils
import json
import math
import random
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import quote

from cowest.net.transport import Reply
from cowest.protocols import Completion

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

AGAIN = {408, 409, 425, 429}
"""Statuses after which the same call may succeed, beside those of 500 and more."""
BUSY = {429, 503, 529}
"""Those of an endpoint that has too much to do."""
HOPELESS = {
    401: "the key is not accepted",
    402: "the account has no credit",
    403: "the key may not use this model",
    404: "no such model, or a base_url that is not an API's (does it lack /v1?)",
    405: "this base_url is not an API's",
    410: "the model is gone",
}
"""Statuses that every call would meet."""
FILTERED = {"content_filter", "content_policy_violation"}
"""Codes of an error by which a prompt is refused for what it says."""
BROKEN_OFF = {"error", "abort", "insufficient_system_resource"}
"""How OpenRouter, vLLM and DeepSeek call the end of an answer that failed half-way."""
UNSUPPORTED = {"unsupported_parameter", "unsupported_value"}
NO_SYSTEM = re.compile(
    r"(?i)system[ '\"]*(role|message|prompt|instruction)s?\b.{0,60}(not|n't) (be )?(support|allow|enabl|accept|permit)"
    r"|(not|n't) support.{0,30}\bsystem[ '\"]*(role|message|prompt|instruction)|developer instruction is not enabled"
)
LONGEST_BACKOFF = 30.0
"""Seconds between two attempts at most, where the provider names no time."""
SECRET = 8
"""Letters of a key at least. What is shorter is a word in a key's place (EMPTY, none, ollama), which an answer may hold."""
MOST_TOKENS = 2**40
"""Tokens that no call takes: who says so can't count, and databases hold no more than 2**63."""
Usage = tuple[int, int]
"""Tokens of prompt and completion."""
FREE: Usage = (0, 0)


class AgainError(Exception):
    """One attempt failed and another may not. `usage`: what it cost all the same; None where nobody can tell.

    `wait`: seconds that the endpoint names; `busy`: it has too much to do; `page`: the start of a web page that it sent.
    """

    def __init__(
        self,
        reason: str,
        usage: Usage | None,
        wait: float | None = None,
        *,
        reached: bool = True,
        busy: bool = False,
        page: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.usage, self.wait, self.reached, self.busy, self.page = usage, wait, reached, busy, page


class PoisonError(Exception):
    """The endpoint will not answer this request, however often it is asked."""


class HopelessError(Exception):
    """The endpoint will answer no request."""


class Answered(NamedTuple):
    """A response that is an answer."""

    completion: Completion
    version: str | None
    """What the provider says its model is."""
    usage: Usage | None
    """None where the provider doesn't say."""


def read(reply: Reply, name: str, key: str | None, patience: float, now: float) -> Answered:
    """A response as an answer. Raises AgainError, PoisonError or HopelessError, without the key in it."""
    reply = replace(reply, content=without(reply.content, key))
    if 200 <= reply.status < 300:  # some gateways say 201 (created) to every POST
        return read_body(reply.content, name)
    error = _error(reply.content)
    if str(error.get("code")) in FILTERED or _moderated(
        error
    ):  # the prompt was refused: an ending, as where the completion is
        detail = said(str(error.get("message") or ""), key)
        reason = f"refused by the provider's content filter{_filters(error)} (HTTP {reply.status}: {detail})"
        return Answered(Completion(None, name, "refused", reason), None, FREE)
    return refuse(reply, key, patience, now)


def without(content: bytes, key: str | None) -> bytes:
    """What the other side said, without the key: an endpoint that says it again must not get it into the store or the data."""
    if not key or len(key) < SECRET:
        return content
    for form in {key, key.replace("/", "\\/"), quote(key, safe="")}:
        content = content.replace(form.encode(), b"***")
    return content


def refuse(reply: Reply, key: str | None, patience: float, now: float) -> NoReturn:
    """What a status that brings no answer means: raises AgainError, PoisonError or HopelessError, without the key in it."""
    status = reply.status
    body = _error(reply.content)
    detail = said(str(body.get("message") or body.get("detail") or ""), key)
    shown = f"HTTP {status}: {detail}" if detail else f"HTTP {status}"
    if 300 <= status < 400:
        raise HopelessError(
            f"redirects (HTTP {status}), which is not followed: set base_url to where it leads, if you trust that"
        )
    if status in HOPELESS or body.get("code") == "insufficient_quota":
        raise HopelessError(
            f"refuses every call: {HOPELESS.get(status, 'the quota is used up')} ({shown})"
        )
    if status in AGAIN or status >= 500:
        wait = retry_after(reply.headers, now)
        if wait is not None and wait > patience:
            raise HopelessError(
                f"asks to come back in {wait:.0f} s (HTTP {status}), longer than patience ({patience:g} s)"
            )
        raise AgainError(f"HTTP {status}", FREE, wait, busy=status in BUSY)
    if mend := _mend(body):
        raise HopelessError(f"refuses every call ({shown}): {mend}")
    raise PoisonError(shown)


def read_body(content: bytes, name: str) -> Answered:
    """A response's body as an answer. Raises AgainError for one that is none.

    A refusal, or a completion that a content filter cut, has no text; one that reached the token limit has what there is.
    """
    usage = None
    try:
        body = decode(content)
        usage = _usage(body)
        choice = body["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (ValueError, RecursionError):
        if content.lstrip()[:1] == b"<":
            raise AgainError("a web page for an answer", None, page=_title(content)) from None
        raise AgainError("an answer that is not JSON", None) from None
    except (LookupError, TypeError, AttributeError):
        told = said(str(_error(content).get("message") or ""), None)
        raise AgainError(
            f"an answer without choices{f' ({told})' if told else ''}", usage
        ) from None
    if finish in BROKEN_OFF:
        raise AgainError("an answer that broke off", usage)
    tokens = dict(zip(("prompt_tokens", "completion_tokens"), usage or FREE, strict=True))
    version = (
        said(
            " ".join(str(body[part]) for part in ("model", "system_fingerprint") if body.get(part)),
            None,
        )
        or None
    )
    if finish == "content_filter" or refusal:
        reason = (
            f"refused: {said(str(refusal), None)}"
            if refusal
            else "refused by the provider's content filter"
        )
        return Answered(Completion(None, name, "refused", reason, None, **tokens), version, usage)
    if isinstance(text, list):  # some answer in parts
        text = "".join(
            str(part.get("text") or "")
            for part in text
            if isinstance(part, dict) and part.get("type") == "text"
        )
    if not isinstance(text, str) or not text.strip():
        if finish == "length":
            reason = "max_tokens were used up before the answer began: raise it"
            return Answered(
                Completion(None, name, "length", reason, None, **tokens), version, usage
            )
        raise AgainError("an empty answer", usage)
    # JSON may hold half a surrogate pair, which no file can: U+FFFD in its place
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ending: Literal["length", "stop"] = "length" if finish == "length" else "stop"
    return Answered(
        Completion(text, name, ending, None, _logprob(choice), **tokens), version, usage
    )


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the provider asks us to wait, said in seconds or as a date (RFC 9110, section 10.2.3); None where it doesn't."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
        # The oldest of the three forms names no zone: it is in UTC too.
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def backoff(first: float, attempt: int) -> float:
    """Seconds to wait after so many attempts: doubled each time, and never quite as long as others wait, but half of it in any case."""
    return min(first * 2.0 ** (attempt - 1), LONGEST_BACKOFF) * random.uniform(0.5, 1.0)  # noqa: S311


def said(text: str, key: str | None, most: int = 200) -> str:
    """What the other side said, in one line, without the key, and without what would steer a terminal or fit into no file."""
    text = text.replace(key, "***") if key and len(key) >= SECRET else text
    return "".join(
        letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split())[:most]
    )


def _mend(error: dict[str, Any]) -> str | None:
    """Which setting to change where an endpoint does not take what every call of ours has, in the words of several providers."""
    message, param = str(error.get("message") or ""), str(error.get("param") or "")
    if NO_SYSTEM.search(message) or ("role" in param and "system" in message):
        return "set `system: merge`, and what the system message says goes into the first message of the user"
    if str(error.get("code")) not in UNSUPPORTED and not re.search(
        r"(?i)unsupported|not support", message
    ):
        return None
    named = re.findall(
        r"\b(max_tokens|max_completion_tokens|temperature|top_p|stop)\b", f"{param} {message}"
    )
    if not named and str(error.get("code")) in UNSUPPORTED and param:
        return f"take {param} out of `extra`, or give it another value"
    if not named:
        return None
    if named[0].startswith("max_"):
        return (
            f"set `limit: {'max_completion_tokens' if named[0] == 'max_tokens' else 'max_tokens'}`"
        )
    return (
        f"set `extra: {{{named[0]}: null}}`, which takes it out (or a value that the model takes)"
    )


def _moderated(error: dict[str, Any]) -> list[str]:
    """What a moderation before the model found, as OpenRouter says it: with a 403, which else is about every call."""
    metadata = error.get("metadata")
    reasons = metadata.get("reasons") if isinstance(metadata, dict) else None
    return [str(reason) for reason in reasons] if isinstance(reasons, list) else []


def _filters(error: dict[str, Any]) -> str:
    """What a content filter found, as Azure and OpenRouter say it."""
    if reasons := _moderated(error):
        return f" for {said(', '.join(reasons), None)}"
    inner = error.get("innererror")
    found = inner.get("content_filter_result") if isinstance(inner, dict) else None
    if not isinstance(found, dict):
        return ""
    names = [
        name
        for name, result in found.items()
        if isinstance(result, dict) and result.get("filtered")
    ]
    return f" for {said(', '.join(names), None)}" if names else ""


def _title(content: bytes) -> str:
    text = content[:10_000].decode("utf-8", "replace")
    found = re.search(r"<title[^>]*>(.*?)<", text, re.DOTALL | re.IGNORECASE)
    return found[1] if found else text[:80]


def _error(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    error = body.get("error", body) if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _usage(body: Any) -> Usage | None:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:
        return None
    return (
        (prompt, completion)
        if min(prompt, completion) >= 0 and max(prompt, completion) <= MOST_TOKENS
        else None
    )


def _logprob(choice: dict[str, Any]) -> float | None:
    try:
        found = (
            sum(float(token["logprob"]) for token in choice["logprobs"]["content"])
            if choice["logprobs"]["content"]
            else None
        )
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
    return found if found is not None and math.isfinite(found) else None


def decode(content: bytes) -> Any:
    """Raises ValueError or RecursionError for what is not JSON. What orjson alone refuses (NaN, half surrogate pairs) is read by Python."""
    if orjson is not None:
        with suppress(ValueError):
            return orjson.loads(content)
    return json.loads(content)
