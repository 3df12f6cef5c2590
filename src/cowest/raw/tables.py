"""Tables that somebody else wrote, JSONL, CSV or Parquet: streamed, each row with its place. Any bytes give rows or an InputError."""

import csv
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import ValidationError

from cowest import io
from cowest.config import complaints
from cowest.errors import InputError, RecordError
from cowest.raw.intake import Intake, Unfit
from cowest.records import Record

Format = Literal["jsonl", "csv", "parquet"]
Row = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R", bound=Record)
ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
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
        found = _csv_rows(
            path, delimiter or ("\t" if path.suffix.lower() == ".tsv" else ","), intake
        )
    else:
        found = json_rows(path, intake) if form == "jsonl" else _parquet_rows(path, columns)
    return _some(path, found, intake)


def raw_rows(
    path: Path, fields: Collection[str], intake: Intake | None = None
) -> Iterator[tuple[int, Row]]:
    """The rows of a published file, JSONL, one JSON list or Parquet, each with the number of its line, or of its row.

    A row without text under those fields goes into quarantine, and raises RecordError where there is none. Raises as `rows` does.
    """
    intake = intake or Intake()
    parquet = ENDINGS.get(path.suffix.lower()) == "parquet"
    for number, row in _some(
        path, _parquet_rows(path, None) if parquet else json_items(path, intake), intake
    ):
        if not isinstance(row, dict):
            intake.quarantine(
                path,
                number,
                f"{kind_of(row)}, not an object with the fields {', '.join(sorted(fields))}",
                row,
            )
        elif parquet and (lacking := [field for field in fields if field not in row]):
            raise InputError(
                f"{path} has no column {', '.join(sorted(lacking))}: its columns are {', '.join(row)[:400]}"
            )
        elif wrong := [
            field
            for field in fields
            if not isinstance(row.get(field), str) or not row[field].strip()
        ]:
            intake.quarantine(
                path, number, f"{', '.join(sorted(wrong))}: missing, empty or not text", row
            )
        elif broken := _broken(row):
            intake.quarantine(path, number, broken, row)
        else:
            yield number, row


def ordinary(path: Path) -> None:
    """Raises InputError for a folder, and for a pipe or a device, which would be waited for."""
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}, not a table"
        )


def _broken(row: Row) -> str | None:
    """What no text should hold, anywhere in a row: JSON can write it by its number."""
    try:
        said = json.dumps(row, ensure_ascii=False, default=str)
        if ESCAPED_NUL.search(said):
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
        self._path, self._lines = path, text_lines(path)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._number += 1
        self.held += len(line) + 1
        if self.held > io.LINE_LIMIT:
            raise csv.Error(
                f"a row is longer than {io.LINE_LIMIT // 2**20} MiB: is a quote not closed?"
            )
        if "\0" in line:
            raise RecordError(f"{self._path}:{self._number}: {NUL}")
        return line + "\n"


def _csv_rows(path: Path, delimiter: str, intake: Intake) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(
        max(csv.field_size_limit(), io.LINE_LIMIT)
    )  # of the process; our own limit is on the whole row
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
                intake.quarantine(
                    path, number, f"{said} not {delimiter!r}?", delimiter.join(fields)
                )
            number, lines.held = reader.line_num + 1, 0
    except csv.Error as error:
        raise RecordError(
            f"{path}:{number}: not CSV ({error}): in a quoted field a quote is written twice"
        ) from None


def _header(path: Path, number: int, fields: list[str]) -> list[str]:
    """The names of the columns; a blank line before them is passed over."""
    names = [field.strip() for field in fields]
    twice = (
        sorted({name for name in names if names.count(name) > 1})
        if len(set(names)) < len(names)
        else []
    )
    if twice:
        raise RecordError(
            f"{path}:{number}: the header names {', '.join(map(repr, twice))} twice: give each column a name of its own"
        )
    return names if any(names) else []


def _parquet_rows(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Row]]:
    _refuse_other_bytes(path)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"{path}: pyarrow is missing, which reads Parquet: pip install 'cowest[parquet]'"
        ) from None
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
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        OverflowError,
        NotImplementedError,
    ) as error:
        raise InputError(
            f"{path} can't be read as Parquet: {' '.join(str(error).split())[:200]}"
        ) from None


def _refuse_other_bytes(path: Path) -> None:
    start = io.beginning(path)
    if not start.startswith(b"PAR1"):
        refuse_packed(path, start)
        raise InputError(f"{path} {'is no Parquet file' if start else 'has no rows'}")


def _wanted(names: list[str], columns: Collection[str] | None) -> list[str] | None:
    """Which columns of the file hold those that are asked for; `answers.text` is in `answers`."""
    if columns is None:
        return None
    return [
        name
        for name in names
        if name in columns or any(column.startswith(f"{name}.") for column in columns)
    ]


