"""The service, as a real server over the champion of a real turn: it answers as the pipeline
does, or says why not.
"""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import openai
import pytest
import schemathesis
import yaml

from cowest import io
from cowest.config import load, parse, section
from cowest.online.desk import Desk
from cowest.online.keys import digest_of, new_key
from cowest.online.live import ServeConfig, open_live
from cowest.records import Trial
from tests import breaking, lines, tiny
from tests.endpoints import config as endpoint_config
from tests.registries import empty_registry
from tests.servers import GOOD, Fate, chat_server, streamed
from tests.service import Server

CHAT = "/v1/chat/completions"
PATIENCE = 300.0
"""Seconds that a busy machine is given."""


@pytest.fixture(scope="module")
def opening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, dict[str, Any]]]:
    """A server that is ready, and what it said before it was."""
    server = Server(tiny.turned(), tmp_path_factory.mktemp("service"))
    try:
        server.wait("/livez")
        early = {
            "readyz": server.get("/readyz"),
            "ask": server.get("/ask", {"question": "Are you there?"}),
        }
        server.wait("/readyz")
        yield server, early
    finally:
        server.stop()


@pytest.fixture
def server(opening: tuple[Server, dict[str, Any]]) -> Server:
    return opening[0]


def test_before_the_models_have_answered_it_is_alive_and_not_ready(
    opening: tuple[Server, dict[str, Any]],
) -> None:
    _, early = opening
    assert early["readyz"] == (503, "the model is being loaded")
    status, said = early["ask"]
    assert (status, json.loads(said)) == (503, {"error": "the model is being loaded"})


def judged() -> list[Trial]:
    """The held-out rows of the version that is served."""
    rows = io.read(tiny.turned() / "data" / "trials.jsonl", Trial)
    trials = [row for row in rows if row.system == "after"]
    assert len({row.draft for row in trials}) > len(trials) / 2, (
        "drafts that are all alike would show nothing"
    )
    return trials


def test_it_answers_as_the_pipeline_did(server: Server) -> None:
    for row in judged():
        status, said = server.get("/ask", {"question": row.prompt[-1].content})
        assert status == 200, said
        answer = json.loads(said)
        given = (answer["draft"], answer["answer"], answer["policy"], answer["strong"])
        assert given == (row.draft, row.refinement, row.policy, row.strong)
        assert answer["version"] == 1


def test_it_answers_so_among_sixteen_whole_and_streamed(server: Server) -> None:
    trials = (judged() * 16)[:16]

    def ask(number: int) -> tuple[str | None, str | None]:
        said: Any = [{"role": "user", "content": trials[number].prompt[-1].content}]
        base = f"http://127.0.0.1:{server.port}/v1"
        with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client:
            if number % 2:
                whole = client.chat.completions.create(model="cowest", messages=said)
                text = whole.choices[0].message.content
                return whole.cowest["draft"], text  # type: ignore[attr-defined]
            chunks = list(
                client.chat.completions.create(model="cowest", messages=said, stream=True)
            )
        text = "".join(one.choices[0].delta.content or "" for one in chunks)
        return chunks[-1].cowest["draft"], text  # type: ignore[attr-defined]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert answers == [(row.draft, row.refinement) for row in trials]


def test_what_bentoml_has_goes_on_working(server: Server) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/metrics", "/docs.json", "/schema.json"):
        assert server.get(path)[0] == 200, path
    assert "cowest_ready 1.0" in server.get("/metrics")[1]
    assert server.get("/v1/none", {})[0] == server.get("/none", {})[0] == 404
    document = schemathesis.openapi.from_dict(json.loads(server.get("/docs.json")[1]))
    document.config.update(base_url=f"http://127.0.0.1:{server.port}")
    labels = []
    for found in document.get_all_operations():
        operation = found.ok()
        labels.append(operation.label)

        @hypothesis.settings(max_examples=25, deadline=None, database=None)
        @hypothesis.given(operation.as_strategy())
        def send(case: schemathesis.Case) -> None:
            assert case.call().status_code < 500

        send()
    assert "GET /readyz" in labels


