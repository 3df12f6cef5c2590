"""The only place that opens record files.

They are streamed, row by row or query by query, and written whole or not at all. Tables that
somebody else wrote are read by `raw.tables`.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from cowest.config import complaints
from cowest.errors import ConfigError, InputError, RecordError
from cowest.protocols import BLOCK
from cowest.records import Query, Split

R = TypeVar("R", bound=BaseModel)
Q = TypeVar("Q", bound=Query)
Paths = Path | Sequence[Path]
"""A file, or the parts of one in their order."""
Shard = tuple[int, int]
"""A part of the work, and the number of parts: (0, 4) is the first quarter of the blocks."""

LINE_LIMIT = 16 * 2**20
"""Longest line in bytes. A longer one is a mistake, and could exhaust the memory."""
TRAIN = b'"split":"train"'
"""Our own files write it so. No text in a row can hold it, because its quotes would be escaped."""


def read(paths: Paths, kind: type[R]) -> Iterator[R]:
    """The rows of a file. Raises RecordError with `file:line`."""
    for path, number, line in placed(paths):
        yield _row(path, number, line, kind)


def held_out(paths: Paths) -> Iterator[tuple[str, int, Query]]:
    """The queries that are not of `train`, each with its place and its number through all parts.

    Numbers count from 0. Raises RecordError with `file:line`.
    """
    for count, (path, number, line) in enumerate(placed(paths)):
        # Most rows are of train, and are not even parsed. The bytes decide for train alone: a file
        # that somebody else wrote may have spaces there, so the parsed row has the last word.
        if TRAIN in line:
            continue
        row = _row(path, number, line, Query)
        if row.split != "train":
            yield f"{path}:{number}", count, row


def placed(paths: Paths) -> Iterator[tuple[Path, int, bytes]]:
    """The lines of a file, each with its part and its number there, from 1."""
    for path in _parts(paths):
        for number, line in enumerate(lines(path), 1):
            yield path, number, line


def queries(paths: Paths, split: Split, shard: Shard | None = None) -> Iterator[Query]:
    """The queries of a split, or of a shard of it."""
    for group in groups(paths, Query, shard, split):
        yield group[0]


def groups(
    paths: Paths, kind: type[Q], shard: Shard | None = None, split: Split | None = None
) -> Iterator[list[Q]]:
    """All rows of a query together, query by query, in the file's order.

    With a split, only its queries; with a shard, of those only the ones in its blocks. The ids
    seen are held (about 100 bytes per query), the rows are not. Raises InputError for a query that
    comes back after others.
    """
    found = _grouped(paths, kind, split)
    if shard is None:
        yield from found
        return
    # The file is read once more, only to count its queries: blocks are numbered from the start.
    first, last = _blocks(sum(1 for _ in _grouped(paths, kind, split)), shard)
    yield from islice(found, first, last)


def lines(path: Path, carriage_returns: bool = False) -> Iterator[bytes]:
    """The lines of a text file, streamed, without line ends.

    With `carriage_returns`, CR alone ends a line too. Raises RecordError for a line over
    LINE_LIMIT.
    """
    with _opened(path) as file:
        # In Latin-1 every byte is a character, so that the text layer, which alone knows CR as a
        # line end, changes no byte.
        text = None
        if carriage_returns:
            text = TextIOWrapper(file, encoding="latin-1", newline="")
        number = 0
        while True:
            # One byte more than is allowed shows a line that is too long, before it is held.
            if text is None:
                line = file.readline(LINE_LIMIT + 1)
            else:
                line = text.readline(LINE_LIMIT + 1).encode("latin-1")
            if not line:
                return
            number += 1
            if len(line) > LINE_LIMIT:
                raise RecordError(
                    f"{path}:{number} is longer than {LINE_LIMIT // 2**20} MiB: is this a file of "
                    "one JSON object a line?"
                )
            yield line.rstrip(b"\r\n")


def beginning(path: Path, size: int = 16) -> bytes:
    """The first bytes of a file."""
    with _opened(path) as file:
        return file.read(size)


def read_document(path: Path, kind: type[R]) -> R:
    """The record that a file holds. Raises InputError."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    except ValidationError as error:
        raise InputError(f"{path} is not a {kind.__name__}: {complaints(error)}") from None


