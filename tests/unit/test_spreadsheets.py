"""Tables as spreadsheets and data frames leave them: line ends, heads, and values with types."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowest.domains import published
from cowest.domains.table import file_of
from cowest.errors import InputError, RecordError
from cowest.raw import sources, tables
from cowest.raw.files import Bad
from tests.tables import everything, load, write


def read(path: Path, content: bytes) -> list[tuple[int, Any]]:
    path.write_bytes(content)
    return list(tables.rows(path))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\r\r\n"])
def test_lines_end_as_any_system_ends_them(tmp_path: Path, end: bytes) -> None:
    rows = [b'q,"a, b"', b"Which lock?,Tarn", b'"Which ""gate""?",Mere', b""]
    found = read(tmp_path / "t.csv", end.join(rows))
    assert found == [
        (2, {"q": "Which lock?", "a, b": "Tarn"}),
        (3, {"q": 'Which "gate"?', "a, b": "Mere"}),
    ]
    objects = [b'{"q": "Which \\"lock?"}', b'{"q": 2}', b""]
    assert read(tmp_path / "t.jsonl", end.join(objects)) == [
        (1, {"q": 'Which "lock?'}),
        (2, {"q": 2}),
    ]


def test_a_line_end_of_another_kind_inside_quotes_ends_no_row(tmp_path: Path) -> None:
    """Excel for the Mac: rows end with CR, and a break in a cell is LF."""
    found = read(tmp_path / "t.csv", b'"q\nasked",a\r"one\ntwo",1\rthree,2\r')
    assert found == [(3, {"q\nasked": "one\ntwo", "a": "1"}), (5, {"q\nasked": "three", "a": "2"})]
    kept = read(tmp_path / "t.csv", b'q,a\n"one\rtwo",1\n')
    assert kept == [(2, {"q": "one\rtwo", "a": "1"})]


@settings(max_examples=40, deadline=None)
@given(cells=st.lists(st.text(st.sampled_from('ab,"\n;é'), min_size=1), min_size=2, max_size=8))
def test_the_line_end_changes_no_row(tmp_path_factory: Any, cells: list[str]) -> None:
    path = tmp_path_factory.mktemp("ends") / "t.csv"
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    read_back = []
    for end in ("\n", "\r\n", "\r"):
        found = read(path, end.join(["q", *quoted, "end"]).encode())
        read_back.append([row for _, row in found])
    assert read_back[0] == read_back[1] == read_back[2]


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;"])
def test_a_line_for_excel_says_the_delimiter_and_is_no_header(tmp_path: Path, first: str) -> None:
    found = read(tmp_path / "t.csv", f"{first}\nq;a\nWhich lock, then?;Tarn\n".encode())
    assert found == [(3, {"q": "Which lock, then?", "a": "Tarn"})]
    path = tmp_path / "t.csv"
    assert dict(tables.rows(path, delimiter=","))[3] == Bad(
        "2 fields, and the header has 1: is a delimiter or a quote missing, or the delimiter not "
        "','?",
        "Which lock, then?;Tarn",
    )


def test_heads_that_are_empty_name_no_column(tmp_path: Path) -> None:
    found = read(tmp_path / "t.csv", b"q,a,,\nWhich lock?,Tarn,,\n,,,\nWhich gate?,Mere\n")
    assert found == [
        (2, {"q": "Which lock?", "a": "Tarn"}),
        (4, {"q": "Which gate?", "a": "Mere"}),
    ]
    numbered = read(tmp_path / "t.csv", b",q,a\n0,Which lock?,Tarn\n")
    assert numbered == [(2, {"q": "Which lock?", "a": "Tarn"})]


@pytest.mark.parametrize(
    "row", ["Which lock,,then?,Tarn", "Which lock?,,see below,Tarn", "Which lock?"]
)
def test_a_text_under_an_empty_head_is_never_passed_over(tmp_path: Path, row: str) -> None:
    """It may be the second half of a question that was torn at its comma."""
    path = tmp_path / "t.csv"
    path.write_text(f"q,note,,a\nWhich gate?,,,Mere\n{row}\n")
    with pytest.raises(
        RecordError, match=r"t.csv:3: (column 3 has no name in the header, and says|1 fields)"
    ):
        load(path, prompt="q", targets="a", **everything())


def test_a_macs_own_files_are_no_tables(tmp_path: Path) -> None:
    notes = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "
    write(tmp_path / "locks.csv", [{"question": "Which lock?", "answer": "Tarn"}])
    (tmp_path / "._locks.csv").write_bytes(notes)
    assert file_of(tmp_path, None) == tmp_path / "locks.csv"
    fetched = sources.fetch(str(tmp_path), tmp_path.with_name(f"{tmp_path.name}.fetched"))
    assert [name for name, *_ in fetched] == ["locks.csv"]
    with pytest.raises(InputError, match=r"\._locks.csv is AppleDouble: a Mac's notes"):
        list(tables.rows(tmp_path / "._locks.csv"))
    (tmp_path / "._train.jsonl").write_bytes(notes)
    (tmp_path / "train.jsonl").write_text("{}\n")
    assert list(published.files(tmp_path)) == [tmp_path / "train.jsonl"]


def answers(path: Path, column: str = "a") -> list[tuple[str, ...]]:
    return [query.targets for query in load(path, prompt="q", targets=column, **everything())]


def parquet(path: Path, values: list[Any], kind: Any) -> Path:
    import pyarrow
    from pyarrow import parquet as files

    count = [f"Reading {number}?" for number in range(len(values))]
    files.write_table(pyarrow.table({"q": count, "a": pyarrow.array(values, kind)}), path)
    return path


def test_a_float_is_the_shortest_decimal_of_its_type(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "t.parquet"
    told = [0.7, 1e-7, 3.0, 16777216.0, 3.4028234663852886e38]
    shortest = ["0.7", "0.0000001", "3", "16777216", "34028235" + "0" * 31]
    assert answers(parquet(path, told, pa.float32())) == [(text,) for text in shortest]
    halves = parquet(path, [0.7, 1.5, 65504.0], pa.float16())
    assert answers(halves) == [("0.7",), ("1.5",), ("65504",)]
    lists = parquet(path, [[0.7, 0.1], [2.5]], pa.list_(pa.float32()))
    assert answers(lists) == [("0.7", "0.1"), ("2.5",)]
    nested = parquet(path, [{"x": 0.7}, {"x": 0.3}], pa.struct([("x", pa.float32())]))
    assert answers(nested, "a.x") == [("0.7",), ("0.3",)]


def test_no_number_has_an_exponent(tmp_path: Path) -> None:
    import pyarrow as pa

    text = '{"q": "a?", "a": 0.00000042}\n{"q": "b?", "a": 1.5e22}\n{"q": "c?", "a": 1E+3}\n'
    (tmp_path / "t.jsonl").write_text(text)
    assert answers(tmp_path / "t.jsonl") == [("0.00000042",), ("15" + "0" * 21,), ("1000",)]
    exact = [Decimal("0.00000042"), Decimal("12.50000000")]
    path = parquet(tmp_path / "t.parquet", exact, pa.decimal128(20, 8))
    assert answers(path) == [("0.00000042",), ("12.50000000",)]


def test_time_stamps_are_days_where_all_of_the_column_are(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "t.parquet"
    days = [datetime(2031, 5, 1), datetime(2031, 5, 2)]
    for unit in ("s", "us", "ns"):
        assert answers(parquet(path, days, pa.timestamp(unit))) == [
            ("2031-05-01",),
            ("2031-05-02",),
        ]
    times = [datetime(2031, 5, 1), datetime(2031, 5, 2, 6, 30)]
    assert answers(parquet(path, times, pa.timestamp("us"))) == [
        ("2031-05-01 00:00:00",),
        ("2031-05-02 06:30:00",),
    ]
    there = [datetime(2031, 4, 30, 22, tzinfo=UTC)]
    assert answers(parquet(path, there, pa.timestamp("us", tz="Europe/Berlin"))) == [
        ("2031-05-01",)
    ]
    lists = parquet(path, [[days[0]], [days[1]]], pa.list_(pa.timestamp("us")))
    assert answers(lists) == [("2031-05-01",), ("2031-05-02",)]
    assert answers(parquet(path, [date(2031, 5, 1)], pa.date32())) == [("2031-05-01",)]
