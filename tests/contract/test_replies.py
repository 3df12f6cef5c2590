"""Replies as other providers send them, one by one and in batches: what is an answer, what is asked
again, and what stops a stage.
"""

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowest.errors import BudgetError, CallError
from cowest.ledger import store
from cowest.ledger.claims import overbilled
from cowest.models.endpoint.responses import AgainError, HopelessError, read
from cowest.models.estimate import Counting
from cowest.models.openai import OpenAIConfig
from cowest.net.client import Reply
from cowest.protocols import Completion
from tests.batch_server import batch_server
from tests.endpoints import (
    MAX_TOKENS,
    PRICE,
    answers,
    ask,
    budget,
    claims,
    config,
    now,
    priced,
    short_answers,
)
from tests.servers import GOOD, Fate, chat_server, completion

BOTH = pytest.mark.parametrize("mode", ["single", "batch"])


@pytest.fixture(autouse=True)
def stage(own_store: Path) -> Iterator[None]:
    """A stage of the turn `t`, with a store of its own."""
    with store.accounting("refine"):
        yield


def ended(finish: str | None, text: str | None = "the first half of", **parts: Any) -> Fate:
    """An answer that ends by some name."""
    body = json.loads(completion(text, "stop"))
    body["choices"][0]["finish_reason"] = finish
    return Fate(body=json.dumps(body | parts).encode())


def without_message(finish: str) -> Fate:
    body = json.loads(completion(None))
    body["choices"] = [{"index": 0, "finish_reason": finish}]
    return Fate(body=json.dumps(body).encode())


def said_no(body: Any, status: int = 400) -> Fate:
    return Fate(status, json.dumps(body).encode())


def asked(
    mode: str, fate: Fate, rows: int = 1, times: int = 9, **settings: Any
) -> tuple[list[Completion], Counter[str]]:
    """Asks for some rows of which each meets a fate several times; also counts the calls."""
    texts = [f"row {number}" for number in range(rows)]
    script = {text: [fate] * times for text in texts}
    if mode == "batch":
        with batch_server(script) as batches:
            given = {"batch": {"poll": 0.02, "wait": 20}, **settings}
            try:
                return answers(priced(batches, **given), *texts), tally(batches.batches.values())
            except CallError as stop:
                stop.add_note(str(tally(batches.batches.values()).total()))
                raise
    with chat_server(script) as server:
        try:
            return answers(priced(server, **settings), *texts), server.asked()
        except CallError as stop:
            stop.add_note(str(server.calls))
            raise


def tally(batches: Any) -> Counter[str]:
    """How often each row was in a batch."""
    counts: Counter[str] = Counter()
    for made in batches:
        counts.update(row["body"]["messages"][-1]["content"] for row in made.rows)
    return counts


def calls_before(stop: pytest.ExceptionInfo[CallError]) -> int:
    return int(stop.value.__notes__[0])


@BOTH
@pytest.mark.parametrize(
    "finish", ["model_length", "max_tokens", "MAX_TOKENS", "max_output_tokens"]
)
def test_what_was_cut_is_cut_by_whatever_name(mode: str, finish: str) -> None:
    (found,), calls = asked(mode, ended(finish))
    assert (found.text, found.finish) == ("the first half of", "length") and calls.total() == 1


@BOTH
@pytest.mark.parametrize(
    "fate",
    [
        ended("SAFETY", None),
        ended("content_filter: SPII", "the first half of"),
        ended("sensitive", ""),
        without_message("RECITATION"),
        Fate(body=b'{"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}'),
        Fate(body=b'{"choices": null, "prompt_feedback": {"block_reason": "OTHER"}}'),
        said_no({"code": "data_inspection_failed", "message": "unfit"}),
        said_no({"error": {"code": "1301", "message": "unfit"}}),
        said_no([{"error": {"code": "content_filter", "message": "unfit"}}]),
    ],
)
def test_what_was_blocked_is_refused_once_and_for_good(mode: str, fate: Fate) -> None:
    (found,), calls = asked(mode, fate)
    assert (found.text, found.finish) == (None, "refused") and calls.total() == 1
    assert found.failed is not None and "content filter" in found.failed
    kept = store.open_store().look([ask("row 0").key(found.model)])
    assert list(kept.values()) == [found], "so it is not asked, and not paid for, again"


