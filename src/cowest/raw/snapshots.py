"""Versions of a data set: which one lies in a folder, whether it is whole, and another one laid out.

git has DVC's pointer to a data set (`NAME.dvc`, the MD5 of its files), DVC has the files. What lies there and what DVC brings is
verified here, file by file: DVC itself trusts time stamps and its cache. A pointer may be somebody else's, and is read as such.
"""

import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cowest.config import file_digest
from cowest.errors import InputError
from cowest.io import write_text
from cowest.raw import vcs
from cowest.records import DataSet

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
POINTER_LENGTH = 64 * 2**10
SHOWN = 5
"""Files that a message names."""
LAID_OUT = Path(".cowest/laid-out.json")
"""What was laid out in this project, by its place: digests. Only that, and untouched, is ever written over."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a `.dvc` file says of the file or folder beside it."""

    file: Path
    md5: str
    """Of the file; of the listing of a folder, with `.dir` at its end."""

    @property
    def tracked(self) -> Path:
        """The file or folder that it stands for."""
        return self.file.with_suffix("")


def pointer_of(file: Path, text: str, where: str) -> Pointer:
    """The pointer in this text of a `file`. Raises InputError for one that DVC should not be let follow."""
    import yaml

    def refusal(why: str) -> InputError:
        return InputError(f"{where} {why}: `cowest data add` writes it anew from the files")

    if len(text) > POINTER_LENGTH:
        raise refusal("is too long for a pointer to data")
    try:
        found = yaml.safe_load(text)
        (out,) = found["outs"]
        place, md5 = out["path"], out.get("md5")
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError, RecursionError):
        raise refusal("is no pointer to one data set") from None
    if found.get("wdir", ".") != "." or place != file.stem:
        raise refusal(
            f"points elsewhere than to {file.stem!r} beside it, which no pointer to data should"
        )
    if "cmd" in found:
        raise refusal("holds a command, which no pointer to data should")
    if out.get("hash") != "md5" or not isinstance(md5, str) or not MD5.fullmatch(md5):
        raise refusal("has no MD5 of the data as DVC 3 writes it")
    return Pointer(file, md5)


def version_of(raw: Path) -> DataSet:
    """The version that lies there, verified against its pointer.

    Without a pointer it is kept by `git` where that has the files, and `unversioned` where it has none of them or there is no git.
    Raises InputError for data that are not there or not as their pointer or git says, and for a pointer that no commit holds.
    """
    repository, pointer = vcs.top(raw.parent), pointer_here(raw)
    if pointer is None or repository is None:
        return _without_pointer(raw, repository)
    if vcs.git(repository, "status", "--porcelain", "--", str(_real(pointer.file))):
        raise InputError(
            f"{pointer.file} names a version that no commit holds, so no revision can name it: `git add {pointer.file} && git commit`, "
            f"or go back with `git checkout -- {pointer.file} && dvc checkout {pointer.file}`"
        )
    if not matches(pointer.tracked, pointer):
        raise InputError(
            f"{pointer.tracked} is not the version that {pointer.file} names ({_changed(pointer.tracked, pointer)}): "
            f"`cowest data add {pointer.tracked}` makes a version of it, `dvc checkout {pointer.file}` brings the other back"
        )
    commit = vcs.git(repository, "log", "-1", "--format=%H", "--", str(_real(pointer.file)))
    return DataSet(
        path=raw.as_posix(), digest=file_digest(raw), kept="dvc", rev=commit, md5=pointer.md5
    )


def version_at(raw: Path, rev: str | None, path: Path) -> DataSet:
    """What lies at `raw`, verified: where a revision is named, against that version of `path`; on a machine without the repository,
    as on a cluster, no revision can be told. Raises InputError."""
    if rev is None:
        return version_of(raw)
    if vcs.top(path.parent) is None and raw.exists():
        return DataSet(path=raw.as_posix(), digest=file_digest(raw), kept="unversioned")
    return lay_out(raw, rev, path)


