"""Parquet, read row by row, with values that say what their types mean.

A float of 32 or 16 bits is read as the shortest decimal that it stands for (0.1, not
0.10000000149011612), and time stamps of a column in which all are at midnight as days.
"""

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from cowest import io
from cowest.errors import InputError
from cowest.raw.files import START, Row, refuse_packed

BATCH = 64
"""Number of rows of a Parquet file that are held at once."""
ROW_GROUP_LIMIT = 2**30
"""Largest row group of a Parquet file, in bytes once unpacked: more could exhaust the memory.

The texts of a batch that stand in no list are bounded by it, too, however often its rows say one
text of a dictionary.
"""
LISTED_LIMIT = 2**22
"""Largest row group whose texts in lists stay in their dictionary until they are measured.

pyarrow copies all texts of the group so far with each batch, so that a larger group would take too
long. There a list is written out before it is measured, however often it says one text.
"""
ROW_LIMIT = 2**26
"""Largest row, in bytes once written out, and the most of a batch that is made Python's at once.

A few bytes of a file may say one text of a dictionary, or one number of a list, a million times.
"""
ENTRY = 8
"""Bytes that an entry of a list takes beside its value."""
AT_ONCE = 2**14
"""Number of time stamps that are looked at at once, where they stand alone in their column."""
WHOLE = 2**24
"""Whole numbers below this are exact in 32 bits, and stay as they are."""
READING = {"buffer_size": 2**16, "pre_buffer": False}
"""Without reading ahead, a page of each column is held and not a whole row group."""
Change = Callable[[Any], Any]


def rows(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Row]]:
    """The rows with their numbers, of `columns` alone if they are given. Raises InputError."""
    _refuse_other_bytes(path)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"{path}: pyarrow is missing, which reads Parquet: install CoWest's extra `parquet` "
            "(README, Install)"
        ) from None
    try:
        with parquet.ParquetFile(path, **READING) as file:
            names = _wanted(path, file.schema_arrow.names, columns)
            _refuse_large(path, file.metadata)
            changes = _changes(path, file, names)
            number = 0
            for batch in _batches(path, file, names):
                for piece in _pieces(path, number, batch):
                    for row in _written_out(piece, file.schema_arrow).to_pylist():
                        number += 1
                        for name, change in changes.items():
                            row[name] = change(row[name])
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


