"""What OpenAI-compatible endpoints differ in: handled, or refused with the setting that mends
it.
"""

import json

import pytest

from cowest.config import Sampling
from cowest.errors import CallError
from cowest.protocols import Request
from cowest.records import Message
from tests.endpoints import answers, config
from tests.servers import Fate, chat_server, completion, error

pytestmark = pytest.mark.usefixtures("own_store")


ENDINGS = {
    "long": (completion("half an ans", "length"), ("half an ans", "length", None)),
    "tool": (completion("said", "eos"), ("said", "stop", None)),
    "list": (completion("said so", ["stop"]), ("said so", "stop", None)),
    "used up": (
        completion("", "length"),
        (None, "length", "max_tokens were used up before the answer began: raise it"),
    ),
    "filtered": (
        completion("a start", "content_filter"),
        (None, "refused", "refused by the provider's content filter"),
    ),
    "refused": (
        completion(None, refusal="I can't help\nwith that"),
        (None, "refused", "refused: I can't help with that"),
    ),
    "in parts": (
        completion(
            [
                {"type": "thinking", "thinking": []},
                {"type": "text", "text": "so "},
                {"type": "text", "text": "be it"},
            ]
        ),
        ("so be it", "stop", None),
    ),
    "surrogate": (completion("x\ud800y"), ("x\ufffdy", "stop", None)),
}


def test_endings() -> None:
    with chat_server({name: [Fate(body=body)] for name, (body, _) in ENDINGS.items()}) as server:
        found = answers(config(server), *ENDINGS)
        assert [(c.text, c.finish, c.failed) for c in found] == [
            wanted for _, wanted in ENDINGS.values()
        ]
        assert server.calls == len(ENDINGS)


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource"])
def test_an_answer_that_failed_half_way_is_none(finish: str) -> None:
    with chat_server({"x": [Fate(body=completion("It is not", finish))]}) as server:
        assert answers(config(server), "x")[0].text == "answer to x" and server.calls == 2


def test_an_answer_that_comes_as_created_is_one_and_an_error_in_a_200_is_said() -> None:
    failed = Fate(200, b'{"error": {"message": "Provider is down", "code": 502}}')
    with chat_server({"x": [failed] * 9}, otherwise=Fate(201)) as server:
        broken, good = answers(config(server, retries=1), "x", "y")
        assert broken.failed == "HTTP 502: Provider is down, at the last of 2 attempts"
        assert (good.text, server.calls) == ("answer to y", 3)


AZURE = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
    "management policy.",
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {
            "hate": {"filtered": False, "severity": "safe"},
            "violence": {"filtered": True, "severity": "high"},
        },
    },
}


OPENROUTER = {
    "code": 403,
    "message": "Input was flagged",
    "metadata": {
        "reasons": ["violence", "\ud800"],
        "flagged_input": "grim",
        "provider_name": "P",
        "model_slug": "m",
    },
}


def test_a_prompt_that_a_moderation_flags_is_set_aside_and_stops_nothing() -> None:
    """A 403 of another kind is about every call."""
    with chat_server(
        {"grim": [Fate(403, json.dumps({"error": OPENROUTER}).encode())] * 9}
    ) as server:
        grim, good = answers(config(server), "grim", "good")
        assert (
            grim.failed
            == "refused by the provider's content filter for violence, \ufffd (HTTP 403: Input "
            "was flagged)"
        )
        assert (grim.finish, good.text, server.calls) == ("refused", "answer to good", 2)


def test_a_prompt_that_a_content_filter_refuses_is_set_aside_once_and_for_all() -> None:
    fate = Fate(400, json.dumps({"error": AZURE}).encode())
    with chat_server({"grim": [fate] * 9}) as server:
        for _ in range(2):
            grim, good = answers(config(server), "grim", "good")
            assert (grim.text, grim.finish) == (None, "refused") and good.text
            assert grim.failed and grim.failed.startswith(
                "refused by the provider's content filter for violence (HTTP 400: The response was"
            )
        assert server.asked() == {"grim": 1, "good": 1}


