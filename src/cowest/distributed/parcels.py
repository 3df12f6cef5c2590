"""Sends and fetches files at an address that all nodes reach: s3://..., gs://..., file:///...

    ADDRESS/files/<SHA-256>  the bytes of a file, once, whoever sends it
    ADDRESS/tasks/<id>/...   texts of a task, which name files by their digests

Each fetched file is checked against its digest.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cowest.config import file_digest
from cowest.errors import ConfigError, InputError

Parcel = Mapping[str, str]
"""Digests of files, by name in a folder. A single file has the empty name."""
SHA256 = re.compile(r"[0-9a-f]{64}")
WORDS = 300
"""Length, in characters, to which a library's error is cut in messages."""


class Parcels:
    """The files below one address. Raises ConfigError and InputError."""

    def __init__(self, address: str) -> None:
        import fsspec

        scheme, is_address, _ = address.partition("://")
        if not is_address:
            raise ConfigError(
                f"{address!r} is no address of a store: write s3://bucket/path or file:///path"
            )
        self.address = address.rstrip("/")
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.address, use_listings_cache=False)
        except ImportError as error:
            raise ConfigError(
                f"{scheme}:// needs a library that is not installed ({error}): "
                "for S3, install CoWest's extra `s3` (README, Install)"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{address}: {error}") from None

    def send(self, path: Path, endings: Iterable[str] | None = None) -> Parcel:
        """Sends a file, or the files of a folder; skips those that are there already.

        With `endings`, only files whose names end so. Hidden files stay.
        """
        if path.is_file():
            return {"": self._send(path)}
        wanted = None if endings is None else set(endings)
        found = {}
        for part in sorted(path.rglob("*")):
            name = part.relative_to(path)
            hidden = any(step.startswith(".") for step in name.parts)
            if part.is_file() and not hidden and (wanted is None or part.suffix in wanted):
                found[name.as_posix()] = self._send(part)
        return found

    def fetch(self, parcel: Parcel, path: Path) -> None:
        """Fetches a parcel as the file `path`, or into the folder `path`."""
        for name, digest in parcel.items():
            if not SHA256.fullmatch(digest) or not stays_below(name):
                raise InputError(
                    f"{self.address}: a task there names the file {name!r}, which leads out of its "
                    "folder or has no SHA-256: remove the task, and run the stage again"
                )
            place = path / name if name else path
            place.parent.mkdir(parents=True, exist_ok=True)
            self._try("fetch", self._system.get_file, self._at(f"files/{digest}"), str(place))
            if file_digest(place) != digest:
                raise InputError(
                    f"{self.address}/files/{digest} holds other bytes than its name says: "
                    "remove it, and run the stage again"
                )

    def holds(self, parcel: Parcel) -> bool:
        """True if every file of a parcel is there; a bucket's rule may have removed old ones."""
        return all(self._size(f"files/{digest}") is not None for digest in parcel.values())

    def read(self, name: str) -> bytes | None:
        """Returns a text; None where there is none."""
        try:
            found: bytes = self._try("read", self._system.cat_file, self._at(name))
        except FileNotFoundError:
            return None
        return found

    def write(self, name: str, text: str) -> None:
        """Writes a text."""
        self._make_room(name)
        self._try("write", self._system.pipe_file, self._at(name), text.encode())

    def remove(self, name: str) -> None:
        """Removes a text, if it is there."""
        if self.read(name) is not None:
            self._try("remove", self._system.rm_file, self._at(name))

    def _send(self, path: Path) -> str:
        digest = file_digest(path)
        place = f"files/{digest}"
        # A file that was cut short is smaller.
        if self._size(place) != path.stat().st_size:
            self._make_room(place)
            # By the name of what a link points to: a model's files may be links into a cache.
            self._try("send", self._system.put_file, str(path.resolve()), self._at(place))
        return digest

    def _size(self, place: str) -> int | None:
        """The bytes of a file; None if it is not there."""
        try:
            found: int = self._try("look at", self._system.info, self._at(place))["size"]
        except FileNotFoundError:
            return None
        return found

    def _make_room(self, name: str) -> None:
        """Makes the parent folder of a file, in stores that have folders."""
        if "file" in self._system.protocol:
            self._system.makedirs(str(PurePosixPath(self._at(name)).parent), exist_ok=True)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try(self, verb: str, call: Any, *given: Any) -> Any:
        """Does one operation on the store. Raises InputError, but FileNotFoundError in a read."""
        try:
            return call(*given)
        except FileNotFoundError:
            # A bucket that is not there is one too, to S3's client.
            if verb in ("read", "look at"):
                raise
            raise InputError(
                f"{self.address}: could not {verb} {given[-1]}: it is not there; if the bucket "
                "exists, run the stage again, which sends it anew"
            ) from None
        except _errors() as error:
            words = " ".join(str(error).split())[:WORDS]
            raise InputError(
                f"{self.address}: could not {verb}: {words or type(error).__name__} "
                "(check address, keys and network of the store; for S3: AWS_ENDPOINT_URL, "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            ) from None


def _errors() -> tuple[type[Exception], ...]:
    """Returns the errors that a store's client raises after its own retries."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError, ClientError)


def stays_below(name: str) -> bool:
    """Says whether a name, which others may have written, stays inside its folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name
