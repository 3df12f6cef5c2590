"""Record files: streamed, by query, whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from cowest import io
from cowest.errors import ConfigError, InputError, RecordError
from cowest.protocols import BLOCK
from cowest.raw import tables
from cowest.raw.intake import Unfit, build
from cowest.records import Query
from tests.factories import make_query


def queries(count: int, split: str = "test") -> list[Query]:
    return [make_query(text=f"What is {number}?", split=split) for number in range(count)]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = queries(3)
    assert io.write(tmp_path / "a" / "rows.jsonl", rows) == 3
    assert list(io.read(tmp_path / "a" / "rows.jsonl", Query)) == rows


def test_parts_are_read_in_their_order(tmp_path: Path) -> None:
    rows = queries(5)
    io.write(tmp_path / "0", rows[:2])
    io.write(tmp_path / "1", rows[2:])
    assert list(io.read([tmp_path / "0", tmp_path / "1"], Query)) == rows


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    io.write(path, queries(2))
    before = path.read_bytes()

    def failing():
        yield queries(1)[0]
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        io.write(path, failing())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_folder_in_the_place_of_an_output_is_said_before_a_row_is_made(tmp_path: Path) -> None:
    made: list[int] = []
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(InputError, match=r"rows.jsonl is a folder, and a file is to be written"):
        io.write(tmp_path / "rows.jsonl", (made.append(1) or row for row in queries(1)))
    assert made == []


def test_an_output_that_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    # A rename that fails, as that over an immutable file does.
    with pytest.raises(OSError, match="Is a directory") as failed, io.replacing(path):
        path.mkdir()
    assert (failed.value.filename, failed.value.filename2) == (str(path), None)
    # A temporary file that can't be made.
    path = tmp_path / ("r" * 250)
    with pytest.raises(OSError, match="too long") as failed, io.replacing(path):
        pass
    assert failed.value.filename == str(path)


def test_a_folder_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    with pytest.raises(RuntimeError), io.replacing_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("new")
        raise RuntimeError
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(("before", "after"), [(None, 0o644), (0o600, 0o600), (0o444, 0o644)])
def test_a_file_keeps_its_mode(tmp_path: Path, before: int | None, after: int) -> None:
    path = tmp_path / "rows"
    if before is not None:
        path.touch(before)
    io.write_text(path, "new")
    assert path.stat().st_mode & 0o777 == after


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with io.replacing_folder(tmp_path / "model") as folder:
            (folder / "adapter").mkdir()
            (folder / "adapter" / text).write_text(text)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in (tmp_path / "model" / "adapter").iterdir()] == ["new"]


KILLED = """
import pathlib, sys
from cowest import io

path = pathlib.Path(sys.argv[1])
with io.replacing_folder(path) as folder:
    (folder / "weights").write_text("new")

    def killed(event, given):
        # The second rename: the old folder has stepped aside.
        if event == "os.rename" and not path.exists():
            import os
            os._exit(9)

    sys.addaudithook(killed)
"""


def test_a_folder_outlives_a_kill_while_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == 9
    with pytest.raises(RuntimeError), io.replacing_folder(path):
        # What was there is back before anything is written.
        assert (path / "weights").read_text() == "old"
        raise RuntimeError
    assert (path / "weights").read_text() == "old"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "rows.jsonl:2 is not a Query"),
        (b"[]", "rows.jsonl:2 is not a Query"),
        (b'{"id": 1}', "id: "),
        (b"\xff\xfe", "rows.jsonl:2 is not a Query"),
        (b"", "rows.jsonl:2 is not a Query"),
    ],
)
def test_a_bad_line_is_named_by_its_place(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    io.write(path, queries(1))
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(RecordError, match=said):
        list(io.read(path, Query))


def test_a_changed_row_is_not_the_row_its_id_names(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    io.write(path, queries(1))
    path.write_text(path.read_text().replace("What is 0?", "What is 7?"))
    with pytest.raises(RecordError, match="id is not the digest"):
        list(io.read(path, Query))


def test_unknown_fields_and_infinite_floats_are_refused() -> None:
    row = make_query()
    with pytest.raises(Unfit, match="surprise: unknown"):
        build(Query, **row.model_dump(), surprise=1)


def test_a_line_too_long_is_refused_before_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "LINE_LIMIT", 1000)
    (tmp_path / "rows.jsonl").write_bytes(b"x" * 5000)
    with pytest.raises(RecordError, match="is longer than"):
        list(io.read(tmp_path / "rows.jsonl", Query))


@pytest.mark.parametrize(
    ("make", "said"), [(lambda p: None, "no such file"), (lambda p: p.mkdir(), "is a folder")]
)
def test_what_is_no_file_is_said(tmp_path: Path, make, said: str) -> None:
    make(tmp_path / "rows")
    with pytest.raises(InputError, match=said):
        list(io.read(tmp_path / "rows", Query))


def test_an_id_that_comes_back_is_refused(tmp_path: Path) -> None:
    one, two = queries(2)
    io.write(tmp_path / "rows", [one, two, one])
    with pytest.raises(InputError, match="comes back"):
        list(io.groups(tmp_path / "rows", Query))


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shards_are_whole_blocks_and_lose_nothing(tmp_path: Path, of: int) -> None:
    rows = queries(BLOCK * 4 + 5)
    io.write(tmp_path / "rows", rows)
    shards = [list(io.queries(tmp_path / "rows", "test", (index, of))) for index in range(of)]
    assert [row for shard in shards for row in shard] == rows
    starts = [rows.index(shard[0]) for shard in shards if shard]
    assert all(start % BLOCK == 0 for start in starts)


def test_a_shard_that_is_none_is_refused(tmp_path: Path) -> None:
    io.write(tmp_path / "rows", queries(1))
    with pytest.raises(ConfigError, match="shard 2/2"):
        list(io.queries(tmp_path / "rows", "test", (2, 2)))


def test_only_the_split_that_is_asked_for(tmp_path: Path) -> None:
    train, test = queries(2, "train"), [make_query(text="held out", split="test")]
    io.write(tmp_path / "rows", [*train, *test])
    assert list(io.queries(tmp_path / "rows", "test")) == test


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "raw.jsonl:2: not JSON"),
        ("3", "raw.jsonl:2: a number, not an object"),
        ('{"question": 3, "answer": "x"}', "question: missing"),
        ('{"question": "x", "answer": " "}', "answer: missing, empty"),
        ("[" * 100000, "not JSON"),
    ],
)
def test_a_broken_raw_line_is_named_by_its_place(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "raw.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n' + line + "\n")
    with pytest.raises(RecordError, match=said):
        list(tables.sound(path, tables.raw_rows(path, {"question", "answer"})))


def test_a_raw_file_with_no_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="has no rows"):
        list(tables.raw_rows(tmp_path / "raw.jsonl", {"question"}))
