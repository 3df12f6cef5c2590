"""POST /v1/feedback: what is kept, what is refused, and what a kill leaves."""

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from cowest.online import log
from cowest.online.feedback import FeedbackEndpoint
from cowest.online.log import Log, LogConfig
from cowest.online.verdicts import KeptVerdict
from tests import serving, tiny

PATH = "/v1/feedback"
JSON = {"content-type": "application/json"}
GIVEN: dict[str, Any] = {"verdict": "good"}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Log]:
    with LogConfig(folder=tmp_path / "log").open() as found:
        yield found


@pytest.fixture
def client(kept: Log) -> TestClient:
    return client_of(kept)


def client_of(kept: Log) -> TestClient:
    """A client of the endpoint alone, without models."""
    service: Any = SimpleNamespace(log=kept, config=SimpleNamespace(deadline=30.0))
    return TestClient(Starlette(routes=[Route(PATH, FeedbackEndpoint(lambda: service))]))


def verdicts(tmp_path: Path) -> list[KeptVerdict]:
    return list(log.read_verdicts(tmp_path / "log", Counter()))


@pytest.mark.parametrize(
    "given",
    [
        {"verdict": "good"},
        {"verdict": "bad"},
        {"score": 0},
        {"score": 0.25, "verdict": "bad"},
        {"score": 0.5, "verdict": "bad"},
        {"better": "Norway"},
        {"comment": "It is in Oslo."},
        {"verdict": "good", "score": 1, "better": "Norway.", "comment": "nearly", "sample": 3},
    ],
    ids=str,
)
def test_a_verdict_is_kept_before_it_is_acknowledged(
    client: TestClient, kept: Log, tmp_path: Path, given: dict[str, Any]
) -> None:
    id = kept.new_id()
    reply = client.post(PATH, json={"id": id, **given})
    assert reply.status_code == 200
    assert reply.json() == {"object": "feedback", "id": id, "sample": given.get("sample", 0)}
    (row,) = verdicts(tmp_path)
    assert row.model_dump(exclude_defaults=True, exclude={"at"}) == {"id": id, **given}