def write(path: Path, rows: Iterable[BaseModel], mode: int = 0o644) -> int:
    """Writes all rows, one JSON object per line, or leaves the file as it was.

    Returns the number of rows. `mode` is that of a new file.
    """
    count = 0
    with writing(path, mode) as keep:
        for row in rows:
            keep(row)
            count += 1
    return count


@contextmanager
def writing(path: Path, mode: int = 0o644) -> Iterator[Callable[[BaseModel], object]]:
    """Gives a function that writes one row.

    The file is there, whole, when the block ends without an error. `mode` is that of a new file.
    """
    with replacing(path, mode) as temporary, temporary.open("wb", buffering=2**18) as file:

        def keep(row: BaseModel) -> None:
            file.write(to_json(row) + b"\n")

        yield keep


def write_text(path: Path, text: str) -> None:
    """Writes a page or a document, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_document(path: Path, record: BaseModel) -> None:
    """Writes one record as indented JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """A temporary file that replaces `path` when the block ends without an error.

    A file that is there keeps its mode, and a new one gets `mode`. Raises InputError for a folder
    at `path`, and OSError that names `path` and not the temporary file.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a file is to be written there: move it away")
    with _named(path), _replacing(path, mode) as temporary:
        yield temporary


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Gives an error of the temporary file of `path` the name that somebody gave."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if is_full or Path(str(error.filename)).name.startswith(f".{path.name}."):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def _replacing(path: Path, mode: int) -> Iterator[Path]:
    # It lies beside `path`, because a rename is atomic only within one file system.
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # `mkstemp` makes a file that only this user can read; others read what a stage writes.
        # DVC takes the right to write away from what it links, and not for us to keep.
        temporary.chmod(path.stat().st_mode & 0o777 | 0o600 if path.is_file() else mode)
        # The bytes are on disk before the name is: after a power cut the file is whole, old or new.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def put_back(path: Path) -> None:
    """Gives a folder its name again if `replacing_folder` was killed between its two renames."""
    before = _before(path)
    if before.exists() and not path.exists():
        before.replace(path)


def _before(path: Path) -> Path:
    """The place of a folder while another takes its name."""
    return path.with_name(f".{path.name}.before")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    put_back(path)
    before = _before(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        _sync(temporary)
        # A folder can't be replaced in one step, as a file can. So the old one steps aside, and
        # goes only when the new one has its place.
        shutil.rmtree(before, ignore_errors=True)
        if path.exists():
            path.replace(before)
        temporary.replace(path)
        sync_names(path.parent)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Waits until the disk has all files of a folder, and their names."""
    for root, _, files in os.walk(folder):
        for name in files:
            with Path(root, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_names(Path(root))


def sync_names(folder: Path) -> None:
    """Waits until the disk has the names in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _row(path: Path, number: int, line: bytes, kind: type[R]) -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise RecordError(
            f"{path}:{number} is not a {kind.__name__}: {complaints(error)}"
        ) from None


def _opened(path: Path) -> BinaryIO:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file of rows")
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None


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
                raise InputError(
                    f"{_names(paths)}: query {row.id} comes back after other queries: all rows of "
                    "a query must be adjacent"
                )
            seen.add(key)
        group.append(row)
    if group:
        yield group


def _blocks(queries: int, shard: Shard) -> tuple[int, int]:
    """The first query of a shard, and the one after its last."""
    index, of = shard
    if not 0 <= index < of:
        raise ConfigError(
            f"shard {index}/{of}: the first number counts from 0 and must be below the second"
        )
    # A shard is whole blocks: a local model decodes a block as one unit (see BLOCK).
    blocks = -(-queries // BLOCK)
    return blocks * index // of * BLOCK, blocks * (index + 1) // of * BLOCK


def _parts(paths: Paths) -> Sequence[Path]:
    return [paths] if isinstance(paths, Path) else paths


def _names(paths: Paths) -> str:
    return ", ".join(str(path) for path in _parts(paths))
