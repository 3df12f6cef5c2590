"""Where raw data come from: a path, a URL, or a data set of the Hugging Face hub, fetched whole or not at all.

    questions.csv, a folder                 copied
    https://host/questions.jsonl            one file
    hf://owner/name@revision                the tables of a data set: Parquet, JSONL, JSON, CSV; revision: a branch, tag or commit

Fetching is a command and no stage, so that a turn needs no network. `source.yaml` beside the files says where they came from, and
what they are: no query of an address stands in it, for that is where signatures are. HF_ENDPOINT is another hub, HF_TOKEN a key to it.
"""

import hashlib
import json
import os
import re
import shutil
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
from cowest.raw import tables

LIMIT = 20 * 2**30
"""Bytes of a data set at most, unless another limit is given."""
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq")
HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
NAME = re.compile(r"[A-Za-z0-9_][\w. -]*")
LISTING = 32 * 2**20
"""Bytes of the hub's list of files at most."""
RECORD = "source.yaml"


@dataclass(frozen=True, slots=True)
class Part:
    """One file to fetch."""

    name: str
    """What it will be called."""
    origin: str
    """An address, or a path."""
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
    """Fetches a data set into a new folder; its files, with their bytes and digests.

    `sha256` is what one file must be; `splits` names files of the hub by patterns, `{"dev": "data/validation-*"}`, which become
    dev.parquet. Raises ConfigError for what can't be asked, InputError for what can't be had or is not as it should be; the folder
    is there, whole, or not at all.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already: give another name, or take it away")
    web = Web()
    parts, pinned = _parts(source, web, splits or {})
    if sha256 is not None:
        if len(parts) != 1:
            raise ConfigError(
                f"--sha256 is of one file, and {_shown(source)} has {len(parts)}: name a revision of the hub instead"
            )
        parts = [Part(parts[0].name, parts[0].origin, parts[0].bytes, sha256.lower())]
    known = sum(part.bytes or 0 for part in parts)
    if known > limit:
        raise InputError(
            f"{_shown(source)} has {known} bytes, over the limit of {limit}: raise --limit, or fetch a part"
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
    """The files of a source, and how it is named for good."""
    if source.startswith("hf://"):
        return _of_hub(source, web, splits)
    if splits:
        raise ConfigError(
            "--split is for data sets of the hub: the files of a folder or an address keep their names"
        )
    if re.match(r"https?://", source):
        name = unquote(PurePosixPath(urlsplit(source).path).name)
        return [Part(_fit(name, source), source)], _shown(source)
    if re.match(r"[a-zA-Z][\w+.-]*:", source):
        raise ConfigError(
            f"{_shown(source)}: give a path, http://, https:// or hf://owner/name@revision"
        )
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is no ordinary file: give a file, a folder, or an address")
    files = (
        [path]
        if path.is_file()
        else sorted(part for part in path.iterdir() if part.suffix.lower() in ENDINGS)
    )
    if any(part.is_symlink() for part in files):
        raise InputError(f"{path} has links: give the files themselves")
    return _some(
        [Part(_fit(part.name, source), str(part), part.stat().st_size) for part in files], source
    ), path.name


def _of_hub(source: str, web: Web, splits: Mapping[str, str]) -> tuple[list[Part], str]:
    """The tables of a data set, at the commit that its revision is now."""
    match = HUB.fullmatch(source)
    if match is None:
        raise ConfigError(f"{source} should be hf://owner/name or hf://owner/name@revision")
    name, revision = match[1], match[2] or "main"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if (token := os.environ.get("HF_TOKEN")) else {}
    text = web.text(
        f"{endpoint}/api/datasets/{name}/revision/{quote(revision, safe='')}?blobs=true",
        LISTING,
        headers,
    )
    try:
        listing = json.loads(text)
        commit, siblings = str(listing["sha"]), list(_siblings(listing["siblings"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{endpoint} does not answer as the hub does: is HF_ENDPOINT right?"
        ) from None
    web.headers[urlsplit(endpoint).netloc] = headers
    place = f"{endpoint}/datasets/{name}/resolve/{quote(commit, safe='')}"
    parts = [
        Part(_fit(called, source), f"{place}/{quote(path)}", size, sha256)
        for called, (path, size, sha256) in _called(siblings, splits, source)
    ]
    twice = sorted(
        {part.name for part in parts if [other.name for other in parts].count(part.name) > 1}
    )
    if twice:
        raise InputError(
            f"{source} has several files called {twice[0]}: pick some with --split NAME=PATTERN, as in train=plain/train-*"
        )
    return _some(parts, source), f"hf://{name}@{commit}"


Sibling = tuple[str, int | None, str | None]


def _siblings(listed: list[dict[str, Any]]) -> Iterator[Sibling]:
    for one in listed:
        path, large = str(one["rfilename"]), one.get("lfs") or {}
        if PurePosixPath(path).suffix.lower() in ENDINGS:
            yield path, large.get("size", one.get("size")), large.get("sha256")


def _called(
    siblings: list[Sibling], splits: Mapping[str, str], source: str
) -> Iterator[tuple[str, Sibling]]:
    """Which files are taken, and what they will be called."""
    for one in siblings if not splits else ():
        yield PurePosixPath(one[0]).name, one
    for split, pattern in splits.items():
        its = sorted(one for one in siblings if fnmatchcase(one[0], pattern))
        if not its:
            there = ", ".join(path for path, *_ in siblings[:8])
            raise InputError(f"{source}: no table is like {pattern!r}: there are {there or 'none'}")
        for number, one in enumerate(its):
            part = f"-{number:05}-of-{len(its):05}" if len(its) > 1 else ""
            yield f"{split}{part}{PurePosixPath(one[0]).suffix}", one


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
    """Writes one file; its bytes and digest. Raises InputError where they are not what they should be."""
    where = _shown(part.origin)
    if urlsplit(part.origin).scheme in ("http", "https"):
        size, digest, start = 0, hashlib.sha256(), b""
        with path.open("wb") as file:
            for piece in web.pieces(part.origin, limit):
                start = start or piece[:16]
                file.write(piece)
                digest.update(piece)
                size += len(piece)
        found = digest.hexdigest()
        tables.refuse_packed(
            Path(part.name), b"" if path.suffix.lower() in (".parquet", ".pq") else start
        )
    else:
        shutil.copyfile(part.origin, path)
        size, found = path.stat().st_size, file_digest(path)
    if part.bytes is not None and size != part.bytes:
        raise InputError(f"{where} has {size} bytes, and should have {part.bytes}: fetch it again")
    if part.sha256 is not None and found != part.sha256:
        raise InputError(
            f"{where} is not what it should be: its SHA-256 is {found}, and {part.sha256} was asked for"
        )
    if not size:
        raise InputError(f"{where} is empty")
    return size, found


def _record(path: Path, source: str, found: list[tuple[str, int, str]]) -> None:
    import yaml

    files = {name: {"bytes": size, "sha256": digest} for name, size, digest in found}
    path.write_text(
        yaml.safe_dump({"source": source, "files": files}, sort_keys=True), encoding="utf-8"
    )


def _shown(source: str) -> str:
    """A source without what may be secret in it."""
    parts = urlsplit(source)
    return (
        source
        if parts.scheme not in ("http", "https")
        else f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    )
