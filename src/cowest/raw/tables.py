"""Tables that somebody else wrote: JSONL, JSON lists, CSV and Parquet, read row by row.

Readers stream (a JSON list alone is held whole). Per raw row they yield its number and either the
row or a `Bad`, which says why it can't be used. Whoever reads decides what becomes of bad rows:
a domain hands them to its intake, `sound` stops at the first one. A file that can't be read on
raises InputError, or RecordError with the line. No bytes lead to any other error.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from cowest import io
from cowest.errors import InputError, RecordError

Format = Literal["jsonl", "csv", "parquet"]
Row = dict[str, Any]
T = TypeVar("T")
ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
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
"""First bytes of files that are no text, and the words for them."""
BOM = b"\xef\xbb\xbf"
"""The byte-order mark that some editors write at the start of a UTF-8 file."""
NUL = "a NUL byte, which no text has: is the file broken, or no text?"
ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL character as JSON writes it."""
BLANKS = re.compile(r"\s*")
BATCH = 256
"""Number of rows of a Parquet file that are held at once."""
ROW_GROUP_LIMIT = 2**30
"""Largest row group of a Parquet file, in bytes once unpacked: more could exhaust the memory."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A raw row that can't be used."""

    reason: str
    raw: Any
    """The row as far as it was read: the text of its line, or its decoded value."""


def rows(
    path: Path,
    form: Format | None = None,
    delimiter: str | None = None,
    columns: Collection[str] | None = None,
) -> Iterator[tuple[int, Row | Bad]]:
    """The rows of a table with their numbers, counted from 1.

    The number is that of the line on which a row begins; in Parquet, that of the row. `form` is by
    default what the file's ending says, `delimiter` (of CSV) a comma, or a tab in a .tsv file.
    Of Parquet only `columns` are read, if they are given. Values of CSV are texts; the other
    formats have types. Raises InputError for a file that is unfit or has no rows.
    """
    ordinary(path)
    form = form or format_of(path)
    found: Iterator[tuple[int, Row | Bad]]
    if form == "csv":
        found = _csv_rows(path, delimiter or usual_delimiter(path))
    elif form == "jsonl":
        found = json_rows(path)
    else:
        found = _parquet_rows(path, columns)
    return _some(path, found)


def raw_rows(path: Path, fields: Collection[str]) -> Iterator[tuple[int, Row | Bad]]:
    """The rows of a published file (JSONL, one JSON list, or Parquet) with their numbers.

    A row without text under each of `fields` is bad. Raises as `rows` does.
    """
    parquet = ENDINGS.get(path.suffix.lower()) == "parquet"
    found = _parquet_rows(path, None) if parquet else _json_items(path)
    for number, row in _some(path, found):
        if isinstance(row, Bad):
            yield number, row
            continue
        if parquet:
            _refuse_missing_columns(path, row, fields)
        reason = _why_bad(row, fields)
        yield number, row if reason is None else Bad(reason, row)


def json_rows(path: Path) -> Iterator[tuple[int, Row | Bad]]:
    """The objects of a JSONL file, each with the number of its line. Blank lines are passed over.

    A line that is no JSON object is bad. Raises what `text_lines` raises.
    """
    for number, line in enumerate(text_lines(path), 1):
        if not line or line.isspace():
            continue
        try:
            row = _decoded(line)
        except (ValueError, RecursionError) as error:
            # One JSON list over many lines is another format. Without this, every line of the
            # file would be a bad row.
            if number == 1 and line.lstrip()[0] == "[":
                raise RecordError(f"{path}:1: not JSON, one object a line ({error})") from None
            yield number, Bad(_not_json(line, error), line)
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            yield number, Bad(f"{_kind(row)}, not an object: give one JSON object a line", line)