def _refuse_large(path: Path, metadata: Any) -> None:
    for number in range(metadata.num_row_groups):
        size = metadata.row_group(
            number
        ).total_byte_size  # that of its columns ends the process where the footer is corrupt
        if size > ROW_GROUP_LIMIT:
            raise InputError(
                f"{path}: row group {number} unpacks to {size // 2**20} MiB, over {ROW_GROUP_LIMIT // 2**20}: write smaller row groups"
            )


BOM = b"\xef\xbb\xbf"


PACKED = {
    b"\x1f\x8b": "packed by gzip",
    b"PK\x03\x04": "a zip archive, or a workbook",
    b"BZh91AY&SY": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"PAR1\x15": "Parquet under another name",
    b"\xff\xfe": "UTF-16, not UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8",
}
"""What a file is that begins with these bytes, and is no text."""


NUL = "a NUL byte, which no text has: is the file broken, or no text?"


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file that somebody else wrote: UTF-8, without line ends and without the mark that some editors begin with.

    Raises InputError for a file that is packed or in UTF-16, RecordError for a line that is no UTF-8. A NUL is passed on: see `NUL`.
    """
    refuse_packed(path, io.beginning(path))
    for number, line in enumerate(io.lines(path), 1):
        try:
            yield (line.removeprefix(BOM) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise RecordError(
                f"{path}:{number}: not UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1}): save the file as UTF-8, "
                "as with `iconv -f latin1 -t utf-8`"
            ) from None


def refuse_packed(path: Path, start: bytes) -> None:
    """Raises InputError where the first bytes of a file are those of an archive, or of UTF-16. Nothing is ever unpacked."""
    found = next((kind for mark, kind in PACKED.items() if start.startswith(mark)), None)
    if found is not None:
        raise InputError(f"{path} is {found}: give JSONL, CSV or Parquet itself")


def json_rows(path: Path, intake: Intake | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file that somebody else wrote, each with the number of its line. Blank lines are passed over.

    A line that is no JSON object goes into quarantine, and raises RecordError where there is none. Raises what `text_lines` raises.
    """
    intake = intake or Intake()
    for number, line in enumerate(text_lines(path), 1):
        if not line or line.isspace():
            continue
        try:
            row = _decoded(line)
        except (ValueError, RecursionError) as error:
            if number == 1 and line.lstrip()[0] == "[":
                raise RecordError(f"{path}:1: not JSON, one object a line ({error})") from None
            intake.quarantine(path, number, _no_json(line, error), line)
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            intake.quarantine(
                path, number, f"{kind_of(row)}, not an object: give one JSON object a line", line
            )


def _decoded(line: str) -> Any:
    """The value of a line: at once where it has no space around it, as nearly all have not."""
    try:
        row, end = _JSON.raw_decode(line)
    except ValueError:
        end = -1
    return row if end == len(line) else _JSON.decode(line)


def _no_json(line: str, error: Exception) -> str:
    if "\0" in line:
        return NUL
    why = "it is nested too deeply" if isinstance(error, RecursionError) else error
    return f"not JSON ({why}): mend the line, or take it out"


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON; null says that there is none")


_JSON = json.JSONDecoder(parse_constant=_no_number)


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words."""
    kinds = {
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        type(None): "null",
    }
    return kinds.get(type(value), type(value).__name__)


def json_items(path: Path, intake: Intake | None = None) -> Iterator[tuple[int, Any]]:
    """What a JSON file holds that somebody else wrote, one object a line or one list (which is held whole), each with its line."""
    if io.beginning(path).removeprefix(BOM).lstrip().startswith(b"["):
        return _list(path)
    return json_rows(path, intake)


def _list(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of a file that is one JSON list, each with the line it begins at."""
    blank = re.compile(r"\s*")
    at, number, last, text = 0, 1, 0, ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        at = blank.match(text, text.index("[") + 1).end()  # type: ignore[union-attr]
        while text[at : at + 1] != "]":
            number, last = number + text.count("\n", last, at), at
            row, end = _JSON.raw_decode(text, at)
            yield number, row
            at = blank.match(text, end).end()  # type: ignore[union-attr]
            if text[at : at + 1] == ",":
                at = blank.match(text, at + 1).end()  # type: ignore[union-attr]
            elif text[at : at + 1] != "]":
                raise ValueError("expected a comma or the end of the list")
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{path}:{number + text.count(chr(10), last, at)}: not JSON ({error}): mend the list"
        ) from None


def build(kind: type[R], **fields: Any) -> R:
    """A record made of a raw row's fields. Raises Unfit."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise Unfit(complaints(error)) from None
