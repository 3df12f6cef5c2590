"""Files of tables as they lie on disk: what is no text, and the lines of what is one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowest import io
from cowest.errors import InputError, RecordError

Row = dict[str, Any]
PACKED = {
    b"\x1f\x8b": "packed by gzip: unpack it (`gunzip`)",
    b"PK\x03\x04": "a zip archive, or a workbook: unpack it, or save its sheet as 'CSV UTF-8'",
    b"\xd0\xcf\x11\xe0": "a workbook of an older Excel: save its sheet as 'CSV UTF-8'",
    b"BZh91AY&SY": "packed by bzip2: unpack it (`bunzip2`)",
    b"\xfd7zXZ": "packed by xz: unpack it (`unxz`)",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it (`unzstd`)",
    b"PAR1\x15": "Parquet under another name: name it .parquet",
    b"\xff\xfe": "UTF-16, not UTF-8: save it as UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8: save it as UTF-8",
    b"\x00\x05\x16\x07": "AppleDouble: a Mac's notes on another file, without its rows",
    b"version https://git-lfs": "a pointer of Git LFS, without its rows: run `git lfs pull`",
    b"\x00\x05\x16\x00": "AppleSingle, in which a Mac packs a file with its notes",
}
"""First bytes of files that are no text, and the words for them: what it is, and what to do."""
START = 32
"""Bytes at the start of a file in which such a mark is looked for."""
BOM = b"\xef\xbb\xbf"
"""The byte-order mark that some editors write at the start of a UTF-8 file."""
FIRST_LINES = 2**16
"""Bytes at the start of a file in which the end of its first line is looked for."""
NUL = "a NUL byte, which no text has: is the file broken, or no text?"


@dataclass(frozen=True, slots=True)
class Bad:
    """A raw row that can't be used."""

    reason: str
    raw: Any
    """The row as far as it was read: the text of its line, or its decoded value."""


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, without line ends and without a byte-order mark.

    A NUL is passed on. Raises InputError for a file that is packed or in UTF-16, RecordError for a
    line that is not UTF-8.
    """
    refuse_packed(path, io.beginning(path, START))
    for number, line in enumerate(byte_lines(path), 1):
        if number == 1:
            line = line.removeprefix(BOM)
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise RecordError(
                f"{path}:{number}: not UTF-8 (byte 0x{line[error.start]:02x}, number "
                f"{error.start + 1} of the line): save the file as UTF-8 (in Excel: 'CSV UTF-8'), "
                "or convert it, as with `iconv -f cp1252 -t utf-8 OLD > NEW`"
            ) from None


def byte_lines(path: Path) -> Iterator[bytes]:
    """The lines of a text file without their ends, which may be LF, CRLF, or CR alone."""
    return io.lines(path, carriage_returns=_ends_lines_with_cr(path))


def _ends_lines_with_cr(path: Path) -> bool:
    """True if the first line ends with CR alone, as Excel for the Mac saves CSV."""
    start = io.beginning(path, FIRST_LINES)
    for found in re.finditer(rb"[\r\n]+", start):
        # A line end inside quotes is part of a field, and ends no line.
        quotes = start[: found.start()].replace(b'\\"', b"").count(b'"')
        if quotes % 2 == 0:
            return b"\n" not in found[0]
    return False


def ordinary(path: Path) -> None:
    """Raises InputError for a folder, and for a pipe or device, which would be waited for."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "no ordinary file (a pipe or a device)"
        raise InputError(f"{path} is {kind}, not a table: name a file of rows")


def refuse_packed(path: Path, start: bytes) -> None:
    """Raises InputError if a file's first bytes are those of an archive, or of UTF-16."""
    # Nothing is ever unpacked: a few kilobytes from a stranger could become gigabytes.
    for mark, kind in PACKED.items():
        if start.startswith(mark):
            raise InputError(f"{path} is {kind}; a table is JSONL, JSON, CSV or Parquet itself")
