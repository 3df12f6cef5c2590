"""A project, a call store and a registry that an older CoWest wrote (`tests/old/make.py`)."""

import atexit
import functools
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cowest.ledger.store import CallStore
from cowest.registry.log import champion_of
from cowest.registry.mlflow import RegistryConfig
from tests import lines, tiny
from tests.old import make

pytestmark = pytest.mark.minutes

OLD = Path(make.__file__).parent
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
KEPT = ("queries", "corpus", "drafts", "refinements", "feedback", "pairs")
"""Rows that rest on nothing that a new turn trains."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The old project, in another place than where it was made."""
    with tarfile.open(OLD / "project.tar.xz") as archive:
        archive.extractall(tmp_path)  # an archive of our own, beside this file
    return tmp_path / "project"


@contextmanager
def endpoint(folder: Path) -> Iterator[list[str]]:
    """The strong model's endpoint where the old project has it; what it is asked."""
    asked: list[str] = []
    questions = folder / "data" / "raw" / "handbook" / "questions.jsonl"
    answers = {json.loads(line)["answer"] for line in questions.read_text().splitlines()}

    class Counting(make.Endpoint):
        def do_POST(self) -> None:
            asked.append(self.path)
            super().do_POST()

    Counting.answers = " ".join(sorted(answers))
    server = ThreadingHTTPServer(("127.0.0.1", make.PORT), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


@functools.cache
def package() -> Path:
    """A copy of the package: its code is a part of the turn's key, and ours may be edited."""
    folder = Path(tempfile.mkdtemp(prefix="cowest-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return shutil.copytree(lines.ROOT / "src", folder / "src")


def cowest(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "cowest.cli", *words]
    surroundings = tiny.surroundings(PYTHONPATH=str(package()))
    done = subprocess.run(
        command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answers(folder: Path) -> dict[str, int]:
    """Answers in the call store, by model."""
    with sqlite3.connect(folder / ".cowest" / "calls.sqlite") as db:
        return dict(db.execute("SELECT model, COUNT(*) FROM calls GROUP BY model").fetchall())


def test_a_registry_is_read(project: Path) -> None:
    found = json.loads(cowest(project, "status", "--json"))
    expected = EXPECTED["status"]
    assert found["champion"] == expected["champion"] == 2
    assert found["decisions"] == expected["decisions"]


def test_a_registry_is_decided_on(project: Path) -> None:
    artifacts = str(project / "mlartifacts")
    uri = f"sqlite:///{project}/mlflow.db"
    registry = RegistryConfig(uri=uri, name="handbook", artifacts=artifacts).open()
    assert [one.verdict for one in registry.log()] == ["promoted", "promoted", "refused", "late"]
    registry.fetch(2, project / "champion")
    made = registry.decide(
        project / "models" / "challenger",
        turn="1" * 64,
        promote=True,
        against=2,
        reason="better",
        tags={},
    )
    assert (made.version, made.verdict) == (5, "promoted")
    assert champion_of(registry.log()) == 5
    stale = registry.decide(
        project / "champion", turn="2" * 64, promote=True, against=2, reason="better", tags={}
    )
    assert (stale.verdict, champion_of(registry.log())) == ("late", 5)


def test_a_store_answers(project: Path) -> None:
    place = project / ".cowest" / "calls.sqlite"
    with sqlite3.connect(place) as db:
        kept = dict(db.execute("SELECT key, text FROM calls").fetchall())
    store = CallStore(place)
    found = store.look(list(kept))
    assert {key: completion.text for key, completion in found.items()} == kept
    assert sum(EXPECTED["calls"].values()) == len(kept)
    stages = {account.stage: account for account in store.ledger()}
    assert stages["draft"].asked + stages["draft"].stored == 144
    store.close()


def test_a_project_turns_once_more_and_none_of_its_calls_is_asked_again(project: Path) -> None:
    before = answers(project)
    with endpoint(project) as asked:
        assert "version 5 was refused" in cowest(project, "turn")
        assert cowest(project, "turn").startswith("nothing is new: turn ")
    for name in KEPT:
        content = (project / "data" / f"{name}.jsonl").read_bytes()
        assert hashlib.sha256(content).hexdigest() == EXPECTED["rows"][name], name
    store = CallStore(project / ".cowest" / "calls.sqlite")
    stages = {account.stage: account for account in store.ledger()}
    store.close()
    assert (stages["draft"].asked, stages["draft"].stored) == (0, 144)
    assert (stages["refine"].attempts, stages["refine"].stored) == (0, 180)
    # The challenger is trained anew, and may differ in its last bits from the old one: so may its
    # drafts, and only what is asked with those is new.
    model = "big@127.0.0.1:18443/v1"
    new = answers(project)[model] - before[model]
    assert stages["evaluate"].attempts == len(asked) == new