@BOTH
@pytest.mark.parametrize(
    "fate", [ended("network_error"), ended("cancelled"), without_message("error"), ended("ERROR")]
)
def test_what_broke_off_is_asked_again(mode: str, fate: Fate) -> None:
    (found,), calls = asked(mode, fate, times=2)
    assert found.text == "answer to row 0" and calls.total() == 3


@BOTH
def test_an_end_that_we_do_not_know_is_said_once(
    mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found, calls = asked(mode, ended("tomorrow\x1b[2J"), rows=5)
    assert {c.finish for c in found} == {"stop"} and calls.total() == 5
    said = capfd.readouterr().err
    assert (
        said.count("'tomorrow\\ufffd[2J', which we do not know") == 1
        or said.count("tomorrow\ufffd[2J', which we do not know") == 1
    )


@BOTH
@pytest.mark.parametrize(
    ("message", "reason", "advice"),
    [
        ({"reasoning_content": "It is Oslo."}, "thoughts (reasoning_content)", "turn thinking"),
        ({"reasoning": "It is Oslo."}, "thoughts (reasoning) and no", "reasoning parser"),
        ({"tool_calls": [{"id": "1"}]}, "a call of a tool", "take `tools` out of `extra`"),
        ({}, "an empty answer", "stop sequences"),
    ],
)
def test_an_answer_without_a_word_is_none_and_if_all_are_the_stage_stops(
    mode: str, message: dict[str, Any], reason: str, advice: str
) -> None:
    budget(usd=1)
    fate = Fate(body=completion(None, **message))
    (found,), calls = asked(mode, fate)
    assert found.text is None and found.failed is not None and reason in found.failed
    assert calls.total() == 3, "they are paid for, so there are two retries and no more"
    with pytest.raises(CallError) as stop:
        asked(mode, fate, rows=200, concurrency=4)
    assert reason in str(stop.value) and advice in str(stop.value)
    assert calls_before(stop) <= (200 if mode == "batch" else 24), "a batch is bought whole"
    assert now().usd > PRICE.of(7, 3), "all of them were paid for"


@BOTH
def test_thoughts_that_use_up_every_limit_stop_the_stage(mode: str) -> None:
    with pytest.raises(CallError, match="raise max_tokens") as stop:
        asked(mode, Fate(body=completion("", "length", reasoning_content="hm")), 200, concurrency=4)
    assert calls_before(stop) <= (200 if mode == "batch" else 12)


def test_rows_without_a_word_between_others_stop_nothing() -> None:
    script = {str(n): [Fate(body=completion(" "))] * 9 for n in range(0, 120, 3)}
    with chat_server(script) as server:
        found = answers(config(server, concurrency=2), "first", *map(str, range(120)))
        again = answers(config(server, concurrency=2), "first", *map(str, range(120)))
    assert sum(c.text is not None for c in found) == sum(c.text is not None for c in again) == 81


def test_bad_rows_alone_stop_no_stage_that_is_run_again() -> None:
    """What was answered is in the store, so only what failed is asked."""
    refusal = said_no({"error": "the key `answer` is not in the schema"})
    script = {str(n): [refusal] * 9 for n in range(20)}
    with chat_server(script) as server:
        first = answers(config(server, concurrency=1), "good", *map(str, range(8)))
        again = answers(config(server, concurrency=1), "good", *map(str, range(8)))
    assert first == again and [c.text is not None for c in first] == [True] + [False] * 8


@BOTH
@pytest.mark.parametrize(
    ("fate", "words"),
    [
        (
            said_no([{"error": {"code": 400, "message": "Your key is not one of ours."}}]),
            r"HTTP 400: Your key is not one of ours\.\): is the key in the variable that key_env",
        ),
        (said_no({"error": {"code": "invalid_api_key", "message": "x"}}), "key is not accepted"),
        (said_no({"error": "`top_p` must be < 1.0", "error_type": "v"}, 422), "give a top_p"),
        (said_no({"detail": "The model `tiny` does not exist"}, 422), "a name that this endpoint"),
        (Fate(body=b'{"error": {"code": 401, "message": "who?"}}'), "key is not accepted .*who?"),
        (Fate(body=b'{"error": "invalid api key"}'), "is the key in the variable"),
        (said_no(["it likes", "no one"]), "in the same words: HTTP 400: it likes; no one"),
    ],
)
def test_an_error_that_every_call_meets_stops_with_the_endpoints_words(
    mode: str, fate: Fate, words: str
) -> None:
    with pytest.raises(CallError, match=words) as stop:
        asked(mode, fate, rows=100, concurrency=2)
    assert calls_before(stop) <= (100 if mode == "batch" else 20)
    assert now().usd == 0 or "body" in repr(fate)


@BOTH
def test_an_error_about_one_call_fails_its_row_with_the_endpoints_words(mode: str) -> None:
    fate = said_no({"detail": [{"loc": ["body", "messages"], "msg": "too long by 7"}]}, 422)
    found, calls = asked(mode, fate, rows=3)
    assert {c.failed for c in found} == {"HTTP 422: body.messages: too long by 7"}
    assert calls.total() == 3


@BOTH
@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7.0, "completion_tokens": 3.0}, (7, 3)),
        ({"prompt_tokens": 6.5, "completion_tokens": 3}, (7, 3)),
        ({"input_tokens": 7, "output_tokens": 3}, (7, 3)),
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 25}, (7, 18)),
        ({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 9}, (7, 3)),
    ],
)
def test_usage_is_read_as_it_comes(
    mode: str, usage: dict[str, float], tokens: tuple[int, int]
) -> None:
    budget(usd=1)
    (found,), _ = asked(mode, ended("stop", usage=usage))
    assert (found.prompt_tokens, found.completion_tokens) == tokens
    discount = 0.5 if mode == "batch" else 1
    assert now().usd == pytest.approx(PRICE.of(*tokens) * discount)


