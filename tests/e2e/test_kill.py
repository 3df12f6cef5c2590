"""A stage that is killed and started again: no answered call is repeated, and the bytes are those of a run in one piece."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cowest import io
from cowest.domains import domain
from cowest.records import Draft, Query
from tests import tiny
from tests.servers import Fate, chat_server

CONCURRENCY = 4
QUERIES, SAMPLES = 60, 3


@pytest.fixture
def drafts(tmp_path: Path) -> Path:
    """The drafts of a few queries, of which some are equal."""
    queries = list(domain("handbook").load(tiny.HANDBOOK))[:QUERIES]
    rows = (
        Draft(**{name: getattr(query, name) for name in Query.model_fields}, sample=n, draft=f"draft {n % 2}", policy="p")
        for query in queries
        for n in range(SAMPLES)
    )
    io.write(tmp_path / "drafts.jsonl", rows)
    return tmp_path / "drafts.jsonl"


def run(folder: Path, out: str, store: str, stage: str = "refine", kill: float | None = None, **ports: Path) -> None:
    """A stage in a process group of its own, killed after so many seconds of answering."""
    flags = [word for name, path in ports.items() for word in (f"--{name}", str(path))]
    surroundings = {**tiny.surroundings(), "COWEST_STORE": str(folder / store)}
    command = [
        sys.executable,
        "-m",
        "cowest.cli",
        stage,
        *flags,
        f"--{'refinements' if stage == 'refine' else 'drafts'}",
        str(folder / out),
    ]
    process = subprocess.Popen(command, cwd=folder, env=surroundings, process_group=0)
    if kill is None:
        assert process.wait(timeout=120) == 0
        return
    wal = folder / f"{store}-wal"
    until = time.monotonic() + 60
    while not (wal.exists() and wal.stat().st_size) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(kill)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_hosted_model_is_not_asked_again(drafts: Path, tmp_path: Path) -> None:
    folder = tmp_path
    with chat_server(otherwise=Fate(delay=0.03)) as server:
        strong = {"provider": "openai", "model": "m", "base_url": server.url, "key_env": None, "concurrency": CONCURRENCY}
        settings = {"refine": {"strong": strong, "prompts": "handbook", "sampling": {"max_tokens": 8}}}
        (folder / "params.yaml").write_text(yaml.safe_dump(settings))
        run(folder, "whole.jsonl", "whole.sqlite", drafts=drafts)
        once = server.calls
        assert once == QUERIES * 3  # a solo and two distinct drafts each
        for kill in (0.05, 0.3):
            run(folder, "cut.jsonl", "cut.sqlite", kill=kill, drafts=drafts)
            assert not (folder / "cut.jsonl").exists()
        run(folder, "cut.jsonl", "cut.sqlite", drafts=drafts)
        again = server.calls - once
    assert again - once <= 2 * CONCURRENCY, "calls that had been answered were asked again"
    assert (folder / "cut.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


def test_a_local_model_ends_with_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path
    version = tiny.turned() / "models" / "policy"
    params = yaml.safe_load((tiny.turned() / "params.yaml").read_text())
    params["draft"]["sampling"] = {"temperature": 1.0, "n": 4, "max_tokens": 60}
    (folder / "params.yaml").write_text(yaml.safe_dump({"draft": params["draft"]}))
    rows = [query.model_copy(update={"split": "train"}) for query in domain("handbook").load(tiny.HANDBOOK)]
    io.write(folder / "queries.jsonl", rows)
    ports = {"queries": folder / "queries.jsonl", "policy": version}
    run(folder, "whole.jsonl", "whole.sqlite", "draft", **ports)
    run(folder, "cut.jsonl", "cut.sqlite", "draft", kill=0.2, **ports)
    assert not (folder / "cut.jsonl").exists()
    answered = _answered(folder / "cut.sqlite")
    run(folder, "cut.jsonl", "cut.sqlite", "draft", **ports)
    assert 0 < len(answered) < len(rows) * 4, "it was not killed half way: this test tests nothing"
    with contextlib.closing(sqlite3.connect(folder / "cut.sqlite")) as db:
        ((asked,),) = db.execute("SELECT asked FROM stages")
    assert asked == len(rows) * 4 - len(answered), "an answered call was answered again"
    assert (folder / "cut.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


def _answered(store: Path) -> dict[str, float]:
    with contextlib.closing(sqlite3.connect(store)) as db:
        return dict(db.execute("SELECT key, at FROM calls"))
