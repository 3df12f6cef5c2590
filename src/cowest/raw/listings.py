"""Files by their MD5, as DVC names them: a listing of a folder, and DVC's cache of both."""

import hashlib
import json
import re
from pathlib import Path, PurePosixPath

from cowest.errors import InputError

MD5 = re.compile(r"[0-9a-f]{32}")


def md5_of(path: Path) -> str:
    """The MD5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def listing_of(folder: Path) -> dict[str, str]:
    """MD5 of each file by its name in the folder."""
    files = [part for part in folder.rglob("*") if part.is_file()]
    return {file.relative_to(folder).as_posix(): md5_of(file) for file in files}


def name_of(listing: dict[str, str]) -> str:
    """DVC's name of a folder: the MD5 of its listing as JSON, with `.dir` at its end."""
    rows = [{"md5": md5, "relpath": name} for name, md5 in sorted(listing.items())]
    text = json.dumps(rows, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def cached(cache: Path, md5: str) -> Path:
    """The place of a file in DVC's cache."""
    return cache / md5[:2] / md5[2:]


def cached_listing(cache: Path, md5: str, pointer: Path) -> dict[str, str] | None:
    """MD5 of each file of a folder by name, or None if DVC's cache does not have the list whole.

    `pointer` is the file that names the folder by this MD5. Raises InputError for a list with a
    name outside the folder, to which DVC would write.
    """
    file = cached(cache, md5)
    if not md5.endswith(".dir") or not file.is_file() or f"{md5_of(file)}.dir" != md5:
        return None
    try:
        entries = json.loads(file.read_bytes())
        found = {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
    except (ValueError, TypeError, KeyError):
        return None
    for name, md5_of_file in found.items():
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts and "\0" not in name
        if not inside or not MD5.fullmatch(md5_of_file):
            raise InputError(
                f"{pointer} stands for a folder with a file outside of it ({name!r}): "
                "nothing of it was written"
            )
    return found