@pytest.mark.parametrize("usage", [{"prompt_tokens": "7"}, {"prompt_tokens": True}, [7, 3], None])
def test_usage_that_can_not_be_true_is_none(usage: Any) -> None:
    budget(usd=1)
    (found,), _ = asked("single", ended("stop", usage=usage))
    assert found.prompt_tokens == 0 and now().usd > PRICE.of(7, 3), "the most is counted"


EVENTS = b': waiting\n\ndata: {"choices": [{"delta": {"content": "Os"}}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("kind", ["text/event-stream", "text/event-stream; charset=utf-8", "json"])
def test_a_stream_for_an_answer_stops_at_once(kind: str) -> None:
    budget(usd=1)
    fate = Fate(body=EVENTS, headers={"Content-Type": kind})
    with pytest.raises(CallError, match="streams its answers") as stop:
        asked("single", fate, rows=50, concurrency=2)
    assert calls_before(stop) <= 2
    assert now().usd > 0 and claims() == calls_before(stop), "it may have been paid for"


def test_comments_without_end_take_little_memory_and_a_stream_after_many_is_known() -> None:
    comments = b":\n" * 500_000
    tracemalloc.start()
    try:
        with pytest.raises(AgainError, match="not JSON"):
            read(Reply(200, {}, comments), "m", None, 1.0, 0.0)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(comments)
    finally:
        tracemalloc.stop()
    for between in (b"", b"event: message\n"):
        with pytest.raises(HopelessError, match="streams its answers"):
            read(Reply(200, {}, comments + between + b"data: {}\n\n"), "m", None, 1.0, 0.0)


def test_a_whole_answer_that_is_called_a_stream_is_an_answer() -> None:
    fate = Fate(body=completion("well"), headers={"Content-Type": "text/event-stream"})
    (found,), _ = asked("single", fate)
    assert found.text == "well"


def test_an_endpoint_that_streams_unless_told_not_to_is_told() -> None:
    def streams(body: dict[str, Any]) -> Fate:
        return GOOD if body.get("stream") is False else Fate(body=EVENTS)

    with chat_server(otherwise=streams) as server:
        for extra in ({}, {"stream": False}, {"seed": 1, "stream": False}):
            (found,) = answers(config(server, extra=extra), "hello")
            assert found.text == "answer to hello"
        assert server.calls == 2, "that it is said in the settings too changes no key"
        with pytest.raises(CallError, match="streams its answers"):
            answers(config(server, extra={"stream": None}), "hello again")
        assert "stream" not in server.bodies[-1]


def test_nothing_in_a_batch_says_that_it_should_not_stream() -> None:
    """It can't, and not every batch interface takes the field."""
    with batch_server() as server:
        answers(priced(server, batch={"poll": 0.02}), "hello")
        (made,) = server.batches.values()
    assert "stream" not in made.rows[0]["body"]


