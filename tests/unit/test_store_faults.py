"""A call store on a disk that is full, after a crash, damaged, or written by another CoWest."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from cowest.errors import CoWestError, StoreError
from cowest.ledger import store
from cowest.ledger.schema import STEPS
from cowest.ledger.store import CallStore, StoredAnswer
from cowest.protocols import Completion

CRASH = """\
import os, sys
from pathlib import Path
from cowest.ledger.store import CallStore
from tests.unit.test_store_faults import answer
kept = CallStore(Path(sys.argv[1]))
for number in range(30):
    kept.put([answer(str(number))])
os._exit(1)
"""


def answer(key: str) -> StoredAnswer:
    return StoredAnswer(key, Completion(f"answer to {key}" + "." * 500, "m"), 0.1)


def crashed(path: Path) -> Path:
    """A store whose process ended without closing it; gives its journal."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", CRASH, str(path)], env=environment, check=False)
    journal = path.with_name(f"{path.name}-wal")
    assert journal.stat().st_size > 30 * 500
    return journal


@pytest.mark.slow
@pytest.mark.parametrize("torn", ["cut", "garbled", "zeros"])
def test_a_torn_write_costs_no_more_than_itself(torn: str, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    journal = crashed(path)
    content = journal.read_bytes()
    end = {"cut": b"", "garbled": b"\xa5" * 700, "zeros": bytes(700)}[torn]
    journal.write_bytes(content[:-700] + end)
    kept = CallStore(path)
    keys = [str(number) for number in range(30)]
    assert set(keys[:29]) <= set(kept.get(keys))
    kept.put([answer("29"), answer("next")])
    assert len(CallStore(path).get([*keys, "next"])) == 31


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    kept = CallStore(tmp_path / "calls")
    kept.put([answer("a")])
    ((pages,),) = kept.fetch("PRAGMA page_count")
    kept.write(lambda db: db.execute(f"PRAGMA max_page_count={pages + 2}"))
    with pytest.raises(
        StoreError, match=r"can't be written: database or disk is full; .*make room"
    ):
        kept.put([answer(f"b{number}") for number in range(100)])
    assert set(kept.get(["a", "b0"])) == {"a"}, "all of a put or nothing"
    kept.write(lambda db: db.execute("PRAGMA max_page_count=1000000"))
    kept.put([answer("b0")])
    assert set(kept.get(["a", "b0"])) == {"a", "b0"}


def test_a_file_that_is_none_of_ours_is_said(tmp_path: Path) -> None:
    (tmp_path / "calls").write_bytes(b"not a database, by far" * 500)
    with pytest.raises(
        StoreError,
        match=r"calls can't be opened: file is not a database; the file is damaged: move it away",
    ):
        CallStore(tmp_path / "calls")


def test_a_damaged_page_is_said(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    kept = CallStore(path)
    keys = [str(number) for number in range(300)]
    kept.put([answer(key) for key in keys])
    kept.close()  # the last one that closes it moves all from its journal into it
    with path.open("r+b") as file:
        size = path.stat().st_size
        for place in range(8192, size, 4096):
            file.seek(place)
            file.write(os.urandom(4096))
    with pytest.raises(StoreError, match="the file is damaged"):
        CallStore(path).get(keys)


def test_an_older_store_keeps_its_answers(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(STEPS[0])
        db.execute(
            "INSERT INTO calls VALUES "
            "('a','m','yes','stop',-0.5,3,2,0.1,0.25,'m-2026','refine',1.0)"
        )
        db.execute("INSERT INTO stages VALUES ('refine',1.0,2.0,3,4,5,6,7,0.5)")
        db.commit()
    kept = CallStore(path)
    assert kept.get(["a"]) == {"a": Completion("yes", "m", "stop", None, -0.5, 3, 2)}
    (row,) = kept.ledger()
    assert (row.stage, row.asked, row.stored, row.cost, row.requests) == ("refine", 4, 5, 0.5, 0)
    assert CallStore(path).get(["a"])["a"].text == "yes"


def test_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "calls")) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="newer CoWest"):
        CallStore(tmp_path / "calls")


@pytest.mark.parametrize("place", ["mysql://somebody:secret@host/db", "/dev/null/calls"])
def test_a_place_that_is_none_is_said_without_its_secrets(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_STORE", place)
    with pytest.raises(CoWestError) as said:
        store.open_store()
    assert "secret" not in str(said.value)
