"""A sample of a table's rows, seen column by column."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cowest.domains import written
from cowest.raw.files import Row


class Sample:
    """The columns of a sample, and which of them have no role yet.

    What is in an object is a column too: `answers.text`.
    """

    def __init__(self, rows: list[Row]) -> None:
        self.raw = rows
        self.values: dict[str, list[Any]] = {}
        in_braces: dict[str, None] = {}
        for number, row in enumerate(rows):
            for column, value in _flat(row):
                if set(column) & set("{}"):
                    in_braces.setdefault(column)
                elif column.strip():
                    self.values.setdefault(column, [None] * len(rows))[number] = value
        self.in_braces = list(in_braces)
        """Columns that no template can name, and that have no role."""
        self.free = set(self.values)
        self.rows = len(rows)

    def take(self, names: Iterable[str], fits: Callable[[str], bool] | None = None) -> str | None:
        """The first free column with one of these names that fits; it has a role from now on."""
        for column in self.named(names):
            if column in self.free and (fits is None or fits(column)):
                self.free.remove(column)
                return column
        return None

    def named(self, names: Iterable[str]) -> list[str]:
        """The columns with one of these names, in the order of the names."""
        found: list[str] = []
        for name in names:
            found += [column for column in self.values if name_key(column) == name]
        return found

    def texts(self, column: str) -> list[str]:
        """The texts of a column, without empty ones; none at all if it holds lists or objects."""
        found = [value for value in self.values[column] if _says(value)]
        if any(isinstance(value, list | dict) for value in found):
            return []
        return [str(value) for value in found]

    def are_texts(self, column: str) -> bool:
        return bool(self.texts(column))

    def lists(self, column: str) -> list[list[Any] | None]:
        """The lists of a column, also those that are written as texts; None for all else."""
        found: list[list[Any] | None] = []
        for value in self.values[column]:
            seen = written.value_of(value) if isinstance(value, str) else value
            found.append(seen if isinstance(seen, list) else None)
        return found

    def are_lists(self, column: str) -> bool:
        """True if each row has a list of two or more there."""
        return all(found is not None and len(found) > 1 for found in self.lists(column))

    def are_written_lists(self, column: str) -> bool:
        """True if all that the column says is texts of lists."""
        lists = self.lists(column)
        said = [number for number, value in enumerate(self.values[column]) if _says(value)]
        written_out = [isinstance(self.values[column][number], str) for number in said]
        return bool(said) and all(written_out) and all(lists[number] is not None for number in said)

    def in_every_row(self, column: str) -> bool:
        return len(self.texts(column)) == self.rows

    def distinct(self, column: str) -> int:
        return len(set(self.texts(column)))


def _says(value: Any) -> bool:
    return value is not None and bool(str(value).strip())


def _flat(row: Row) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        parts = _parts(value)
        if parts is None:
            yield name, value
        else:
            for part, inner in parts.items():
                yield f"{name}.{part}", inner


def _parts(value: Any) -> dict[str, Any] | None:
    """The parts of an object, or of each object of a list, by name; None for all else."""
    seen = written.value_of(value) if isinstance(value, str) else value
    if isinstance(seen, dict):
        return seen
    if not isinstance(seen, list) or not all(isinstance(entry, dict) for entry in seen):
        return None
    parts: dict[str, Any] = {}
    for name in seen[0] if seen else ():
        if all(name in entry for entry in seen):
            parts[name] = [entry[name] for entry in seen]
    return parts or None


def name_key(column: str) -> str:
    """A name without case and marks; the texts in an object go by the object's name."""
    parent, _, part = column.partition(".")
    name = parent if part in ("text", "value", "texts") else column
    return re.sub(r"[^a-z0-9]", "", name.lower())
