"""A stage that is killed and started again: no answered call is repeated, and the bytes are
those of a run in one piece.
"""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import io
from cowest.domains import domain
from cowest.ledger.claims import Budget, open_turn
from cowest.ledger.store import CallStore
from cowest.records import Draft, Query
from tests import stores, tiny
from tests.batch_server import batch_server
from tests.servers import ChatServer, Fate, chat_server

pytestmark = pytest.mark.minutes

CONCURRENCY = 4
QUERIES, SAMPLES = 60, 3
KILLS = int(os.environ.get("COWEST_KILLS", "3"))
"""Moments at which the hosted stage is killed; `make kill` takes 20."""


@pytest.fixture
def drafts(tmp_path: Path) -> Path:
    """The drafts of a few queries, of which some are equal."""
    queries = list(domain("handbook").load(tiny.HANDBOOK))[:QUERIES]
    rows = (
        Draft(
            **{name: getattr(query, name) for name in Query.model_fields},
            sample=n,
            draft=f"draft {n % 2}",
            policy="p",
        )
        for query in queries
        for n in range(SAMPLES)
    )
    io.write(tmp_path / "drafts.jsonl", rows)
    return tmp_path / "drafts.jsonl"


def start(
    folder: Path,
    out: str,
    store: str,
    stage: str = "refine",
    limit: int | None = None,
    **ports: Path | str,
) -> subprocess.Popen[str]:
    """A stage in a process group of its own; with a limit, no file of its may grow beyond that."""
    flags = [word for name, path in ports.items() for word in (f"--{name}", str(path))]
    flags += [f"--{'refinements' if stage == 'refine' else 'drafts'}", str(folder / out)]
    surroundings = {
        **tiny.surroundings(),
        "COWEST_STORE": store if "://" in store else str(folder / store),
    }
    command = [sys.executable, "-m", "cowest.cli", stage, *flags]
    if limit is not None:
        command = ["prlimit", f"--fsize={limit}", *command]
    return subprocess.Popen(
        command, cwd=folder, env=surroundings, process_group=0, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What a stage that ends well says."""
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return said


def kill(process: subprocess.Popen[str], begun: Callable[[], bool], after: float) -> None:
    """Kills the group, so many seconds after it has begun to work."""
    until = time.monotonic() + 60
    while not begun() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(after)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def settings(folder: Path, server: ChatServer, **more: Any) -> None:
    """params.yaml for a strong model at that server."""
    strong = {
        "provider": "openai",
        "model": "m",
        "base_url": server.url,
        "key_env": None,
        "concurrency": CONCURRENCY,
        **more,
    }
    params = {"refine": {"strong": strong, "prompts": "handbook", "sampling": {"max_tokens": 8}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.parametrize("kind", stores.KINDS)
def test_a_hosted_model_is_not_asked_again(kind: str, drafts: Path, tmp_path: Path) -> None:
    """Killed at seeded moments, from the first call on: every answer that was stored stays, and
    only calls in flight are repeated.
    """
    folder, luck, kills, place = tmp_path, random.Random(4), 0, stores.place(kind, tmp_path)
    with chat_server(otherwise=Fate(delay=0.03 * KILLS)) as server:
        settings(folder, server, price={"prompt": 1, "completion": 10})
        answered: dict[str, float] = {}
        for number in range(KILLS):
            before, last = server.calls, number == KILLS - 1
            process = start(folder, "cut.jsonl", place, drafts=drafts)

            def has_begun(before: int = before, last: bool = last) -> bool:
                # The last kill comes when an answer was stored, however slow the machine.
                return server.calls > before and (not last or bool(_answered(place)))

            kill(process, has_begun, luck.uniform(0, 0.08 * KILLS))
            kills += process.returncode == -signal.SIGKILL
            now = _answered(place)
            assert answered.items() <= now.items(), (
                "an answer that had been stored is lost, or was given again"
            )
            answered = now
            assert not (folder / "cut.jsonl").exists() or process.returncode == 0
        said = finish(start(folder, "cut.jsonl", place, drafts=drafts))
        assert answered.items() <= _answered(place).items()
        distinct = len({json.dumps(body["messages"]) for body in server.bodies})
        assert distinct == QUERIES * 3  # a solo and two distinct drafts each
        assert server.calls - distinct <= kills * CONCURRENCY, (
            "calls that had been answered were asked again"
        )
        assert f"{QUERIES * 3} completions asked = {QUERIES * 3} answered + 0 set aside" in said
        announced = said.splitlines()[0]
        left = QUERIES * 3 - len(answered)
        assert (
            announced.startswith(f"refine: {left} calls to m@127.0.0.1")
            and f"({len(answered)} more are in the store)" in announced
        )
        assert kills >= KILLS - 1 and answered, (
            "it was not killed half way: this test tests nothing"
        )
        finish(start(folder, "whole.jsonl", "whole.sqlite", drafts=drafts))
    assert (folder / "cut.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stage_that_is_told_to_stop_keeps_the_calls_in_flight(
    number: int, drafts: Path, tmp_path: Path
) -> None:
    folder = tmp_path
    with chat_server(otherwise=Fate(delay=0.15)) as server:
        settings(folder, server)
        process = start(folder, "cut.jsonl", "cut.sqlite", drafts=drafts)
        while server.calls < 2 * CONCURRENCY:
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 130 and "what was answered is kept" in said
        assert len(_answered(folder / "cut.sqlite")) == server.calls
        finish(start(folder, "cut.jsonl", "cut.sqlite", drafts=drafts))
        assert server.calls == QUERIES * 3, "nothing was paid for twice"


@pytest.mark.parametrize("kind", stores.KINDS)
def test_two_shards_share_a_store(kind: str, drafts: Path, tmp_path: Path) -> None:
    """Their rows are those of the whole, and no call is made twice."""
    folder, place = tmp_path, stores.place(kind, tmp_path)
    with chat_server(otherwise=Fate(delay=0.02)) as server:
        settings(folder, server)
        halves = [
            start(folder, f"{n}.jsonl", place, shard=f"{n}/2", drafts=drafts) for n in range(2)
        ]
        for half in halves:
            finish(half)
        assert server.calls == QUERIES * 3
        finish(start(folder, "whole.jsonl", place, drafts=drafts))
        assert server.calls == QUERIES * 3
    assert (folder / "0.jsonl").read_bytes() + (folder / "1.jsonl").read_bytes() == (
        folder / "whole.jsonl"
    ).read_bytes()


def test_at_the_limit_a_stage_stops_and_goes_on_when_the_budget_is_raised(
    drafts: Path, tmp_path: Path
) -> None:
    folder = tmp_path
    with chat_server(otherwise=Fate(delay=0.01)) as server:
        settings(folder, server, price={"prompt": 1, "completion": 10})
        calls = CallStore(folder / "paid.sqlite")
        open_turn(calls, "t", Budget(usd=0.005))
        stopped = start(folder, "paid.jsonl", "paid.sqlite", drafts=drafts)
        said = stopped.communicate(timeout=300)[1]
        assert stopped.returncode == 1 and "the turn's budget is reached" in said.splitlines()[-1]
        assert not (folder / "paid.jsonl").exists() and len(list(folder.glob(".paid*"))) == 0
        bought = server.calls
        counted = re.search(
            r"refine stopped: (\d+) completions asked = (\d+) answered \+ 0 set aside \+ (\d+) "
            r"not come to",
            said,
        )
        asked, answered, left = map(int, counted.groups() if counted else ())
        assert (
            asked == answered + left
            and answered <= bought
            and f"{bought} calls brought {bought} answers" in said
        )
        assert 60 < bought == len(_answered(folder / "paid.sqlite")) and bought * 37e-6 <= 0.005
        open_turn(calls, "t", Budget(usd=1))
        assert f"{QUERIES * 3 - bought} calls brought" in finish(
            start(folder, "paid.jsonl", "paid.sqlite", drafts=drafts)
        )
        assert server.calls == QUERIES * 3


def test_in_batches_it_buys_each_call_once_and_ends_with_the_same_bytes(
    drafts: Path, tmp_path: Path
) -> None:
    """Killed at seeded moments between the first upload and the last row; then one by one, from
    another store.
    """
    folder, luck, kills = tmp_path, random.Random(5), 0
    with batch_server(takes=0.5) as server:
        settings(folder, server, batch={"poll": 0.1, "requests": QUERIES * 3 // (2 * KILLS)})
        for _ in range(KILLS):
            before = len(server.requests)
            process = start(folder, "cut.jsonl", "cut.sqlite", drafts=drafts)
            kill(process, lambda before=before: len(server.requests) > before, luck.uniform(0, 0.6))
            kills += process.returncode == -signal.SIGKILL
        said = finish(start(folder, "cut.jsonl", "cut.sqlite", drafts=drafts))
        assert kills >= KILLS - 1, "it was not killed half way: this test tests nothing"
        assert set(server.bought.values()) == {1} and server.bought.total() == QUERIES * 3, (
            "a call was bought twice"
        )
        assert f"{QUERIES * 3} completions asked = {QUERIES * 3} answered + 0 set aside" in said
        settings(folder, server)
        finish(start(folder, "whole.jsonl", "whole.sqlite", drafts=drafts))
        assert server.direct.total() == QUERIES * 3
    assert (folder / "cut.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


def test_a_full_disk_stops_a_stage_with_a_word_and_costs_no_answer(
    drafts: Path, tmp_path: Path
) -> None:
    folder = tmp_path
    with chat_server() as server:
        settings(folder, server)
        full = start(folder, "cut.jsonl", "cut.sqlite", limit=300_000, drafts=drafts)
        said = full.communicate(timeout=300)[1]
        assert full.returncode == 1
        assert (
            "cowest: the call store" in said.splitlines()[-1]
            and "make room" in said.splitlines()[-1]
        )
        assert not (folder / "cut.jsonl").exists()
        assert _answered(folder / "cut.sqlite")
        finish(start(folder, "cut.jsonl", "cut.sqlite", drafts=drafts))
        assert server.calls <= QUERIES * 3 + CONCURRENCY


def test_a_local_model_ends_with_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path
    version = tiny.turned() / "models" / "policy"
    params = yaml.safe_load((tiny.turned() / "params.yaml").read_text())
    params["draft"]["sampling"] = {"temperature": 1.0, "n": 4, "max_tokens": 60}
    (folder / "params.yaml").write_text(yaml.safe_dump({"draft": params["draft"]}))
    rows = [
        query.model_copy(update={"split": "train"})
        for query in domain("handbook").load(tiny.HANDBOOK)
    ]
    io.write(folder / "queries.jsonl", rows)
    ports = {"queries": folder / "queries.jsonl", "policy": version}
    finish(start(folder, "whole.jsonl", "whole.sqlite", "draft", **ports))
    kill(
        start(folder, "cut.jsonl", "cut.sqlite", "draft", **ports),
        lambda: bool(_answered(folder / "cut.sqlite")),
        0.0,
    )
    assert not (folder / "cut.jsonl").exists()
    answered = _answered(folder / "cut.sqlite")
    finish(start(folder, "cut.jsonl", "cut.sqlite", "draft", **ports))
    assert 0 < len(answered) < len(rows) * 4, "it was not killed half way: this test tests nothing"
    assert answered.items() <= _answered(folder / "cut.sqlite").items(), (
        "an answered call was answered again"
    )
    with closing(sqlite3.connect(folder / "cut.sqlite")) as db:
        ((asked,),) = db.execute("SELECT asked FROM stages")
    assert asked == len(rows) * 4 - len(answered), "an answered call was answered again"
    assert (folder / "cut.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()


def _answered(place: Path | str) -> dict[str, float]:
    """Every key that was answered, and when; nothing where there is no store yet."""
    if "://" in str(place):
        return dict(CallStore(place).fetch("SELECT key, at FROM calls"))
    try:
        with closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as db:
            return dict(db.execute("SELECT key, at FROM calls"))
    except sqlite3.OperationalError:
        return {}
