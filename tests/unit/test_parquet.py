"""Parquet files of a few bytes that say much, and columns that are missing or there twice."""

import tracemalloc
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from cowest.domains.mapping import Table
from cowest.domains.table import Source
from cowest.errors import InputError
from cowest.raw import parquet_rows, tables
from cowest.raw.intake import Intake
from tests.tables import load, write

TEXT = "x" * 2**17


def read(path: Path, *columns: str) -> list[dict[str, Any]]:
    rows = tables.rows(path, None, None, columns or None)
    return [row for _, row in tables.sound(path, rows)]


def written(path: Path, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path, compression="zstd")
    return path


def most_held(path: Path) -> int:
    """Bytes that Arrow holds at most while a file is read."""
    before: int = pyarrow.total_allocated_bytes()
    return max(int(pyarrow.total_allocated_bytes()) - before for _ in tables.rows(path))


@pytest.fixture
def pool() -> Iterator[Any]:
    """Memory of Arrow that says how much of it was held at once in this test."""
    usual = pyarrow.default_memory_pool()
    counted = pyarrow.proxy_memory_pool(usual)
    pyarrow.set_memory_pool(counted)
    yield counted
    pyarrow.set_memory_pool(usual)


@pytest.mark.parametrize("value", [TEXT, [TEXT], {"inner": [{"a": TEXT}]}])
def test_one_text_for_many_rows_is_not_held_for_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr(parquet_rows, "ROW_LIMIT", 2**22)
    monkeypatch.setattr(parquet_rows, "ROW_GROUP_LIMIT", 2**22)
    path = written(tmp_path / "t.parquet", q=[value] * 256)
    assert path.stat().st_size < 10_000
    tracemalloc.start()
    most = most_held(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most + peak < 4 * 2**22
    assert read(path) == [{"q": value}] * 256


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.string_view()])
def test_texts_that_were_read_are_not_held(tmp_path: Path, kind: Any, dictionary: bool) -> None:
    texts = pyarrow.array([f"{number:08}" * 128 for number in range(20_000)], kind)
    path = tmp_path / "t.parquet"
    parquet.write_table(
        pyarrow.table({"q": texts}), path, row_group_size=10_000, use_dictionary=dictionary
    )
    assert most_held(path) < 2**24


@pytest.mark.parametrize("kind", [pyarrow.string_view(), pyarrow.list_(pyarrow.string_view())])
def test_a_row_is_no_larger_than_its_own_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr(parquet_rows, "ROW_LIMIT", 2**20)
    texts: list[Any] = [f"{number}{TEXT}" for number in range(40)]
    if kind != pyarrow.string_view():
        texts = [[text] for text in texts]
    path = written(tmp_path / "t.parquet", q=pyarrow.array(texts, kind))
    assert [row["q"] for row in read(path)] == texts


@pytest.mark.parametrize(
    "value",
    [
        [7] * 200_000,
        [[7]] * 60_000,
        [None] * 200_000,
        {"inner": [True] * 200_000},
        [TEXT] * 20,
        [{"a": TEXT}] * 20,
    ],
)
def test_a_row_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr(parquet_rows, "ROW_LIMIT", 2**20)
    path = written(tmp_path / "t.parquet", q=["Who?", "Where?"], a=[None, value])
    assert path.stat().st_size < 30_000
    with pytest.raises(InputError, match=r"t.parquet: row 2 unpacks to \d+ MiB, over 1: shorten"):
        read(path)
    assert read(path, "q") == [{"q": "Who?"}, {"q": "Where?"}]


@pytest.mark.parametrize("inside", [False, True])
def test_a_list_that_says_one_text_many_times_is_refused_before_it_is_written_out(
    tmp_path: Path, pool: Any, inside: bool
) -> None:
    texts = pyarrow.DictionaryArray.from_arrays([0] * 8_000, [TEXT])
    if inside:
        texts = pyarrow.StructArray.from_arrays([texts], ["a"])
    table = pyarrow.table({"q": pyarrow.ListArray.from_arrays([0, 8_000], texts)})
    path = tmp_path / "t.parquet"
    parquet.write_table(table, path, store_schema=False)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match=r"t.parquet: row 1 unpacks to 1000 MiB, over 64"):
        read(path)
    assert pool.max_memory() < 2**24