def sound(path: Path, found: Iterable[tuple[int, Row | Bad]]) -> Iterator[tuple[int, Row]]:
    """Passes good rows on. Raises RecordError, with file and line, at the first bad row."""
    for number, row in found:
        if isinstance(row, Bad):
            raise RecordError(f"{path}:{number}: {row.reason}")
        yield number, row


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, without line ends and without a byte-order mark.

    A NUL is passed on. Raises InputError for a file that is packed or in UTF-16, RecordError for a
    line that is not UTF-8.
    """
    refuse_packed(path, io.beginning(path))
    for number, line in enumerate(io.lines(path), 1):
        if number == 1:
            line = line.removeprefix(BOM)
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise RecordError(
                f"{path}:{number}: not UTF-8 (byte 0x{line[error.start]:02x} at "
                f"{error.start + 1}): save the file as UTF-8, as with `iconv -f latin1 -t utf-8`"
            ) from None


def format_of(path: Path) -> Format:
    """The format that a file's ending names. Raises InputError if it names none."""
    found = ENDINGS.get(path.suffix.lower())
    if found is None:
        raise InputError(
            f"{path}: its ending says no format: name it {', '.join(ENDINGS)}, or set `format` "
            f"({', '.join(get_args(Format))})"
        )
    return found


def usual_delimiter(path: Path) -> str:
    """The delimiter that the ending of a CSV file suggests: a tab for .tsv, else a comma."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def ordinary(path: Path) -> None:
    """Raises InputError for a folder, and for a pipe or device, which would be waited for."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no ordinary file"
        raise InputError(f"{path} is {kind}, not a table")


def refuse_packed(path: Path, start: bytes) -> None:
    """Raises InputError if a file's first bytes are those of an archive, or of UTF-16."""
    # Nothing is ever unpacked: a few kilobytes from a stranger could become gigabytes.
    for mark, kind in PACKED.items():
        if start.startswith(mark):
            raise InputError(f"{path} is {kind}: give JSONL, CSV or Parquet itself")


def _some(path: Path, found: Iterator[tuple[int, T]]) -> Iterator[tuple[int, T]]:
    """Passes rows on, bad ones included. Raises InputError if there is none at all."""
    first = next(found, None)
    if first is None:
        raise InputError(f"{path} has no rows")
    yield first
    yield from found


def _refuse_missing_columns(path: Path, row: Row, fields: Collection[str]) -> None:
    # All rows of a Parquet file have the same columns, so that this is no matter of one row.
    lacking = sorted(field for field in fields if field not in row)
    if lacking:
        raise InputError(
            f"{path} has no column {', '.join(lacking)}: its columns are {', '.join(row)[:400]}"
        )


def _why_bad(row: Any, fields: Collection[str]) -> str | None:
    """The reason why a published row can't be used; None for a good one."""
    if not isinstance(row, dict):
        return f"{_kind(row)}, not an object with the fields {', '.join(sorted(fields))}"
    wrong = []
    for field in fields:
        value = row.get(field)
        if not isinstance(value, str) or not value.strip():
            wrong.append(field)
    if wrong:
        return f"{', '.join(sorted(wrong))}: missing, empty or not text"
    return _unwritable(row)


def _unwritable(row: Row) -> str | None:
    """Names what no text should hold, anywhere in a row: JSON can write it as an escape."""
    try:
        text = json.dumps(row, ensure_ascii=False, default=str)
        if ESCAPED_NUL.search(text):
            return "holds a NUL character"
        text.encode()
    except RecursionError:
        return "it is nested too deeply"
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate)"
    return None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON; null says that there is none")


_JSON = json.JSONDecoder(parse_constant=_no_number)


def _decoded(line: str) -> Any:
    """The JSON value of a line. Raises ValueError and RecursionError."""
    # `raw_decode` takes no space around a value, and saves the search for it: hardly a line has
    # any. What it does not take, `decode` decides.
    try:
        value, end = _JSON.raw_decode(line)
    except ValueError:
        return _JSON.decode(line)
    return value if end == len(line) else _JSON.decode(line)


def _not_json(line: str, error: Exception) -> str:
    if "\0" in line:
        return NUL
    why = "it is nested too deeply" if isinstance(error, RecursionError) else error
    return f"not JSON ({why}): mend the line, or take it out"


def _kind(value: Any) -> str:
    """Names the type of a JSON value."""
    kinds = {
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        type(None): "null",
    }
    return kinds.get(type(value), type(value).__name__)


