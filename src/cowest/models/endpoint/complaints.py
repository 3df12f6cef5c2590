"""What an endpoint says is wrong: found in the body of its reply, made safe to show, understood.

OpenAI sends `{"error": {"message": ..., "code": ...}}`. Others send a list of such objects, a text
in its place, `detail`, `msg`, a text without JSON, or a web page.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SECRET = 8
"""Minimum length of a key that is masked. Shorter ones are words in a key's place (EMPTY, none,
ollama), which an answer may well contain."""
INNER = ("error", "errors", "detail", "details")
"""Fields that hold an error inside of another object, which may be an object, a list or a text."""
MESSAGES = ("message", "msg", "error_msg", "error_message", "errorMessage", "title", "description")
CODES = ("code", "type", "status", "error_type", "error_code", "errorCode", "reason")
SHOWN = 3
"""Maximum number of errors of a list that are shown."""
DEEPEST = 6
"""Levels of an error that are looked into."""
FILTERED = {
    "content_filter",
    "content_policy_violation",
    "responsibleaipolicyviolation",
    "data_inspection_failed",
    "datainspectionfailed",
    "moderation_blocked",
    "1301",
    "sensitivecontentdetected",
    "inputtextsensitivecontentdetected",
    "outputtextsensitivecontentdetected",
}
"""Error codes, in lower case, for a prompt that is refused because of its content: OpenAI, Azure,
Alibaba, Zhipu, Volcengine."""
WRONG_KEY = {"invalid_api_key", "api_key_invalid", "unauthenticated", "authentication_error"}
NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
UNSUPPORTED = {"unsupported_parameter", "unsupported_value"}
NO_SYSTEM = re.compile(
    r"(?i)system[ '\"]*(role|message|prompt|instruction)s?\b.{0,60}"
    r"(not|n't) (be )?(support|allow|enabl|accept|permit)"
    r"|(not|n't) support.{0,30}\bsystem[ '\"]*(role|message|prompt|instruction)"
    r"|developer instruction is not enabled"
)
"""Ways in which endpoints say that they take no system message."""
BAD = r"(not|n't|no|invalid|incorrect|wrong|bad|expired|missing|unknown|revoked|disabled|required)"
KEY = r"(api[ _-]?keys?|keys?|access tokens?|credentials?|authoriz\w+|authenticat\w+)"
RANGE = r"(must|should|strictly|greater|less|between|range|at (least|most)|above|below|only)"
SUSPICIONS = (
    (
        re.compile(rf"(?i)\b{KEY}\b.{{0,60}}\b{BAD}\b|\b{BAD}\b.{{0,30}}\b{KEY}\b"),
        "is the key in the variable that key_env names one of this endpoint's?",
    ),
    (
        re.compile(r"(?i)\b(credits?|balance|billing|payment|overdue|arrears|quota)\b"),
        "has the account credit left?",
    ),
    (
        re.compile(
            r"(?i)\bmodel\b.{0,100}\b(not (exist|found|available|a valid)|n't exist|unknown|"
            r"decommissioned|deprecated|retired|invalid)|(unknown|invalid|no such) model\b"
        ),
        "is `model` a name that this endpoint knows?",
    ),
    (
        re.compile(rf"(?i)\btemperature\b.{{0,60}}\b{RANGE}\b"),
        "give a temperature that it takes, or set `extra: {temperature: null}`, which takes it out",
    ),
    (
        re.compile(rf"(?i)\btop_p\b.{{0,60}}\b{RANGE}\b"),
        "give a top_p that it takes, or set `extra: {top_p: null}`, which takes it out",
    ),
    (
        re.compile(r"(?i)\bstop\b.{0,60}\b(sequences?|at most|up to|maximum|too many)\b"),
        "give fewer or other stop sequences (sampling.stop)",
    ),
)
"""Words that hint at an error which every call would meet, and what to do about it. A single prompt
may draw such words, too: they are believed only of an endpoint that never answered."""


@dataclass(frozen=True)
class Complaint:
    """What an endpoint says is wrong. Its words may hold anything: `said` makes them safe."""

    message: str = ""
    codes: frozenset[str] = frozenset()
    """Codes, types and statuses, in lower case."""
    param: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The object that describes the error."""