def _batches(path: Path, file: Any, names: list[str] | None) -> Iterator[Any]:
    """The rows in batches, of fewer rows in a larger row group.

    Of a group up to LISTED_LIMIT, texts in lists are dictionaries where pyarrow makes them.
    """
    from pyarrow import parquet

    lists = _listed_texts(file.schema)
    with parquet.ParquetFile(
        path, metadata=file.metadata, read_dictionary=lists, **READING
    ) as by_dictionary:
        for group in range(file.metadata.num_row_groups):
            # A group says each of its texts once at least, so that none is longer than the group.
            size = max(file.metadata.row_group(group).total_byte_size, 1)
            asked = {
                "batch_size": max(min(ROW_GROUP_LIMIT // size, BATCH), 1),
                "row_groups": [group],
                "columns": names,
                "use_threads": False,
            }
            read = 0
            if size <= LISTED_LIMIT:
                # Of texts that share their beginnings, pyarrow makes no dictionary.
                with suppress(OSError):
                    for batch in by_dictionary.iter_batches(**asked):
                        read += 1
                        yield batch
                    continue
            yield from islice(file.iter_batches(**asked), read, None)


def _listed_texts(schema: Any) -> list[str]:
    """Names of the columns that hold texts inside of lists."""
    leaves = [schema.column(number) for number in range(len(schema))]
    return [
        leaf.path
        for leaf in leaves
        if leaf.max_repetition_level and leaf.physical_type == "BYTE_ARRAY"
    ]


def _pieces(path: Path, before: int, batch: Any) -> Iterator[Any]:
    """The parts of a batch that each take ROW_LIMIT bytes at most; `before` rows came before it.

    Raises InputError for a row that takes more.
    """
    size = sum(_size(column) for column in batch.columns)
    if size <= ROW_LIMIT:
        yield batch
        return
    if batch.num_rows == 1:
        raise InputError(
            f"{path}: row {before + 1} unpacks to {size // 2**20} MiB, over {ROW_LIMIT // 2**20}: "
            "shorten it, or make several rows of it"
        )
    half = batch.num_rows // 2
    yield from _pieces(path, before, batch.slice(0, half))
    yield from _pieces(path, before + half, batch.slice(half))


def _size(values: Any) -> int:
    """Bytes that values take once each is written out."""
    import pyarrow
    from pyarrow import compute, types

    kind = values.type
    if types.is_string_view(kind) or types.is_binary_view(kind):
        # Of views, each part of a batch counts the texts of the whole batch.
        values = values.cast(pyarrow.large_binary())
    if types.is_dictionary(kind):
        lengths = compute.binary_length(values.dictionary)
        return int(compute.sum(lengths.take(values.indices)).as_py() or 0)
    if types.is_struct(kind):
        return sum(_size(part) for part in values.flatten())
    if types.is_map(kind):
        values = values.cast(_as_list(kind))
    if types.is_nested(kind):
        entries = values.flatten()
        return ENTRY * len(entries) + _size(entries)
    return int(values.nbytes)


def _as_list(kind: Any) -> Any:
    import pyarrow

    pair = [pyarrow.field("key", kind.key_type), pyarrow.field("value", kind.item_type)]
    return pyarrow.list_(pyarrow.struct(pair))


def _written_out(piece: Any, schema: Any) -> Any:
    """The piece with the types that the file says, without dictionaries where that is quicker."""
    import pyarrow

    fields = [schema.field(name) for name in piece.schema.names]
    try:
        return piece.cast(pyarrow.schema(fields))
    except pyarrow.ArrowNotImplementedError:
        # The rows are the same, and take longer.
        return piece


def _changes(path: Path, file: Any, names: list[str] | None) -> dict[str, Change]:
    """What is done to the values of columns whose type says more than Python's does."""
    found = {}
    for field in file.schema_arrow:
        if names is not None and field.name not in names:
            continue
        days = _has_times(field.type) and _are_days(path, file, field.name)
        change = _change(field.type, days)
        if change is not None:
            found[field.name] = change
    return found


def _change(kind: Any, days: bool) -> Change | None:
    """What is done to a value of a type; None for nothing. `days`: its time stamps are days."""
    from pyarrow import types

    if types.is_float32(kind):
        return lambda value: _shortest(value, "f")
    if types.is_float16(kind):
        return lambda value: _shortest(value, "e")
    if types.is_timestamp(kind) and days:
        return _day
    if types.is_struct(kind):
        parts = {part.name: _change(part.type, days) for part in kind.fields}
        changed = {name: change for name, change in parts.items() if change is not None}
        return _in_object(changed) if changed else None
    if _is_list(kind):
        change = _change(kind.value_type, days)
        return None if change is None else _in_list(change)
    return None


def _in_object(changed: dict[str, Change]) -> Change:
    def change(value: Any) -> Any:
        if value is None:
            return None
        for name, change_part in changed.items():
            value[name] = change_part(value[name])
        return value

    return change


def _in_list(change_entry: Change) -> Change:
    def change(value: Any) -> Any:
        return None if value is None else [change_entry(entry) for entry in value]

    return change


def _shortest(value: float | None, code: str) -> float | None:
    """The number with the fewest digits that is stored as this one. `code` is that of `struct`."""
    if value is None or not isfinite(value):
        return value
    if value.is_integer() and abs(value) < WHOLE:
        return value
    for digits in range(1, 10):
        shorter = float(f"{value:.{digits}g}")
        try:
            if struct.unpack(code, struct.pack(code, shorter))[0] == value:
                return shorter
        except OverflowError:
            # Rounded up, the largest numbers are over what the type holds.
            continue
    return value


def _day(value: datetime | None) -> Any:
    return None if value is None else value.date()


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _has_times(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(_has_times(part.type) for part in kind.fields)
    if _is_list(kind):
        return _has_times(kind.value_type)
    return bool(types.is_timestamp(kind))


def _are_days(path: Path, file: Any, name: str) -> bool:
    """True if all time stamps of a column are at midnight."""
    from pyarrow import types

    # One row does not say whether the column holds days, so the column is read once before.
    if types.is_timestamp(file.schema_arrow.field(name).type):
        batches = file.iter_batches(batch_size=AT_ONCE, columns=[name], use_threads=False)
    else:
        batches = _batches(path, file, [name])
    return all(_at_midnight(batch.column(name)) for batch in batches)


def _at_midnight(values: Any) -> bool:
    from pyarrow import compute, types

    if types.is_struct(values.type):
        return all(_at_midnight(part) for part in values.flatten() if _has_times(part.type))
    if _is_list(values.type):
        return _at_midnight(values.flatten())
    if values.type.tz is not None:
        values = compute.local_timestamp(values)
    same = compute.equal(values, compute.floor_temporal(values, unit="day"))
    return compute.all(same).as_py() is not False


def _refuse_other_bytes(path: Path) -> None:
    start = io.beginning(path, START)
    if start.startswith(b"PAR1"):
        return
    refuse_packed(path, start)
    raise InputError(f"{path} {'is no Parquet file' if start else 'has no rows'}")


def _wanted(path: Path, names: list[str], columns: Collection[str] | None) -> list[str] | None:
    """The columns of the file that hold what is asked for; `answers.text` is in `answers`.

    None if all columns are to be read. Raises InputError if one of them is there twice.
    """
    wanted = names
    if columns is not None and all(_is_there(column, names, columns) for column in columns):
        wanted = []
        for name in names:
            inner = f"{name}."
            if name in columns or any(column.startswith(inner) for column in columns):
                wanted.append(name)
    twice = sorted(name for name, count in Counter(wanted).items() if count > 1)
    if twice:
        raise InputError(
            f"{path} has several columns named {', '.join(map(repr, twice))}: give each column a "
            "name of its own"
        )
    return None if wanted is names else wanted


def _is_there(column: str, names: list[str], columns: Collection[str]) -> bool:
    """True for a column that the file has, and for one that may be missing: `note?`.

    Whoever misses any other says which columns there are, and for that needs all of them.
    """
    if column.endswith("?") or f"{column}?" in columns:
        return True
    return any(column == name or column.startswith(f"{name}.") for name in names)


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