def test_messages_are_the_same_question(server: Server) -> None:
    asked = "In what country is the Velvet lamp made?"
    in_words = server.get("/ask", {"question": asked})
    assert in_words[0] == 200
    assert server.get("/ask", {"messages": [{"role": "user", "content": asked}]}) == in_words


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        [],
        {},
        {"question": ""},
        {"question": "   "},
        {"question": 7},
        {"question": "q", "messages": [{"role": "user", "content": "q"}]},
        {"question": "q", "temperature": 2},
        {"messages": [{"role": "assistant", "content": "q"}]},
        {"question": "q" * 100_001},
    ],
)
def test_a_body_that_asks_nothing_is_refused(server: Server, body: Any) -> None:
    status, said = server.get("/ask", body)
    assert status == 400, said
    assert "error" in json.loads(said)
    assert "Traceback" not in said


def test_a_model_that_fails_is_said_and_the_next_question_is_answered(server: Server) -> None:
    status, said = server.get("/ask", {"question": "What is out of order?"})
    assert (status, json.loads(said)) == (
        502,
        {"error": "the strong model gave no answer: it is out of order"},
    )
    assert server.get("/ask", {"question": "What is in order?"})[0] == 200
    assert server.get("/readyz")[0] == 200


def test_a_thread_that_broke_off_is_not_ready_and_is_opened_again(tmp_path: Path) -> None:
    project = shutil.copytree(tiny.turned(), tmp_path / "project")
    around = {**tiny.surroundings(), "PYTHONPATH": str(lines.ROOT)}
    server = Server(project, tmp_path, around=around, words=("tests.breaking", "serve"))

    def degraded(question: str) -> str | None:
        asked = {"model": "cowest", "messages": [{"role": "user", "content": question}]}
        status, said = server.get("/v1/chat/completions", asked)
        assert status == 200, said
        found: str | None = json.loads(said)["cowest"]["degraded"]
        return found

    try:
        server.wait("/readyz", 300)
        assert degraded("In what country is the Velvet lamp made?") is None
        assert degraded(breaking.ASKED) == "strong_alone"
        status, said = server.get("/readyz")
        assert status == 503 and "broke off (ZeroDivisionError)" in said
        assert server.get("/livez")[0] == 200
        assert "cowest_ready 0.0" in server.get("/metrics")[1]
        assert degraded("In what country is the Velvet lamp made?") == "strong_alone"
        (project / breaking.GO_ON).touch()
        server.wait("/readyz", 300)
        assert degraded("In what country is the Velvet lamp made?") is None
        assert breaking.ASKED not in server.log.read_text()
    finally:
        server.stop()


def test_connections_beyond_the_setting_are_refused(tmp_path: Path) -> None:
    """By a service that has no champion yet, and so loads nothing meanwhile."""
    project = shutil.copytree(tiny.project(), tmp_path / "project")
    params = load(project / "params.yaml")
    params["serve"]["connections"] = 20
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    server = Server(project, tmp_path)

    def asked_beside(connections: int) -> tuple[int, str]:
        with contextlib.ExitStack() as stack:
            for _ in range(connections):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            return server.get("/v1/models")

    try:
        server.wait("/livez")
        # Those that ask nothing are closed after a while, which a slow machine may take.
        ends = time.monotonic() + 120
        while "too_many_connections" not in asked_beside(30)[1]:
            assert time.monotonic() < ends
        asked_beside(500)
        server.wait("/livez")
        assert "serve.keys has no key, so only this machine is answered" in server.log.read_text()
    finally:
        server.stop()


