"""The service, as a real server over the champion of a real turn: it answers as the pipeline
does, or says why not.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cowest import io
from cowest.config import load, parse, section
from cowest.online.desk import Desk
from cowest.online.live import ServeConfig
from cowest.records import Trial
from tests import lines, tiny
from tests.registries import empty_registry


class Server:
    """A server on a free port of this machine, with an empty call store: its models have to
    answer for themselves.
    """

    def __init__(
        self,
        project: Path,
        scratch: Path,
        python: str = sys.executable,
        around: Mapping[str, str] | None = None,
        words: Sequence[str] = ("cowest_serving", "serve"),
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = scratch / "log"
        environment = {
            **(tiny.surroundings() if around is None else around),
            "COWEST_STORE": str(scratch / "calls.sqlite"),
            "BENTOML_HOME": str(scratch / "bentoml"),
        }
        command = [python, "-m", *words, "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=project, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def get(self, path: str, body: Any = None) -> tuple[int, str]:
        """Status and text; (0, reason) where nobody answers yet."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait(self, path: str, seconds: int = 120) -> list[tuple[int, str]]:
        """Asks until it is answered with 200; all answers by the way."""
        seen = [self.get(path)]
        ends = time.monotonic() + seconds
        while seen[-1][0] != 200:
            assert self.process.poll() is None and time.monotonic() < ends, (
                f"{path}: {seen[-1]}\n{self.log.read_text()[-4000:]}"
            )
            time.sleep(0.1)
            seen.append(self.get(path))
        return seen

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


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


def test_it_answers_as_the_pipeline_did(server: Server) -> None:
    trials = [
        row
        for row in io.read(tiny.turned() / "data" / "trials.jsonl", Trial)
        if row.system == "after"
    ]
    assert len({row.draft for row in trials}) > len(trials) / 2, (
        "drafts that are all alike would show nothing"
    )
    for row in trials:
        status, said = server.get("/ask", {"question": row.prompt[-1].content})
        assert status == 200, said
        answer = json.loads(said)
        given = (answer["draft"], answer["answer"], answer["policy"], answer["strong"])
        assert given == (row.draft, row.refinement, row.policy, row.strong)
        assert answer["version"] == 1


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
        {"question": "q" * 20_001},
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
    finally:
        server.stop()


def test_without_a_champion_it_says_so(tmp_path: Path) -> None:
    config = parse(ServeConfig, section(load(tiny.project() / "params.yaml"), "serve"), "serve")
    desk = Desk(config.model_copy(update={"registry": empty_registry(tmp_path)}))
    ends = time.monotonic() + 60
    while "being loaded" in desk.reason() and time.monotonic() < ends:
        time.sleep(0.05)
    assert "no version is champion yet" in desk.reason()
    assert desk.live() is None
    desk.close()


def test_a_bento_holds_the_code_and_nothing_else(tmp_path: Path) -> None:
    environment = tiny.surroundings(BENTOML_HOME=str(tmp_path / "home"))
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "build",
        "-f",
        "serving/bentofile.yaml",
        "--output",
        "tag",
    ]
    done = subprocess.run(
        command,
        cwd=lines.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (service,) = (tmp_path / "home" / "bentos").glob("*/*/src/serving/service.py")
    source = service.parent.parent
    held = {path.relative_to(source).parts[0] for path in source.rglob("*") if path.is_file()}
    assert held == {"serving", "src", "params.yaml", "bentofile.yaml"}
    assert (source / "src" / "cowest" / "report" / "contract.html.jinja").exists()
    assert not list(source.rglob("*.pyc"))


def test_a_bento_installs_what_is_installed_here() -> None:
    pinned = set((lines.ROOT / "constraints.txt").read_text().splitlines())
    text = (lines.ROOT / "serving" / "requirements.txt").read_text()
    wanted = {line for line in text.splitlines() if not line.startswith(("#", "--"))}
    (torch,) = (line for line in wanted if line.startswith("torch=="))
    assert torch.endswith("+cpu"), "PyPI's own build brings 5 GB of CUDA"
    wanted = {line.removesuffix("+cpu") for line in wanted}
    assert wanted <= pinned, "serving/requirements.txt: take the versions of constraints.txt"
    # A bento is installed by `uv pip install -r` alone: only this line says where that build is.
    assert "\n--find-links https://download.pytorch.org/whl/cpu/torch/\n" in text
