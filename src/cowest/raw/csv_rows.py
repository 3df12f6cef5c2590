"""CSV, as programs and spreadsheets write it, read row by row."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cowest import io
from cowest.errors import RecordError
from cowest.raw.files import NUL, Bad, Row, text_lines

Quotes = Literal["read", "none"]
"""read: a field may stand in quotes, as CSV has it; none: a quote is a letter like any other."""
HINTS = {
    "expected after": "in a quoted field a quote is written twice",
    "unexpected end": "a quote is not closed",
    "new-line": "a carriage return stands in a field without quotes: quote it, or take it out",
}
"""Advice, by a part of the complaint of the csv module that it answers."""
DELIMITER_LINE = re.compile(r'"?sep=([^"\r\n])"?', re.IGNORECASE)
"""A first line that tells Excel the delimiter, such as `sep=;`. It is no header."""
SWALLOWED = (
    "a field in quotes holds a line end and a tab: set `quotes: none` in prepare.table if quotes "
    "are letters like any other in this file, and `quotes: read` if the field is meant so"
)
"""Reason of a bad row."""


def delimiter_said(path: Path) -> str | None:
    """The delimiter that a first line `sep=;` says; None if there is no such line."""
    found = DELIMITER_LINE.fullmatch(next(text_lines(path), "").strip(" "))
    return None if found is None else found[1]


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


def rows(
    path: Path, delimiter: str, quotes: Quotes | None = None
) -> Iterator[tuple[int, Row | Bad]]:
    """The rows, each with the number of the line that it begins on; values are texts.

    Rows without any text are passed over. If `quotes` does not say how quotes are meant, they are
    read, and a row that looks as if a lone quote had swallowed others is bad. Raises RecordError.
    """
    # The limit of the csv module is one for the whole process, so it is never lowered here. Our
    # own limit, in _Lines, is on the whole row.
    csv.field_size_limit(max(csv.field_size_limit(), io.LINE_LIMIT))
    lines = _Lines(path)
    skipped = 0
    if delimiter_said(path) is not None:
        next(lines)
        skipped = 1
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_NONE if quotes == "none" else csv.QUOTE_MINIMAL,
    )
    header: list[str] = []
    number = 1 + skipped
    try:
        for fields in reader:
            if not header:
                header = _header(path, number, fields)
            elif quotes is None and _are_swallowed(fields, delimiter):
                yield number, Bad(SWALLOWED, delimiter.join(fields))
            elif any(field and not field.isspace() for field in fields):
                yield number, _row(fields, header, delimiter)
            # A row may span lines: the next one begins after the last line that was read.
            number = reader.line_num + 1 + skipped
            lines.held = 0
    except csv.Error as error:
        hints = [hint for words, hint in HINTS.items() if words in str(error)]
        said = ": ".join([f"not CSV ({error})", *hints])
        raise RecordError(f"{path}:{number}: {said}") from None


def _are_swallowed(fields: list[str], delimiter: str) -> bool:
    """True if a field between tabs holds rows itself: a lone quote may have begun it."""
    # Most files with tabs have no quoting at all, and a field there may begin with a quote.
    if delimiter != "\t":
        return False
    return any("\n" in field and delimiter in field for field in fields)


def _row(fields: list[str], header: list[str], delimiter: str) -> Row | Bad:
    """The fields by the names of their columns."""
    if "" not in header:
        if len(fields) == len(header):
            return dict(zip(header, fields, strict=True))
        return _torn(fields, header, delimiter)
    named = max(place for place, name in enumerate(header) if name)
    # Excel writes fewer delimiters in rows whose last columns are empty.
    if not named < len(fields) <= len(header):
        return _torn(fields, header, delimiter)
    row = {}
    for place, (name, field) in enumerate(zip(header, fields, strict=False)):
        if name:
            row[name] = field
        elif field.strip() and place:
            # A text here may be the second half of a field that was torn at a comma. The first
            # column alone is spared: data frames write the numbers of their rows there, unnamed.
            reason = (
                f"column {place + 1} has no name in the header, and says {field[:40]!r}: give the "
                "column a name, or quote the field in which there is a delimiter"
            )
            return Bad(reason, delimiter.join(fields))
    return row


def _torn(fields: list[str], header: list[str], delimiter: str) -> Bad:
    reason = (
        f"{len(fields)} fields, and the header has {len(header)}: is a delimiter or a quote "
        f"missing, or the delimiter not {delimiter!r}?"
    )
    return Bad(reason, delimiter.join(fields))


def _header(path: Path, number: int, fields: list[str]) -> list[str]:
    """The names of the columns; an empty list for a blank line, after which they may come."""
    names = [field.strip() for field in fields]
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twice:
        raise RecordError(
            f"{path}:{number}: the header names {', '.join(map(repr, twice))} twice: give each "
            "column a name of its own"
        )
    return names if any(names) else []
