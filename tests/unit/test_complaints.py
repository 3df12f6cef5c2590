"""What endpoints say is wrong, in whatever form they say it."""

import json
from typing import Any

import pytest

from cowest.models.endpoint.complaints import complaint_in, is_filtered, mend, suspicion


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no such thing"}}, "no such thing"),
        ([{"error": {"code": 400, "message": "no such thing"}}], "no such thing"),
        ({"error": "no such thing", "error_type": "x"}, "no such thing"),
        ({"error": {"error": {"message": "no such thing"}}}, "no such thing"),
        ({"errors": [{"message": "first"}, {"message": "second"}]}, "first; second"),
        ({"detail": "no such thing"}, "no such thing"),
        (
            {"detail": [{"loc": ["body", "top_p"], "msg": "too much", "type": "value_error"}]},
            "body.top_p: too much",
        ),
        ({"object": "error", "message": {"detail": [{"msg": "too much"}]}}, "too much"),
        ({"message": "no such thing", "code": 7}, "no such thing"),
        ({"msg": "no such thing"}, "no such thing"),
        ({"error_code": 110, "error_msg": "no such thing"}, "no such thing"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": "it is full"}}},
            "Provider returned error: it is full",
        ),
        (["first", "second"], "first; second"),
        ("no such thing", "no such thing"),
        ({}, ""),
        ([], ""),
        (7, ""),
        (None, ""),
    ],
)
def test_finds_the_words_in_json(body: Any, words: str) -> None:
    assert complaint_in(json.dumps(body).encode()).message == words


def test_finds_the_words_without_json() -> None:
    assert complaint_in(b"at most 4, please").message == "at most 4, please"
    page = b"<html><head><title>Log in here</title></head></html>"
    assert complaint_in(page).message == "a web page: Log in here"
    assert complaint_in(b"[" * 100_000).message.startswith("[[[")
    assert complaint_in(b"\xff\xfe").message
    deep = json.dumps({"error": {"error": {"error": {"error": {"error": {"error": {}}}}}}})
    assert complaint_in(deep.encode()).message == ""


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("API key not valid. Please pass a valid API key.", "is the key"),
        ("The key that was sent is not one of ours. Make one on the console.", "is the key"),
        ("Invalid API Key", "is the key"),
        ("No credentials were given", "is the key"),
        ("Your credit balance is too low to access the API", "credit left"),
        ("The model `m` has been decommissioned", "a name that this endpoint knows"),
        ("model m does not exist", "a name that this endpoint knows"),
        ("`temperature` must be strictly positive", "give a temperature"),
        ("top_p should be between 0 and 1", "give a top_p"),
        ("stop: at most 4 sequences, please", "stop sequences"),
    ],
)
def test_suspects_what_every_call_would_meet(words: str, advice: str) -> None:
    found = suspicion(complaint_in(json.dumps({"error": words}).encode()))
    assert found is not None and advice in found


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "'max_tokens' is too large: 256. This model's maximum context length is 4096 tokens",
        "the prompt is too long",
        "it is poison",
        "",
    ],
)
def test_suspects_nothing_of_words_about_one_call(words: str) -> None:
    assert suspicion(complaint_in(json.dumps({"error": words}).encode())) is None


def test_knows_codes_wherever_they_stand() -> None:
    google = [{"error": {"message": "x", "details": [{"reason": "API_KEY_INVALID"}]}}]
    advice = mend(complaint_in(json.dumps(google).encode()))
    assert advice is not None and "key" in advice
    for body in (
        {"error": {"code": "content_filter", "message": "x"}},
        {"code": "DataInspectionFailed", "message": "x"},
        {"error": {"code": 1301, "message": "x"}},
        {"error": {"code": 403, "message": "x", "metadata": {"reasons": ["violence"]}}},
    ):
        assert is_filtered(complaint_in(json.dumps(body).encode()))
    assert not is_filtered(complaint_in(b'{"error": {"code": "x", "message": "content_filter"}}'))
