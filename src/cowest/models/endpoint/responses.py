"""The meaning of an endpoint's response: an answer, or an error that says whether a retry helps."""

import email.utils
import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import quote

from cowest.net.transport import Reply, decode
from cowest.protocols import Completion

AGAIN = {408, 409, 425, 429}
"""Statuses after which the same call may succeed, beside those of 500 and more."""
BUSY = {429, 503, 529}
"""Statuses of an endpoint that has too much to do."""
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
"""Error codes for a prompt that is refused because of its content."""
BROKEN_OFF = {"error", "abort", "insufficient_system_resource"}
"""Finish reasons of OpenRouter, vLLM and DeepSeek for an answer that failed half-way."""
UNSUPPORTED = {"unsupported_parameter", "unsupported_value"}
NO_SYSTEM = re.compile(
    r"(?i)system[ '\"]*(role|message|prompt|instruction)s?\b.{0,60}"
    r"(not|n't) (be )?(support|allow|enabl|accept|permit)"
    r"|(not|n't) support.{0,30}\bsystem[ '\"]*(role|message|prompt|instruction)"
    r"|developer instruction is not enabled"
)
"""Ways in which endpoints say that they take no system message."""
LONGEST_BACKOFF = 30.0
"""Maximum seconds between two attempts if the endpoint names no time."""
SECRET = 8
"""Minimum length of a key that is masked. Shorter ones are words in a key's place (EMPTY, none,
ollama), which an answer may well contain."""
MOST_TOKENS = 2**40
"""Token counts above this are not believed: no call takes as many, and databases end at 2**63."""
Usage = tuple[int, int]
"""Tokens of the prompt and of the completion."""
FREE: Usage = (0, 0)


class AgainError(Exception):
    """One attempt failed, and another may succeed.

    `usage` is what the attempt cost all the same, or None if nobody can tell. `wait` is the number
    of seconds that the endpoint asks for. `reached` is False if the request can't have arrived,
    `busy` is True if the endpoint has too much to do, and `page` is the start of a web page that it
    sent.
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
    """The version of the model that the provider reports."""
    usage: Usage | None
    """None if the provider reports none."""


def read(reply: Reply, name: str, key: str | None, patience: float, now: float) -> Answered:
    """Reads a response as an answer.

    Raises AgainError, PoisonError or HopelessError. The key stands in none of them.
    """
    reply = replace(reply, content=without(reply.content, key))
    # Some gateways answer every POST with 201 (created).
    if 200 <= reply.status < 300:
        return read_body(reply.content, name)
    error = _error(reply.content)
    # A prompt that is refused for its content is an ending of this call, just as a completion that
    # is. So it is kept: the same call would end the same way.
    if str(error.get("code")) in FILTERED or _moderated(error):
        detail = said(str(error.get("message") or ""), key)
        reason = f"{_filtered_by(error)} (HTTP {reply.status}: {detail})"
        return Answered(Completion(None, name, "refused", reason), None, FREE)
    return refuse(reply, key, patience, now)


def without(content: bytes, key: str | None) -> bytes:
    """Masks the key in what an endpoint sent: it must get into neither the store nor the data."""
    if not key or len(key) < SECRET:
        return content
    for form in {key, key.replace("/", "\\/"), quote(key, safe="")}:
        content = content.replace(form.encode(), b"***")
    return content


def refuse(reply: Reply, key: str | None, patience: float, now: float) -> NoReturn:
    """Raises the error that a response without an answer stands for.

    That is AgainError, PoisonError or HopelessError. The key stands in none of them.
    """
    status = reply.status
    body = _error(reply.content)
    detail = said(str(body.get("message") or body.get("detail") or ""), key)
    shown = f"HTTP {status}: {detail}" if detail else f"HTTP {status}"
    # A redirect could lead the key, and every prompt, to somebody else.
    if 300 <= status < 400:
        raise HopelessError(
            f"redirects (HTTP {status}), which is not followed: set base_url to where it leads, "
            "if you trust that"
        )
    if status in HOPELESS or body.get("code") == "insufficient_quota":
        why = HOPELESS.get(status, "the quota is used up")
        raise HopelessError(f"refuses every call: {why} ({shown})")
    if status in AGAIN or status >= 500:
        wait = retry_after(reply.headers, now)
        if wait is not None and wait > patience:
            raise HopelessError(
                f"asks to come back in {wait:.0f} s (HTTP {status}), longer than patience "
                f"({patience:g} s)"
            )
        raise AgainError(f"HTTP {status}", FREE, wait, busy=status in BUSY)
    mend = _mend(body)
    if mend is not None:
        raise HopelessError(f"refuses every call ({shown}): {mend}")
    raise PoisonError(shown)


def read_body(content: bytes, name: str) -> Answered:
    """Reads a response's body as an answer. Raises AgainError if it is none.

    A refusal, or a completion that a content filter cut, has no text. A completion that reached the
    token limit has the text up to there.
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
        complaint = said(str(_error(content).get("message") or ""), None)
        more = f" ({complaint})" if complaint else ""
        raise AgainError(f"an answer without choices{more}", usage) from None
    # An endpoint may write anything here, also what no set can be asked for.
    if not isinstance(finish, str):
        finish = None
    if finish in BROKEN_OFF:
        raise AgainError("an answer that broke off", usage)
    prompt, completion = usage or FREE
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
    version = _version(body)
    if finish == "content_filter" or refusal:
        reason = "refused by the provider's content filter"
        if refusal:
            reason = f"refused: {said(str(refusal), None)}"
        return Answered(Completion(None, name, "refused", reason, None, **tokens), version, usage)
    if isinstance(text, list):
        text = _joined(text)
    if not isinstance(text, str) or not text.strip():
        if finish != "length":
            raise AgainError("an empty answer", usage)
        # A model that thinks before it answers may use up the limit on its thoughts.
        reason = "max_tokens were used up before the answer began: raise it"
        return Answered(Completion(None, name, "length", reason, None, **tokens), version, usage)
    # JSON may hold half a surrogate pair, which no file in UTF-8 can: U+FFFD takes its place.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ending: Literal["length", "stop"] = "length" if finish == "length" else "stop"
    found = Completion(text, name, ending, None, _logprob(choice), **tokens)
    return Answered(found, version, usage)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the endpoint asks us to wait, or None if it doesn't say.

    The header holds a number of seconds or a date (RFC 9110, section 10.2.3).
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
        # The oldest of the three date forms names no zone. It is in UTC, too.
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def backoff(first: float, attempt: int) -> float:
    """Seconds to wait after this many attempts: exponential backoff with jitter.

    `first` is doubled for each attempt, up to 30 s, times a random factor of 0.5 to 1 so that
    clients do not retry in step.
    """
    seconds = min(first * 2.0 ** (attempt - 1), LONGEST_BACKOFF)
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311


