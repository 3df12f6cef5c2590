"""The only place that opens record files: streamed, query by query, written whole or not at all."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from cowest.config import complaints
from cowest.errors import ConfigError, InputError, RecordError
from cowest.intake import Intake, Unfit
from cowest.protocols import BLOCK
from cowest.records import Query, Record, Split

R = TypeVar("R", bound=Record)
Q = TypeVar("Q", bound=Query)
Paths = Path | Sequence[Path]
Shard = tuple[int, int]
"""Which of how many: (0, 4) is the first quarter of the blocks."""

LINE_LIMIT = 16 * 2**20
"""Bytes of a line at most: a longer one is not a row but a mistake, and would take the memory of all of us."""
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


def read(paths: Paths, kind: type[R]) -> Iterator[R]:
    """The rows of a file, or of the parts of one in their order. Raises RecordError at `file:line`."""
    for path in _parts(paths):
        for number, line in enumerate(lines(path), 1):
            yield _row(path, number, line, kind)


def held_out(paths: Paths) -> Iterator[tuple[str, int, Query]]:
    """The queries that are not of `train`, each with its place and its number through all parts, from 0. Others are mostly not even
    parsed. Raises RecordError at `file:line`.
    """
    for count, (path, number, line) in enumerate(placed(paths)):
        if TRAIN not in line and (row := _row(path, number, line, Query)).split != "train":
            yield f"{path}:{number}", count, row


def placed(paths: Paths) -> Iterator[tuple[Path, int, bytes]]:
    """The lines of a file, or of the parts of one in their order, each with its file and its number there, from 1."""
    for path in _parts(paths):
        for number, line in enumerate(lines(path), 1):
            yield path, number, line


TRAIN = b'"split":"train"'
"""Our own files write it so, and no text in a row can hold it: its quotes would be escaped."""


def _row(path: Path, number: int, line: bytes, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise RecordError(f"{path}:{number} is not a {kind.__name__}: {complaints(error)}") from None


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a text file, streamed; one over LINE_LIMIT is refused before it is held."""
    with _opened(path) as file:
        number = 0
        while line := file.readline(LINE_LIMIT + 1):
            number += 1
            if len(line) > LINE_LIMIT:
                raise RecordError(f"{path}:{number} is longer than {LINE_LIMIT // 2**20} MiB: is this a file of one JSON object a line?")
            yield line.rstrip(b"\r\n")


def beginning(path: Path) -> bytes:
    """The first few bytes of a file."""
    with _opened(path) as file:
        return file.read(16)


def _opened(path: Path) -> BinaryIO:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file of rows")
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None


def groups(paths: Paths, kind: type[Q], shard: Shard | None = None, split: Split | None = None) -> Iterator[list[Q]]:
    """All rows of a query together, query by query, in the file's order; an id that comes back is refused.

    With a split, only its queries; with a shard, of those only the ones in its blocks. The ids seen are held (about 100
    bytes a query); the rows are not.
    """
    found = _grouped(paths, kind, split)
    if shard is None:
        yield from found
        return
    first, last = _blocks(sum(1 for _ in _grouped(paths, kind, split)), shard)
    yield from islice(found, first, last)


def queries(paths: Paths, split: Split, shard: Shard | None = None) -> Iterator[Query]:
    """The queries of a split, or of a shard of it."""
    for group in groups(paths, Query, shard, split):
        yield group[0]


def _grouped(paths: Paths, kind: type[Q], split: Split | None) -> Iterator[list[Q]]:
    seen: set[bytes] = set()
    group: list[Q] = []
    for row in read(paths, kind):
        if split is not None and row.split != split:
            continue
        if group and row.id != group[0].id:
            yield group
            group = []
        if not group:
            key = bytes.fromhex(row.id)
            if key in seen:
                raise InputError(f"{_names(paths)}: query {row.id} comes back after other queries: all rows of a query must be adjacent")
            seen.add(key)
        group.append(row)
    if group:
        yield group


def _blocks(queries: int, shard: Shard) -> tuple[int, int]:
    index, of = shard
    if not 0 <= index < of:
        raise ConfigError(f"shard {index}/{of}: the first number counts from 0 and must be below the second")
    blocks = -(-queries // BLOCK)
    return blocks * index // of * BLOCK, blocks * (index + 1) // of * BLOCK


def write(path: Path, rows: Iterable[BaseModel]) -> int:
    """Writes all rows, one JSON object a line, or leaves what was there before. Answers with their number."""
    count = 0
    with writing(path) as keep:
        for row in rows:
            keep(row)
            count += 1
    return count


@contextmanager
def writing(path: Path) -> Iterator[Callable[[BaseModel], object]]:
    """Gives what writes one row; the file is there, whole, when the block ends without an error."""
    with replacing(path) as temporary, temporary.open("wb", buffering=2**18) as file:
        yield lambda row: file.write(to_json(row) + b"\n")


def write_text(path: Path, text: str) -> None:
    """Writes a page or a document, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_document(path: Path, kind: type[R]) -> R:
    """A file that is one record. Raises InputError."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValidationError as error:
        raise InputError(f"{path} is not a {kind.__name__}: {complaints(error)}") from None


def write_document(path: Path, record: BaseModel) -> None:
    """Writes one record as indented JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place, flushed to disk, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _parts(paths: Paths) -> Sequence[Path]:
    return [paths] if isinstance(paths, Path) else paths


def _names(paths: Paths) -> str:
    return ", ".join(str(path) for path in _parts(paths))


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file that somebody else wrote: UTF-8, without line ends and without the mark that some editors begin with.

    Raises InputError for a file that is packed or in UTF-16, RecordError for a line that is no UTF-8. A NUL is passed on: see `NUL`.
    """
    refuse_packed(path, beginning(path))
    for number, line in enumerate(lines(path), 1):
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
            intake.quarantine(path, number, f"{kind_of(row)}, not an object: give one JSON object a line", line)


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
    kinds = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def json_items(path: Path, intake: Intake | None = None) -> Iterator[tuple[int, Any]]:
    """What a JSON file holds that somebody else wrote, one object a line or one list (which is held whole), each with its line."""
    if beginning(path).removeprefix(BOM).lstrip().startswith(b"["):
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
        raise RecordError(f"{path}:{number + text.count(chr(10), last, at)}: not JSON ({error}): mend the list") from None


def build(kind: type[R], **fields: Any) -> R:
    """A record made of a raw row's fields. Raises Unfit."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise Unfit(complaints(error)) from None