def pointer_here(raw: Path) -> Pointer | None:
    """The pointer to this path, or to a folder around it, in the work tree."""
    root = vcs.dvc_root(raw.parent)
    if root is None:
        return None
    for tracked in (raw, *raw.parents):
        file = tracked.with_name(f"{tracked.name}.dvc") if tracked.name not in ("", "..") else None
        if file is not None and file.is_file():
            pointer = pointer_of(
                file, file.read_text(encoding="utf-8", errors="replace"), str(file)
            )
            if not raw.exists():
                raise InputError(
                    f"{raw} is not here, and {file} names its version: `dvc pull {file}` brings it"
                )
            return pointer
        if file is None or _real(tracked).parent == root:
            return None
    return None


def _without_pointer(raw: Path, repository: Path | None) -> DataSet:
    found = DataSet(path=raw.as_posix(), digest=file_digest(raw), kept="unversioned")
    if repository is None:
        return found
    place = _real(raw)
    tracked = _seen(
        vcs.git(repository, "ls-files", "-z", "--full-name", "--", str(place)).split("\0"),
        repository,
        place,
    )
    if not tracked:
        return found
    lines = vcs.git(
        repository,
        "status",
        "--porcelain",
        "-z",
        "--untracked-files=all",
        "--no-renames",
        "--",
        str(place),
    ).split("\0")
    if dirty := sorted(_seen([line[3:] for line in lines], repository, place)):
        more = f" and {len(dirty) - SHOWN} more" if len(dirty) > SHOWN else ""
        how = f"`git checkout -- {raw}` brings the last one back"
        if not any(name in tracked for name in dirty):
            how = "or name in .gitignore what git is not to have"
        raise InputError(
            f"{raw} is not the version that git has of it ({', '.join(dirty[:SHOWN])}{more}), so no revision can name it: "
            f"`git add {raw} && git commit` makes one, {how}"
        )
    files = (
        {place}
        if raw.is_file()
        else {
            part
            for part in place.rglob("*")
            if part.is_file() and not _hidden(part.relative_to(place))
        }
    )
    if (
        any(part.is_symlink() for part in files)
        or {part.relative_to(repository).as_posix() for part in files} != tracked
    ):
        # git ignores some of them, has no more than links to them, or has some that are not checked out
        return found
    return found.model_copy(
        update={
            "kept": "git",
            "rev": vcs.git(repository, "log", "-1", "--format=%H", "--", str(place)),
        }
    )


def _seen(names: list[str], repository: Path, place: Path) -> set[str]:
    """Of git's names, those of files that count as data."""
    return {
        name
        for name in names
        if name
        and (repository / name == place or not _hidden((repository / name).relative_to(place)))
    }


def lay_out(raw: Path, rev: str, path: Path | None = None) -> DataSet:
    """The version of `path` (None: of `raw`) that a git revision names, at `raw`: fetched from DVC's cache or remote, verified.

    What lies at `raw` stays if it is that version, is replaced if it was laid out here and not touched since, and is an error
    otherwise: nothing of anybody's is written over. Raises InputError.
    """
    source = raw if path is None else path
    found = find(source, rev)
    if raw.exists() and found.pointer and source == found.pointer.tracked:
        if matches(raw, found.pointer):
            return found.named(raw)
        if not _laid_out(raw):
            raise InputError(_in_the_way(raw, rev))
    raw.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{raw.name}.", dir=raw.parent) as folder:
        fetched = Path(folder) / raw.name
        found.fetch(fetched)
        if raw.exists() and file_digest(raw) != file_digest(fetched):
            if not _laid_out(raw):
                raise InputError(_in_the_way(raw, rev))
            raw.replace(Path(folder) / "before")
        if not raw.exists():
            fetched.replace(raw)
            write_text(
                LAID_OUT,
                json.dumps(_all_laid_out() | {raw.as_posix(): file_digest(raw)}, indent=2) + "\n",
            )
    return found.named(raw)


def _laid_out(raw: Path) -> bool:
    return _all_laid_out().get(raw.as_posix()) == file_digest(raw)


