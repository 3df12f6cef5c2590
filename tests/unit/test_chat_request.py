"""A chat request: what is taken, and what is refused with the parameter named."""

from typing import Any

import pytest

from cowest.config import Sampling
from cowest.online.chat_request import ChatRequest, sampling_of, understood
from cowest.online.live import LimitsConfig
from cowest.online.refusals import RefusalError

USER = {"role": "user", "content": "Where?"}
LIMITS = LimitsConfig(messages=4, characters=100, n=3, max_tokens=50)


def take(**more: Any) -> ChatRequest:
    return understood({"model": "cowest", "messages": [USER], **more}, LIMITS)[0]


def refused(**more: Any) -> RefusalError:
    with pytest.raises(RefusalError) as found:
        request, _ = understood({"model": "cowest", "messages": [USER], **more}, LIMITS)
        sampling_of(request, Sampling())
    assert found.value.status == 400
    return found.value


def test_a_conversation_in_all_its_forms() -> None:
    said = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        # An answer as it came from here, sent back.
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None},
        USER,
    ]
    prompt = take(messages=said).prompt
    assert [(message.role, message.content) for message in prompt] == [
        ("system", "Be brief."),
        ("user", "a\nb"),
        ("assistant", "c"),
        ("user", "Where?"),
    ]


def test_settings_of_the_request_over_those_of_the_service() -> None:
    base = Sampling(max_tokens=8, stop=("\n",), temperature=0.0)
    assert sampling_of(take(), base) == base
    assert sampling_of(take(stop="x", max_tokens=5), base) == Sampling(max_tokens=5, stop=("x",))
    asked = take(temperature=1, top_p=0.5, n=3, seed=7, stop=["a", "b"], max_completion_tokens=9)
    assert sampling_of(asked, base) == Sampling(
        temperature=1.0, top_p=0.5, n=3, seed=7, stop=("a", "b"), max_tokens=9
    )


@pytest.mark.parametrize(
    "more",
    [
        {"tools": None, "tool_choice": "none", "functions": [], "logprobs": False},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "top_logprobs": 0},
        {"response_format": {"type": "text"}, "modalities": ["text"], "service_tier": "auto"},
        {"store": False, "user": "u", "metadata": {"a": "b"}, "stream": False, "n": 1},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"stop": None, "seed": None, "max_tokens": None, "temperature": None, "audio": None},
    ],
)
def test_what_asks_for_nothing_is_taken(more: dict[str, Any]) -> None:
    assert sampling_of(take(**more), Sampling()) == Sampling()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("functions", [{}]),
        ("function_call", "auto"), ("logprobs", True), ("top_logprobs", 2), ("logprobs", 0),
        ("response_format", {"type": "json_object"}), ("logit_bias", {"1": 2}), ("store", True),
        ("presence_penalty", 0.1), ("frequency_penalty", -1), ("presence_penalty", False),
        ("audio", {}), ("modalities", ["text", "audio"]), ("prediction", {}),
        ("reasoning_effort", "low"), ("web_search_options", {}), ("verbosity", "low"),
        ("service_tier", "priority"),
        ("n", 4), ("n", 0), ("n", 2), ("n", True), ("max_tokens", 51), ("max_tokens", 0),
        ("max_tokens", "5"), ("max_completion_tokens", 51), ("max_tokens", 1.5),
        ("temperature", 3), ("temperature", "1"), ("top_p", 0), ("top_p", 1.5), ("seed", -1),
        ("seed", 2**31), ("stop", ""), ("stop", ["a"] * 5), ("stop", [""]), ("stop", "x" * 300),
        ("stop", [1]), ("stream", "yes"), ("stream_options", {"include_usage": True}),
        ("user", 7), ("metadata", {"a": 1}), ("model", 7),
        ("top_k", 5), ("best_of", 2), ("chat_template_kwargs", {}), ("messages", []),
        ("messages", "hi"), ("messages", [USER] * 5), ("messages", None),
        ("messages", [{"role": "assistant", "content": "x"}]),
        ("messages", [{"role": "user", "content": "  "}]),
        ("messages", [{"role": "user", "content": "x" * 101}]),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(name: str, value: Any) -> None:
    param = refused(**{name: value}).param or ""
    # For a value inside a list or an object, its place is named.
    assert param.startswith(name) and param[len(name) :] in ("", "[0]", ".a")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages[0].tool_call_id"),
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": "x", "name": "Ann"}, "messages[0].name"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": "x", "odd": 1}, "messages[0].odd"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages[0].tool_calls"),
        ("hello", "messages[0]"),
    ],
)
def test_a_message_that_cannot_be_honoured_is_refused_by_place(message: Any, param: str) -> None:
    assert refused(messages=[message]).param == param


def test_two_limits_that_differ_and_a_model_that_there_is_not() -> None:
    assert refused(max_tokens=5, max_completion_tokens=6).param == "max_tokens"
    assert take(max_tokens=5, max_completion_tokens=5)
    with pytest.raises(RefusalError) as found:
        understood({"model": "gpt-4o" * 90, "messages": [USER]}, LIMITS)
    assert (found.value.status, found.value.code) == (404, "model_not_found")
    assert len(found.value.reason) < 300