UNSUPPORTED = {
    "limit: max_completion_tokens": {
        "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.",
        "type": "invalid_request_error",
        "param": "max_tokens",
        "code": "unsupported_parameter",
    },
    "limit: max_tokens": {
        "message": "Unsupported parameter: max_completion_tokens",
        "type": "BadRequestError",
    },
    "extra: {temperature: null}": {
        "message": "Unsupported value: 'temperature' does not support 0 with this model. Only the "
        "default (1) value is supported.",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "unsupported_value",
    },
    "take seed out of `extra`": {
        "message": "Unsupported parameter",
        "param": "seed",
        "code": "unsupported_parameter",
    },
    "system: merge": {
        "message": "System role not supported",
        "type": "BadRequestError",
        "code": 400,
    },
}


@pytest.mark.parametrize("mend", UNSUPPORTED)
def test_what_an_endpoint_does_not_take_stops_with_the_setting_to_change(mend: str) -> None:
    fate = Fate(400, json.dumps({"error": UNSUPPORTED[mend]}).encode())
    with chat_server(otherwise=fate) as server, pytest.raises(CallError) as raised:
        answers(config(server, concurrency=2), *map(str, range(50)))
    assert server.calls <= 2
    assert mend in str(raised.value) and UNSUPPORTED[mend]["message"] in str(raised.value)


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "This model does not support system messages.",
        "the system prompt can't be accepted by this model",
    ],
)
def test_no_system_role_in_the_words_of_several(message: str) -> None:
    body = {
        "error": {
            "message": message,
            "param": "messages[0].role" if "role" in message else None,
            "code": None,
        }
    }
    with (
        chat_server(otherwise=Fate(400, json.dumps(body).encode())) as server,
        pytest.raises(CallError, match="system: merge"),
    ):
        answers(config(server), "x")


@pytest.mark.parametrize(
    "message",
    [
        "'max_tokens' or 'max_completion_tokens' is too large: 400. This model's maximum context "
        "length is 512 tokens.",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Invalid 'messages[1].content': string too long.",
    ],
)
def test_a_400_that_is_about_one_row_stops_nothing(message: str) -> None:
    with chat_server({"x": [error(400, message)] * 9}) as server:
        failed, good = answers(config(server), "x", "y")
        assert failed.failed == f"HTTP 400: {message}" and good.text


def test_a_system_message_merged_into_the_users_first() -> None:
    told, asked, said_, more = (
        Message(role=role, content=text)
        for role, text in zip(
            ("system", "user", "assistant", "user"),
            ("Be brief.", "Who?", "Me.", "And?"),
            strict=True,
        )
    )
    with chat_server() as server:
        settings = config(server, system="merge")
        with settings.open() as model:
            list(
                model.generate(
                    Request(messages, Sampling())
                    for messages in ((told, asked, said_, more), (asked,), (told,))
                )
            )
        assert model.name != config(server).name, "another prompt, another answer"
    sent = {
        json.dumps([(m["role"], m["content"]) for m in body["messages"]]) for body in server.bodies
    }
    wanted = [
        [("user", "Be brief.\n\nWho?"), ("assistant", "Me."), ("user", "And?")],
        [("user", "Who?")],
        [("user", "Be brief.")],
    ]
    assert sent == {json.dumps(messages) for messages in wanted}


def test_several_samples_are_a_call_each_so_that_none_can_be_missing() -> None:
    with chat_server() as server, config(server).open() as model:
        message = (Message(role="user", content="x"),)
        found = list(
            model.generate(
                Request(message, Sampling(temperature=1, n=3), sample) for sample in range(3)
            )
        )
        assert [c.text for c in found] == ["answer to x"] * 3
        assert server.calls == 3 and not any("n" in body for body in server.bodies)