def said(text: str, key: str | None, most: int = 200) -> str:
    """Returns the endpoint's words as one line of up to `most` characters that is safe to show.

    The key is masked. Characters that steer a terminal, or that no file can hold, become U+FFFD.
    """
    if key and len(key) >= SECRET:
        text = text.replace(key, "***")
    line = " ".join(text.split())[:most]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def _mend(error: dict[str, Any]) -> str | None:
    """Names the setting to change if an endpoint refuses a field that all our calls have.

    It knows the words of several providers; None if the error is about this one call.
    """
    message, param = str(error.get("message") or ""), str(error.get("param") or "")
    unsupported = str(error.get("code")) in UNSUPPORTED
    if NO_SYSTEM.search(message) or ("role" in param and "system" in message):
        return (
            "set `system: merge`, and what the system message says goes into the first message of "
            "the user"
        )
    if not unsupported and not re.search(r"(?i)unsupported|not support", message):
        return None
    named = re.search(
        r"\b(max_tokens|max_completion_tokens|temperature|top_p|stop)\b", f"{param} {message}"
    )
    if named is None:
        if unsupported and param:
            return f"take {param} out of `extra`, or give it another value"
        return None
    if named[1] == "max_tokens":
        return "set `limit: max_completion_tokens`"
    if named[1] == "max_completion_tokens":
        return "set `limit: max_tokens`"
    return (
        f"set `extra: {{{named[1]}: null}}`, which takes it out (or a value that the model takes)"
    )


def _moderated(error: dict[str, Any]) -> list[str]:
    """The findings of a moderation before the model, as OpenRouter reports them.

    They come with a 403, which is otherwise about every call.
    """
    metadata = error.get("metadata")
    reasons = metadata.get("reasons") if isinstance(metadata, dict) else None
    return [str(reason) for reason in reasons] if isinstance(reasons, list) else []


def _filtered_by(error: dict[str, Any]) -> str:
    """Says what a content filter found, if Azure or OpenRouter report that."""
    found = _moderated(error)
    if not found:
        inner = error.get("innererror")
        results = inner.get("content_filter_result") if isinstance(inner, dict) else None
        if isinstance(results, dict):
            for name, result in results.items():
                if isinstance(result, dict) and result.get("filtered"):
                    found.append(name)
    kinds = f" for {said(', '.join(found), None)}" if found else ""
    return f"refused by the provider's content filter{kinds}"


def _title(content: bytes) -> str:
    """The title of a web page, or its first characters."""
    text = content[:10_000].decode("utf-8", "replace")
    found = re.search(r"<title[^>]*>(.*?)<", text, re.DOTALL | re.IGNORECASE)
    return found[1] if found else text[:80]


def _error(content: bytes) -> dict[str, Any]:
    """The error object in a response's body; empty if there is none."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    error = body.get("error", body) if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _usage(body: Any) -> Usage | None:
    """The tokens that a response reports; None if it reports none that can be true."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    # A bool is an int too, and no count.
    if type(prompt) is not int or type(completion) is not int:
        return None
    if min(prompt, completion) < 0 or max(prompt, completion) > MOST_TOKENS:
        return None
    return prompt, completion


def _version(body: dict[str, Any]) -> str | None:
    """The version of the model that a response reports."""
    parts = [str(body[part]) for part in ("model", "system_fingerprint") if body.get(part)]
    return said(" ".join(parts), None) or None


def _joined(parts: list[Any]) -> str:
    """The text of an answer that comes in parts, without the model's thoughts."""
    texts = []
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "text":
            texts.append(str(part.get("text") or ""))
    return "".join(texts)


def _logprob(choice: dict[str, Any]) -> float | None:
    """The log probability of the completion, summed over its tokens; None if it is not reported."""
    try:
        tokens = choice["logprobs"]["content"]
        if not tokens:
            return None
        found = sum(float(token["logprob"]) for token in tokens)
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
