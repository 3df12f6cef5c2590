"""The meaning of an endpoint's response: an answer, or an error that says whether a retry helps."""

import email.utils
import json
import math
import random
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import quote

from cowest.models.endpoint.complaints import (
    NO_QUOTA,
    SECRET,
    Complaint,
    complaint_in,
    filtered_by,
    is_filtered,
    mend,
    said,
    suspicion,
    title,
)
from cowest.models.endpoint.endings import Ending, ending
from cowest.net.client import Reply, decode
from cowest.protocols import Completion

AGAIN = {408, 409, 425, 429}
"""Statuses after which the same call may succeed, beside those of 500 and more."""
MAYBE_PAID = {408, 502, 504, 520, 522, 524, 527}
"""Statuses of one who gave up waiting, mostly a gateway: the model may have answered, for money.
Others of Cloudflare's (521, 523, 525, 526) say that the model was never reached."""
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
LONGEST_BACKOFF = 30.0
"""Maximum seconds between two attempts if the endpoint names no time."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
"""Fields in which providers put a model's thoughts, apart from its answer."""
STREAM = re.compile(rb"\s*+(?::[^\n]*+\n\s*+)*+(?:event:[^\n]*+\n\s*+)?+data:")
"""The beginning of a stream. It never goes back over what it has read (*+), since that would take
100 bytes for each of a body of empty comments."""
MOST_TOKENS = 2**40
"""Token counts above this are not believed: no call takes as many, and databases end at 2**63."""
Usage = tuple[int, int]
"""Tokens of the prompt and of the completion."""
FREE: Usage = (0, 0)


