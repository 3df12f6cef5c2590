"""A whole turn with an endpoint that says its key again in all that it sends, and raw data in which
much is planted.

What reaches the endpoint is looked at body by body; what is left behind is looked at byte by byte.
"""

import base64
import json
import logging
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from cowest import cli, config, io, stages
from cowest.errors import CallError
from cowest.online.app import make_app
from cowest.online.ask_api import Answer
from cowest.online.live import ServeConfig
from cowest.records import Refinement, Trial
from tests import lines, servers, stores, tiny
from tests.servers import ChatServer, Fate, chat_server, completion

CANARY = "sk-canary/aB3dE5gH7jK9mN1pQ2sT4vW6"
PLANTED = {
    "email": "ann.lee@example.com",
    "card": "4111 1111 1111 1111",
    "term": "Project Falcon",
    "secret": "ghp_aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0dF2hJ4",
}
planted_in = partial(servers.planted_in, PLANTED)
TERMS = "# ours\nproject falcon\n"


@dataclass
class Turned:
    """What a turn left behind."""

    folder: Path
    server: ChatServer
    said: str
    """On stdout, stderr and in the log."""
    secrets: tuple[str, ...]
    """What is to be found nowhere."""


def judged(text: str) -> str:
    """Ten or nothing, by the answer: so there are pairs."""
    return "10" if sha256(text.encode()).digest()[0] % 2 else "0"


def reply(body: dict[str, Any]) -> Fate:
    """An answer, now and then an error, that says the key wherever something can be said."""
    asked = body["messages"][-1]["content"]
    headers = {
        "X-Request-Id": CANARY,
        "Set-Cookie": f"key={CANARY}",
        "WWW-Authenticate": f"Bearer {CANARY}",
    }
    content = completion(judged(asked) if asked.endswith("Grade:") else f"By {CANARY}: {asked}")
    answer = json.loads(content) | {
        "system_fingerprint": f"fp {CANARY}",
        "id": CANARY,
        "key": CANARY,
    }
    return Fate(body=json.dumps(answer).encode(), headers=headers)