def _json_items(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a JSON file, one object per line or one list, each with its line."""
    if io.beginning(path).removeprefix(BOM).lstrip().startswith(b"["):
        return _list_items(path)
    return json_rows(path)


def _list_items(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of a file that is one JSON list, each with the line that it begins on."""
    # The text is held whole, but decoded item by item. `json.loads` would not say on which line
    # an item begins, and that line is in the row made of it (`source`).
    text = ""
    at = counted = 0
    line = 1
    try:
        text = path.read_text(encoding="utf-8-sig")
        at = _skip_blanks(text, text.index("[") + 1)
        while not text.startswith("]", at):
            # Line breaks are counted from item to item, so that each is counted once.
            line += text.count("\n", counted, at)
            counted = at
            item, end = _JSON.raw_decode(text, at)
            yield line, item
            at = _skip_blanks(text, end)
            if text.startswith(",", at):
                at = _skip_blanks(text, at + 1)
            elif not text.startswith("]", at):
                raise ValueError("expected a comma or the end of the list")
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        line += text.count("\n", counted, at)
        raise RecordError(f"{path}:{line}: not JSON ({error}): mend the list") from None


def _skip_blanks(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no white space."""
    blanks = BLANKS.match(text, at)
    assert blanks is not None, "the empty text matches, too"
    return blanks.end()


class _Lines:
    """Feeds csv.reader line by line, and bounds the row that it joins from lines in a quote."""

    def __init__(self, path: Path) -> None:
        self.held = 0
        """Characters of the row so far; whoever reads sets it to 0 after each row."""
        self._number = 0
        self._path, self._lines = path, text_lines(path)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._number += 1
        self.held += len(line) + 1
        if self.held > io.LINE_LIMIT:
            limit = f"{io.LINE_LIMIT // 2**20} MiB"
            raise csv.Error(f"a row is longer than {limit}: is a quote not closed?")
        if "\0" in line:
            raise RecordError(f"{self._path}:{self._number}: {NUL}")
        return line + "\n"


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, Row | Bad]]:
    # The limit of the csv module is one for the whole process, so it is never lowered here. Our
    # own limit, in _Lines, is on the whole row.
    csv.field_size_limit(max(csv.field_size_limit(), io.LINE_LIMIT))
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
                yield number, _torn(fields, header, delimiter)
            # A row may span lines: the next one begins after the last line that was read.
            number = reader.line_num + 1
            lines.held = 0
    except csv.Error as error:
        raise RecordError(
            f"{path}:{number}: not CSV ({error}): in a quoted field a quote is written twice"
        ) from None


def _torn(fields: list[str], header: list[str], delimiter: str) -> Bad:
    reason = (
        f"{len(fields)} fields, and the header has {len(header)}: is a delimiter or a quote "
        f"missing, or the delimiter not {delimiter!r}?"
    )
    return Bad(reason, delimiter.join(fields))


def _header(path: Path, number: int, fields: list[str]) -> list[str]:
    """The names of the columns; an empty list for a blank line, after which they may come."""
    names = [field.strip() for field in fields]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise RecordError(
            f"{path}:{number}: the header names {', '.join(map(repr, twice))} twice: give each "
            "column a name of its own"
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
        # Without reading ahead, a page of each column is held and not a whole row group.
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
    if start.startswith(b"PAR1"):
        return
    refuse_packed(path, start)
    raise InputError(f"{path} {'is no Parquet file' if start else 'has no rows'}")


def _wanted(names: list[str], columns: Collection[str] | None) -> list[str] | None:
    """The columns of the file that hold what is asked for; `answers.text` is in `answers`."""
    if columns is None:
        return None
    wanted = []
    for name in names:
        inner = f"{name}."
        if name in columns or any(column.startswith(inner) for column in columns):
            wanted.append(name)
    return wanted


def _refuse_large(path: Path, metadata: Any) -> None:
    for number in range(metadata.num_row_groups):
        # The size of the group, and never that of its columns: if the footer is corrupt, pyarrow
        # ends the process when asked for those.
        size = metadata.row_group(number).total_byte_size
        if size > ROW_GROUP_LIMIT:
            raise InputError(
                f"{path}: row group {number} unpacks to {size // 2**20} MiB, over "
                f"{ROW_GROUP_LIMIT // 2**20}: write smaller row groups"
            )
