"""Around the answers: keys over HTTP, metrics, the log of requests, and traces. None holds a key or
a text of a person.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import openai
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from cowest.config import parse
from cowest.ledger import store
from cowest.ledger.purses import today
from cowest.online import request_log, traces
from cowest.online.interactions import Interaction, ServedCall
from cowest.online.keys import digest_of, new_key
from cowest.online.live import ServeConfig
from cowest.online.visits import Visit
from tests import serving
from tests.endpoints import priced
from tests.servers import chat_server
from tests.serving import POLICY, STRONG, Faulty, Running, asking, post, running

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]

ALICE, BOB = new_key(), new_key()
KEYS = [
    {"name": "alice", "sha256": digest_of(ALICE), "rate": 2},
    {"name": "bob", "sha256": digest_of(BOB), "rate": None},
]
PRIVATE = "Is the patient Mordecai Vance in?"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def metrics(server: Running, **headers: str) -> dict[tuple[str, str], float]:
    """The samples, by name and labels, these in the order of their names."""
    page = httpx.get(f"{server.base}/metrics", headers=headers)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=")
    found = {}
    for family in text_string_to_metric_families(page.text):
        for sample in family.samples:
            values = [sample.labels[name] for name in sorted(sample.labels)]
            labels = " ".join(value for value in values if value)
            found[sample.name, labels] = sample.value
    return found


def whole_calls(row: Interaction) -> tuple[ServedCall, ServedCall]:
    """The draft's call and the answer's."""
    assert row.drafting is not None and row.answering is not None
    return row.drafting, row.answering


def test_keys_over_http() -> None:
    with running(keys=KEYS) as server:
        status, headers, said = post(server.port, asking())
        assert (status, said["error"]["code"]) == (401, "invalid_api_key")
        assert headers["www-authenticate"] == 'Bearer realm="cowest"'
        assert "choices" in post(server.port, asking(), authorization=f"Bearer {BOB}")[2]
        client = openai.OpenAI(base_url=f"{server.base}/v1", api_key=ALICE, max_retries=0)
        assert [one.id for one in client.models.list()] == [
            "cowest",
            "cowest/policy",
            "cowest/strong",
        ]
        message: Any = {"role": "user", "content": PRIVATE}
        client.chat.completions.create(model="cowest", messages=[message])
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="cowest", messages=[message])
        assert 25 <= int(refused.value.response.headers["retry-after"]) <= 30
        wrong = openai.OpenAI(base_url=f"{server.base}/v1", api_key=new_key(), max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="the key is wrong"):
            wrong.models.list()
        for path in ("/metrics", "/v1/openapi.json", "/ask", "/nowhere", "/"):
            assert httpx.get(server.base + path).status_code == 401
        assert [row.purse for row in server.rows] == ["bob", "alice"]


def test_a_key_may_spend_its_budget_a_day_and_no_more() -> None:
    """The strong model is behind an API, and a call of it costs at least 10 tokens."""
    budgeted = [{**KEYS[1], "budget": {"tokens": 200}}, {**KEYS[0], "rate": None}]
    with chat_server() as endpoint:
        strong = Faulty(priced(endpoint), "strong")
        with running(None, strong, keys=budgeted) as server:
            spent = 0
            status = 200
            while status == 200:
                asked = asking(max_tokens=5)
                status, headers, said = post(server.port, asked, authorization=f"Bearer {BOB}")
                spent += 10 if status == 200 else 0
                assert spent < 200
            assert (status, said["error"]["code"]) == (429, "insufficient_quota")
            assert 0 < int(headers["retry-after"]) <= 86_400
            assert headers["x-should-retry"] == "false"
            assert spent > 0 and "the budget of 'bob' for today" in said["error"]["message"]
            # Another has its own, and the one that is spent may still look around.
            key = {"authorization": f"Bearer {ALICE}"}
            assert post(server.port, asking(max_tokens=5), **key)[0] == 200
            found = metrics(server, **key)
            assert found["cowest_cost_usd_total", "answer alice 3"] == pytest.approx(37e-6)
            models = httpx.get(
                f"{server.base}/v1/models", headers={"authorization": f"Bearer {BOB}"}
            )
            assert models.status_code == 200
    days = today(store.open_store())
    assert days["bob"].tokens == spent and days["alice"].tokens == 10


def test_without_keys_another_name_of_this_machine_is_refused() -> None:
    with running() as server:
        found = httpx.get(f"{server.base}/v1/models", headers={"host": "rebound.example"})
        assert (found.status_code, found.json()["error"]["code"]) == (403, "only_this_machine")
        assert httpx.get(f"{server.base}/v1/models").status_code == 200


def test_metrics_say_what_happened() -> None:
    policy, strong = Faulty(POLICY, "policy"), Faulty(STRONG, "strong")
    settings: dict[str, Any] = {"keys": KEYS, "open": ["metrics"], "breaker": {"failures": 2}}
    with running(policy, strong, **settings) as server:
        key = {"authorization": f"Bearer {BOB}"}
        for stream in (False, True):
            post(server.port, asking(stream=stream), **key)
        policy.does = serving.down
        post(server.port, asking(), **key)
        strong.does = serving.down
        for _ in range(2):
            post(server.port, asking(), **key)
        for path in ("/made-up", "/made-up-too"):
            httpx.get(server.base + path, headers=key)
        post(server.port, asking(n=99), **key)
        post(server.port, asking())
        found = metrics(server)
        drafted, answered = (call.model for call in whole_calls(server.rows[0]))
    assert found["cowest_requests_total", "cowest answered 3"] == 2
    assert found["cowest_requests_total", "cowest strong_alone 3"] == 1
    assert found["cowest_requests_total", "cowest failed 3"] == 2
    served = "chat cowest cowest 3"
    assert found["gen_ai_server_request_duration_seconds_count", served] == 5
    assert found["gen_ai_server_time_to_first_token_seconds_count", served] == 3
    # Values in the order of their labels' names: part, error, operation, provider, model, token.
    took = "gen_ai_client_operation_duration_seconds_count"
    assert found[took, f"draft chat {POLICY.provider} {drafted}"] == 2
    assert found[took, f"draft failed chat {POLICY.provider} policy"] == 3
    written = f"answer chat {STRONG.provider} {answered} output"
    assert found["gen_ai_client_token_usage_count", written] == 3
    assert found["cowest_tokens_total", "answer output bob 3"] > 0
    assert found["cowest_refused_total", "invalid_api_key"] == 1
    assert found["cowest_refused_total", "invalid_value"] == 1
    ends = {
        labels: value
        for (name, labels), value in found.items()
        if name == "http_server_request_duration_seconds_count"
    }
    assert ends == {
        "POST 200 /v1/chat/completions": 3,
        "POST 503 /v1/chat/completions": 2,
        "POST 400 /v1/chat/completions": 1,
        "POST 401 /v1/chat/completions": 1,
        "GET 404 other": 2,
    }, "a path that a client makes up has no label of its own"
    assert found["cowest_breaker_open", "policy"] == found["cowest_breaker_open", "strong"] == 1
    assert (found["cowest_ready", ""], found["cowest_version", ""]) == (1, 3)
    assert found["cowest_requests_working", ""] == found["cowest_requests_waiting", ""] == 0
    assert found["process_resident_memory_bytes", ""] > 0


def test_a_client_that_left_is_counted_as_such() -> None:
    strong = Faulty(STRONG, "strong")
    with running(None, strong) as server:
        strong.does = serving.stuck
        with httpx.stream("POST", f"{server.base}/v1/chat/completions", json=asking(stream=True)):
            server.wait(lambda: metrics(server)["cowest_requests_working", ""] == 1)
        server.wait(lambda: len(server.rows) == 1)
        server.wait(lambda: ("cowest_requests_total", "cowest left 3") in metrics(server))


def test_a_line_of_json_per_request_holds_no_content_and_no_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="cowest.requests")
    with running(keys=KEYS) as server:
        key = {"authorization": f"Bearer {BOB}"}
        post(server.port, asking(PRIVATE), **key)
        httpx.get(f"{server.base}/{PRIVATE}?key={ALICE}", headers=key)
        post(server.port, asking(PRIVATE), authorization=f"Bearer {BOB}x")
        server.wait(lambda: len(caplog.records) == 3)
        (row,) = server.rows
    lines = [request_log.JsonLines().format(record) for record in caplog.records]
    answered, unknown, refused = map(json.loads, lines)
    assert answered["message"] == "POST /v1/chat/completions 200"
    assert (answered["id"], answered["key"], answered["version"]) == (row.id, "bob", 3)
    assert (answered["outcome"], answered["finish"]) == ("answered", "stop")
    assert answered["completion_tokens"] > 0 and 0 < answered["seconds"] < 60
    assert (unknown["route"], unknown["status"]) == ("other", 404)
    assert (refused["status"], refused["refused"]) == (401, "invalid_api_key")
    for text in ("Mordecai", ALICE, BOB, "made in Oslo"):
        assert text not in "".join(lines)


def test_an_error_of_ours_is_named_without_its_words() -> None:
    try:
        raise ValueError(PRIVATE)
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, __file__, 1, "broken off", (), exc_info=__import__("sys").exc_info()
        )
    said = json.loads(request_log.JsonLines().format(record))
    assert said["error"] == "ValueError" and "test_an_error_of_ours" in said["where"][-1]
    assert "Mordecai" not in json.dumps(said)


class Collector(BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does."""

    spans: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            data = __import__("gzip").decompress(data)
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def collecting(monkeypatch: pytest.MonkeyPatch, content: str) -> Iterator[list[Any]]:
    Collector.spans.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", content)
    try:
        yield Collector.spans
    finally:
        server.shutdown()
        server.server_close()


