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
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from cowest import io
from cowest.errors import InputError, RecordError
from cowest.raw import csv_rows, parquet_rows
from cowest.raw.files import BOM, NUL, START, Bad, Row, ordinary, refuse_packed, text_lines

Format = Literal["jsonl", "json", "csv", "parquet"]
T = TypeVar("T")
ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL character as JSON writes it."""
BLANKS = re.compile(r"\s*")


def rows(
    path: Path,
    form: Format | None = None,
    delimiter: str | None = None,
    columns: Collection[str] | None = None,
    quotes: csv_rows.Quotes | None = None,
) -> Iterator[tuple[int, Row | Bad]]:
    """The rows of a table with their numbers, counted from 1.

    The number is that of the line on which a row begins; in Parquet and in a JSON list, that of the
    row. `form` is by default what the file's ending says, `delimiter` (of CSV) what a first line
    `sep=;` says, or else a comma, or a tab in a .tsv file; `quotes` is of CSV, too. Of Parquet only
    `columns` are read, if they are given. Values of CSV are texts; the other formats have types.
    Raises InputError for a file that is unfit or has no rows.
    """
    ordinary(path)
    form = form or format_of(path)
    found: Iterator[tuple[int, Row | Bad]]
    if form == "csv":
        found = csv_rows.rows(path, delimiter or usual_delimiter(path), quotes)
    elif form == "jsonl":
        found = json_rows(path)
    elif form == "json":
        found = _objects(path) if _is_list(path) else json_rows(path)
    else:
        found = parquet_rows.rows(path, columns)
    return _some(path, found)


def raw_rows(path: Path, fields: Collection[str]) -> Iterator[tuple[int, Row | Bad]]:
    """The rows of a published file (JSONL, one JSON list, or Parquet) with their numbers.

    A row without text under each of `fields` is bad. Raises as `rows` does.
    """
    ordinary(path)
    parquet = ENDINGS.get(path.suffix.lower()) == "parquet"
    found = parquet_rows.rows(path, None) if parquet else _json_items(path)
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
    decoder = _Decoder()
    for number, line in enumerate(text_lines(path), 1):
        if not line or line.isspace():
            continue
        try:
            row = decoder.whole(line)
        except (ValueError, RecursionError) as error:
            # One JSON value over many lines is another format. Without this, every line of the
            # file would be a bad row.
            is_json = path.suffix.lower() == ".json"
            if number == 1 and (line.lstrip()[0] == "[" or (is_json and line.strip() == "{")):
                raise RecordError(
                    f"{path}:1: not JSON, one object a line ({error}): write one a line, or all of "
                    "them as one list into a .json file"
                ) from None
            yield number, Bad(_not_json(line, error), line)
            continue
        if not isinstance(row, dict):
            yield number, _no_object(row, "give one JSON object a line, or one list as .json", line)
        elif decoder.twice is not None:
            yield number, Bad(decoder.twice, line)
        else:
            yield number, row


def sound(path: Path, found: Iterable[tuple[int, Row | Bad]]) -> Iterator[tuple[int, Row]]:
    """Passes good rows on. Raises RecordError, with file and line, at the first bad row."""
    for number, row in found:
        if isinstance(row, Bad):
            raise RecordError(f"{path}:{number}: {row.reason}")
        yield number, row


def format_of(path: Path) -> Format:
    """The format that a file's ending names. Raises InputError if it names none."""
    found = ENDINGS.get(path.suffix.lower())
    if found is None:
        # Of a workbook or an archive, another name would make no table.
        refuse_packed(path, io.beginning(path, START))
        raise InputError(
            f"{path}: its ending says no format: name it {', '.join(ENDINGS)} (in a project, "
            f"prepare.table.format may say it: {', '.join(get_args(Format))})"
        )
    return found


def usual_delimiter(path: Path) -> str:
    """The delimiter of a CSV file where no setting says one.

    A first line `sep=;` says it, or else the ending: a tab for .tsv, a comma for all others.
    """
    said = csv_rows.delimiter_said(path)
    if said is not None:
        return said
    return "\t" if path.suffix.lower() == ".tsv" else ","


