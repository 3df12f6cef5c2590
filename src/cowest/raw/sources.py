"""Fetches raw data, whole or not at all, from a path, a URL, or the Hugging Face hub.

    questions.csv, a folder                 copied
    https://host/questions.jsonl            one file
    hf://owner/name@revision                the tables of a data set: Parquet, JSONL, JSON, CSV;
                                            a revision is a branch, a tag or a commit

Fetching is a command and no stage, so that a turn needs no network. `source.yaml`, beside the
files, keeps where they came from and their digests. The query part of a URL is left out of it,
because signatures stand there. The environment variable HF_ENDPOINT names another hub, HF_TOKEN
is the key to private data sets.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from cowest import io
from cowest.config import file_digest
from cowest.errors import ConfigError, InputError
from cowest.net.download import Web
from cowest.raw.files import START, refuse_packed

LIMIT = 20 * 2**30
"""Largest data set in bytes, unless another limit is given."""
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq")
HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
NAME = re.compile(r"[A-Za-z0-9_][\w. -]*")
LISTING = 32 * 2**20
"""Largest list of files in bytes that the hub may send."""
RECORD = "source.yaml"


@dataclass(frozen=True, slots=True)
class Part:
    """One file to fetch."""

    name: str
    """The name that it will have."""
    origin: str
    """A URL, or a path."""
    bytes: int | None = None
    sha256: str | None = None


def fetch(
    source: str,
    folder: Path,
    *,
    sha256: str | None = None,
    limit: int = LIMIT,
    splits: Mapping[str, str] | None = None,
) -> list[tuple[str, int, str]]:
    """Fetches a data set into a new folder. Returns each file's name, size in bytes and digest.

    `sha256` is the digest that a single file must have. `splits` picks files of the hub by
    patterns and names them: `{"dev": "data/validation-*"}` becomes dev.parquet. The folder is
    there, whole, or not at all. Raises ConfigError for a wrong request; InputError for data that
    can't be had, or that are not as they should be.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already: give another name, or take it away")
    web = Web()
    parts, pinned = _parts(source, web, splits or {})
    if sha256 is not None:
        if len(parts) != 1:
            raise ConfigError(
                f"--sha256 is of one file, and {_shown(source)} has {len(parts)}: name a revision "
                "of the hub instead"
            )
        parts = [Part(parts[0].name, parts[0].origin, parts[0].bytes, sha256.lower())]
    known = sum(part.bytes or 0 for part in parts)
    if known > limit:
        raise InputError(
            f"{_shown(source)} has {known} bytes, over the limit of {limit}: raise --limit, or "
            "fetch a part"
        )
    found, left = [], limit
    with io.replacing_folder(folder) as temporary:
        for part in parts:
            size, digest = _take(part, temporary / part.name, web, left)
            left -= size
            found.append((part.name, size, digest))
        _record(temporary / RECORD, pinned, found)
    return found


def _parts(source: str, web: Web, splits: Mapping[str, str]) -> tuple[list[Part], str]:
    """The files of a source, and the name by which it can be found again."""
    if source.startswith("hf://"):
        return _of_hub(source, web, splits)
    if splits:
        raise ConfigError(
            "--split is for data sets of the hub: the files of a folder or an address keep their "
            "names"
        )
    if re.match(r"https?://", source):
        name = unquote(PurePosixPath(urlsplit(source).path).name)
        return [Part(_fit(name, source), source)], _shown(source)
    if re.match(r"[a-zA-Z][\w+.-]*:", source):
        raise ConfigError(
            f"{_shown(source)}: give a path, http://, https:// or hf://owner/name@revision"
        )
    path = Path(source)
    return _of_path(path, source), path.name


def _of_path(path: Path, source: str) -> list[Part]:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [part for part in sorted(path.iterdir()) if _is_table(PurePosixPath(part.name))]
    else:
        raise InputError(f"{path} is no ordinary file: give a file, a folder, or an address")
    # A link may point to what is not part of the data set, or is gone tomorrow.
    if any(file.is_symlink() for file in files):
        raise InputError(f"{path} has links: give the files themselves")
    parts = [Part(_fit(file.name, source), str(file), file.stat().st_size) for file in files]
    return _some(parts, source)


