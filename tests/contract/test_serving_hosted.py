"""The service over a strong model behind an endpoint: its settings reach the model's calls."""

import asyncio
import http.client
import json
from collections.abc import AsyncGenerator

import pytest

from cowest.config import parse
from cowest.ledger.claims import Budget
from cowest.ledger.purses import set_budget, today
from cowest.ledger.store import open_store
from cowest.models.openai import OpenAIConfig
from cowest.online.live import ServeConfig
from cowest.online.shelf import RegistryShelf
from cowest.protocols import AsyncChatModel, Completion, Request, Served
from tests.endpoints import parts, priced, short
from tests.servers import GOOD, HTML, NOT_JSON, Fate, chat_server, error, said, streamed
from tests.serving import POLICY, Faulty, asking, post, running

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]


class Hosted:
    """A hosted model that is opened on the event loop of its first call."""

    def __init__(self, config: OpenAIConfig) -> None:
        self.name = "hosted"
        self._config = config

    async def stream(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        async with self._config.open_async() as model:
            async for piece in model.stream(request, served):
                yield piece


def test_an_answer_of_a_hosted_model_whole_and_streamed() -> None:
    answer = Fate(pieces=streamed("It is made in Norway"))
    with chat_server(otherwise=answer) as server:
        hosted: AsyncChatModel = Hosted(priced(server))
        with running(Faulty(POLICY, "policy"), hosted) as service:
            status, headers, answered = post(service.port, asking(temperature=0.5))
            assert status == 200
            assert answered["choices"][0]["message"]["content"] == "It is made in Norway"
            assert answered["cowest"]["usd"] > 0 and float(headers["x-cowest-usd"]) > 0
            _, _, found = post(service.port, asking(stream=True))
        texts = [one["choices"][0]["delta"].get("content", "") for one in found[:-1]]
        assert "".join(texts) == "It is made in Norway" and found[-1] == "[DONE]"
        assert found[-2]["cowest"]["usd"] == answered["cowest"]["usd"]
        assert server.bodies[1]["temperature"] == 0.5
        assert "Notes: made in Oslo" in server.bodies[1]["messages"][-1]["content"]


@pytest.mark.parametrize(("cache", "calls"), [(False, 2), (True, 1)])
def test_answers_are_kept_where_that_is_wanted(cache: bool, calls: int) -> None:
    async def ask_twice(config: ServeConfig) -> list[str | Completion]:
        async with RegistryShelf(config).strong() as strong:
            await parts(strong, short("a"))
            return await parts(strong, short("a"))

    with chat_server(otherwise=Fate(pieces=streamed("yes"))) as server:
        given = {"policy": POLICY, "strong": priced(server), "registry": {"name": "none"}}
        config = parse(ServeConfig, {**given, "cache": cache}, "serve")
        found = asyncio.run(ask_twice(config))
        assert "".join(piece for piece in found if isinstance(piece, str)) == "yes"
        assert len(server.bodies) == calls


def test_what_is_served_is_counted_and_a_purse_that_is_spent_is_a_429_that_says_when() -> None:
    with (
        chat_server() as server,
        running(Faulty(POLICY, "policy"), Hosted(priced(server))) as service,
    ):
        assert post(service.port, asking())[0] == 200
        spent = today(open_store())[""]
        assert spent.calls == server.calls and spent.usd == pytest.approx(spent.calls * 37e-6)
        set_budget(open_store(), "", Budget(usd=0))
        status, _, refused = post(service.port, asking())
        assert (status, refused["error"]["code"]) == (429, "insufficient_quota")
        assert "00:00 UTC" in refused["error"]["message"] and server.calls == spent.calls


@pytest.mark.parametrize(
    ("fault", "status", "retry_after"),
    [
        (error(429), 502, None),
        (error(429, retry_after="17"), 503, "17"),
        (NOT_JSON, 502, None),
        (HTML, 502, None),
    ],
    ids=["429", "429 that says when", "no JSON", "a web page"],
)
def test_what_is_no_answer_is_an_error_in_the_apis_shape(
    fault: Fate, status: int, retry_after: str | None
) -> None:
    fate = [GOOD]
    with (
        chat_server(otherwise=lambda _: fate[0]) as server,
        # 17 seconds are more than a request has, however quick the machine is.
        running(Faulty(POLICY, "policy"), Hosted(priced(server)), deadline=15) as service,
    ):
        fate[0] = fault
        for stream in (False, True):
            found, headers, refused = post(service.port, asking(stream=stream))
            assert (found, headers.get("retry-after")) == (status, retry_after)
            # Another attempt may be answered, so a client may make one.
            assert "x-should-retry" not in headers
            assert refused["error"].keys() == {"message", "type", "param", "code"}
            assert refused["error"]["code"] == "model_down"
            assert "<html" not in refused["error"]["message"]
        assert [row.answer for row in service.rows] == [None, None]


def test_an_endpoint_that_refuses_is_no_answer_and_a_client_that_leaves_cuts_it() -> None:
    fate = [GOOD]
    with (
        chat_server(otherwise=lambda _: fate[0]) as server,
        running(Faulty(POLICY, "policy"), Hosted(priced(server)), degrade=[]) as service,
    ):
        fate[0] = error(401)
        status, _, refused = post(service.port, asking())
        assert status in (502, 503) and "error" in refused
        fate[0] = Fate(pieces=[said("The first"), 30.0])
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        head = {"content-type": "application/json"}
        body = json.dumps(asking(stream=True))
        connection.request("POST", "/v1/chat/completions", body, head)
        response = connection.getresponse()
        while b"The first" not in response.readline():
            pass
        response.close()
        connection.close()
        service.wait(lambda: bool(server.cut))


@pytest.mark.parametrize(
    ("rest", "status", "code"),
    [
        (streamed(" more", "content_filter"), 400, "content_filter"),
        ([b'data: {"error": {"code": "content_filter"}}\n\n'], 400, "content_filter"),
        ([b'data: {"error": {"code": 400, "message": "no"}}\n\n'], 502, "no_answer"),
    ],
    ids=["a filter", "a filter's error", "a poison"],
)
def test_an_answer_that_is_refused_half_way_is_refused_and_no_outage(
    rest: list[bytes], status: int, code: str
) -> None:
    fate = [GOOD]
    settings = {"breaker": {"failures": 1}, "degrade": ["strong_alone", "draft_alone"]}
    with (
        chat_server(otherwise=lambda _: fate[0]) as server,
        running(Faulty(POLICY, "policy"), Hosted(priced(server)), **settings) as service,
    ):
        fate[0] = Fate(pieces=[said("The first"), *rest])
        found, headers, refused = post(service.port, asking())
        assert (found, refused["error"]["code"]) == (status, code)
        assert status == 400 or headers["x-should-retry"] == "false"
        *_, last = post(service.port, asking(stream=True))[2]
        assert last["error"]["code"] == code
        assert status == 400 or last["cowest"]["retry"] is False
        asked = server.calls
        fate[0] = GOOD
        assert post(service.port, asking())[0] == 200, "the breaker is closed"
        assert server.calls == asked + 1
        for row in service.rows[:2]:
            finish = "refused" if status == 400 else "failed"
            assert row.answer is None and row.degraded is None and row.finish == finish
            assert row.answering and row.answering.finish == finish
