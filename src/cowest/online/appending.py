"""Files of rows that only grow: the next one begins when one is full or the day is over.

A process writes only into files of its own name, so that no two processes share a file. A row that
a kill or a full disk cut off is then the last of its file.
"""

import errno
import fcntl
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from cowest.io import sync_names

LogKind = Literal["answers", "verdicts"]
NAME = re.compile(r"(?P<kind>answers|verdicts)-\d{8}T\d{6}\.\d{3}-\d+-[0-9a-f]{8}\.jsonl")
"""Name of a file: what is in it, when it began (UTC), process, and random digits."""
DAY = 86_400.0
"""Seconds of a day."""


_LOCK = threading.Lock()
_last = 0
"""Milliseconds at which the last file of this process began."""


class UnsyncedError(OSError):
    """The disk failed to sync rows that were written before; any of them may be lost."""


class Appending:
    """The file of one kind of row that this process writes now; made with its first row."""

    def __init__(self, folder: Path, kind: LogKind, most: int) -> None:
        """Takes the size limit of a file in bytes. A new folder is readable by the user alone."""
        self._folder = folder
        self._kind = kind
        self._most = most
        self._file: int | None = None
        self._size = 0
        self._day = 0
        self._torn = False
        self._unsynced = False

    def add(self, line: bytes) -> None:
        """Writes a row, whole or not at all. Raises OSError, as for a full disk.

        It is an UnsyncedError if the file before could not be synced, so that its rows may be lost.
        """
        self.end_day()
        if self._file is not None and self._size and self._size + len(line) > self._most:
            self.close()
        if self._file is None:
            self._begin()
        assert self._file is not None, "it has just begun"
        # After a row that was cut off and could not be taken back, the next has a line of its own.
        data = memoryview(b"\n" + line if self._torn else line)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            if written:
                self._take_back()
            raise
        self._size += written
        self._torn = False
        self._unsynced = True

    @property
    def unsynced(self) -> bool:
        """True if rows were written that the disk may not have."""
        return self._unsynced

    def sync(self) -> None:
        """Waits until the disk has all rows.

        Raises UnsyncedError for those since the last time; then the next row begins a file.
        """
        if self._file is None or not self._unsynced:
            return
        try:
            os.fsync(self._file)
        except OSError as error:
            # What the system could not write it may have forgotten, and would not say so again.
            self._let_go()
            raise UnsyncedError(error.errno, error.strerror) from error
        self._unsynced = False

    def end_day(self) -> None:
        """Closes the file if the day on which it began is over. Raises OSError."""
        if self._file is not None and _today() != self._day:
            self.close()

    def close(self) -> None:
        """Closes the file when the disk has it. Raises OSError."""
        self.sync()
        self._let_go()

    def _begin(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seconds, thousandths = divmod(_moment(), 1000)
        moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
        name = f"{self._kind}-{moment}.{thousandths:03d}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._file = os.open(self._folder / name, flags, 0o600)
        # Who tidies up leaves a file alone while its process lives.
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size, self._day, self._torn = 0, _today(), False
        sync_names(self._folder)

    def _take_back(self) -> None:
        """Takes half a row back out of the file."""
        assert self._file is not None, "somebody wrote into it"
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._torn = True

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._unsynced = False


def files(folder: Path, kind: LogKind) -> list[Path]:
    """Returns the files of one kind in the order in which they began; none if there is no folder.
    Files that two processes began in the same millisecond come in any order.
    """
    found = []
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            named = NAME.fullmatch(path.name)
            if named is not None and named["kind"] == kind:
                found.append(path)
    return sorted(found)


def tidy(folder: Path, days: float, most: int) -> list[Path]:
    """Removes files that are too old, and the oldest answers beyond `most` bytes; returns them.

    Keeps a file whose process may still write into it. Raises OSError.
    """
    removed = []
    oldest = time.time() - days * DAY
    for kind in ("answers", "verdicts"):
        for path, found in _found(folder, kind):
            if found.st_mtime < oldest and _remove(path):
                removed.append(path)
    # Verdicts are small, and somebody was told that they are kept: they go by their age alone.
    answers = list(_found(folder, "answers"))
    too_many = sum(found.st_size for _, found in answers) - most
    for path, found in answers:
        if too_many > 0 and _remove(path):
            removed.append(path)
            too_many -= found.st_size
    return removed


def _found(folder: Path, kind: LogKind) -> Iterator[tuple[Path, os.stat_result]]:
    """Yields the files of one kind with their size and time."""
    for path in files(folder, kind):
        # Another process may tidy up at the same time.
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        yield path, found


def _remove(path: Path) -> bool:
    """Removes a file that no process writes into; False if one does."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    finally:
        os.close(file)
    return True


def _moment() -> int:
    """Milliseconds since 1970, later than every value that this process got before, so that the
    names of its files are in the order in which they began.
    """
    global _last
    with _LOCK:
        _last = max(int(time.time() * 1000), _last + 1)
        return _last


def _today() -> int:
    return int(time.time() // DAY)
