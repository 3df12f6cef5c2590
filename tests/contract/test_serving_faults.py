"""Staying up: each fault of a model or a client, what the client is told, and what is let go."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

import openai
import pytest

from cowest.errors import BudgetError, CallError, StoreError
from cowest.protocols import Completion, Request, Served
from tests import serving
from tests.serving import POLICY, STRONG, Faulty, Running, asking, post, running

pytestmark = pytest.mark.slow

BOTH = {"degrade": ["strong_alone", "draft_alone"]}
SOON = {"deadline": 0.8, "draft_share": 0.8}
"""The strong model that hangs is given up soon, and the policy has time on a busy machine."""
Does = Callable[[Request, Served], AsyncGenerator[str | Completion, None]]


def models() -> tuple[Faulty, Faulty]:
    return Faulty(POLICY, "policy"), Faulty(STRONG, "strong")


def text_of(said: Any) -> str:
    content: str = said["choices"][0]["message"]["content"]
    return content


async def refusing(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    raise CallError("STRONG_KEY is not set")
    yield ""


async def filtered(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    yield Completion(None, "strong", "refused", "the content filter says no")


async def broke(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    raise BudgetError("the key's budget is spent")
    yield ""


async def full(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    raise StoreError("the disk is full")
    yield ""


async def unended(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    yield "It is "


@pytest.mark.parametrize("does", [serving.down, serving.busy, serving.hanging, unended, refusing])
def test_without_the_policy_the_strong_model_answers_alone(does: Does) -> None:
    policy, strong = models()
    with running(policy, strong, deadline=2, draft_share=0.1) as server:
        policy.does = does
        for more in ({}, {"stream": True}):
            status, headers, said = post(server.port, asking(**more))
            assert status == 200 and headers["x-cowest-degraded"] == "strong_alone"
            if more:
                assert said[-1] == "[DONE]" and said[-2]["cowest"]["degraded"] == "strong_alone"
            else:
                assert text_of(said) == "no idea at all" and said["cowest"]["draft"] is None
        assert strong.asked[-1][0].messages[-1].content == "Question: Where is it made?"
        assert policy.ended == len(policy.asked)
        row = server.rows[-1]
        assert row.degraded == "strong_alone" and row.drafting and row.drafting.failed
        status, _, said = post(server.port, {"question": "Where?"}, "/ask")
        assert (status, said["degraded"], said["draft"]) == (200, "strong_alone", "")


def test_a_draft_that_failed_for_its_own_content_is_done_without() -> None:
    with running(breaker={"failures": 1}) as server:
        for _ in range(3):
            _, _, said = post(server.port, asking("It is out of reach"))
            assert (text_of(said), said["cowest"]["degraded"]) == ("no idea at all", "strong_alone")
        # The breaker did not open for it.
        assert post(server.port, asking())[2]["cowest"]["degraded"] is None
    with running(degrade=[]) as server:
        status, headers, said = post(server.port, asking("It is out of reach"))
        assert status == 502 and "it has no words for it" in said["error"]["message"]
        assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("does", "status", "retry_after"),
    [
        (serving.down, 502, None), (serving.busy, 503, "17"), (serving.hanging, 504, None),
        (serving.stuck, 504, None), (serving.dropped, 502, None), (unended, 502, None),
        (refusing, 502, None), (filtered, 400, None), (broke, 429, None), (full, 503, "10"),
    ],
)  # fmt: skip
def test_without_the_strong_model_the_request_fails(
    does: Does, status: int, retry_after: str | None
) -> None:
    policy, strong = models()
    with running(policy, strong, **SOON) as server:
        strong.does = does
        found, headers, said = post(server.port, asking())
        assert (found, headers.get("retry-after")) == (status, retry_after)
        assert set(said["error"]) == {"message", "type", "param", "code"}
        assert server.rows[-1].answer is None and server.rows[-1].failed
        assert strong.ended == len(strong.asked)
        assert server.service.admission.taken == 0


@pytest.mark.parametrize("does", [serving.down, serving.hanging, serving.dropped])
def test_the_draft_is_the_answer_where_that_is_allowed(does: Does) -> None:
    policy, strong = models()
    with running(policy, strong, **SOON, **BOTH) as server:
        strong.does = does
        status, headers, said = post(server.port, asking())
        assert (status, text_of(said)) == (200, "made in Oslo")
        assert headers["x-cowest-degraded"] == said["cowest"]["degraded"] == "draft_alone"
        assert said["usage"]["completion_tokens"] == 3
        row = server.rows[-1]
        assert (row.answer, row.draft, row.failed) == ("made in Oslo", "made in Oslo", None)
        assert row.answering and row.answering.failed
        policy.does = serving.down
        status, headers, said = post(server.port, asking())
        assert status == 503 and int(headers["retry-after"]) >= 1
        assert "both models" in said["error"]["message"]


@pytest.mark.parametrize("does", [serving.dropped, serving.stuck, unended])
def test_a_stream_that_breaks_ends_with_an_error_and_no_done(does: Does) -> None:
    policy, strong = models()
    # Though the draft might be an answer: what was sent can't be taken back.
    with running(policy, strong, **SOON, **BOTH) as server:
        strong.does = does
        status, _, found = post(server.port, asking(stream=True))
        assert status == 200 and found[-1]["error"]["type"] == "server_error"
        assert found[0]["choices"][0]["delta"]["content"] == "It is"
        assert server.rows[-1].answer is None and server.rows[-1].failed
        with openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(**asking(stream=True))
            with pytest.raises(openai.APIError):
                list(stream)


def test_a_mistake_of_ours_is_an_error_in_the_apis_shape() -> None:
    async def mistaken(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
        raise RuntimeError("secret")
        yield ""

    policy, strong = models()
    with running(policy, strong) as server:
        strong.does = mistaken
        for more in ({}, {"stream": True}):
            status, headers, said = post(server.port, asking(**more))
            assert (status, headers["x-should-retry"]) == (500, "false")
            assert said["error"]["type"] == "server_error" and "secret" not in str(said)
            assert server.rows[-1].failed == "an error of the service"
        assert server.service.admission.taken == 0
        strong.does = None
        assert post(server.port, asking())[0] == 200


def test_a_stream_that_can_not_begin_has_a_status() -> None:
    policy, strong = models()
    with running(policy, strong) as server:
        strong.does = serving.busy
        status, headers, said = post(server.port, asking(stream=True))
        assert (status, headers["retry-after"], said["error"]["code"]) == (503, "17", "model_down")
        # Except where the draft was wanted before.
        options = {"stream_options": {"include_draft": True}}
        status, _, found = post(server.port, asking(stream=True, **options))
        assert status == 200 and "error" in found[-1] and found[0]["cowest"]["draft"]
        assert found[-1]["cowest"] == {"retry_after": 17, "retry": True}


def test_a_model_that_is_down_is_left_alone_and_tried_again() -> None:
    policy, strong = models()
    with running(policy, strong, breaker={"failures": 2, "seconds": 60}) as server:
        policy.does = serving.down
        before = len(policy.asked)
        for _ in range(6):
            assert post(server.port, asking())[2]["cowest"]["degraded"] == "strong_alone"
        assert len(policy.asked) == before + 2
        policy.does = None
        server.waited += 61
        assert post(server.port, asking())[2]["cowest"]["degraded"] is None
        strong.does = serving.down
        found = [post(server.port, asking())[0] for _ in range(4)]
        assert found == [502, 502, 503, 503]


def test_a_client_in_a_hurry_does_not_shut_a_model_for_others() -> None:
    policy, strong = models()
    with running(policy, strong, patience=5, breaker={"failures": 1}) as server:
        strong.does = serving.stuck
        for _ in range(3):
            found = post(server.port, asking(), x_cowest_deadline="0.4")
            assert found[0] == 504
        strong.does = None
        assert post(server.port, asking())[0] == 200
        for wrong in ("0", "-1", "nan", "soon", ""):
            status, _, said = post(server.port, asking(), x_cowest_deadline=wrong)
            assert (status, said["error"]["param"]) == (400, "x-cowest-deadline")


def open_request(server: Running, body: Any, length: int | None = None) -> socket.socket:
    """A connection with a request sent on it, and nothing read."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(data) if length is None else length}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("slow", ["policy", "strong"])
