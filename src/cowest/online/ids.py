"""Ids of requests, which a service recognises without storing them.

An id is signed by a secret that lies in the log's folder. So every process that shares the folder
recognises it, after restarts too, and even when the files with its answer are gone. Nobody outside
can forge one. An id says only that this service gave it out; the log says what was answered.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

ID = re.compile(r"chatcmpl-(?P<drawn>[0-9a-f]{20})(?P<signed>[0-9a-f]{12})")
"""An id: the time in milliseconds (12 digits), 8 random digits, and 12 digits of a signature."""
SECRET = "secret"  # noqa: S105 (the name of a file)
LENGTH = 32
"""Bytes of a secret."""
TRIES = 10
"""Times that a secret is read, a pause apart, while another process may be writing it."""
PAUSE = 0.02
"""Seconds between two of them."""


class Ids:
    """Makes ids, and recognises its own."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def new(self) -> str:
        """Makes the id of a request. It begins with the time, so ids are in the order of requests.

        Two requests of the same millisecond have one id in 4 billion cases.
        """
        drawn = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"
        return f"chatcmpl-{drawn}{self._signature(drawn)}"

    def made(self, id: str) -> bool:
        """True for an id that was made with this secret."""
        found = ID.fullmatch(id)
        if found is None:
            return False
        return hmac.compare_digest(self._signature(found["drawn"]), found["signed"])

    def _signature(self, drawn: str) -> str:
        return hmac.new(self._secret, drawn.encode(), hashlib.sha256).hexdigest()[:12]


def secret_of(folder: Path) -> bytes:
    """Returns the secret of a log's folder, and makes it if there is none.

    Raises OSError for a folder that can't be written, and for a file that holds no secret.
    """
    path = folder / SECRET
    if not path.exists():
        _make(path)
    for _ in range(TRIES):
        secret = path.read_bytes()
        if len(secret) == LENGTH:
            return secret
        time.sleep(PAUSE)
    raise OSError(
        f"{path} holds no secret: remove it (verdicts on earlier answers are then refused)"
    )


def _make(path: Path) -> None:
    """Writes a secret. Of two processes that do so at once, the first one's stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = path.with_name(f".{SECRET}.{secrets.token_hex(8)}")
    try:
        _write(own)
        # A link is made in one step, and never over another file.
        os.link(own, path)
    except FileExistsError:
        pass
    except OSError:
        if not own.exists():
            raise
        # The file system has no links (SMB, exFAT, buckets). A reader may find the file empty.
        with suppress(FileExistsError):
            _write(path)
    finally:
        own.unlink(missing_ok=True)


def _write(path: Path) -> None:
    """Writes a secret into a new file. Raises OSError, and then leaves no file of its own."""
    secret = secrets.token_bytes(LENGTH)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, secret)
        os.fsync(file)
    except OSError:
        # Where two can make one file at once, it may hold another's secret by now.
        if secret.startswith(path.read_bytes()):
            path.unlink()
        raise
    finally:
        os.close(file)
