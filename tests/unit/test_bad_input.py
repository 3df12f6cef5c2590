"""Files that are no tables, or broken ones: one clear error with the place, and nothing written.
The files are made here.
"""

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cowest.domains import domain
from cowest.domains.mapping import Table
from cowest.domains.table import Source
from cowest.errors import CoWestError, InputError
from cowest.raw.intake import Intake
from cowest.records import Query
from cowest.stages.prepare import PrepareConfig, main

Make = Callable[[Path], object]
GOOD = b'{"q": "Who?", "a": "Ada"}\n'
CSV = b"q,a\nWho?,Ada\n"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ALL = {"splits": {"shares": {"train": 1}}}
PLAIN: dict[str, Any] = {"prompt": "q", "targets": "a", **ALL}
QUIZ: dict[str, Any] = {
    "prompt": "{q}\n{choices}",
    "choices": ["x", "y"],
    "targets": "a",
    "keyed": "text",
    **ALL,
}


def holding(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


def parquet_of(**columns: list[Any]) -> Make:
    def make(path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns), path)

    return make


def gzip_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(20_000_000)))


def cut(make: Make) -> Make:
    def short(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[:-20])

    return short


BAD: list[tuple[str, str, Make, dict[str, Any], str]] = [
    ("broken JSON", "t.jsonl", holding(GOOD + b'{"q": \n'), PLAIN, r"t.jsonl:2: not JSON"),
    (
        "one JSON document",
        "t.jsonl",
        holding(b'[\n{"q": 1}\n]\n'),
        PLAIN,
        r"t.jsonl:1: not JSON, "
        r"one object a line",
    ),
    ("a list for a row", "t.jsonl", holding(b"[1]\n"), PLAIN, r"t.jsonl:1: a list, not an object"),
    (
        "Latin-1",
        "t.jsonl",
        holding(GOOD + '{"q": "é"}\n'.encode("latin-1")),
        PLAIN,
        r"t.jsonl:2: not UTF-8 \(byte 0xe9, number 8 of the line\): save",
    ),
    (
        "Latin-1 in CSV",
        "t.csv",
        holding(CSV + "Où?,là\n".encode("latin-1")),
        PLAIN,
        r"t.csv:3: not UTF-8",
    ),
    ("UTF-16", "t.csv", holding("q,a\nWho?,Ada\n".encode("utf-16")), PLAIN, r"t.csv is UTF-16"),
    ("a NUL byte", "t.jsonl", holding(GOOD + b'{"q": "\0"}\n'), PLAIN, r"t.jsonl:2: a NUL byte"),
    ("a NUL byte in CSV", "t.csv", holding(CSV + b"a\0,b\n"), PLAIN, r"t.csv:3: a NUL byte"),
    (
        "an escaped NUL",
        "t.jsonl",
        holding(b'{"q": "a\\u0000", "a": "b"}\n'),
        PLAIN,
        r"t.jsonl:1: 'q' holds a NUL character",
    ),
    (
        "half a character",
        "t.jsonl",
        holding(b'{"q": "a\\ud800", "a": "b"}\n'),
        PLAIN,
        r"t.jsonl:1: 'q' holds half a character",
    ),
    (
        "a line of 50 MB",
        "t.jsonl",
        holding(GOOD + b"x" * 50_000_000),
        PLAIN,
        r"t.jsonl:2 is "
        r"longer than 16 MiB",
    ),
    (
        "a row of 50 MB in CSV",
        "t.csv",
        holding(CSV + b'"' + (b"x" * 499 + b"\n") * 100_000),
        PLAIN,
        r"t.csv:3: .*a row is longer than 16 MiB",
    ),
    (
        "a repeated id",
        "t.jsonl",
        holding(GOOD + GOOD),
        {**PLAIN, "id": "q"},
        r"t.jsonl:2: q "
        r"'Who\?' comes twice",
    ),
    (
        "a column that is missing",
        "t.jsonl",
        holding(GOOD + b'{"q": "Who?"}\n'),
        PLAIN,
        r"t.jsonl:2: there is no column 'a'\. The columns are q",
    ),
    (
        "a renamed column",
        "t.csv",
        holding(b"quest,a\nWho?,Ada\n"),
        {**PLAIN, "prompt": "question"},
        r"t.csv:2: .*is it 'quest'\?",
    ),
    (
        "another delimiter",
        "t.csv",
        holding(b"q;a\nWho?;Ada\n"),
        PLAIN,
        r"t.csv:2: there is no "
        r"column 'q'.*q;a: if that is several, set `delimiter`",
    ),
    (
        "a missing field",
        "t.csv",
        holding(CSV + b"Who?\n"),
        PLAIN,
        r"t.csv:3: 1 fields, and the "
        r"header has 2",
    ),
    (
        "a column named twice",
        "t.csv",
        holding(b"q,q\na,b\n"),
        PLAIN,
        r"t.csv:1: the header names "
        r"'q' twice",
    ),
    (
        "an open quote",
        "t.csv",
        holding(CSV + b'"Who?,Ada\n'),
        PLAIN,
        r"t.csv:3: not CSV "
        r"\(unexpected end of data\)",
    ),
    ("a quote inside", "t.csv", holding(CSV + b'"Who" is?,Ada\n'), PLAIN, r"t.csv:3: not CSV"),
    ("an empty file", "t.jsonl", holding(b""), PLAIN, r"t.jsonl has no rows"),
    ("an empty CSV", "t.csv", holding(b""), PLAIN, r"t.csv has no rows"),
    ("a header alone", "t.csv", holding(b"q,a\n"), PLAIN, r"t.csv has no rows"),
    ("an empty Parquet file", "t.parquet", holding(b""), PLAIN, r"t.parquet has no rows"),
    (
        "a Parquet file without rows",
        "t.parquet",
        parquet_of(q=[], a=[]),
        PLAIN,
        r"t.parquet has "
        r"no rows",
    ),
    (
        "a folder for a file",
        "t.jsonl",
        Path.mkdir,
        {**PLAIN, "file": "t.jsonl"},
        r"t.jsonl: is a "
        r"folder",
    ),
    ("a folder, and no table", "t.jsonl", Path.mkdir, PLAIN, r"has no table: name one"),
    ("a pipe", "t.jsonl", os.mkfifo, {**PLAIN, "file": "t.jsonl"}, r"t.jsonl: no such file"),
    (
        "no such file",
        "t.jsonl",
        lambda path: None,
        {**PLAIN, "file": "t.jsonl"},
        r"t.jsonl: no "
        r"such file",
    ),
    (
        "an unknown ending",
        "t.xlsx",
        holding(GOOD),
        {**PLAIN, "file": "t.xlsx"},
        r"t.xlsx: its "
        r"ending says no "
        r"format",
    ),
    (
        "NaN",
        "t.jsonl",
        holding(b'{"q": "Who?", "a": NaN}\n'),
        PLAIN,
        r"t.jsonl:1: not JSON.*NaN "
        r"is no JSON",
    ),
    (
        "a key twice",
        "t.jsonl",
        holding(b'{"q": "Who?", "a": "x", "q": "When?"}\n'),
        PLAIN,
        r"t.jsonl:1: 'q' stands twice in an object, and one value would be lost",
    ),
    (
        "a list with a key twice",
        "t.jsonl",
        holding(b'[{"q": "Who?", "a": "x", "q": "When?"}]\n'),
        PLAIN,
        r"t.jsonl:1: a list, not an object",
    ),
    (
        "infinity",
        "t.jsonl",
        holding(b'{"q": "Who?", "a": -Infinity}\n'),
        PLAIN,
        r"-Infinity is no "
        r"JSON",
    ),
    (
        "a float that overflows",
        "t.jsonl",
        holding(b'{"q": "Who?", "a": 1e999}\n'),
        PLAIN,
        r"t.jsonl:1: 'a' is inf, no finite number",
    ),
    (
        "NaN in Parquet",
        "t.parquet",
        parquet_of(q=["Who?"], a=[float("nan")]),
        PLAIN,
        r"t.parquet:1: 'a' is nan, no finite number",
    ),
    (
        "an int that overflows",
        "t.jsonl",
        holding(b'{"q": "Who?", "a": ' + b"9" * 5000 + b"}\n"),
        PLAIN,
        r"t.jsonl:1: not JSON",
    ),
    (
        "Parquet of another schema",
        "t.parquet",
        parquet_of(question=["Who?"], a=["Ada"]),
        PLAIN,
        r"t.parquet:1: there is no column 'q'",
    ),
    (
        "Parquet of another type",
        "t.parquet",
        parquet_of(q=[b"Who?"], a=["Ada"]),
        PLAIN,
        r"t.parquet:1: 'q' is bytes, not a text",
    ),
    (
        "Parquet that was cut",
        "t.parquet",
        cut(parquet_of(q=["Who?"], a=["Ada"])),
        PLAIN,
        r"t.parquet can't be read as Parquet",
    ),
    (
        "a pointer of Git LFS",
        "t.csv",
        holding(LFS),
        PLAIN,
        r"t.csv is a pointer of Git LFS.*`git lfs",
    ),
    ("Parquet in Git LFS", "t.parquet", holding(LFS), PLAIN, r"t.parquet is a pointer of Git LFS"),
    ("CSV called Parquet", "t.parquet", holding(CSV), PLAIN, r"t.parquet is no Parquet file"),
    (
        "Parquet called CSV",
        "t.csv",
        parquet_of(q=["Who?"], a=["Ada"]),
        PLAIN,
        r"t.csv is Parquet "
        r"under another name",
    ),
    (
        "a list with deep nesting",
        "t.json",
        holding(b"[" * 200_000 + b"\n"),
        PLAIN,
        r"t.json:1: not JSON .*mend the list",
    ),
    ("an empty list", "t.json", holding(b"[]"), PLAIN, r"t.json has no rows"),
    (
        "deep nesting",
        "t.jsonl",
        holding(b'{"q": ' + b"[" * 200_000 + b"\n"),
        PLAIN,
        r"t.jsonl:1: not JSON",
    ),
    (
        "a list for a text",
        "t.jsonl",
        holding(b'{"q": ["Who?"], "a": "Ada"}\n'),
        PLAIN,
        r"t.jsonl:1: 'q' is a list, not a text",
    ),
    (
        "an object for a text",
        "t.jsonl",
        holding(b'{"q": {"x": 1}, "a": "Ada"}\n'),
        PLAIN,
        r"'q' is an object: name what is in it",
    ),
    (
        "an empty target",
        "t.jsonl",
        holding(b'{"q": "Who?", "a": " "}\n'),
        PLAIN,
        r"t.jsonl:1: there is no target",
    ),
    (
        "an empty prompt",
        "t.jsonl",
        holding(b'{"q": null, "a": "b"}\n'),
        PLAIN,
        r"t.jsonl:1: 'q' "
        r"is empty",
    ),
    (
        "a missing option",
        "t.csv",
        holding(b"q,x,y,a\nWho?,Ada,,Ada\n"),
        QUIZ,
        r"t.csv:2: 'y' is "
        r"empty",
    ),
    (
        "two equal options",
        "t.csv",
        holding(b"q,x,y,a\nWho?,Ada,Ada ,Ada\n"),
        QUIZ,
        r"t.csv:2: two "
        r"options say "
        r"the same",
    ),
    (
        "one option",
        "t.jsonl",
        holding(b'{"q": "Who?", "o": ["Ada"], "a": "Ada"}\n'),
        {**QUIZ, "choices": "o"},
        r"'o' has 1 options",
    ),
    (
        "a target that is no option",
        "t.csv",
        holding(b"q,x,y,a\nWho?,Ada,Bob,Eve\n"),
        QUIZ,
        r"t.csv:2: the target 'Eve' is not among the 2",
    ),
    (
        "a split with no rows",
        "t.jsonl",
        holding(GOOD),
        {"prompt": "q", "targets": "a"},
        r"t.jsonl: no row falls into",
    ),
    ("a gzip bomb", "t.jsonl", gzip_bomb, PLAIN, r"t.jsonl is packed by gzip"),
    ("a gzip bomb called Parquet", "t.parquet", gzip_bomb, PLAIN, r"t.parquet is packed by gzip"),
    (
        "a workbook",
        "t.csv",
        holding(b"PK\x03\x04" + bytes(50)),
        PLAIN,
        r"t.csv is a zip archive, "
        r"or a workbook",
    ),
]


