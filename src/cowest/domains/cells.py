"""Reads the cells of a table's row as texts or lists of texts, and fills templates with them.

The formats differ: CSV has texts alone, JSON and Parquet have numbers, lists and objects too.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

from cowest import io
from cowest.domains import written
from cowest.raw.files import Row
from cowest.raw.intake import Unfit

PLACES = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
"""`{column}` in a template, and braces that are written twice."""
LABELS = ("label", "labels", "key", "keys", "letter", "letters", "id", "ids")
"""Names, inside an object, of the labels of options."""
DELIMITERS = set(",;\t|")
_KINDS: dict[type[Any], str] = {
    dict: "an object: name what is in it with a point, as in `answers.text`",
    list: "a list",
    bytes: "bytes",
}


Lists = Literal["quoted", "read", "text"]
"""Texts of lists that are read as lists: those of texts in quotes, all, or none."""
Reading = Literal["list", "text"]


class NoColumn(Exception):
    """Says which column a row lacks, and which columns it has."""


@lru_cache(maxsize=1024)
def is_template(text: str) -> bool:
    """True if a setting is a template; else it is the name of a column."""
    return PLACES.search(text) is not None


def expect_places(template: str) -> None:
    """Raises ValueError for a template with a brace that belongs to no place."""
    if is_template(template) and set(PLACES.sub("", template)) & set("{}"):
        raise ValueError(
            f"{template!r} has a brace that belongs to no place: close the place, as in "
            "{column}, or write {{ or }} for a brace"
        )


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


def entries(row: Row, column: str, separator: str | None, lists: Lists = "quoted") -> list[str]:
    """The texts of a column that holds a list, or one text that `separator` splits.

    Empty parts of a split text are dropped; an empty entry of a list raises Unfit.
    """
    value = _cell(row, column)
    if isinstance(value, str):
        found = _list_in(value, lists)
        value = value if found is None else found
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


def reading(row: Row, column: str, lists: Lists) -> Reading | None:
    """The way in which `entries` reads a text like a list or an object; None for all else."""
    value = _cell(row, column)
    if not isinstance(value, str) or written.value_of(value) is None:
        return None
    return "text" if _list_in(value, lists) is None else "list"


def oddity(row: Row, column: str) -> str | None:
    """Says why a column's number or day is odd; None where it is not."""
    value = _cell(row, column)
    if isinstance(value, float):
        value = _text(value, column)
    return written.oddity(value) if isinstance(value, str) else None


def parted_by(row: Row, column: str) -> str | None:
    """The mark that seems to part several answers in a column's text; None where none does."""
    value = _cell(row, column)
    return written.parted_by(value) if isinstance(value, str) else None


def in_object(row: Row, column: str) -> dict[str, str]:
    """The texts of a column's object by their names, without empty ones; empty for all else."""
    value = _cell(row, column)
    if isinstance(value, str):
        value = written.value_of(value)
    if not isinstance(value, dict) or any(isinstance(v, list | dict) for v in value.values()):
        return {}
    texts = {str(name): _text(part, f"{column}.{name}") for name, part in value.items()}
    return {name: text for name, text in texts.items() if text is not None}


def labels_beside(row: Row, column: str) -> list[str]:
    """The labels that lie beside a list of options: `choices.label` beside `choices.text`.

    Empty if nothing there is named so, or can be the labels of as many options.
    """
    parent, point, _ = column.rpartition(".")
    if not point or column in row:
        return []
    options = _cell(row, column, optional=True)
    for name in LABELS:
        labels = _cell(row, f"{parent}.{name}", optional=True)
        if not isinstance(labels, list | tuple) or not isinstance(options, list | tuple):
            continue
        texts = [text for text in (_text(label, name) for label in labels) if text is not None]
        if len(texts) == len(options) == len(set(texts)):
            return texts
    return []


def _list_in(text: str, lists: Lists) -> list[Any] | None:
    """The list that a text is, if it is to be read as one."""
    if lists == "text":
        return None
    found = written.value_of(text)
    if not isinstance(found, list):
        return None
    return found if lists == "read" or written.are_quoted(found) else None


def _cell(row: Row, column: str, optional: bool = False) -> Any:
    """The value of a column, or of what is in one: `answers.text`. Raises NoColumn."""
    # A column whose own name has a point in it comes first.
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, str):
            # An object that CSV, which has texts alone, made a text of.
            value = written.value_of(value)
        if isinstance(value, list | tuple) and _all_have(value, part):
            value = [entry[part] for entry in value]
            continue
        if not isinstance(value, dict) or part not in value:
            if optional or value is None:
                return None
            near = difflib.get_close_matches(column, map(str, row), n=1, cutoff=0.5)
            hint = f": is it {near[0]!r}?" if near else "."
            columns = ", ".join(map(str, row))[:400]
            said = f"there is no column {column!r}{hint} The columns are {columns}"
            if len(row) == 1 and set(columns) & DELIMITERS:
                said += ": if that is several, set `delimiter`"
            raise NoColumn(said)
        value = value[part]
    return value


def _all_have(entries: Sequence[Any], part: str) -> bool:
    """True for a list of objects that all have this part."""
    return bool(entries) and all(isinstance(entry, dict) and part in entry for entry in entries)


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
    if isinstance(value, float):
        # The shortest decimal that is this float, as `repr` has it, but without an exponent.
        value = Decimal(repr(value))
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int | date | datetime | time):
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