class Flaky:
    """Fails the first call of every fifth conversation with an error that says the key."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, body: dict[str, Any]) -> Fate:
        name = sha256(json.dumps(body).encode()).hexdigest()
        if name not in self.seen and int(name[:4], 16) % 5 == 0:
            self.seen.add(name)
            error = {"error": {"message": f"overloaded, {CANARY}", "code": CANARY}}
            return Fate(503, json.dumps(error).encode(), {"Retry-After": "0", "X-Key": CANARY})
        return reply(body)


def plant(folder: Path) -> None:
    """Something of everything in every question, fact, answer and reply."""
    planted = list(PLANTED.values())
    for name, fields in {
        "questions": ("question", "fact", "answer"),
        "replies": ("reply",),
    }.items():
        path = folder / "data" / "raw" / "handbook" / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.open()]
        for number, row in enumerate(rows):
            for place, field in enumerate(fields):
                row[field] += f" ({planted[(number + place) % len(planted)]})"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "terms.txt").write_text(TERMS)


def settings(folder: Path, server: ChatServer) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    strong = {
        "provider": "openai",
        "model": "big",
        "base_url": server.url,
        "backoff": 0.01,
        "price": {"prompt": 1, "completion": 1},
        "egress": {"on_found": "mask", "terms_file": "terms.txt"},
    }
    for section in ("refine", "evaluate", "serve"):
        params[section]["strong"] = strong
    params["score"]["scorer"] = params["evaluate"]["scorer"] = {"scorer": "judge", "model": strong}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture(scope="module", params=stores.KINDS)
def turned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Turned]:
    """A turn, its report, a question and the service's desk, on each kind of store."""
    folder = tiny.copy_project(tmp_path_factory.mktemp("egress") / "project")
    plant(folder)
    patch, capture = pytest.MonkeyPatch(), request.config.pluginmanager.getplugin("capturemanager")
    log = folder.parent / "log"
    handler = logging.FileHandler(log)
    logging.getLogger().addHandler(handler)
    levels = {name: logging.getLogger(name).level for name in ("", "asyncio", "mlflow", "urllib3")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    patch.setenv("OPENAI_API_KEY", CANARY)
    assert capture is not None
    with chat_server(otherwise=Flaky()) as server, tiny.standing_in(folder):
        settings(folder, server)
        if request.param == "postgres":
            patch.setenv("COWEST_STORE", stores.place("postgres", folder))
        capture.read_global_capture()
        params = config.load(Path("params.yaml"))
        for stage, ports in lines.paths().items():
            stages.run(stage, config.section(params, stage), None, **ports)
        for command in (
            ["report"],
            ["status"],
            ["doctor"],
            ["ask", f"Who is {PLANTED['email']}?"],
            ["ask", "Who?", "--json"],
        ):
            cli.main(command)
        out, err = capture.read_global_capture()
        yield Turned(
            folder, server, out + err + log.read_text(), (CANARY, stores.PASSWORD, stores.QUOTED)
        )
    patch.undo()
    logging.getLogger().removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_no_request_body_holds_what_was_planted(turned: Turned) -> None:
    bodies = turned.server.bodies
    kinds = {
        "refine": [
            body for body in bodies if body["messages"][-1]["content"].startswith("Notes: ")
        ],
        "solo": [
            body for body in bodies if body["messages"][-1]["content"].startswith("Question: ")
        ],
        "judge": [body for body in bodies if body["messages"][-1]["content"].endswith("Grade:")],
    }
    assert sum(map(len, kinds.values())) == len(bodies)
    for kind, its in kinds.items():
        assert len(its) > 20 and sum("[EMAIL_1]" in json.dumps(body) for body in its) > 5, kind
    assert [planted_in(body) for body in bodies if planted_in(body)] == []


def test_what_was_masked_is_back_in_the_rows_and_in_none_of_the_store(turned: Turned) -> None:
    for file, kind in {"refinements": Refinement, "trials": Trial}.items():
        rows = list(io.read(turned.folder / "data" / f"{file}.jsonl", kind))  # type: ignore[type-var]
        assert rows and all(row.failed is None for row in rows)
        assert {found for row in rows for found in planted_in(row.refinement)} == set(PLANTED)
        assert all("~" in (row.strong or "") for row in rows)
    kept = store_bytes(turned)
    assert b"[EMAIL_1]" in kept
    assert [kind for kind, planted in PLANTED.items() if planted.encode() in kept] == []
    assert "egress masked" in turned.said


def test_the_key_was_sent_and_is_found_nowhere(turned: Turned) -> None:
    assert {headers["authorization"] for headers in turned.server.headers} == {f"Bearer {CANARY}"}
    assert b"***" in store_bytes(turned), "the endpoint said it"
    faces = {face for secret in turned.secrets for face in faces_of(secret)}
    seen = {"what was said": turned.said.encode(), "the store": store_bytes(turned)}
    for path in turned.folder.rglob("*"):
        if path.is_file():
            seen[str(path.relative_to(turned.folder))] = path.read_bytes()
    assert {
        "mlflow.db",
        "reports/index.html",
        "data/trials.jsonl",
        "turn.json",
        "data/pairs.jsonl",
    } <= seen.keys()
    assert any(name.startswith("mlartifacts") for name in seen)
    assert [
        (name, face) for name, content in seen.items() for face in faces if face in content
    ] == []


def test_an_endpoint_that_refuses_the_key_is_not_quoted(
    turned: Turned, capfd: pytest.CaptureFixture[str]
) -> None:
    refusal = Fate(
        401,
        json.dumps(
            {"error": {"message": f"Incorrect API key provided: {CANARY}", "code": CANARY}}
        ).encode(),
    )
    with (
        chat_server(otherwise=refusal) as server,
        tiny.standing_in(turned.folder),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("COWEST_STORE", str(turned.folder.parent / "other.sqlite"))
        stage = dict(config.section(config.load(Path("params.yaml")), "refine"))
        stage["strong"] = {**stage["strong"], "base_url": server.url}
        with pytest.raises(CallError) as raised:
            stages.run(
                "refine",
                stage,
                None,
                **{**lines.paths()["refine"], "refinements": "data/other.jsonl"},
            )
        said = (
            "".join(traceback.format_exception(raised.value))
            + repr(raised.value)
            + "".join(capfd.readouterr())
        )
    assert "the key is not accepted" in said and CANARY not in said


def test_the_service_masks_as_the_stages_do(turned: Turned) -> None:
    with tiny.standing_in(turned.folder):
        serve = config.section(config.load(Path("params.yaml")), "serve")
        app = make_app(lambda: config.parse(ServeConfig, serve, "serve"))
        with TestClient(app) as client:
            for _ in range(1200):
                if (reason := app.state.service.desk.reason()) is None:
                    break
                time.sleep(0.1)
            assert reason is None
            asked = len(turned.server.bodies)
            question = f"Is {PLANTED['card']} of {PLANTED['term']}?"
            reply = client.post("/ask", json={"question": question})
    assert reply.status_code == 200, reply.text
    answer = Answer.model_validate(reply.json())
    assert planted_in(answer.answer) >= {"card", "term"} and CANARY not in reply.text
    bodies = turned.server.bodies[asked:]
    assert bodies and "[CARD_1]" in json.dumps(bodies) and not planted_in(bodies)


def faces_of(secret: str) -> list[bytes]:
    """A secret as it is, as JSON may write it, and in base 64 at each place that it may begin."""
    coded = [base64.b64encode(b"x" * shift + secret.encode())[4:-4] for shift in range(3)]
    return [secret.encode(), secret.replace("/", "\\/").encode(), *coded]


def store_bytes(turned: Turned) -> bytes:
    """All that the call store holds."""
    if (turned.folder / ".cowest" / "calls.sqlite").exists():
        files = (turned.folder / ".cowest").glob("calls.sqlite*")
        return b"".join(path.read_bytes() for path in files)
    from psycopg import connect

    with connect(os.environ["COWEST_STORE"]) as db:
        return repr(
            [
                db.execute(f"SELECT * FROM {table}".encode()).fetchall()
                for table in ("calls", "turns", "stages", "versions")
            ]
        ).encode()