@pytest.mark.parametrize(
    ("name", "make", "table", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_a_bad_file_is_one_clear_error_and_nothing_is_written(
    tmp_path: Path, name: str, make: Make, table: dict[str, Any], said: str
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    make(raw / name)
    config = PrepareConfig.model_validate({"domain": "table", "table": table})
    with pytest.raises(CoWestError, match=said) as error:
        main(raw, out / "queries.jsonl", out / "corpus.jsonl", out / "quarantine.jsonl", config)
    assert len(str(error.value)) < 1000 and "Traceback" not in str(error.value)
    assert not list(out.iterdir())


QUESTION: dict[str, Any] = {
    "question": "Which gland?",
    "opa": "A",
    "opb": "B",
    "opc": "C",
    "opd": "D",
    "cop": 1,
    "exp": None,
}


def question(**changed: Any) -> bytes:
    return json.dumps({**QUESTION, **changed}).encode() + b"\n"


PUBLISHED: list[tuple[str, str, Make, str]] = [
    (
        "broken JSON",
        "train.jsonl",
        holding(question() + b'{"q": \n'),
        r"raw/train.jsonl:2: not JSON",
    ),
    (
        "a list cut short",
        "train.json",
        holding(b"[" + question() + b","),
        r"raw/train.json:2: not "
        r"JSON",
    ),
    (
        "a comma at the end of a list",
        "train.json",
        holding(b"[" + question() + b",\n]"),
        r"raw/train.json:3: not JSON \(Expecting value.*mend the list",
    ),
    (
        "more after the end of a list",
        "train.json",
        holding(b"[" + question() + b"]\n[" + question() + b"]"),
        r"raw/train.json:3: not JSON \(there is more after the end of the list\)",
    ),
    (
        "Latin-1",
        "train.jsonl",
        holding(question() + b'{"question": "\xe9"}'),
        r"raw/train.jsonl:2: not UTF-8",
    ),
    (
        "UTF-16",
        "train.jsonl",
        holding(question().decode().encode("utf-16")),
        r"raw/train.jsonl is "
        r"UTF-16",
    ),
    ("a NUL byte", "train.jsonl", holding(b'{"question": "\0"}'), r"raw/train.jsonl:1: a NUL byte"),
    (
        "a line of 50 MB",
        "train.jsonl",
        holding(question() + b"x" * 50_000_000),
        r"raw/train.jsonl:2 is longer than 16 MiB",
    ),
    ("an empty file", "train.jsonl", holding(b""), r"raw/train.jsonl has no rows"),
    ("a folder for a file", "train.jsonl", Path.mkdir, r"raw: no data set here"),
    (
        "NaN",
        "train.jsonl",
        holding(question(cop=float("nan"))),
        r"raw/train.jsonl:1: not "
        r"JSON.*NaN is no JSON",
    ),
    (
        "an int that overflows",
        "train.jsonl",
        holding(b'{"cop": ' + b"9" * 5000 + b"}"),
        r"raw/train.jsonl:1: not JSON",
    ),
    (
        "deep nesting",
        "train.jsonl",
        holding(b"[" + b'{"a":' * 200_000),
        r"raw/train.jsonl:1: not "
        r"JSON",
    ),
    ("a gzip bomb", "train.jsonl", gzip_bomb, r"raw/train.jsonl is packed by gzip"),
    (
        "a gzip bomb called Parquet",
        "train.parquet",
        gzip_bomb,
        r"raw/train.parquet is packed by "
        r"gzip",
    ),
    (
        "Parquet of another schema",
        "train.parquet",
        parquet_of(q=["Who?"]),
        r"raw/train.parquet "
        r"has no column opa, "
        r".*its columns are q",
    ),
    (
        "Parquet that was cut",
        "train.parquet",
        cut(parquet_of(q=["Who?"])),
        r"raw/train.parquet "
        r"can't be read as "
        r"Parquet",
    ),
    (
        "a missing column",
        "train.jsonl",
        holding(question() + b'{"question": "Who?"}'),
        r"train.jsonl:2: opa, opb, opc, opd: missing",
    ),
    (
        "a missing option",
        "train.jsonl",
        holding(question(opd=" ")),
        r"raw/train.jsonl:1: opd: "
        r"missing, empty or not text",
    ),
    (
        "a target that is no option",
        "train.jsonl",
        holding(question(cop=5)),
        r"raw/train.jsonl:1: "
        r"cop: expected the "
        r"number .* 1 to 4",
    ),
    (
        "an escaped NUL",
        "train.jsonl",
        holding(question(exp="a \\\0 b")),
        r"raw/train.jsonl:1: "
        r"holds a NUL character",
    ),
    (
        "half a character",
        "train.jsonl",
        holding(question(question="a\ud800 b c d")),
        r"raw/train.jsonl:1: holds half a character",
    ),
]


@pytest.mark.parametrize(
    ("name", "make", "said"), [case[1:] for case in PUBLISHED], ids=[case[0] for case in PUBLISHED]
)
def test_a_bad_published_file_is_one_clear_error_and_nothing_is_written(
    tmp_path: Path, name: str, make: Make, said: str
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    make(raw / name)
    config = PrepareConfig.model_validate({"domain": "medmcqa", "draft": "direct"})
    with pytest.raises(CoWestError, match=said) as error:
        main(raw, out / "queries.jsonl", out / "corpus.jsonl", out / "quarantine.jsonl", config)
    assert len(str(error.value)) < 1000 and not list(out.iterdir())


def test_what_is_unusual_and_sound_is_read(tmp_path: Path) -> None:
    """A byte-order mark, CRLF, blank lines, a repeated row, and newlines in quotes."""
    (tmp_path / "train.jsonl").write_bytes(
        b"\xef\xbb\xbf" + question().replace(b"\n", b"\r\n") + b"\r\n" + question()
    )
    assert len(list(domain({"domain": "medmcqa", "draft": "direct"}).load(tmp_path))) == 1
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbfq,a\r\n"Who\r\nis it?",Ada\r\n')
    assert read(tmp_path / "t.csv", PLAIN) == 2


def test_a_row_group_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cowest.raw.parquet_rows.ROW_GROUP_LIMIT", 10)
    parquet_of(q=["Who?"], a=["Ada"])(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="row group 0 unpacks to"):
        read(tmp_path / "t.parquet", PLAIN)


def test_the_loader_of_the_demo_refuses_the_same(tmp_path: Path) -> None:
    for name, content in (
        ("Latin-1", b"\xe9\n"),
        ("NUL", b"\0\n"),
        ("gzip", gzip.compress(b"")),
        ("nesting", b"[" * 200_000),
    ):
        (tmp_path / "questions.jsonl").write_bytes(content)
        with pytest.raises(InputError):
            list(domain("handbook").load(tmp_path))
        assert name


def read(path: Path, table: dict[str, Any]) -> int:
    source = Source(Table.model_validate(table))
    return len(list(source.load(path))) + len(list(source.corpus(path)))


def survives(path: Path, content: bytes, table: dict[str, Any]) -> None:
    """Rows or a CoWestError come out."""
    path.write_bytes(content)
    try:
        assert read(path, table)
    except CoWestError as error:
        assert str(error)


ANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("qaxy"), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@ANY
@given(
    content=st.binary(max_size=300),
    ending=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]),
    start=st.sampled_from([b"", GOOD, CSV, b"PAR1", b"[" + GOOD]),
)
def test_any_bytes(tmp_path: Path, content: bytes, ending: str, start: bytes) -> None:
    survives(tmp_path / f"t.{ending}", start + content, PLAIN)


@pytest.mark.slow
@ANY
@given(
    rows=st.lists(st.dictionaries(st.sampled_from("qaxy"), VALUES, max_size=4), max_size=4),
    table=st.sampled_from([PLAIN, QUIZ]),
)
def test_any_json(tmp_path: Path, rows: list[dict[str, Any]], table: dict[str, Any]) -> None:
    survives(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode(), table)


@pytest.mark.slow
@ANY
@given(
    text=st.text(st.sampled_from('qaxy,;"\n\r \t\\é\ufeff0'), max_size=60),
    table=st.sampled_from([PLAIN, QUIZ]),
)
def test_any_csv(tmp_path: Path, text: str, table: dict[str, Any]) -> None:
    survives(tmp_path / "t.csv", b"q,a,x,y\n" + text.encode(), table)


@pytest.mark.slow
@settings(ANY, derandomize=True)
@given(data=st.data())
def test_parquet_with_bytes_changed(tmp_path: Path, data: st.DataObject) -> None:
    parquet_of(q=["Who?", "Where?"], a=["Ada", "Oslo"])(tmp_path / "whole.parquet")
    content = bytearray((tmp_path / "whole.parquet").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    survives(tmp_path / "t.parquet", bytes(content), PLAIN)


@pytest.mark.slow
def test_a_footer_that_would_end_the_process_is_an_error(tmp_path: Path) -> None:
    """pyarrow's words on a column's size end the process where its statistics are corrupt; so
    they are not asked for.
    """
    parquet_of(q=["Who?", "Where?"], a=["Ada", "Oslo"])(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for place in range(len(whole) - struct.unpack("<I", whole[-8:-4])[0] - 8, len(whole) - 8):
        survives(
            tmp_path / "t.parquet",
            whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :],
            PLAIN,
        )


@pytest.mark.slow
@ANY
@given(
    fields=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.text(st.characters(exclude_categories=["Cs"])),
        ),
        max_size=6,
    )
)
def test_what_a_csv_writer_writes_is_read_back(
    tmp_path: Path, fields: list[tuple[str, str]]
) -> None:
    import csv

    from cowest.raw.tables import rows, sound

    fields = [tuple(field.replace("\0", "").replace("\r", "") for field in pair) for pair in fields]  # type: ignore[misc]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("q", "a"), *fields])
    # As spreadsheets leave them: rows without any text are passed over.
    fields = [pair for pair in fields if any(field.strip() for field in pair)]
    if not fields:
        return
    read_back = sound(tmp_path / "t.csv", rows(tmp_path / "t.csv"))
    assert [(row["q"], row["a"]) for _, row in read_back] == fields


SOUND: dict[str, dict[str, Any]] = {
    "ifqa": {
        "question": "If it had opened, when?",
        "answers": ["1962"],
        "context": ["It opened in 1960."],
    },
    "medmcqa": {**QUESTION, "subject_name": "Physiology", "choice_type": "single"},
    "prosocial": {
        "context": "I took the cake.",
        "safety_label": "__casual__",
        "rots": ["It's wrong."],
        "dialogue_id": 7,
    },
}
ODD = st.sampled_from(
    [
        "\ud800 or so",
        "",
        " ",
        "\0",
        [],
        [""],
        ["\ud800"],
        [None],
        None,
        -1,
        0,
        9,
        1e300,
        True,
        {},
        "Ans. b",
        "__x__",
    ]
)


@pytest.mark.slow
@ANY
@given(data=st.data(), name=st.sampled_from(list(SOUND)), listed=st.booleans())
def test_any_published_row(tmp_path: Path, data: st.DataObject, name: str, listed: bool) -> None:
    """Sound rows with up to two fields changed or gone: each is used, left out or quarantined,
    and no other error comes.
    """
    rows = []
    for _ in range(data.draw(st.integers(1, 3))):
        changed = data.draw(
            st.dictionaries(st.sampled_from(list(SOUND[name])), ODD | VALUES, max_size=2)
        )
        gone = data.draw(st.sampled_from([None, *SOUND[name]]))
        rows.append(
            {field: value for field, value in {**SOUND[name], **changed}.items() if field != gone}
        )
    path = tmp_path / "t.json"
    path.write_text(
        json.dumps(rows, indent=1) if listed else "".join(json.dumps(row) + "\n" for row in rows)
    )
    intake = Intake(100)
    try:
        made = [
            row
            for row in domain({"domain": name, "draft": "direct"}).rows(path, intake)
            if isinstance(row, Query)
        ]
    except CoWestError as error:
        assert str(error)
    else:
        assert len(made) == intake.used and intake.rows == len(rows)


def test_a_backslash_with_its_letters_is_no_nul(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(question(exp="\\u0000 is how JSON writes it"))
    assert len(list(domain({"domain": "medmcqa", "draft": "direct"}).load(tmp_path))) == 1