def test_the_last_of_several_verdicts_is_the_last_in_the_log(
    client: TestClient, kept: Log, tmp_path: Path
) -> None:
    id = kept.new_id()
    for word in ("good", "good", "bad"):
        assert client.post(PATH, json={"id": id, "verdict": word}).status_code == 200
    rows = verdicts(tmp_path)
    assert [row.verdict for row in rows] == ["good", "good", "bad"]
    assert sorted(row.at for row in rows) == [row.at for row in rows]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "says nothing"),
        ({"sample": 1}, "says nothing"),
        ({"verdict": "fine"}, "verdict"),
        ({"verdict": "good", "score": 0.2}, "contradicts itself"),
        ({"verdict": "bad", "score": 0.9}, "contradicts itself"),
        ({"score": 1.5}, "score"),
        ({"score": "0.5"}, "score"),
        ({"score": True}, "score"),
        ({"sample": -1, **GIVEN}, "sample"),
        ({"sample": 1.5, **GIVEN}, "sample"),
        ({"better": " \n"}, "better: empty"),
        ({"better": "x" * 20_001}, "better"),
        ({"comment": "x" * 4_001}, "comment"),
        ({"better": "a\0b"}, "NUL"),
        ({"stars": 5}, "stars: unknown"),
        ({"at": 1.0, **GIVEN}, "at: unknown"),
        ({"x" * 100_000: 5}, "no verdict: xxx"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_verdict_is_refused_in_words(
    client: TestClient, kept: Log, tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    reply = client.post(PATH, json={"id": kept.new_id(), **given})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert says in error["message"] and error["type"] == "invalid_request_error"
    assert len(reply.content) < 2_500
    assert verdicts(tmp_path) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"good",
        b"[]",
        b"null",
        b'{"id": 1}',
        b"[" * 100_000,
        b'{"id":' * 10_000,
        b'{"id": "x", "score": NaN}',
        b'{"id": "x", "score": 1e999}',
        b'{"id": "x", "better": "\xff"}',
        b'{"id": "x", "better": "\\ud800"}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_hostile_bodies_are_refused(client: TestClient, body: bytes) -> None:
    reply = client.post(PATH, content=body, headers=JSON)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_a_body_is_read_no_further_than_it_may_be_long(client: TestClient) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for _ in range(64):
            read += 2**16
            yield b" " * 2**16

    assert client.post(PATH, content=endless(), headers=JSON).status_code == 413
    largest = json.dumps({"id": "x", "better": "\U0001f600" * 20_000, "comment": "é" * 4_000})
    assert client.post(PATH, content=largest, headers=JSON).status_code == 404


@pytest.mark.parametrize(
    "id", ["", "x", "chatcmpl-" + "0" * 32, "../../etc/passwd", "\0", "é" * 41]
)
def test_an_id_that_was_never_given_out_is_refused(client: TestClient, id: str) -> None:
    reply = client.post(PATH, json={"id": id, **GIVEN})
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, "id")


def test_an_id_is_known_after_a_restart_when_its_answer_is_gone(
    client: TestClient, kept: Log, tmp_path: Path
) -> None:
    id = kept.new_id()
    with LogConfig(folder=tmp_path / "log").open() as another:
        reply = client_of(another).post(PATH, json={"id": id, **GIVEN})
    assert reply.status_code == 200


def test_without_a_log_a_verdict_is_refused_in_words(tmp_path: Path) -> None:
    with LogConfig(folder=tmp_path / "log", enabled=False).open() as off:
        reply = client_of(off).post(PATH, json={"id": off.new_id(), **GIVEN})
    assert reply.status_code == 409
    assert "serve.log.enabled" in reply.json()["error"]["message"]
    assert not (tmp_path / "log").exists()


def test_a_disk_that_refuses_is_said_and_the_verdict_may_come_again(
    client: TestClient, kept: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    given = {"id": kept.new_id(), **GIVEN}
    with monkeypatch.context() as broken:
        broken.setattr("cowest.online.appending.os.write", full)
        reply = client.post(PATH, json=given)
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert "No space left on device" in reply.json()["error"]["message"]
    assert client.post(PATH, json=given).status_code == 200
    assert len(verdicts(tmp_path)) == 1


def test_a_verdict_on_an_answer_of_the_service(tmp_path: Path) -> None:
    """Plain, streamed and by /ask: the id that comes with an answer is that of its row."""
    folder = tmp_path / "log"
    with serving.running(log={"folder": str(folder)}) as server:
        ids = []
        for path, body in (
            ("/v1/chat/completions", serving.asking("Where is it?", n=2, temperature=1)),
            ("/v1/chat/completions", serving.asking("Where is it?", stream=True)),
            ("/ask", {"question": "Where is it?"}),
        ):
            status, headers, _ = serving.post(server.port, body, path)
            assert status == 200
            ids.append(headers["x-request-id"])
        for number, id in enumerate(ids):
            given = {"id": id, "score": number / 4}
            assert serving.post(server.port, given, PATH)[0] == 200
        page = httpx.get(f"{server.base}/metrics", trust_env=False).text
        assert "cowest_log_rows_total 4.0" in page and "cowest_verdicts_total 3.0" in page
        assert "cowest_log_failing 0.0" in page
        refused = serving.post(server.port, {"id": "chatcmpl-" + "0" * 32, **GIVEN}, PATH)
        assert (refused[0], refused[2]["error"]["param"]) == (404, "id")
    rows = list(log.read_answers(folder, Counter()))
    assert [(row.id, row.sample) for row in rows] == [
        (ids[0], 0),
        (ids[0], 1),
        (ids[1], 0),
        (ids[2], 0),
    ]
    assert [(row.id, row.score) for row in verdicts(tmp_path)] == [
        (id, number / 4) for number, id in enumerate(ids)
    ]


SERVER = """
import signal, sys
from tests import serving

models = serving.Faulty(serving.POLICY), serving.Faulty(serving.STRONG)
server = serving.Running(*models, log={"folder": sys.argv[1]})
print(server.port, flush=True)
signal.pause()
"""


@pytest.mark.slow
def test_a_kill_under_load_loses_no_acknowledged_verdict(tmp_path: Path) -> None:
    """Two processes share the folder; both are killed while eight people give verdicts."""
    folder = tmp_path / "log"
    servers = []
    for _ in range(2):
        command = [sys.executable, "-c", SERVER, str(folder)]
        environment = dict(tiny.surroundings())
        servers.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        )
    try:
        places = []
        for server in servers:
            assert server.stdout is not None
            places.append(f"http://127.0.0.1:{server.stdout.readline().strip()}")
        acknowledged: list[str] = []
        enough = threading.Event()

        def person(number: int) -> None:
            with httpx.Client(timeout=10, trust_env=False) as client:
                try:
                    while True:
                        asked = {"question": "Where is it?"}
                        reply = client.post(f"{places[number % 2]}/ask", json=asked)
                        id = reply.headers["x-request-id"]
                        # The verdict goes to the other process.
                        given = {"id": id, "verdict": "good", "comment": "x" * 500}
                        place = f"{places[(number + 1) % 2]}{PATH}"
                        assert client.post(place, json=given).status_code == 200
                        acknowledged.append(id)
                        if len(acknowledged) > 150:
                            enough.set()
                except httpx.HTTPError:
                    return

        people = [threading.Thread(target=person, args=(number,)) for number in range(8)]
        for one in people:
            one.start()
        assert enough.wait(60)
        for server in servers:
            server.kill()
        for one in people:
            one.join(30)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    found = {row.id for row in log.read_verdicts(folder, Counter())}
    assert len(acknowledged) > 150
    assert set(acknowledged) <= found
    # After the kill the answers are there, but for those that waited in the queues.
    answers = {row.id for row in log.read_answers(folder, Counter())}
    assert len(answers & set(acknowledged)) > 100


def test_a_client_that_leaves_in_the_middle_of_its_verdict_is_let_go(kept: Log) -> None:
    """The layers around the endpoint wait for a status, BentoML for eleven minutes."""
    service: Any = SimpleNamespace(log=kept, config=SimpleNamespace(deadline=30.0))
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
    asyncio.run(FeedbackEndpoint(lambda: service)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 499