def test_time_stamps_are_looked_at_in_small_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Any
) -> None:
    monkeypatch.setattr(parquet_rows, "ROW_GROUP_LIMIT", 2**22)
    rows = 2_000
    texts = pyarrow.DictionaryArray.from_arrays([0] * rows, [TEXT])
    days = pyarrow.array([datetime(2031, 5, 1)] * rows)
    table = pyarrow.table({"q": pyarrow.StructArray.from_arrays([days, texts], ["t", "s"])})
    path = tmp_path / "t.parquet"
    parquet.write_table(table, path, store_schema=False)
    assert path.stat().st_size < 10_000
    row = {"q": {"t": date(2031, 5, 1), "s": TEXT}}
    assert sum(found == row for _, found in tables.rows(path)) == rows
    assert pool.max_memory() < 2**25


@pytest.mark.parametrize("limit", [2**24, 0])
@pytest.mark.parametrize(
    "more",
    [
        {"dictionary_pagesize_limit": 2_000, "data_page_size": 1_000},
        {"use_dictionary": False},
        {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
        {"data_page_version": "2.0", "data_page_size": 1_000},
    ],
)
def test_texts_in_lists_are_read_however_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], limit: int
) -> None:
    monkeypatch.setattr(parquet_rows, "LISTED_LIMIT", limit)
    rows = []
    for number in range(500):
        text = f"{number:08}" * 4
        rows.append(
            {
                "list": None if number % 9 == 1 else ["same", text, None] * (number % 3),
                "deep": [[text, "same"], None, []],
                "objects": [{"a": "same", "b": [text]}, None],
                "object": {"a": ["same"], "raw": [text.encode()]},
            }
        )
    path = tmp_path / "t.parquet"
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, path, row_group_size=200, write_batch_size=16, **more)
    assert read(path) == rows


def test_rows_are_as_before_in_however_many_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {
            "q": f"Which {number % 7}?",
            "list": [f"a{number % 3}", None],
            "deep": [{"a": ["b"], "n": number}],
            "raw": b"\x01",
            "none": None,
        }
        for number in range(600)
    ]
    more = {
        "large": pyarrow.array(["a"] * 600, pyarrow.large_string()),
        "view": pyarrow.array(["a"] * 600, pyarrow.string_view()),
        "map": pyarrow.array(
            [[("k", "v")]] * 600, pyarrow.map_(pyarrow.string(), pyarrow.string())
        ),
        "kind": pyarrow.array(["a", "b"] * 300).dictionary_encode(),
    }
    table = pyarrow.Table.from_pylist(rows)
    for name, values in more.items():
        table = table.append_column(name, values)
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=250)
    whole = table.to_pylist()
    assert read(tmp_path / "t.parquet") == whole
    monkeypatch.setattr(parquet_rows, "ROW_LIMIT", 300)
    assert read(tmp_path / "t.parquet") == whole


@pytest.mark.parametrize("columns", [(), ("q", "t"), ("q", "t.text"), ("other",)])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, columns: tuple[str, ...]) -> None:
    values = [pyarrow.array(["Who?"]), pyarrow.array(["a"]), pyarrow.array(["b"])]
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.Table.from_arrays(values, ["q", "t", "t"]), path)
    with pytest.raises(InputError, match=r"t.parquet has several columns named 't': give each"):
        read(path, *columns)
    assert read(path, "q") == [{"q": "Who?"}]


def test_columns_of_a_corpus_with_a_file_of_its_own_are_not_looked_for_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "ROW_LIMIT", 2**16)
    written(tmp_path / "t.parquet", q=["Who?"], a=["Ada"], unused=[TEXT])
    write(tmp_path / "replies.jsonl", [{"asked": "Where?", "reply": "In Oslo."}])
    settings = {"prompt": "q", "targets": "a", "splits": {"shares": {"train": 1}}}
    corpus = {"file": "replies.jsonl", "prompt": "asked", "completion": "reply"}
    table = Table.model_validate({**settings, "file": "t.parquet", "corpus": corpus})
    assert len(list(Source(table).rows(tmp_path, Intake()))) == 2
    # The table may be named as the corpus's file, too; then its columns are the table's.
    corpus = {"file": "t.parquet", "completion": "unused"}
    table = Table.model_validate({**settings, "file": "t.parquet", "corpus": corpus})
    with pytest.raises(InputError, match=r"row 1 unpacks to"):
        list(Source(table).rows(tmp_path, Intake()))


def test_a_column_that_is_missing_is_said_with_all_that_are_there(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "answer": "Ada", "topic": "engines"}]
    for ending in (".parquet", ".csv"):
        path = write(tmp_path / f"t{ending}", rows)
        with pytest.raises(
            InputError,
            match=r"no column 'qestion': is it 'question'.*columns are question, answer, topic",
        ):
            load(path, prompt="qestion", targets="answer")
    path = tmp_path / "t.parquet"
    assert read(path, "question", "note", "note?") == [{"question": "Who?"}], "it may be missing"