def _all_laid_out() -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(LAID_OUT.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _in_the_way(raw: Path, rev: str) -> str:
    return (
        f"{raw} holds another version than {rev} names, and is not written over: take turn.rev out to use what lies there, give "
        f"turn.raw another place and name this one in turn.path, or go there with `git checkout {rev} -- {raw}.dvc && dvc checkout`"
    )


@dataclass(frozen=True, slots=True)
class Found:
    """A path at a revision."""

    path: Path
    rev: str
    repository: Path
    commit: str
    pointer: Pointer | None
    """None: git itself has the files."""

    def named(self, place: Path) -> DataSet:
        """The record of this version, whose files are at `place`."""
        whole = self.pointer is not None and self.pointer.tracked == self.path
        return DataSet(
            path=self.path.as_posix(), digest=file_digest(place), kept="dvc" if self.pointer else "git", rev=self.commit,
            md5=self.pointer.md5 if whole and self.pointer else None,
        )  # fmt: skip

    def fetch(self, to: Path) -> None:
        """Writes it to `to`, where nothing is yet, verified. Raises InputError."""
        with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as folder:
            if self.pointer is None:
                self._unpack(Path(folder)).replace(to)
            else:
                whole = self._download(self.pointer, Path(folder) / self.pointer.tracked.name)
                (whole / _real(self.path).relative_to(_real(self.pointer.tracked))).replace(to)

    def _download(self, pointer: Pointer, to: Path) -> Path:
        """The files from DVC's cache, where a remote has to bring them first."""
        root = vcs.dvc_root(pointer.file.parent)
        if root is None:
            raise InputError(f"{pointer.file} lies in no DVC project: `dvc init` makes one")
        cache, what = vcs.dvc_cache(root) / "files" / "md5", f"{self.path} at {self.rev}"
        if any(
            not _cached(cache, md5).is_file()
            for md5 in [pointer.md5, *(_cached_listing(pointer, cache) or {}).values()]
        ):
            _bring(pointer, root, what)
        listing: dict[str, str] | None = {"": pointer.md5}
        if pointer.md5.endswith(".dir") and _cached(cache, pointer.md5).is_file():
            listing = _cached_listing(pointer, cache)
            to.mkdir()
        if listing is None:
            raise InputError(_damaged(what, pointer, "the list of its files"))
        for name, md5 in listing.items():
            place = to / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if not _cached(cache, md5).is_file():
                raise InputError(
                    f"{what}: {name or to.name} is neither in DVC's cache nor in its remote: `dvc push` it from where it is"
                )
            shutil.copyfile(_cached(cache, md5), place)
            if _md5(place) != md5:
                raise InputError(_damaged(what, pointer, name or to.name))
        return to

    def _unpack(self, folder: Path) -> Path:
        """The files that git itself has."""
        archive, inside = (
            folder / "archive.tar",
            _real(self.path).relative_to(self.repository).as_posix(),
        )
        vcs.git(
            self.repository,
            "archive",
            "--format=tar",
            f"--output={archive}",
            self.commit,
            "--",
            inside,
        )
        with tarfile.open(archive) as tar:
            for member in tar:
                to, content = (
                    folder / "files" / member.name,
                    tar.extractfile(member) if member.isreg() else None,
                )
                if member.isdir():
                    to.mkdir(parents=True, exist_ok=True)
                elif content is None or not to.resolve().is_relative_to(
                    (folder / "files").resolve()
                ):
                    raise InputError(
                        f"{self.path} at {self.rev}: {member.name!r} is a link or no ordinary file: a version has the files themselves, "
                        "and nothing was written"
                    )
                else:
                    to.parent.mkdir(parents=True, exist_ok=True)
                    with to.open("wb") as file:
                        shutil.copyfileobj(content, file)
        return folder / "files" / inside


def find(path: Path, rev: str) -> Found:
    """A path at a git revision of the repository around it. Raises InputError where there is no such thing."""
    repository = vcs.top(path.parent)
    if repository is None:
        raise InputError(
            f"{path} lies in no git repository, so {rev!r} names nothing: `git init`, or name no revision"
        )
    commit = vcs.commit_of(repository, rev)
    for tracked in (path, *path.parents):
        if tracked.name in ("", "..") or not _real(tracked).is_relative_to(repository):
            break
        file = tracked.with_name(f"{tracked.name}.dvc")
        text = vcs.text_at(repository, commit, _real(file))
        if text is not None:
            return Found(path, rev, repository, commit, pointer_of(file, text, f"{file} at {rev}"))
    if not _real(path).is_relative_to(repository) or not vcs.git(
        repository, "ls-tree", "--name-only", commit, "--", str(_real(path))
    ):
        raise InputError(
            f"{path} is not tracked at {rev} ({commit[:12]}), neither by DVC nor by git: is this its path there?"
        )
    return Found(path, rev, repository, commit, None)


def matches(path: Path, pointer: Pointer) -> bool:
    """Whether these are the bytes that the pointer names; what `.dvcignore` leaves out has no say."""
    if path.is_file() or not pointer.md5.endswith(".dir"):
        return path.is_file() and _md5(path) == pointer.md5
    listing = _listing(path)
    return (
        _listed(listing) == pointer.md5
        or _listed(_without_left_out(path, listing, pointer)) == pointer.md5
    )


def _listing(folder: Path) -> dict[str, str]:
    return {
        part.relative_to(folder).as_posix(): _md5(part)
        for part in folder.rglob("*")
        if part.is_file()
    }


def _without_left_out(folder: Path, listing: dict[str, str], pointer: Pointer) -> dict[str, str]:
    """`.dvcignore` is asked of the place that the pointer stands for, wherever the files are."""
    ignored = vcs.left_out(pointer.tracked, list(listing))
    return {name: md5 for name, md5 in listing.items() if name not in ignored}


def _listed(listing: dict[str, str]) -> str:
    """DVC's name of a folder: the MD5 of its listing."""
    rows = [{"md5": md5, "relpath": name} for name, md5 in sorted(listing.items())]
    return (
        hashlib.md5(json.dumps(rows, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
        + ".dir"
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _changed(path: Path, pointer: Pointer) -> str:
    """What is other than the pointer says, in words."""
    root = vcs.dvc_root(pointer.file.parent)
    known = root is not None and path.is_dir() and pointer.md5.endswith(".dir")
    before = (
        _cached_listing(pointer, vcs.dvc_cache(root) / "files" / "md5") if root and known else None
    )
    if before is None:
        return "its bytes are others"
    now = _without_left_out(path, _listing(path), pointer)
    kinds = {
        "changed": sorted(name for name in before if name in now and now[name] != before[name]),
        "missing": sorted(before.keys() - now.keys()),
        "new": sorted(now.keys() - before.keys()),
    }
    return "; ".join(
        f"{kind}: {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for kind, names in kinds.items()
        if names
    )


def _bring(pointer: Pointer, root: Path, what: str) -> None:
    """Has DVC fetch a version into its cache: by a pointer of its own for a moment, for DVC fetches what the work tree names."""
    own = root / f"cowest-{os.getpid()}-{pointer.md5[:12]}.dvc"
    out = f"{{md5: {pointer.md5}, hash: md5, path: {own.stem}}}"
    try:
        own.write_text(f"outs:\n- {out}\n", encoding="utf-8")
        vcs.dvc(root, "fetch", own.name, what=what)
    finally:
        own.unlink(missing_ok=True)


def _damaged(what: str, pointer: Pointer, name: str) -> str:
    return (
        f"{what}: {name} did not come as {pointer.file} names it, so it is damaged or cut short in DVC's cache or remote: take it out of "
        "the cache (`dvc cache dir`; its name is its MD5) and run again, or `dvc push` it again from where it is whole"
    )


def _cached(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _cached_listing(pointer: Pointer, cache: Path) -> dict[str, str] | None:
    """The folder's files, where DVC's cache has their list whole. Raises InputError for one that leaves the folder: DVC would follow it."""
    cached = _cached(cache, pointer.md5)
    if (
        not pointer.md5.endswith(".dir")
        or not cached.is_file()
        or f"{_md5(cached)}.dir" != pointer.md5
    ):
        return None
    try:
        found = {
            str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(cached.read_bytes())
        }
    except (ValueError, TypeError, KeyError):
        return None
    for name, md5 in found.items():
        if (
            PurePosixPath(name).is_absolute()
            or ".." in PurePosixPath(name).parts
            or "\0" in name
            or not re.fullmatch("[0-9a-f]{32}", md5)
        ):
            raise InputError(
                f"{pointer.file} stands for a folder with a file outside of it ({name!r}): nothing of it was written"
            )
    return found


def _hidden(name: Path) -> bool:
    """What `file_digest` leaves out."""
    return any(part.startswith(".") or part == "__pycache__" for part in name.parts)


def _real(path: Path) -> Path:
    """Its place without links on the way; git answers with such."""
    return path.parent.resolve() / path.name