def test_a_client_that_leaves_ends_the_calls(slow: str, streamed: bool) -> None:
    policy, strong = models()
    with running(policy, strong) as server:
        model = policy if slow == "policy" else strong
        before = len(model.asked)
        model.does = serving.stuck
        connection = open_request(server, asking(stream=streamed, n=3, temperature=1))
        calls = before + (1 if slow == "policy" else 3)
        server.wait(lambda: len(model.asked) == calls)
        assert server.service.admission.taken == 1
        connection.close()
        server.wait(lambda: model.ended == calls and server.service.admission.taken == 0)
        server.wait(lambda: len(server.rows) == 3)
        assert {row.failed for row in server.rows} == {"the client left before the answer ended"}
        model.does = None
        assert post(server.port, asking())[0] == 200


def test_a_client_that_left_before_its_answer_is_let_go_with_a_status() -> None:
    """BentoML's deadline waits for one, and would keep the request until then."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/ask", "headers": headers}
    with running() as server:
        asyncio.run(server.app({**scope, "query_string": b"", "root_path": ""}, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 499


def test_a_client_that_leaves_the_queue_frees_its_place() -> None:
    policy, strong = models()
    with running(policy, strong, concurrency=1, queue=1) as server:
        strong.does = serving.stuck
        first = open_request(server, asking())
        server.wait(lambda: server.service.admission.taken == 1)
        second = open_request(server, asking())
        server.wait(lambda: server.service.admission.waiting == 1)
        status, headers, said = post(server.port, asking())
        assert (status, said["error"]["code"]) == (429, "overloaded")
        assert int(headers["retry-after"]) >= 1
        second.close()
        server.wait(lambda: server.service.admission.waiting == 0)
        strong.does = None
        first.close()
        server.wait(lambda: server.service.admission.taken == 0)
        assert post(server.port, asking())[0] == 200


def test_more_requests_than_places_are_answered_or_turned_away_at_once() -> None:
    policy, strong = models()

    async def slow(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
        await asyncio.sleep(0.05)
        yield Completion("yes", "strong")

    with running(policy, strong, concurrency=4, queue=4) as server:
        strong.does = slow
        found: list[tuple[int, dict[str, str], Any]] = []
        threads = []
        for _ in range(80):
            ask = threading.Thread(target=lambda: found.append(post(server.port, asking())))
            ask.start()
            threads.append(ask)
        for ask in threads:
            ask.join(timeout=60)
        statuses = [status for status, _, _ in found]
        assert len(found) == 80 and set(statuses) == {200, 429}
        assert statuses.count(200) >= 8
        assert all("retry-after" in headers for status, headers, _ in found if status == 429)
        assert server.service.admission.taken == server.service.admission.waiting == 0
        # Nobody who was admitted waited for more than the queue before them and themselves.
        assert len(server.rows) == statuses.count(200)


def test_at_ten_times_its_capacity_nobody_who_is_admitted_is_passed_by_many() -> None:
    """The order of requests and of their ends bounds the wait, whatever the clock says."""
    policy, strong = models()
    places, queue = 4, 4

    async def slow(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
        await asyncio.sleep(0.05)
        yield Completion("yes", "strong")

    with running(policy, strong, concurrency=places, queue=queue) as server:
        strong.does = slow
        # 80 a second are all that it can do, and these come within a fraction of a second.
        connections = [open_request(server, asking()) for _ in range(30 * (places + queue))]
        refused = 0
        for connection in connections:
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status in (200, 429)
            if response.status == 429:
                refused += 1
                assert int(response.headers["retry-after"]) >= 1
            connection.close()
        rows = server.rows
    assert len(rows) == len(connections) - refused
    assert len(rows) >= places + queue and refused >= len(connections) / 2
    for number, row in enumerate(rows):
        passed = [other for other in rows[:number] if other.at > row.at]
        assert len(passed) <= places + queue
        meanwhile = [other for other in rows[:number] if other.at + other.seconds > row.at]
        assert len(meanwhile) <= places + queue + places


def test_a_reader_that_is_too_slow_is_cut_at_the_deadline() -> None:
    policy, strong = models()
    with running(policy, strong, deadline=1.0) as server:
        strong.does = serving.endless
        before = strong.ended
        connection = open_request(server, asking(stream=True))
        server.wait(lambda: strong.ended == before + 1 and server.service.admission.taken == 0)
        assert server.rows[-1].failed
        connection.close()


def test_bodies_that_are_too_large_or_never_come() -> None:
    with running(deadline=1.5, limits={"body": 2000}) as server:
        status, _, said = post(server.port, asking("x" * 3000))
        assert status == 413 and "2000 bytes" in said["error"]["message"]
        # In chunks, and so without a length.
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        head = "POST /ask HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        for _ in range(3):
            connection.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        assert b"413" in connection.recv(100)
        connection.close()
        slow = open_request(server, b"{", length=100)
        assert b"408" in slow.recv(100)
        slow.close()
        assert server.service.admission.taken == 0
        assert post(server.port, asking())[0] == 200


@pytest.mark.parametrize("path", ["/ask", "/v1/chat/completions"])
@pytest.mark.parametrize(("messages", "characters"), [(4, 50), (200, 100_000)])
def test_the_limits_of_the_settings_hold_however_one_asks(
    path: str, messages: int, characters: int
) -> None:
    def status(question: str, count: int = 1) -> tuple[int, str]:
        said = [{"role": "user", "content": question}] * count
        body: dict[str, Any] = {"messages": said, "model": "cowest"}
        if path == "/ask":
            body = {"messages": said} if count > 1 else {"question": question}
        found, _, reply = post(server.port, body, path)
        return found, str(reply.get("error"))

    with running(limits={"messages": messages, "characters": characters}) as server:
        assert status("x", messages)[0] == 200
        assert status("x" * characters)[0] == 200
        found, why = status("x", messages + 1)
        assert found == 400 and f"more than {messages} messages (serve.limits.messages)" in why
        found, why = status("x" * (characters + 1))
        assert found == 400 and "(serve.limits.characters)" in why


def test_a_version_that_does_not_answer_its_probe_is_not_lent() -> None:
    policy, strong = models()
    strong.does = serving.down
    with running(policy, strong, ready=False) as server:
        status, headers, said = post(server.port, asking())
        assert (status, said["error"]["code"]) == (503, "not_ready")
        assert "connection refused" in said["error"]["message"] and headers["retry-after"] == "15"
        assert post(server.port, {"question": "q"}, "/ask")[0] == 503


async def of_marks(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
    """Answers with the mark that it is asked for, else with the words that it always has."""
    text = "It is made in the north"
    if "Which tag" in request.messages[-1].content:
        text = "The tag is </think>. It ends a thought"
    for word in text.split(" "):
        yield f"{word} "
    yield Completion(f"{text} ", "strong")


def texts_in(events: list[Any]) -> list[str]:
    """The texts of a stream, without empty ones."""
    found = []
    for event in events:
        for choice in event["choices"] if isinstance(event, dict) and "choices" in event else ():
            found.append(choice["delta"].get("content"))
    return [text for text in found if text]


def test_an_answer_that_speaks_of_a_mark_breaks_its_own_stream_alone() -> None:
    policy, strong = models()
    with running(policy, strong) as server:
        strong.does = of_marks

        def ask(text: str) -> list[Any]:
            found: list[Any] = post(server.port, asking(text, stream=True))[2]
            return found

        assert "was a thought" in ask("Which tag ends a thought?")[-1]["error"]["message"]
        whole = texts_in(ask("Where is it made?"))
        assert len(whole) > 1 and "".join(whole) == "It is made in the north "
        # Though some ask for it again and again, the next answer without a mark shows what it is.
        for _ in range(4):
            ask("Which tag ends a thought?")
        assert texts_in(ask("Where is it made?")) == ["It is made in the north "]
        assert len(texts_in(ask("Where is it made?"))) > 1


def test_a_model_that_begins_to_think_is_known_after_two_answers() -> None:
    async def thinks(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
        text = "Bern? No. </think> It is Oslo"
        for word in text.split(" "):
            yield f"{word} "
        yield Completion(f"{text} ", "strong")

    policy, strong = models()
    with running(policy, strong) as server:
        strong.does = thinks
        found = [post(server.port, asking(stream=True))[2][-1] for _ in range(5)]
        assert ["error" in last for last in found] == [True, True, False, False, False]
