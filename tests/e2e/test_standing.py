"""The service as a process of its own over a real registry, while what it stands on breaks: a full
disk, and a kill. And settings with which no process may begin.
"""

import json
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest.online import log
from tests import champions, tiny
from tests.service import Server

pytestmark = [pytest.mark.slow, pytest.mark.minutes]

BODY = {"model": "cowest", "messages": [{"role": "user", "content": "Where is it made?"}]}
PATIENCE, STARTING = 120.0, 300
"""Seconds that a busy machine is given, and those for a process to start there."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("standing")
    champions.make_project(folder)
    return folder


def begun(project: Path, scratch: Path) -> Server:
    """A service of the project; what it prints lies in `scratch`."""
    scratch.mkdir(exist_ok=True)
    return Server(project, scratch)


def ask(server: Server) -> str:
    """Asks, and returns the answer's id."""
    status, said = server.get("/v1/chat/completions", BODY)
    assert status == 200, said
    id: str = json.loads(said)["id"]
    return id


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process")
def test_a_full_disk_under_the_log_is_said_and_stops_no_answer(
    project: Path, tmp_path: Path
) -> None:
    """The kernel lets no file of the service grow beyond the half of the log's next row."""
    folder = project / ".cowest" / "log"
    server = begun(project, tmp_path / "out")
    try:
        server.wait("/readyz", STARTING)
        assert server.get("/readyz") == (200, "\n")
        asked = [ask(server)]
        until(lambda: "cowest_log_rows_total 1.0" in server.get("/metrics")[1])
        (file,) = folder.glob("answers-*")
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        full = (file.stat().st_size + 100, limits[1])
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, full)

        asked += [ask(server) for _ in range(3)]
        until(lambda: "cowest_log_rows_lost_total 3.0" in server.get("/metrics")[1])
        assert "cowest_log_failing 1.0" in server.get("/metrics")[1]
        status, said = server.get("/readyz")
        assert (status, said) == (200, "ready, but the log can't be written: File too large")
        verdict = {"id": asked[0], "verdict": "good", "comment": "x" * 3000}
        status, said = server.get("/v1/feedback", verdict)
        assert status == 503 and "File too large" in said

        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        assert server.get("/v1/feedback", verdict)[0] == 200
        asked.append(ask(server))
        until(lambda: "cowest_log_rows_total 2.0" in server.get("/metrics")[1])
        assert "cowest_log_failing 0.0" in server.get("/metrics")[1]
        assert server.get("/readyz") == (200, "\n")
    finally:
        server.stop()
    unread: Counter[str] = Counter()
    assert [row.id for row in log.read_answers(folder, unread)] == [asked[0], asked[-1]]
    assert [row.id for row in log.read_verdicts(folder, unread)] == [asked[0]]
    assert not unread, "no half row is left"


def until(condition: Any) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


class People:
    """Eight people who ask and give verdicts, by whatever service answers just now."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.waiting: list[str] = []
        """Ids of answers that nobody judged yet."""
        self.acknowledged: list[str] = []
        """Ids whose verdict was acknowledged when it was given for the first time."""
        self.again: list[str] = []
        """Ids whose verdict broke off, and was given once more."""
        self.refused: list[tuple[int, str]] = []
        self._left = threading.Event()
        self._threads = [threading.Thread(target=self._live) for _ in range(8)]
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        self._left.set()
        for thread in self._threads:
            thread.join(timeout=PATIENCE)

    def _live(self) -> None:
        number = 0
        while not self._left.is_set():
            said = self._post("/v1/chat/completions", BODY)
            if said is None:
                continue
            id = json.loads(said)["id"]
            number += 1
            if number % 3 == 0:
                self.waiting.append(id)
            else:
                self.judge(id)

    def judge(self, id: str) -> None:
        """Gives a verdict until it is acknowledged."""
        kept = self.acknowledged
        while self._post("/v1/feedback", {"id": id, "verdict": "good"}) is None:
            kept = self.again
            if self._left.is_set():
                return
        kept.append(id)

    def _post(self, path: str, body: Any) -> str | None:
        """The reply; None where the service is gone, or loads its models still."""
        status, said = self.server.get(path, body)
        if status == 200:
            return said
        if status not in (0, 503):
            self.refused.append((status, said))
        time.sleep(0.3)
        return None


def test_a_kill_and_a_restart_under_load_keep_every_acknowledged_verdict(
    project: Path, tmp_path: Path
) -> None:
    folder = project / ".cowest" / "log"
    first = begun(project, tmp_path / "first")
    servers = [first]
    first.wait("/readyz", STARTING)
    people = People(first)
    try:
        until(lambda: len(people.acknowledged) >= 40)
        first.process.kill()
        first.process.wait()
        old = list(people.waiting)
        before = len(people.acknowledged)
        servers.append(begun(project, tmp_path / "second"))
        people.server = servers[-1]
        servers[-1].wait("/readyz", STARTING)
        until(lambda: len(people.acknowledged) >= before + 20)
        for id in old:
            people.judge(id)
    finally:
        people.leave()
        for server in servers:
            server.process.kill()
            server.process.wait()
    assert people.refused == []
    assert old and set(old) <= {*people.acknowledged, *people.again}
    unread: Counter[str] = Counter()
    found = Counter(row.id for row in log.read_verdicts(folder, unread))
    assert {id: found[id] for id in people.acknowledged} == dict.fromkeys(people.acknowledged, 1)
    # One that was kept, and whose word of it the kill took, was given twice: the last one counts.
    assert all(found[id] in (1, 2) for id in people.again)
    assert len(list(folder.glob("verdicts-*"))) >= 2, "each process has its own file"


@pytest.mark.parametrize(
    ("words", "services"),
    [
        (("cowest_serving", "serve"), {"workers": 2}),
        (("bentoml", "serve", "cowest_serving.service:CoWest"), {"cowest": {"workers": 2}}),
    ],
    ids=["ours", "bentoml"],
)
def test_several_workers_are_refused_before_anything_begins(
    words: tuple[str, ...], services: dict[str, Any], project: Path, tmp_path: Path
) -> None:
    (tmp_path / "bentoml.yaml").write_text(yaml.safe_dump({"services": services}))
    around = tiny.surroundings(
        BENTOML_CONFIG=str(tmp_path / "bentoml.yaml"), BENTOML_HOME=str(tmp_path / "home")
    )
    command = [sys.executable, "-m", *words, "--port", "0"]
    done = subprocess.run(
        command, cwd=project, env=around, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "2 workers: " in done.stderr and "serve.concurrency" in done.stderr
    assert "listens on" not in done.stderr
    if words[0] == "cowest_serving":
        assert len(done.stderr.splitlines()) == 1
