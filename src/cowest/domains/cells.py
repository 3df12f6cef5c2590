"""What stands in a row of a table: texts and lists of texts, however the format has them, and templates over them."""

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


class NoColumn(Exception):
    """Which column is not there, and which are."""


@lru_cache(maxsize=1024)
def is_template(text: str) -> bool:
    """Whether a setting is a template; else it is the name of a column."""
    return PLACES.search(text) is not None


def filled(
    row: Row, text: str, own: Mapping[str, str] | None = None, optional: bool = False
) -> str | None:
    """A column, or a template with its columns in place; `{column?}` may be empty, and `own` are places beside the columns.

    Where something is empty, or not there, that may not be: None if all of it is optional, else Unfit and NoColumn are raised.
    """
    if not is_template(text):
        return text_of(row, text, optional)
    values = {"{{": "{", "}}": "}"}
    for name in columns_of(text):
        spared = name.endswith("?") and name not in row
        value = (
            own[name]
            if own and name in own
            else text_of(row, name.removesuffix("?") if spared else name, optional or spared)
        )
        if value is None and not spared:
            return None
        values[f"{{{name}}}"] = value or ""
    return PLACES.sub(lambda place: values[place[0]], text)


@lru_cache(maxsize=1024)
def columns_of(text: str) -> tuple[str, ...]:
    """The columns that a setting names, as they stand in it."""
    return (
        tuple(place[1] for place in PLACES.finditer(text) if place[1])
        if is_template(text)
        else (text,)
    )


def text_of(row: Row, column: str, optional: bool = False) -> str | None:
    """What a column says; where it is empty or not there, None if it is optional. Raises NoColumn, and Unfit for what is no text."""
    return _text(_cell(row, column, optional=True), column) if optional else needed(row, column)


def needed(row: Row, column: str) -> str:
    """What a column says. Raises NoColumn, and Unfit where it is empty or no text."""
    text = _text(_cell(row, column), column)
    if text is None:
        raise Unfit(f"{column!r} is empty")
    return text


def entries(row: Row, column: str, separator: str | None) -> list[str]:
    """The texts of a column with a list, or with one text that the separator parts; empty ones are refused in a list, else none."""
    value = _cell(row, column)
    if isinstance(value, str) and separator is None:
        text = _checked(value, column)
        return [] if text is None else [text]
    if not isinstance(value, list | tuple):
        text = _text(value, column)
        parts = [text] if text is None or separator is None else text.split(separator)
        return [
            part.strip() if separator else part
            for part in parts
            if part is not None and part.strip()
        ]
    found = [_text(entry, column) for entry in value]
    if None in found:
        raise Unfit(f"the list {column!r} has an empty entry")
    return [text for text in found if text is not None]


def _cell(row: Row, column: str, optional: bool = False) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            if optional or value is None:
                return None
            near = difflib.get_close_matches(column, map(str, row), n=1, cutoff=0.5)
            raise NoColumn(
                f"there is no column {column!r}{f': is it {near[0]!r}?' if near else ''} The columns are {', '.join(map(str, row))[:400]}"
            )
        value = value[part]
    return value


def _text(value: Any, column: str) -> str | None:
    if isinstance(value, str):
        return _checked(value, column)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise Unfit(f"{column!r} is {value}, no finite number")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, float | Decimal | int | date | datetime | time):
        return str(value)
    kind: type[Any] = type(value)
    raise Unfit(f"{column!r} is {_KINDS.get(kind, kind.__name__)}, not a text or a number")


def _checked(text: str, column: str) -> str | None:
    """A text that can be written as UTF-8, or None for an empty one."""
    if len(text) > io.LINE_LIMIT:
        raise Unfit(f"{column!r} is longer than {io.LINE_LIMIT // 2**20} MiB")
    if "\0" in text:
        raise Unfit(f"{column!r} holds a NUL character")
    if text.isascii():
        return None if not text or text.isspace() else text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unfit(f"{column!r} holds half a character (a lone surrogate)") from None
    return None if not text or text.isspace() else text


_KINDS: dict[type[Any], str] = {
    dict: "an object: name what is in it with a point, as in `answers.text`",
    list: "a list",
    bytes: "bytes",
}


def plain(text: str) -> str:
    """A text without its case and spacing."""
    return " ".join(text.casefold().split())
