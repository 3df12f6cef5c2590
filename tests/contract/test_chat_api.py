"""The endpoint over HTTP, as OpenAI's own client, LangChain and plain HTTP see it."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from cowest import collaboration
from cowest.config import Sampling
from cowest.online.interactions import Interaction
from cowest.records import Message
from tests.factories import PROMPTS
from tests.serving import POLICY, STRONG, Faulty, Running, asking, events, post, running

pytestmark = pytest.mark.slow

WARM = {"temperature": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(refining={"max_tokens": 100}) as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0) as client:
        yield client


def by_pipeline(text: str = "Where is it made?") -> tuple[str, str]:
    """Draft and answer of a question as the stages make them."""
    prompt = (Message(role="user", content=text),)
    asked = (PROMPTS, Sampling(), Sampling(max_tokens=100))
    with POLICY.open() as policy, STRONG.open() as strong:
        drafted, refined = collaboration.answer(prompt, policy, strong, *asked)
    assert drafted.text and refined and refined.text
    return drafted.text, refined.text


def last_row(server: Running, id: str) -> Interaction:
    (row,) = [row for row in server.rows if row.id == id]
    return row


def test_an_answer_is_the_pipelines_and_is_recorded(server: Running) -> None:
    draft, answer = by_pipeline()
    status, headers, said = post(server.port, asking())
    assert status == 200
    (choice,) = said["choices"]
    assert choice["message"] == {"role": "assistant", "content": answer, "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert (said["object"], said["model"]) == ("chat.completion", "cowest")
    assert said["usage"] == {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    more = said["cowest"]
    assert (more["draft"], more["version"], more["degraded"]) == (draft, 3, None)
    assert more["drafting"]["completion_tokens"] == 3 and more["drafting"]["seconds"] > 0
    assert headers["x-cowest-id"] == headers["x-request-id"] == said["id"]
    assert headers["x-cowest-version"] == "3" and "draft;dur=" in headers["server-timing"]
    row = last_row(server, said["id"])
    assert (row.draft, row.answer, row.version, row.model) == (draft, answer, 3, "cowest")
    assert row.drafting and row.answering and row.answering.completion_tokens == 9
    assert row.prompt == (Message(role="user", content="Where is it made?"),)


def test_a_stream_is_the_same_answer(server: Running) -> None:
    draft, answer = by_pipeline()
    options = {"include_usage": True}
    _, headers, found = post(server.port, asking(stream=True, stream_options=options))
    *chunks, last, usage, done = found
    assert done == "[DONE]"
    assert "".join(one["choices"][0]["delta"]["content"] for one in chunks) == answer
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant" and len(chunks) > 3
    assert all(one["usage"] is None and one["id"] == headers["x-cowest-id"] for one in chunks)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert (last["cowest"]["draft"], last["cowest"]["version"]) == (draft, 3)
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 18)
    assert last_row(server, chunks[0]["id"]).answer == answer


def test_the_draft_ahead_of_the_answer_where_it_is_asked_for(server: Running) -> None:
    options = {"include_draft": True}
    _, _, found = post(server.port, asking(stream=True, stream_options=options))
    assert found[0]["cowest"]["draft"] == by_pipeline()[0]
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in found[:-1])
    assert text == by_pipeline()[1]


def test_each_model_alone(server: Running) -> None:
    _, _, policy = post(server.port, {**asking(), "model": "cowest/policy"})
    assert policy["choices"][0]["message"]["content"] == by_pipeline()[0]
    assert policy["cowest"]["draft"] is None and policy["cowest"]["drafting"] is None
    _, _, strong = post(server.port, {**asking(), "model": "cowest/strong"})
    assert strong["choices"][0]["message"]["content"] == "no idea at all"
    assert strong["cowest"]["degraded"] is None and strong["model"] == "cowest/strong"
    for said in (policy, strong):
        assert last_row(server, said["id"]).model == said["model"]


def test_several_answers_share_one_draft(server: Running) -> None:
    policy, strong = server.models
    before = len(policy.asked), len(strong.asked)
    for more in ({}, {"stream": True}):
        status, _, said = post(server.port, asking(n=4, **WARM, **more))
        assert status == 200
        if more:
            texts = [""] * 4
            for one in said[:-1]:
                (choice,) = one["choices"]
                texts[choice["index"]] += choice["delta"].get("content", "")
            id = said[0]["id"]
        else:
            texts = [choice["message"]["content"] for choice in said["choices"]]
            id = said["id"]
        assert set(texts) == {"It is made in Oslo , in the north", "Yes, made in Oslo"}
        rows = [row for row in server.rows if row.id == id]
        assert [(row.sample, row.answer) for row in rows] == list(enumerate(texts))
    assert (len(policy.asked) - before[0], len(strong.asked) - before[1]) == (2, 8)


def test_settings_and_turns_reach_the_strong_model_alone(server: Running) -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
    ]
    more = {"max_completion_tokens": 2, "stop": ["north"], "temperature": 0.5, "seed": 1}
    _, _, answer = post(server.port, {"model": "cowest", "messages": said, "top_p": 0.5, **more})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(answer["choices"][0]["message"]["content"].split()) == 2
    policy, strong = server.models
    (drafting, _), (refining, served) = policy.asked[-1], strong.asked[-1]
    transcript = "System: Be brief.\n\nUser: Hi.\n\nAssistant: Hello.\n\nUser: Where?"
    assert drafting.messages[-1].content == transcript
    assert refining.messages[-1].content.endswith(f"Question: {transcript}")
    assert drafting.sampling == server.config.drafting
    asked = Sampling(temperature=0.5, top_p=0.5, max_tokens=2, stop=("north",), seed=1)
    assert refining.sampling == asked
    assert served.id == answer["id"]


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (b"{", 400, None, None),
        (b'{"model": "cowest", "messages": [], "\\ud800": 1}', 400, None, None),
        ({**asking(), "model": "gpt-4o"}, 404, "model", "model_not_found"),
        (asking(tools=[{"type": "function"}]), 400, "tools", "unsupported_parameter"),
        (asking(logit_bias={"1": 1}), 400, "logit_bias", "unsupported_parameter"),
        (asking(top_k=3), 400, "top_k", "unknown_parameter"),
        (asking(n=2), 400, "n", "invalid_value"),
        ({"model": "cowest"}, 400, "messages", "missing_required_parameter"),
    ],
)
def test_errors_have_the_apis_shape(
    server: Running, body: Any, status: int, param: str | None, code: str | None
) -> None:
    found, headers, said = post(server.port, body)
    assert found == status and set(said) == {"error"}
    error = said["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert headers["x-request-id"]


def test_addresses_that_are_none_and_methods_that_are_not_allowed(server: Running) -> None:
    status, _, said = post(server.port, asking(), "/v1/responses")
    assert (status, said["error"]["code"]) == (404, "unknown_url")
    status, headers, said = post(server.port, asking(), "/v1/models")
    assert (status, headers["allow"]) == (405, "GET, HEAD") and "error" in said
    status, _, said = post(server.port, {"question": "Where is it made?"}, "/ask")
    assert (status, said["answer"], said["draft"]) == (200, *by_pipeline()[::-1])
    assert set(said) == {"answer", "draft", "version", "policy", "strong"}
    for body in (
        {},
        {"question": " "},
        {"question": "q", "n": 2},
        b"[]",
        {"question": "x" * 100_001},
    ):
        status, _, said = post(server.port, body, "/ask")
        assert status == 400 and isinstance(said["error"], str)
    status, _, said = post(server.port, {"question": "What is out of order?"}, "/ask")
    assert (status, said) == (502, {"error": "the strong model gave no answer: it is out of order"})


def test_the_official_client(client: openai.OpenAI, server: Running) -> None:
    _, answer = by_pipeline()
    said: Any = [{"role": "user", "content": "Where is it made?"}]
    whole = client.chat.completions.create(model="cowest", messages=said)
    assert whole.choices[0].message.content == answer
    assert whole.cowest["version"] == 3  # type: ignore[attr-defined]
    assert whole._request_id == whole.id
    # A person goes on with the conversation by sending the client's own message back.
    again: Any = [*said, whole.choices[0].message, {"role": "user", "content": "And then?"}]
    assert client.chat.completions.create(model="cowest", messages=again).choices
    raw = client.chat.completions.with_raw_response.create(model="cowest", messages=said)
    assert raw.headers["x-cowest-version"] == "3"
    assert raw.parse().choices[0].message.content == answer
    with client.chat.completions.create(
        model="cowest", messages=said, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == answer and chunks[-1].usage and chunks[-1].usage.total_tokens == 18
    assert chunks[-2].cowest["draft"]  # type: ignore[attr-defined]
    with client.chat.completions.stream(model="cowest", messages=said) as helper:
        assert helper.get_final_completion().choices[0].message.content == answer
    assert [model.id for model in client.models.list()] == [
        "cowest",
        "cowest/policy",
        "cowest/strong",
    ]
    assert client.models.retrieve("cowest/policy").owned_by == "cowest"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("gpt-4o")
    assert missing.value.code == "model_not_found"
    tool: Any = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="cowest", messages=said, tools=[tool])
    assert refused.value.param == "tools"


def test_the_official_client_asynchronously(server: Running) -> None:
    async def ask() -> tuple[str | None, str]:
        said: Any = [{"role": "user", "content": "Where is it made?"}]
        async with openai.AsyncOpenAI(base_url=f"{server.base}/v1", api_key="none") as client:
            whole = await client.chat.completions.create(model="cowest", messages=said)
            stream = await client.chat.completions.create(
                model="cowest", messages=said, stream=True
            )
            texts = [one.choices[0].delta.content or "" async for one in stream]
        return whole.choices[0].message.content, "".join(texts)

    assert asyncio.run(ask()) == (by_pipeline()[1], by_pipeline()[1])


def test_langchain(server: Running) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="cowest", base_url=f"{server.base}/v1", api_key="none")
    answer = model.invoke([("system", "Be brief."), ("human", "Where is it made?")])
    assert answer.content == by_pipeline()[1]
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] == 9
    assert "".join(one.content for one in model.stream("Where is it made?")) == by_pipeline()[1]
    streamed = asyncio.run(model.ainvoke("Where is it made?"))
    assert streamed.content == by_pipeline()[1]


def test_the_document_describes_what_is_there(server: Running) -> None:
    import urllib.request

    with urllib.request.urlopen(f"{server.base}/v1/openapi.json", timeout=30) as response:
        document = json.load(response)
    routes = {route.path.replace(":path", "") for route in server.app.routes}
    # The page and the metrics are no part of the API.
    assert set(document["paths"]) == routes - {"/", "/metrics", "/v1/{rest}"}
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "n", "stop", "stream"} <= set(fields)


def test_thoughts_are_in_no_stream() -> None:
    from cowest.models.scripted import ScriptedConfig, ScriptRule

    rules = (ScriptRule(match="", replies=("<think> Bern ? </think> It is Oslo",)),)
    with running(strong=Faulty(ScriptedConfig(rules=rules))) as server:
        _, _, whole = post(server.port, asking())
        _, _, found = post(server.port, asking(stream=True))
    assert whole["choices"][0]["message"]["content"] == "It is Oslo"
    assert (
        "".join(one["choices"][0]["delta"].get("content", "") for one in found[:-1]) == "It is Oslo"
    )


def test_a_model_whose_prompt_opens_a_thought_is_found_out_before_anybody_asks() -> None:
    from cowest.models.scripted import ScriptedConfig, ScriptRule

    rules = (ScriptRule(match="", replies=("Bern ? No. </think> It is Oslo",)),)
    with running(strong=Faulty(ScriptedConfig(rules=rules))) as server:
        _, _, found = post(server.port, asking(stream=True))
    assert found[-1] == "[DONE]"
    texts = [one["choices"][0]["delta"].get("content", "") for one in found[:-1]]
    assert "".join(texts) == "It is Oslo" and len(texts) > 3
    assert events("data: [DONE]\n\n") == ["[DONE]"]
