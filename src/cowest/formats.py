"""Tables that somebody else wrote, JSONL, CSV or Parquet: streamed, each row with its place. Any bytes give rows or an InputError."""

import csv
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from cowest import io
from cowest.errors import InputError, RecordError
from cowest.intake import Intake

Format = Literal["jsonl", "csv", "parquet"]
Row = dict[str, Any]
T = TypeVar("T")
ENDINGS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""As JSON writes it."""
BATCH = 256
"""Rows of a Parquet file that are held at once."""
ROW_GROUP_LIMIT = 2**30
"""Bytes, unpacked, of one row group of a Parquet file: a larger one would take the memory of all of us."""


def format_of(path: Path) -> Format:
    """The format that a file's ending says. Raises InputError where it says none."""
    found = ENDINGS.get(path.suffix.lower())
    if found is None:
        raise InputError(
            f"{path}: its ending says no format: name it {', '.join(ENDINGS)}, or set `format` ({', '.join(get_args(Format))})"
        )
    return found


def rows(
    path: Path,
    form: Format | None = None,
    delimiter: str | None = None,
    columns: Collection[str] | None = None,
    intake: Intake | None = None,
) -> Iterator[tuple[int, Row]]:
    """The rows of a file with their numbers: of the line that a row begins on, in Parquet of the row, both from 1.

    `delimiter` is for CSV (a comma, and a tab in .tsv); `columns` spares Parquet the rest of them. Values of CSV are texts, the
    others as the format has them. Raises InputError for a file that is unfit or has no rows; a row that is none goes into quarantine,
    and raises RecordError where there is none.
    """
    ordinary(path)
    form, intake = form or format_of(path), intake or Intake()
    if form == "csv":
        found = _csv_rows(path, delimiter or ("\t" if path.suffix.lower() == ".tsv" else ","), intake)
    else:
        found = io.json_rows(path, intake) if form == "jsonl" else _parquet_rows(path, columns)
    return _some(path, found, intake)


def raw_rows(path: Path, fields: Collection[str], intake: Intake | None = None) -> Iterator[tuple[int, Row]]:
    """The rows of a published file, JSONL, one JSON list or Parquet, each with the number of its line, or of its row.

    A row without text under those fields goes into quarantine, and raises RecordError where there is none. Raises as `rows` does.
    """
    intake = intake or Intake()
    parquet = ENDINGS.get(path.suffix.lower()) == "parquet"
    for number, row in _some(path, _parquet_rows(path, None) if parquet else io.json_items(path, intake), intake):
        if not isinstance(row, dict):
            intake.quarantine(path, number, f"{io.kind_of(row)}, not an object with the fields {', '.join(sorted(fields))}", row)
        elif parquet and (lacking := [field for field in fields if field not in row]):
            raise InputError(f"{path} has no column {', '.join(sorted(lacking))}: its columns are {', '.join(row)[:400]}")
        elif wrong := [field for field in fields if not isinstance(row.get(field), str) or not row[field].strip()]:
            intake.quarantine(path, number, f"{', '.join(sorted(wrong))}: missing, empty or not text", row)
        elif broken := _broken(row):
            intake.quarantine(path, number, broken, row)
        else:
            yield number, row


def ordinary(path: Path) -> None:
    """Raises InputError for a folder, and for a pipe or a device, which would be waited for."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}, not a table")


def _broken(row: Row) -> str | None:
    """What no text should hold, anywhere in a row: JSON can write it by its number."""
    try:
        said = json.dumps(row, ensure_ascii=False, default=str)
        if NUL.search(said):
            return "holds a NUL character"
        said.encode()
    except RecursionError:
        return "it is nested too deeply"
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate)"
    return None


def _some(path: Path, found: Iterator[tuple[int, T]], intake: Intake) -> Iterator[tuple[int, T]]:
    """The rows, if there are any. Raises InputError."""
    before = intake.bad
    first = next(found, None)
    if first is not None:
        yield first
    elif intake.bad == before:
        raise InputError(f"{path} has no rows")
    yield from found


class _Lines:
    """Lines for csv.reader, which joins those that a quote spans: no more of them than a row may hold."""

    def __init__(self, path: Path) -> None:
        self.held = self._number = 0
        self._path, self._lines = path, io.text_lines(path)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._number += 1
        self.held += len(line) + 1
        if self.held > io.LINE_LIMIT:
            raise csv.Error(f"a row is longer than {io.LINE_LIMIT // 2**20} MiB: is a quote not closed?")
        if "\0" in line:
            raise RecordError(f"{self._path}:{self._number}: {io.NUL}")
        return line + "\n"


def _csv_rows(path: Path, delimiter: str, intake: Intake) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(max(csv.field_size_limit(), io.LINE_LIMIT))  # of the process; our own limit is on the whole row
    lines = _Lines(path)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 1
    try:
        for fields in reader:
            if not header:
                header = _header(path, number, fields)
            elif len(fields) == len(header):
                yield number, dict(zip(header, fields, strict=True))
            elif fields:
                said = f"{len(fields)} fields, and the header has {len(header)}: is a delimiter or a quote missing, or the delimiter"
                intake.quarantine(path, number, f"{said} not {delimiter!r}?", delimiter.join(fields))
            number, lines.held = reader.line_num + 1, 0
    except csv.Error as error:
        raise RecordError(f"{path}:{number}: not CSV ({error}): in a quoted field a quote is written twice") from None


def _header(path: Path, number: int, fields: list[str]) -> list[str]:
    """The names of the columns; a blank line before them is passed over."""
    names = [field.strip() for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise RecordError(f"{path}:{number}: the header names {', '.join(map(repr, twice))} twice: give each column a name of its own")
    return names if any(names) else []


def _parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Row]]:
    _refuse_other_bytes(path)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{path}: pyarrow is missing, which reads Parquet: pip install 'cowest[parquet]'") from None
    try:
        # without a buffer ahead, a page of each column is held and not a row group
        with parquet.ParquetFile(path, buffer_size=2**16, pre_buffer=False) as file:
            names = _wanted(file.schema_arrow.names, columns)
            _refuse_large(path, file.metadata)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH, columns=names, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, NotImplementedError) as error:
        raise InputError(f"{path} can't be read as Parquet: {' '.join(str(error).split())[:200]}") from None


def _refuse_other_bytes(path: Path) -> None:
    start = io.beginning(path)
    if not start.startswith(b"PAR1"):
        io.refuse_packed(path, start)
        raise InputError(f"{path} {'is no Parquet file' if start else 'has no rows'}")


def _wanted(names: list[str], columns: Collection[str] | None) -> list[str] | None:
    """Which columns of the file hold those that are asked for; `answers.text` is in `answers`."""
    if columns is None:
        return None
    return [name for name in names if name in columns or any(column.startswith(f"{name}.") for column in columns)]


def _refuse_large(path: Path, metadata: Any) -> None:
    for number in range(metadata.num_row_groups):
        size = metadata.row_group(number).total_byte_size  # that of its columns ends the process where the footer is corrupt
        if size > ROW_GROUP_LIMIT:
            raise InputError(
                f"{path}: row group {number} unpacks to {size // 2**20} MiB, over {ROW_GROUP_LIMIT // 2**20}: write smaller row groups"
            )