def complaint_in(content: bytes) -> Complaint:
    """Reads what a reply's body says is wrong; an empty complaint if it says nothing."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        text = content[:10_000].decode("utf-8", "replace")
        return Complaint(f"a web page: {title(text)}" if text.lstrip()[:1] == "<" else text)
    levels = list(_levels(body, DEEPEST))
    messages = list(dict.fromkeys(_message(level) for level in levels))
    codes: set[str] = set()
    param = ""
    fields: Mapping[str, Any] = {}
    for level in levels:
        if isinstance(level, dict):
            codes |= {str(level[name]).lower() for name in CODES if level.get(name) is not None}
            param = param or str(level.get("param") or "")
            if not fields and "error" not in level:
                fields = level
    words = "; ".join([message for message in messages if message][:SHOWN])
    return Complaint(words, frozenset(codes), param, fields)


def _levels(value: Any, depth: int) -> Iterator[Any]:
    """Yields the objects and texts of an error, from the outermost to the innermost."""
    if depth == 0:
        return
    if isinstance(value, list):
        for part in value[:SHOWN]:
            yield from _levels(part, depth - 1)
    elif isinstance(value, dict):
        yield value
        for name in INNER:
            yield from _levels(value.get(name), depth - 1)
        if not isinstance(value.get("message"), str):
            yield from _levels(value.get("message"), depth - 1)
    elif isinstance(value, str):
        yield value


def _message(level: Any) -> str:
    """The words of one level of an error."""
    if isinstance(level, str):
        return level
    for name in MESSAGES:
        message = level.get(name)
        if isinstance(message, str) and message:
            # FastAPI names the field beside the message.
            place = level.get("loc")
            if isinstance(place, list):
                return f"{'.'.join(str(part) for part in place)}: {message}"
            return message + _raw(level)
    return ""


def _raw(error: Mapping[str, Any]) -> str:
    """What the provider behind a gateway said, as OpenRouter hands it on."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return f": {raw}" if isinstance(raw, str) and raw else ""


def said(text: str, key: str | None, most: int = 200) -> str:
    """Returns the endpoint's words as one line of up to `most` characters that is safe to show.

    The key is masked. Characters that steer a terminal, or that no file can hold, become U+FFFD.
    """
    if key and len(key) >= SECRET:
        text = text.replace(key, "***")
    line = " ".join(text.split())[:most]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


def title(text: str) -> str:
    """Returns the title of a web page, or its first characters."""
    found = re.search(r"<title[^>]*>(.*?)<", text, re.DOTALL | re.IGNORECASE)
    return found[1] if found else text[:80]


def suspicion(complaint: Complaint) -> str | None:
    """Says what to do if every call is likely to meet this error; None if it is about one call."""
    # A prompt that is too long is about this call, whatever else is said of the model.
    if re.search(r"(?i)context|too long|too large|prompt is", complaint.message):
        return None
    for words, advice in SUSPICIONS:
        if words.search(complaint.message):
            return advice
    return None


def mend(complaint: Complaint) -> str | None:
    """Names what to change if an endpoint refuses what all our calls have.

    It knows the words of several providers; None if the error is about this one call.
    """
    message, param = complaint.message, complaint.param
    if complaint.codes & WRONG_KEY:
        return "the key is not accepted: is it this endpoint's?"
    unsupported = bool(complaint.codes & UNSUPPORTED)
    if NO_SYSTEM.search(message) or ("role" in param and "system" in message):
        return (
            "set `system: merge`, and what the system message says goes into the first message of "
            "the user"
        )
    if not unsupported and not re.search(r"(?i)unsupported|not support", message):
        return None
    named = re.search(
        r"\b(max_tokens|max_completion_tokens|temperature|top_p|stop|stream)\b",
        f"{param} {message}",
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


def refuses_streaming(complaint: Complaint) -> Literal["stream_options", "stream"] | None:
    """Returns the field of a streamed call that an endpoint does not take, if that is it."""
    words = f"{complaint.param} {complaint.message}"
    if re.search(r"(?i)\b(stream_options|include_usage)\b", words):
        return "stream_options"
    if re.search(r"(?i)\bstream(s|ed|ing)?\b", words):
        return "stream"
    return None


def moderated(complaint: Complaint) -> list[str]:
    """Returns the findings of a moderation before the model, as OpenRouter reports them.

    They come with a 403, which is otherwise about every call.
    """
    metadata = complaint.fields.get("metadata")
    reasons = metadata.get("reasons") if isinstance(metadata, dict) else None
    return [str(reason) for reason in reasons] if isinstance(reasons, list) else []


def is_filtered(complaint: Complaint) -> bool:
    """True if a prompt was refused because of its content."""
    return bool(complaint.codes & FILTERED) or bool(moderated(complaint))


def filtered_by(complaint: Complaint) -> str:
    """Says what a content filter found, if Azure or OpenRouter report that."""
    found = moderated(complaint)
    if not found:
        inner = complaint.fields.get("innererror")
        results = inner.get("content_filter_result") if isinstance(inner, dict) else None
        if isinstance(results, dict):
            for name, result in results.items():
                if isinstance(result, dict) and result.get("filtered"):
                    found.append(name)
    kinds = f" for {said(', '.join(found), None)}" if found else ""
    return f"refused by the provider's content filter{kinds}"