OF_A_CALL = {
    "gen_ai.response.model",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
}
CONVENTIONS = OF_A_CALL | {
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.finish_reasons",
}
"""Attributes that OpenTelemetry requires of a call, or recommends where known; `error.type`
is required of one that failed, which has no tokens."""


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for one in span.attributes:
        found[one.key] = getattr(one.value, one.value.WhichOneof("value"))
    return found


@pytest.mark.parametrize("content", ["", "true"])
def test_spans_of_a_request_its_draft_and_its_answer(
    content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting(monkeypatch, content) as spans:
        with running(keys=KEYS) as server:
            key = {"authorization": f"Bearer {BOB}"}
            post(server.port, asking(PRIVATE), traceparent=PARENT, **key)
            (row,) = server.rows
        drafting, answering = whole_calls(row)
        root, draft, answer = sorted(spans, key=lambda one: one.start_time_unix_nano)
    assert root.name == "POST /v1/chat/completions"
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (PARENT[3:35], PARENT[36:52])
    assert {one.parent_span_id for one in (draft, answer)} == {root.span_id}
    assert draft.end_time_unix_nano <= answer.start_time_unix_nano + 10**6
    said = attributes(root)
    assert said["gen_ai.request.model"] == "cowest" and said["cowest.version"] == 3
    assert (said["gen_ai.response.id"], said["cowest.key"]) == (row.id, "bob")
    for span, call, part in ((draft, drafting, "draft"), (answer, answering, "answer")):
        found = attributes(span)
        assert found.keys() >= CONVENTIONS
        assert span.name == f"{found['gen_ai.operation.name']} {found['gen_ai.request.model']}"
        assert found["gen_ai.provider.name"] == found["gen_ai.request.model"] == "scripted"
        assert (found["gen_ai.response.model"], found["cowest.part"]) == (call.model, part)
        assert found["gen_ai.usage.output_tokens"] == call.completion_tokens > 0
    assert said.keys() >= CONVENTIONS - OF_A_CALL
    assert ("Mordecai" in str(spans)) is bool(content)
    assert BOB not in str(spans)


def test_a_collector_that_takes_nothing_holds_the_end_up_for_no_longer_than_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traces, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", place)
        given = {"policy": POLICY, "strong": STRONG, "registry": {"name": "none"}}
        made = traces.open_traces(parse(ServeConfig, given, "serve"))
        assert made is not None
        # They are sent in four parts, each with a second of its own.
        for _ in range(2000):
            made.add(Visit(method="GET", route="/v1/models", parent=""))
        began = time.monotonic()
        made.close()
        assert time.monotonic() - began < 3


def test_spans_name_the_model_that_was_asked_for_and_its_provider() -> None:
    """A failed draft, and the policy asked alone; a local model's folder is said to nobody."""
    given = {
        "policy": {"provider": "hf", "model": "/home/mordecai/models/Tiny-1B"},
        "strong": {"provider": "openai", "model": "vendor/large", "base_url": "http://x.test/v1"},
        "registry": {"name": "none"},
    }
    sent = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(sent))
    made = traces.Traces(provider, parse(ServeConfig, given, "serve"))
    with running() as server:
        server.models[0].does = serving.down  # type: ignore[attr-defined]
        post(server.port, asking())
        server.models[0].does = None  # type: ignore[attr-defined]
        post(server.port, asking(model="cowest/policy"))
        for row in server.rows:
            made.add(Visit(method="POST", route="/v1/chat/completions", rows=[row]))
    draft, answer, _, alone, _ = sent.get_finished_spans()
    for span, provider_name, model in (
        (draft, "hf", "Tiny-1B"),
        (answer, "openai", "vendor/large"),
        (alone, "hf", "Tiny-1B"),
    ):
        found = dict(span.attributes or {})
        assert (span.name, found["gen_ai.request.model"]) == (f"chat {model}", model)
        assert found["gen_ai.provider.name"] == provider_name
        assert found.keys() >= CONVENTIONS - OF_A_CALL
    assert (draft.attributes or {})["error.type"] == "failed"
    assert "error.type" not in (answer.attributes or {})


def test_a_log_that_fails_is_said_and_answers_go_on(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file, where a folder is needed")
    with running(log={"folder": str(tmp_path / "log")}) as server:
        assert post(server.port, asking())[0] == 200
        service = server.service
        server.wait(lambda: service.log.state().lost == 1)
        assert service.unready() is None
        assert "the log can't be written: " in (service.detail() or "")
        assert str(tmp_path / "log") in (service.detail() or "")
        (tmp_path / "log").unlink()
        assert post(server.port, asking())[0] == 200
        server.wait(lambda: service.detail() is None)


def test_without_a_collector_no_spans_are_made() -> None:
    with running() as server:
        assert server.service.around.traces is None


def test_a_collector_that_is_down_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with running() as server:
        assert post(server.port, asking())[0] == 200