def _of_hub(source: str, web: Web, splits: Mapping[str, str]) -> tuple[list[Part], str]:
    """The tables of a data set of the hub, at the commit that its revision is now."""
    match = HUB.fullmatch(source)
    if match is None:
        raise ConfigError(f"{source} should be hf://owner/name or hf://owner/name@revision")
    name, revision = match[1], match[2] or "main"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    headers: dict[str, str] = {}
    token = os.environ.get("HF_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    revision_url = f"{endpoint}/api/datasets/{name}/revision/{quote(revision, safe='')}"
    text = web.text(f"{revision_url}?blobs=true", LISTING, headers)
    try:
        listing = json.loads(text)
        commit, siblings = str(listing["sha"]), list(_siblings(listing["siblings"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{endpoint} does not answer as the hub does: is HF_ENDPOINT right?"
        ) from None
    # The token is for the hub's own host, and goes to no other: not where files are redirected to.
    web.headers[urlsplit(endpoint).netloc] = headers
    # Files are asked for by commit: a branch may move between the list and the last file.
    place = f"{endpoint}/datasets/{name}/resolve/{quote(commit, safe='')}"
    parts = [
        Part(_fit(called, source), f"{place}/{quote(path)}", size, sha256)
        for called, (path, size, sha256) in _called(siblings, splits, source)
    ]
    counts = Counter(part.name for part in parts)
    twice = sorted(called for called, count in counts.items() if count > 1)
    if twice:
        raise InputError(
            f"{source} has several files called {twice[0]}: pick some with --split NAME=PATTERN, "
            "as in train=plain/train-*"
        )
    return _some(parts, source), f"hf://{name}@{commit}"


Sibling = tuple[str, int | None, str | None]
"""A file of the hub: its path, and its size and digest if the hub gives them."""


def _siblings(listed: list[dict[str, Any]]) -> Iterator[Sibling]:
    for one in listed:
        path, large = str(one["rfilename"]), one.get("lfs") or {}
        if _is_table(PurePosixPath(path)):
            yield path, large.get("size", one.get("size")), large.get("sha256")


def _called(
    siblings: list[Sibling], splits: Mapping[str, str], source: str
) -> Iterator[tuple[str, Sibling]]:
    """The files that are taken, each with the name that it will have."""
    if not splits:
        for one in siblings:
            yield PurePosixPath(one[0]).name, one
        return
    for split, pattern in splits.items():
        matching = sorted(one for one in siblings if fnmatchcase(one[0], pattern))
        if not matching:
            there = ", ".join(path for path, *_ in siblings[:8])
            raise InputError(f"{source}: no table is like {pattern!r}: there are {there or 'none'}")
        for number, one in enumerate(matching):
            part = f"-{number:05}-of-{len(matching):05}" if len(matching) > 1 else ""
            yield f"{split}{part}{PurePosixPath(one[0]).suffix}", one


def _is_table(path: PurePosixPath) -> bool:
    """True for a file with a table's ending that is not hidden, as a Mac's `._name.csv` is."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def _fit(name: str, source: str) -> str:
    if not NAME.fullmatch(name) or PurePosixPath(name).suffix.lower() not in ENDINGS:
        raise InputError(
            f"{_shown(source)}: {name!r} is no table: its name should end in {', '.join(ENDINGS)}"
        )
    return name


def _some(parts: list[Part], source: str) -> list[Part]:
    if not parts:
        raise InputError(f"{_shown(source)} has no table: files that end in {', '.join(ENDINGS)}")
    return parts


def _take(part: Part, path: Path, web: Web, limit: int) -> tuple[int, str]:
    """Writes one file. Returns its size in bytes and its digest.

    Raises InputError if they are not what they should be.
    """
    where = _shown(part.origin)
    if urlsplit(part.origin).scheme in ("http", "https"):
        size, found = _download(part, path, web, limit)
    else:
        shutil.copyfile(part.origin, path)
        size, found = path.stat().st_size, file_digest(path)
    if part.bytes is not None and size != part.bytes:
        raise InputError(f"{where} has {size} bytes, and should have {part.bytes}: fetch it again")
    if part.sha256 is not None and found != part.sha256:
        raise InputError(
            f"{where} is not what it should be: its SHA-256 is {found}, and {part.sha256} was "
            "asked for"
        )
    if not size:
        raise InputError(f"{where} is empty")
    return size, found


def _download(part: Part, path: Path, web: Web, limit: int) -> tuple[int, str]:
    size, digest, start = 0, hashlib.sha256(), b""
    with path.open("wb") as file:
        for piece in web.pieces(part.origin, limit):
            start = start or piece[:START]
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    # A server may send a packed file under any name. Parquet is refused here under another name
    # alone; its own reader looks at it later.
    if path.suffix.lower() not in (".parquet", ".pq"):
        refuse_packed(Path(part.name), start)
    return size, digest.hexdigest()


def _record(path: Path, source: str, found: list[tuple[str, int, str]]) -> None:
    import yaml

    files = {name: {"bytes": size, "sha256": digest} for name, size, digest in found}
    path.write_text(
        yaml.safe_dump({"source": source, "files": files}, sort_keys=True), encoding="utf-8"
    )


def _shown(source: str) -> str:
    """A source without the parts that may be secret: user, password, query and fragment."""
    parts = urlsplit(source)
    if parts.scheme not in ("http", "https"):
        return source
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