class AgainError(Exception):
    """One attempt failed, and another may succeed.

    `usage` is what the attempt cost all the same, or None if nobody can tell. `wait` is the number
    of seconds that the endpoint asks for. `reached` is False if the request can't have arrived,
    `busy` is True if the endpoint has too much to do, `page` is the start of a web page that it
    sent, and `empty` is True for an answer that held no word.
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
        empty: bool = False,
    ) -> None:
        super().__init__(reason)
        self.usage, self.wait, self.reached, self.busy = usage, wait, reached, busy
        self.page, self.empty = page, empty


class PoisonError(Exception):
    """The endpoint will not answer this request, however often it is asked.

    `everyone` says what to do if every call is likely to meet the same.
    """

    def __init__(self, reason: str, everyone: str | None = None) -> None:
        super().__init__(reason)
        self.everyone = everyone


class HopelessError(Exception):
    """The endpoint will answer no request. `usage` is what the attempt cost; None if unknown."""

    def __init__(self, reason: str, usage: Usage | None = FREE) -> None:
        super().__init__(reason)
        self.usage = usage


class Answered(NamedTuple):
    """A response that is an answer."""

    completion: Completion
    version: str | None
    """The version of the model that the provider reports."""
    usage: Usage | None
    """None if the provider reports none."""
    odd_ending: str | None = None
    """The finish reason, if it is none that we know."""


def read(reply: Reply, name: str, key: str | None, patience: float, now: float) -> Answered:
    """Reads a response as an answer.

    Raises AgainError, PoisonError or HopelessError. The key stands in none of them.
    """
    reply = replace(reply, content=without(reply.content, key))
    # Some gateways answer every POST with 201 (created).
    if 200 <= reply.status < 300:
        if _is_stream(reply):
            raise HopelessError(
                "streams its answers, which are asked for whole: take `stream: null` out of "
                "`extra` if it is there, or go round the proxy or gateway that makes streams",
                None,
            )
        status = _status_inside(reply.content)
        if status is None:
            return read_body(reply.content, name)
        # Some gateways send the error of the provider behind them under a 200.
        reply = replace(reply, status=status)
    complaint = complaint_in(reply.content)
    if is_filtered(complaint):
        return _filtered(complaint, f"HTTP {reply.status}", name, key)
    return refuse(reply, key, patience, now)


def read_error(content: bytes, name: str, key: str | None) -> Answered:
    """Reads an error that came in place of a part of an answer.

    It is an answer only if a filter refused the prompt. Raises the same errors as `read`. Nobody
    knows what was paid for such an answer.
    """
    complaint = complaint_in(content)
    if is_filtered(complaint):
        return _filtered(complaint, "an error in the stream", name, key)
    # OpenAI's status for a used up quota is 429, which is not said in the stream.
    status = 429 if complaint.codes & NO_QUOTA else _status_among(complaint.codes)
    if status is not None:
        return refuse(Reply(status, {}, content), key, math.inf, 0.0)
    raise AgainError(f"an error in the stream: {said(complaint.message, key)}", None)


def _filtered(complaint: Complaint, where: str, name: str, key: str | None) -> Answered:
    """The answer that a filter gives in place of the model."""
    # A prompt that is refused for its content is an ending of this call, just as a completion that
    # is. So it is kept: the same call would end the same way.
    reason = f"{filtered_by(complaint)} ({where}: {said(complaint.message, key)})"
    return Answered(Completion(None, name, "refused", reason), None, FREE)


def without(content: bytes, key: str | None) -> bytes:
    """Masks the key in what an endpoint sent: it must get into neither the store nor the data."""
    if not key or len(key) < SECRET:
        return content
    # JSON is read in these encodings, too.
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        content = content.decode(encoding, "replace").encode()
    for form in {key, key.replace("/", "\\/"), json.dumps(key)[1:-1], quote(key, safe="")}:
        content = content.replace(form.encode(), b"***")
    # JSON may write any letter by its number. Most answers write none so.
    if b"\\u00" in content:
        for form in (key, quote(key, safe="")):
            content = _numbered(form).sub(b"***", content)
    return content


@lru_cache
def _numbered(form: str) -> re.Pattern[bytes]:
    """Finds a form of the key in JSON, whichever of its letters are written by their numbers."""
    letters = []
    for letter in form:
        plain = re.escape(letter.encode())
        if letter in '"\\/':
            plain = rb"\\?" + plain
        letters.append(rb"(?:%b|\\u(?i:%04x))" % (plain, ord(letter)))
    return re.compile(b"".join(letters))


def refuse(reply: Reply, key: str | None, patience: float, now: float) -> NoReturn:
    """Raises the error that a response without an answer stands for.

    That is AgainError, PoisonError or HopelessError. The key stands in none of them.
    """
    status = reply.status
    complaint = complaint_in(reply.content)
    detail = said(complaint.message, key)
    shown = f"HTTP {status}: {detail}" if detail else f"HTTP {status}"
    # A redirect could lead the key, and every prompt, to somebody else.
    if 300 <= status < 400:
        raise HopelessError(
            f"redirects (HTTP {status}), which is not followed: set base_url to where it leads, "
            "if you trust that"
        )
    if status in HOPELESS or complaint.codes & NO_QUOTA:
        why = HOPELESS.get(status, "the quota is used up")
        raise HopelessError(f"refuses every call: {why} ({shown})")
    if status in AGAIN or status >= 500:
        usage = None if status in MAYBE_PAID else FREE
        wait = retry_after(reply.headers, now)
        if wait is not None and wait > patience:
            raise HopelessError(
                f"asks to come back in {wait:.0f} s (HTTP {status}), longer than patience "
                f"({patience:g} s)",
                usage,
            )
        raise AgainError(shown, usage, wait, busy=status in BUSY)
    advice = mend(complaint)
    if advice is not None:
        raise HopelessError(f"refuses every call ({shown}): {advice}")
    raise PoisonError(shown, suspicion(complaint))


def read_body(content: bytes, name: str) -> Answered:
    """Reads a response's body as an answer. Raises AgainError or PoisonError if it is none."""
    return understood(decoded(content), content, name)


def understood(body: Any, content: bytes, name: str) -> Answered:
    """Reads the body of a response, decoded from its content, as `read_body` does.

    A refusal, or a completion that a content filter cut, has no text. A completion that reached the
    token limit has the text up to there. What lies in `reasoning_content` is no answer.
    """
    usage = usage_of(body)
    choice = _choice(body)
    if choice is None:
        return _without_choice(body, content, name, usage)
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {}
    finish = choice.get("finish_reason")
    end = ending(finish)
    prompt, completion = usage or FREE
    tokens: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    version = _version(body)
    refusal = message.get("refusal")
    if end is Ending.REFUSED or refusal:
        reason = _refused_by(finish)
        if refusal:
            reason = f"refused: {said(str(refusal), None)}"
        return Answered(Completion(None, name, "refused", reason, None, **tokens), version, usage)
    if end is Ending.BROKEN:
        raise AgainError("an answer that broke off", usage)
    text = text_of(message)
    if end is Ending.TOOL and message.get("tool_calls"):
        text = ""
    if not text.strip():
        if end is not Ending.CUT:
            raise AgainError(_emptiness(message, end), usage, empty=True)
        # A model that thinks before it answers may use up the limit on its thoughts.
        reason = "max_tokens were used up before the answer began: raise it"
        return Answered(Completion(None, name, "length", reason, None, **tokens), version, usage)
    text = with_whole_letters(text)
    how: Literal["length", "stop"] = "length" if end is Ending.CUT else "stop"
    odd = said(str(finish), None, 40) if end is Ending.UNKNOWN else None
    found = Completion(text, name, how, None, _logprob(choice), **tokens)
    return Answered(found, version, usage, odd)