def test_a_base_url_with_the_whole_path_calls_the_same_path() -> None:
    with chat_server() as server:
        server.url += "/chat/completions/"
        assert answers(config(server), "hello")[0].text == "answer to hello"


def billed(tokens: int) -> Fate:
    usage = {"prompt_tokens": 7, "completion_tokens": tokens}
    return ended("stop", usage=usage)


def test_more_billed_than_allowed_is_said_once_and_reserved_from_then_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with chat_server(otherwise=billed(200)) as server:
        settings = priced(server, concurrency=4)
        most = sum(settings.most(ask("10", max_tokens=MAX_TOKENS)))
        assert most < 207
        budget(tokens=20 * 207)
        with pytest.raises(BudgetError, match=r"the next call may take .* and 207 tokens"):
            short_answers(settings, *range(10, 60))
        assert now().tokens == 20 * 207, "the budget is used up, and kept"
        assert server.calls == 20 and claims() == 0
        said = capfd.readouterr().err
        assert said.count("bills more than its calls allow: 207 tokens") == 1
        # A later stage knows it from the store, with its first calls.
        budget(tokens=22 * 207 + most)
        with pytest.raises(BudgetError, match="and 207 tokens"):
            short_answers(settings, *range(60, 90))
        assert server.calls == 22 and now().tokens == 22 * 207
        counting = Counting(settings)
        list(counting.generate([ask("10", max_tokens=20), ask("99", max_tokens=20)]))
        assert counting.estimate.tokens == 207, "so does what a stage says before its calls"
    assert "bills more" not in capfd.readouterr().err
    assert overbilled(store.open_store(), settings.name)[1] == 207 - most
    with store.accounting(""):
        assert overbilled(store.open_store(), settings.name) == (0.0, 0), "outside of the turn"


def test_thoughts_billed_beyond_the_bound_are_said_and_reserved_without_an_answer(
    capfd: pytest.CaptureFixture[str],
) -> None:
    body = json.loads(completion("", reasoning_content="Well, ..."))
    body["usage"] = {"prompt_tokens": 7, "completion_tokens": 100_000}
    with chat_server(otherwise=Fate(body=json.dumps(body).encode())) as server:
        settings = priced(server, concurrency=1)
        budget(tokens=150_000)
        with pytest.raises(BudgetError, match=r"the next call may take .* and 100,007 tokens"):
            short_answers(settings, *range(10, 14))
        assert server.calls == 1 and now().tokens == 100_007 and claims() == 0
    assert capfd.readouterr().err.count("bills more than its calls allow: 100,007 tokens") == 1
    most = sum(settings.most(ask("10", max_tokens=MAX_TOKENS)))
    assert overbilled(store.open_store(), settings.name)[1] == 100_007 - most


def test_a_call_that_waits_for_the_budget_reserves_what_was_billed_meanwhile() -> None:
    most = sum(OpenAIConfig(model="tiny").most(ask("a", max_tokens=MAX_TOKENS)))
    with chat_server({"a": [Fate(delay=1)], "b": [billed(most + 20 - 7)]}) as server:
        settings = priced(server, concurrency=3)
        # There is room for the third call as it was at first, once the other two are paid.
        budget(tokens=10 + most + 20 + most)
        with pytest.raises(BudgetError, match=f"and {most + 20} tokens"):
            short_answers(settings, "a", "b", "c")
        assert server.calls == 2 and now().tokens == 10 + most + 20 and claims() == 0


def test_what_a_batch_bills_is_reserved_by_the_next(capfd: pytest.CaptureFixture[str]) -> None:
    script = {str(n): [billed(200)] for n in range(10, 40)}
    with batch_server(script) as server:
        budget(tokens=12 * 207)
        settings = priced(server, batch={"poll": 0.02, "requests": 10})
        with pytest.raises(BudgetError, match="207 tokens"):
            short_answers(settings, *range(10, 40))
        assert now().tokens == 12 * 207
    assert capfd.readouterr().err.count("bills more than its calls allow") == 1


def test_an_error_of_the_provider_behind_a_gateway_is_asked_again() -> None:
    busy = Fate(body=b'{"error": {"code": 503, "message": "overloaded"}}')
    (found,), calls = asked("single", busy, times=2)
    assert found.text == "answer to row 0" and calls.total() == 3