def likely_delimiter(path: Path) -> str | None:
    """The character that parts the header of a CSV file into most columns.

    None if it is the usual one, and for another format. Raises as `rows` does.
    """
    ordinary(path)
    if format_of(path) != "csv":
        return None
    header = next((line for line in text_lines(path) if line.strip()), "")
    best = usual = usual_delimiter(path)
    most = _columns(header, usual)
    for mark in ",;\t|":
        columns = _columns(header, mark)
        if columns > most:
            best, most = mark, columns
    return None if best == usual else best


def _columns(header: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([header], delimiter=delimiter), []))
    except csv.Error:
        # What is wrong with the header is said when the rows are read.
        return 0


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


class _Decoder:
    """Reads JSON, and says of each value that it read if a key stands twice in an object there."""

    def __init__(self) -> None:
        self.twice: str | None = None
        """Reason against the value that was read last, which holds one of the two values alone."""
        self._json = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=self._object)

    def whole(self, line: str) -> Any:
        """The JSON value of a line. Raises ValueError and RecursionError."""
        # `raw_decode` takes no space around a value, and saves the search for it: hardly a line has
        # any. What it does not take, `decode` decides.
        try:
            value, end = self.item(line, 0)
        except ValueError:
            return self._json.decode(line)
        return value if end == len(line) else self._json.decode(line)

    def item(self, text: str, at: int) -> tuple[Any, int]:
        """The JSON value that begins at a place of a text, and its end. Raises as `whole` does."""
        self.twice = None
        return self._json.raw_decode(text, at)

    def _object(self, pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            name = next(name for name, count in counts.items() if count > 1)
            self.twice = f"{name[:100]!r} stands twice in an object, and one value would be lost"
        return row


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
    return _list_items(path) if _is_list(path) else json_rows(path)


def _is_list(path: Path) -> bool:
    """True for a file that begins as one JSON list."""
    return io.beginning(path).removeprefix(BOM).lstrip().startswith(b"[")


def _objects(path: Path) -> Iterator[tuple[int, Row | Bad]]:
    """The objects of a file that is one JSON list, counted: many may begin on one line."""
    for number, (_, row) in enumerate(_list_items(path), 1):
        if isinstance(row, dict | Bad):
            yield number, row
        else:
            yield number, _no_object(row, "give a list of objects", row)


def _no_object(value: Any, remedy: str, raw: Any) -> Bad:
    return Bad(f"{_kind(value)}, not an object: {remedy}", raw)


def _list_items(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of a file that is one JSON list, each with the line that it begins on."""
    # The text is held whole, but decoded item by item. `json.loads` would not say on which line
    # an item begins, and that line is in the row made of it (`source`).
    text = ""
    at = counted = 0
    line = 1
    decoder = _Decoder()
    try:
        text = path.read_text(encoding="utf-8-sig")
        at = _skip_blanks(text, text.index("[") + 1)
        ended = text.startswith("]", at)
        while not ended:
            # Line breaks are counted from item to item, so that each is counted once.
            line += text.count("\n", counted, at)
            counted = at
            item, end = decoder.item(text, at)
            yield line, item if decoder.twice is None else Bad(decoder.twice, text[at:end])
            at = _skip_blanks(text, end)
            ended = text.startswith("]", at)
            if not ended:
                if not text.startswith(",", at):
                    raise ValueError("expected a comma or the end of the list")
                at = _skip_blanks(text, at + 1)
        at = _skip_blanks(text, at + 1)
        if at < len(text):
            raise ValueError("there is more after the end of the list")
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        line += text.count("\n", counted, at)
        raise RecordError(f"{path}:{line}: not JSON ({error}): mend the list") from None


def _skip_blanks(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no white space."""
    blanks = BLANKS.match(text, at)
    assert blanks is not None, "the empty text matches, too"
    return blanks.end()