def test_a_project_that_was_moved_is_served_from_anywhere(tmp_path: Path) -> None:
    moved = shutil.copytree(tiny.turned(), tmp_path / "moved here")
    (tmp_path / "elsewhere").mkdir()
    # As in a container: the project is mounted, and BentoML starts in a folder of its own.
    around = {**tiny.surroundings(), "COWEST_PARAMS": str(moved / "params.yaml")}
    words = ("bentoml", "serve", "cowest_serving.service:CoWest")
    server = Server(tmp_path / "elsewhere", tmp_path, around=around, words=words)
    try:
        server.wait("/readyz")
        status, said = server.get("/ask", {"question": "In what country is the Velvet lamp made?"})
        assert (status, json.loads(said)["version"]) == (200, 1)
        # BentoML's parent process is killed, and the one that answers must not live on alone.
        server.process.kill()
        ends = time.monotonic() + 60
        while server.get("/livez")[0] == 200:
            assert time.monotonic() < ends
            time.sleep(0.05)
    finally:
        server.stop()


def keyed(folder: Path, **serve: Any) -> tuple[Path, str]:
    """A project whose service needs a key, and the key. `serve` is of its settings."""
    project, key = shutil.copytree(tiny.turned(), folder), new_key()
    params = load(project / "params.yaml")
    made = {"name": "alice", "sha256": digest_of(key), "rate": None}
    params["serve"] |= {"keys": [made], "drain": 1.5, **serve}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    return project, key


ASKED = {"model": "cowest", "messages": [{"role": "user", "content": "Where?"}]}
HELD = "Who waits for the end?"
FIRST = "It"
"""The first word of an answer that is held."""


def held_until(goes_on: threading.Event) -> Callable[[dict[str, Any]], Fate]:
    """Answers at once, but for one question: there all but the first word waits for the event."""
    start, first, *rest = streamed(f"{FIRST} is whole")

    def pieces() -> Iterator[bytes]:
        yield from (start, first)
        goes_on.wait()
        yield from rest

    def fate(body: dict[str, Any]) -> Fate:
        holds = HELD in body["messages"][-1]["content"]
        return Fate(pieces=pieces()) if holds else GOOD

    return fate


def ask_on(
    client: Callable[[], httpx.Client], kept: bool, stop: threading.Event, seen: list[str]
) -> None:
    """Asks without a pause, until nobody answers: on new connections, or on one that is kept."""
    while not stop.is_set():
        with client() as asking:
            for number in range(10 if kept else 1):
                try:
                    said = asking.post(CHAT, json={**ASKED, "stream": number % 2 == 0})
                except httpx.TransportError as error:
                    seen.append(type(error).__name__)
                    return
                whole = "[DONE]" in said.text or '"choices"' in said.text
                seen.append("whole" if said.status_code == 200 and whole else said.text)


def client_of(server: Server, key: str) -> Callable[[], httpx.Client]:
    """Makes clients of a server."""
    return partial(
        httpx.Client,
        base_url=f"http://127.0.0.1:{server.port}",
        timeout=PATIENCE,
        headers={"authorization": f"Bearer {key}"},
    )


def wait_until_refused(server: Server) -> None:
    """Waits until new connections are refused, by a process that is still there.

    One that is taken and never answered is not refused, and ends this with an error.
    """
    ends = time.monotonic() + PATIENCE
    while "Connection refused" not in server.get("/livez")[1]:
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert server.process.poll() is None


