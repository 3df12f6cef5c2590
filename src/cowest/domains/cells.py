"""Reads the cells of a table's row as texts or lists of texts, and fills templates with them.

The formats differ: CSV has texts alone, JSON and Parquet have numbers, lists and objects too.
"""

import difflib
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

from cowest import io
from cowest.raw.intake import Unfit
from cowest.raw.tables import Row

PLACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
"""`{column}` in a template, and braces that are written twice."""
_KINDS: dict[type[Any], str] = {
    dict: "an object: name what is in it with a point, as in `answers.text`",
    list: "a list",
    bytes: "bytes",
}


class NoColumn(Exception):
    """Says which column a row lacks, and which columns it has."""


@lru_cache(maxsize=1024)
def is_template(text: str) -> bool:
    """True if a setting is a template; else it is the name of a column."""
    return PLACES.search(text) is not None


@lru_cache(maxsize=1024)
def columns_of(text: str) -> tuple[str, ...]:
    """The columns that a setting names, as they are written in it."""
    if not is_template(text):
        return (text,)
    return tuple(place[1] for place in PLACES.finditer(text) if place[1])


def possible_columns(text: str) -> set[str]:
    """The columns that a setting may mean.

    `{note?}` means the column `note`, unless the table has a column named `note?`.
    """
    possible: set[str] = set()
    for name in columns_of(text):
        possible |= {name, name.removesuffix("?")}
    return possible


def filled(
    row: Row, text: str, own: Mapping[str, str] | None = None, optional: bool = False
) -> str | None:
    """The text of a column, or a template with the texts of its columns in place.

    `own` are places beside the columns; a place `{column?}` may be empty. If anything else is
    empty or not there, the whole is None if it is `optional`; if not, Unfit or NoColumn is raised.
    """
    if not is_template(text):
        return text_of(row, text, optional)
    values = {"{{": "{", "}}": "}"}
    for name in columns_of(text):
        spared = name.endswith("?") and name not in row
        if own and name in own:
            value: str | None = own[name]
        elif spared:
            value = text_of(row, name.removesuffix("?"), optional=True)
        else:
            value = text_of(row, name, optional)
        if value is None and not spared:
            return None
        values[f"{{{name}}}"] = value or ""
    # All places are filled in one pass: what a row says is never taken for a template itself.
    return PLACES.sub(lambda place: values[place[0]], text)


def text_of(row: Row, column: str, optional: bool = False) -> str | None:
    """The text of a column; None if it is `optional` and empty or not there.

    Raises NoColumn, and Unfit for what is no text.
    """
    if optional:
        return _text(_cell(row, column, optional=True), column)
    return needed(row, column)


def needed(row: Row, column: str) -> str:
    """The text of a column. Raises NoColumn, and Unfit if it is empty or no text."""
    text = _text(_cell(row, column), column)
    if text is None:
        raise Unfit(f"{column!r} is empty")
    return text


def entries(row: Row, column: str, separator: str | None) -> list[str]:
    """The texts of a column that holds a list, or one text that `separator` splits.

    Empty parts of a split text are dropped; an empty entry of a list raises Unfit.
    """
    value = _cell(row, column)
    if isinstance(value, list | tuple):
        texts = [_text(entry, column) for entry in value]
        if None in texts:
            raise Unfit(f"the list {column!r} has an empty entry")
        return [entry for entry in texts if entry is not None]
    text = _text(value, column)
    if text is None:
        return []
    if separator is None:
        return [text]
    parts = (part.strip() for part in text.split(separator))
    return [part for part in parts if part]


def _cell(row: Row, column: str, optional: bool = False) -> Any:
    """The value of a column, or of what is in one: `answers.text`. Raises NoColumn."""
    # A column whose own name has a point in it comes first.
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            if optional or value is None:
                return None
            near = difflib.get_close_matches(column, map(str, row), n=1, cutoff=0.5)
            hint = f": is it {near[0]!r}?" if near else ""
            columns = ", ".join(map(str, row))[:400]
            raise NoColumn(f"there is no column {column!r}{hint} The columns are {columns}")
        value = value[part]
    return value


def _text(value: Any, column: str) -> str | None:
    """A value as text; None if there is none. Raises Unfit for what is no text or number."""
    if isinstance(value, str):
        return _checked(value, column)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise Unfit(f"{column!r} is {value}, no finite number")
    # Parquet and JSON write whole numbers as floats, too: 3.0 says 3. Beyond 2**53 a float is not
    # exact.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, float | Decimal | int | date | datetime | time):
        return str(value)
    kind: type[Any] = type(value)
    raise Unfit(f"{column!r} is {_KINDS.get(kind, kind.__name__)}, not a text or a number")


def _checked(text: str, column: str) -> str | None:
    """The text itself, or None for an empty one. Raises Unfit if no file of ours can hold it."""
    if len(text) > io.LINE_LIMIT:
        raise Unfit(f"{column!r} is longer than {io.LINE_LIMIT // 2**20} MiB")
    if "\0" in text:
        raise Unfit(f"{column!r} holds a NUL character")
    # JSON can write half of a surrogate pair, which UTF-8 can't. ASCII, as most texts are, has
    # none.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unfit(f"{column!r} holds half a character (a lone surrogate)") from None
    return None if not text or text.isspace() else text