def decoded(content: bytes) -> Any:
    """The JSON of a body. Raises AgainError for anything else."""
    try:
        return decode(content)
    except (ValueError, RecursionError):
        if content.lstrip()[:1] == b"<":
            page = title(content[:10_000].decode("utf-8", "replace"))
            raise AgainError("a web page for an answer", None, page=page) from None
        raise AgainError("an answer that is not JSON", None) from None


def _choice(body: Any) -> dict[str, Any] | None:
    """The completion in a body, or None if there is none."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    choice = choices[0]
    # A blocked completion may have no message. Anything else without one is no completion.
    if not isinstance(choice.get("message"), dict) and not _says_how_it_ended(choice):
        return None
    return choice


def _says_how_it_ended(choice: dict[str, Any]) -> bool:
    return ending(choice.get("finish_reason")) in (Ending.REFUSED, Ending.BROKEN)


def _without_choice(body: Any, content: bytes, name: str, usage: Usage | None) -> Answered:
    """Reads a body without a completion: the prompt was blocked, or something is wrong."""
    if blocks(body):
        completion = Completion(None, name, "refused", _refused_by("blocked"))
        return Answered(completion, None, usage or FREE)
    complaint = complaint_in(content)
    words = said(complaint.message, None)
    more = f" ({words})" if words else ""
    advice = suspicion(complaint)
    if advice is not None:
        raise PoisonError(f"an answer without choices{more}", advice)
    raise AgainError(f"an answer without choices{more}", usage)


def blocks(body: Any) -> bool:
    """True if a body says that a filter blocked the prompt, as Google's and Azure's do."""
    if not isinstance(body, dict):
        return False
    feedback = body.get("promptFeedback") or body.get("prompt_feedback")
    if isinstance(feedback, dict):
        return bool(feedback.get("blockReason") or feedback.get("block_reason"))
    results = body.get("prompt_filter_results")
    return body.get("choices") == [] and '"filtered": true' in json.dumps(results)


def _refused_by(finish: object) -> str:
    """Says that a content filter refused, with the provider's own name for it if it has one."""
    named = said(str(finish), None, 60)
    if named in ("content_filter", "None", ""):
        return "refused by the provider's content filter"
    return f"refused by the provider's content filter ({named})"


def text_of(message: dict[str, Any]) -> str:
    """The text of an answer, without thoughts that the provider keeps apart from it."""
    text = message.get("content")
    if isinstance(text, list):
        return _joined(text)
    return text if isinstance(text, str) else ""


def with_whole_letters(text: str) -> str:
    """Puts U+FFFD for half surrogate pairs, which JSON may hold and no file in UTF-8 can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _emptiness(message: dict[str, Any], end: Ending) -> str:
    """Says what an answer without a word holds instead."""
    if end is Ending.TOOL or message.get("tool_calls"):
        return "a call of a tool for an answer"
    for name in THOUGHTS:
        if message.get(name):
            return f"thoughts ({name}) and no answer"
    return "an empty answer"


def _is_stream(reply: Reply) -> bool:
    """True for server-sent events, which one who streams sends. Comments may come first."""
    if reply.headers.get("content-type", "").lower().startswith("text/event-stream"):
        # Some servers name the wrong type for a whole answer.
        return not reply.content.lstrip().startswith(b"{")
    return STREAM.match(reply.content) is not None


def _status_inside(content: bytes) -> int | None:
    """The status in an error that came under a 200, or None if there is none."""
    # Looking for the name alone is quick, and most answers don't hold it.
    if b'"error"' not in content[:4096] or b'"choices"' in content:
        return None
    return _status_among(complaint_in(content).codes)


def _status_among(codes: Collection[str]) -> int | None:
    """The HTTP status among the codes of an error, or None if there is none."""
    for code in codes:
        if len(code) == 3 and code.isascii() and code.isdecimal() and 400 <= int(code) < 600:
            return int(code)
    return None


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


def usage_of(body: Any) -> Usage | None:
    """The tokens that a response reports; None if it reports none that can be true."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    if prompt is None or completion is None:
        return None
    # Some providers leave the thoughts out of the completion's tokens, but bill them in the total.
    total = _count(usage.get("total_tokens")) or 0
    return prompt, max(completion, total - prompt)


def _count(value: Any) -> int | None:
    """A number of tokens; None if it can't be one. Some providers write it as 7.0."""
    # A bool is an int too, and no count.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= MOST_TOKENS:
        return None
    return math.ceil(value)


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