def test_at_its_end_it_says_so_first_and_no_request_is_lost(tmp_path: Path) -> None:
    """Load goes on all the time, on new connections and on one that is kept open. One stream ends
    only after new connections are refused.
    """
    goes_on, stop, seen = threading.Event(), threading.Event(), list[str]()
    with chat_server(otherwise=held_until(goes_on)) as endpoint:
        strong = endpoint_config(endpoint, timeout=600).model_dump(mode="json")
        project, key = keyed(tmp_path / "project", strong=strong, deadline=600, drain=10)
        server = Server(project, tmp_path)
        client = client_of(server, key)
        threads = []
        for kept in (True, False):
            threads.append(threading.Thread(target=ask_on, args=(client, kept, stop, seen)))
        try:
            server.wait("/readyz")
            assert [server.get(path)[0] for path in ("/", "/docs.json", "/metrics")] == [401] * 3
            question = [{"role": "user", "content": HELD}]
            body = {**ASKED, "messages": question, "stream": True}
            with client() as asking, asking.stream("POST", CHAT, json=body) as held:
                pieces = held.iter_lines()
                assert any(f'"content":"{FIRST}"' in line for line in pieces)
                for thread in threads:
                    thread.start()
                ends = time.monotonic() + PATIENCE
                while len(seen) < 10:
                    assert time.monotonic() < ends, seen
                    time.sleep(0.01)
                server.process.terminate()
                while (ready := server.get("/readyz"))[0] == 200:
                    time.sleep(0.01)
                assert ready == (503, "the service is ending")
                before = len(seen)
                wait_until_refused(server)
                goes_on.set()
                text = "".join(pieces)
            assert "whole" in text and text.endswith("data: [DONE]")
            assert server.process.wait(timeout=PATIENCE) == 0
        finally:
            goes_on.set()
            stop.set()
            server.process.kill()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
    answered = [one for one in seen if one == "whole"]
    assert len(answered) > before, "it answers while it says that it ends"
    # A new connection is refused, or was not accepted yet when the socket closed.
    assert set(seen) - {"whole"} <= {"ConnectError", "ReadError", "RemoteProtocolError"}
    lines_of_log = [json.loads(line) for line in server.log.read_text().splitlines()]
    counted = [line for line in lines_of_log if line.get("route") == CHAT]
    assert len(counted) == len(answered) + 1, "each that was admitted was answered"
    said = server.log.read_text()
    assert {line["key"] for line in counted} == {"alice"} and key not in said
    assert "only this machine" not in said


def test_without_a_champion_it_says_so(tmp_path: Path) -> None:
    config = parse(ServeConfig, section(load(tiny.project() / "params.yaml"), "serve"), "serve")

    async def reason() -> str | None:
        desk = Desk(config.model_copy(update={"registry": empty_registry(tmp_path)}))
        async with asyncio.timeout(60):
            while "being loaded" in (desk.reason() or ""):
                await asyncio.sleep(0.05)
        found = desk.reason()
        await desk.close()
        return found

    assert "no version is champion yet" in (asyncio.run(reason()) or "")


def test_a_bento_of_a_project_holds_what_answers_and_nothing_else(tmp_path: Path) -> None:
    """Of a project that lies anywhere, with no repository beside it."""
    environment = tiny.surroundings(BENTOML_HOME=str(tmp_path / "home"))
    project, _ = keyed(tmp_path / "project")
    command = [sys.executable, "-m", "cowest_serving", "bento", "--bake"]
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "note:" not in done.stderr
    (bento,) = (tmp_path / "home" / "bentos" / "cowest").glob("*/")
    assert done.stdout == f"cowest:{bento.name}\n"
    held = {path.name for path in (bento / "src").iterdir()}
    assert held == {"params.yaml", "models", "version", "bentofile.yaml"}
    assert [path.suffix for path in (bento / "env" / "python" / "wheels").iterdir()] == [".whl"]
    assert "cowest_serving" in (bento / "env" / "docker" / "Dockerfile").read_text()
    # It answers by its own settings, where nothing else of the project is.
    given = load(bento / "src" / "params.yaml")
    assert list(given) == ["serve"] and str(project) not in json.dumps(given)
    config = parse(ServeConfig, given["serve"], "serve")
    with contextlib.chdir(bento / "src"), open_live(config) as live:
        row = judged()[0]
        answer = live.answer(row.prompt)
    assert (answer.draft, answer.answer, answer.policy) == (row.draft, row.refinement, row.policy)
    assert live.number == 1
