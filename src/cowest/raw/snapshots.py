"""Versions of a data set: tells which one lies in a folder, verifies it, and lays out another.

git has DVC's pointer to a data set (`NAME.dvc`, the MD5 of the files); DVC has the files. What lies
here and what DVC brings are both verified file by file, because DVC trusts time stamps and its own
cache. A pointer may have been written by somebody else, so none is trusted either.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cowest.config import file_digest
from cowest.errors import InputError
from cowest.io import write_text
from cowest.raw import vcs
from cowest.raw.listings import MD5, cached, cached_listing, listing_of, md5_of, name_of
from cowest.records import DataSet

POINTER_LENGTH = 64 * 2**10
SHOWN = 5
"""Number of files that a message names."""
LAID_OUT = Path(".cowest/laid-out.json")
"""Digest of each version that was laid out in this project, by its place.

Only what is listed here, and was not touched since, is ever written over.
"""


@dataclass(frozen=True, slots=True)
class Pointer:
    """The content of a `.dvc` file: the digest of the file or folder beside it."""

    file: Path
    md5: str
    """MD5 of the file, or of a folder's listing, then with `.dir` at its end."""

    @property
    def tracked(self) -> Path:
        """The file or folder that the pointer stands for."""
        return self.file.with_suffix("")

    @property
    def is_folder(self) -> bool:
        """True if the pointer stands for a folder."""
        return self.md5.endswith(".dir")


def pointer_of(file: Path, text: str, where: str) -> Pointer:
    """Reads the text of the pointer `file`.

    Raises InputError for a pointer that is not safe to hand to DVC.
    """
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
    # DVC would write to any path and run any command that a pointer names.
    if found.get("wdir", ".") != "." or place != file.stem:
        raise refusal(
            f"points elsewhere than to {file.stem!r} beside it, which no pointer to data should"
        )
    if "cmd" in found:
        raise refusal("holds a command, which no pointer to data should")
    is_md5 = isinstance(md5, str) and MD5.fullmatch(md5.removesuffix(".dir"))
    if out.get("hash") != "md5" or not is_md5:
        raise refusal("has no MD5 of the data as DVC 3 writes it")
    return Pointer(file, md5)


def pointer_here(raw: Path) -> Pointer | None:
    """Returns the pointer in the work tree to this path, or to a folder around it.

    Raises InputError if there is a pointer and the data are not here.
    """
    root = vcs.dvc_root(raw.parent)
    if root is None:
        return None
    for tracked in (raw, *raw.parents):
        if tracked.name in ("", ".."):
            return None
        file = tracked.with_name(f"{tracked.name}.dvc")
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            pointer = pointer_of(file, text, str(file))
            if not raw.exists():
                raise InputError(
                    f"{raw} is not here, and {file} names its version: `dvc pull {file}` brings it"
                )
            return pointer
        if _real(tracked).parent == root:
            return None
    return None


def version_of(raw: Path) -> DataSet:
    """Returns the version that lies at `raw`, verified against its pointer.

    Data without a pointer are kept by `git` if git has all of their files, and are `unversioned`
    otherwise. Raises InputError for data that are missing or differ from what their pointer or git
    says, and for a pointer that no commit holds.
    """
    repository = vcs.top(raw.parent)
    pointer = pointer_here(raw)
    if repository is None or pointer is None:
        return _version_in_git(raw, repository)
    file, tracked = pointer.file, pointer.tracked
    if not vcs.is_committed(repository, _real(file)):
        raise InputError(
            f"{file} names a version that no commit holds, so no revision can name it: "
            f"`git add {file} && git commit`, or go back with "
            f"`git checkout -- {file} && dvc checkout {file}`"
        )
    if not matches(tracked, pointer):
        raise InputError(
            f"{tracked} is not the version that {file} names ({_changed(tracked, pointer)}): "
            f"`cowest data add {tracked}` makes a version of it, "
            f"`dvc checkout {file}` brings the other back"
        )
    commit = _last_commit(repository, file)
    return DataSet(
        path=raw.as_posix(), digest=file_digest(raw), kept="dvc", rev=commit, md5=pointer.md5
    )


def version_at(raw: Path, rev: str | None, path: Path) -> DataSet:
    """Returns the version at `raw`, verified against `path` at the revision if one is named.

    A machine without the repository, such as a node of a cluster, can't resolve a revision: the
    data are `unversioned` there. Raises InputError.
    """
    if rev is None:
        return version_of(raw)
    if vcs.top(path.parent) is None and raw.exists():
        return DataSet(path=raw.as_posix(), digest=file_digest(raw), kept="unversioned")
    return lay_out(raw, rev, path)


def _version_in_git(raw: Path, repository: Path | None) -> DataSet:
    """Returns the version of data that have no pointer. Raises InputError if git has another."""
    found = DataSet(path=raw.as_posix(), digest=file_digest(raw), kept="unversioned")
    if repository is None:
        return found
    place = _real(raw)
    _refuse_pointers(str(raw), [str(file.relative_to(place)) for file in _data_files(place)])
    listed = vcs.git(repository, "ls-files", "-z", "--full-name", "--", str(place))
    tracked = _data_names(listed.split("\0"), repository, place)
    if not tracked:
        return found
    _refuse_changes(raw, repository, tracked)
    here = set()
    for file in _data_files(place):
        # Of a link git keeps the target's name and not the data behind it.
        if file.is_symlink():
            return found
        here.add(file.relative_to(repository).as_posix())
    # Git ignores some of the files, or has some that are not checked out: no commit is the whole.
    if here != tracked:
        return found
    return found.model_copy(update={"kept": "git", "rev": _last_commit(repository, raw)})


def _refuse_changes(raw: Path, repository: Path, tracked: set[str]) -> None:
    """Raises InputError if the data differ from what git has of them."""
    place = _real(raw)
    listed = vcs.git(
        repository, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames",
        "--", str(place),
    )  # fmt: skip
    # Each name has two letters of status and a space before it.
    names = [line[3:] for line in listed.split("\0")]
    changed = sorted(_data_names(names, repository, place))
    if not changed:
        return
    how = f"`git checkout -- {raw}` brings the last one back"
    if tracked.isdisjoint(changed):
        how = "or name in .gitignore what git is not to have"
    raise InputError(
        f"{raw} is not the version that git has of it ({_shortened(changed)}), "
        f"so no revision can name it: `git add {raw} && git commit` makes one, {how}"
    )


def _data_names(names: list[str], repository: Path, place: Path) -> set[str]:
    """Keeps those of git's names that are files of the data."""
    found = set()
    for name in names:
        file = repository / name
        if name and (file == place or not hidden(file.relative_to(place))):
            found.add(name)
    return found


def _data_files(place: Path) -> list[Path]:
    """Lists the files that count as data: `place` itself, or all below it that are not hidden."""
    if place.is_file():
        return [place]
    found = []
    for part in place.rglob("*"):
        if part.is_file() and not hidden(part.relative_to(place)):
            found.append(part)
    return found


def lay_out(raw: Path, rev: str, path: Path | None = None) -> DataSet:
    """Puts the version of `path` (None: of `raw`) at a git revision to `raw`, verified.

    The files come from DVC's cache or remote, or from git. What lies at `raw` stays if it is that
    version, and is replaced if it was laid out here and not touched since. Anything else at `raw`
    raises InputError: nobody's files are written over.
    """
    source = raw if path is None else path
    found = find(source, rev)
    # A whole data set is compared with its pointer, which saves fetching it.
    if raw.exists() and found.pointer and source == found.pointer.tracked:
        if matches(raw, found.pointer):
            return found.named(raw)
        if not _laid_out(raw):
            raise InputError(_in_the_way(raw, found))
    raw.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that it comes there whole or not at all, by a rename.
    with tempfile.TemporaryDirectory(prefix=f".{raw.name}.", dir=raw.parent) as folder:
        fetched = Path(folder) / raw.name
        found.fetch(fetched)
        digest = file_digest(fetched)
        if raw.exists() and file_digest(raw) != digest:
            if not _laid_out(raw):
                raise InputError(_in_the_way(raw, found))
            raw.replace(Path(folder) / "before")
        if not raw.exists():
            # Recorded first: what came to its place without a record would count as somebody's own.
            laid_out = _all_laid_out() | {raw.as_posix(): digest}
            write_text(LAID_OUT, json.dumps(laid_out, indent=2) + "\n")
            fetched.replace(raw)
    return found.named(raw)


def _laid_out(raw: Path) -> bool:
    """True if these files were laid out here and not touched since."""
    return _all_laid_out().get(raw.as_posix()) == file_digest(raw)


def _all_laid_out() -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(LAID_OUT.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _in_the_way(raw: Path, found: "Found") -> str:
    said = (
        f"{raw} holds another version than {found.rev} names, and is not written over: take "
        "turn.rev out to use what lies there, or give turn.raw another place and name this one in "
        "turn.path"
    )
    if found.pointer is not None and found.pointer.tracked == raw:
        file = found.pointer.file
        said += f", or go there with `git checkout {found.rev} -- {file} && dvc checkout {file}`"
    return said


@dataclass(frozen=True, slots=True)
class Found:
    """A path at a revision."""

    path: Path
    rev: str
    repository: Path
    commit: str
    pointer: Pointer | None
    """None if git itself has the files."""

    @property
    def _what(self) -> str:
        return f"{self.path} at {self.rev}"

    def named(self, place: Path) -> DataSet:
        """Returns the record of this version, whose files are at `place`."""
        found = DataSet(
            path=self.path.as_posix(), digest=file_digest(place), kept="git", rev=self.commit
        )
        if self.pointer is None:
            return found
        # The pointer's digest is of all that it stands for, and of no part.
        whole = self.pointer.tracked == self.path
        md5 = self.pointer.md5 if whole else None
        return found.model_copy(update={"kept": "dvc", "md5": md5})

    def fetch(self, to: Path) -> None:
        """Writes the version to `to`, where nothing is yet, and verifies it. Raises InputError."""
        with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as folder:
            if self.pointer is None:
                inside = _real(self.path).relative_to(self.repository)
                vcs.check_out(self.repository, self.commit, inside, Path(folder), self._what)
                (Path(folder) / inside).replace(to)
                return
            whole = Path(folder) / self.pointer.tracked.name
            self._download(self.pointer, whole)
            part = whole / _real(self.path).relative_to(_real(self.pointer.tracked))
            if not part.exists():
                raise InputError(
                    f"{self.path} is not tracked at {self.rev} ({self.commit[:12]}): the version "
                    f"of {self.pointer.tracked} there is without it: is this its path there?"
                )
            part.replace(to)

    def _download(self, pointer: Pointer, to: Path) -> None:
        """Copies the files from DVC's cache, after DVC has fetched from a remote what it lacks."""
        root = vcs.dvc_root(pointer.file.parent)
        if root is None:
            raise InputError(f"{pointer.file} lies in no DVC project: `dvc init` makes one")
        cache = vcs.dvc_cache(root)
        wanted = [pointer.md5, *(cached_listing(cache, pointer.md5, pointer.file) or {}).values()]
        if not all(cached(cache, md5).is_file() for md5 in wanted):
            vcs.fetch(root, pointer.md5, self._what)
        listing: dict[str, str] | None = {"": pointer.md5}
        if pointer.is_folder and cached(cache, pointer.md5).is_file():
            listing = cached_listing(cache, pointer.md5, pointer.file)
            to.mkdir()
        if listing is None:
            raise InputError(_damaged(self._what, pointer, "the list of its files"))
        for name, md5 in listing.items():
            place, found = to / name, cached(cache, md5)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not found.is_file():
                raise InputError(
                    f"{self._what}: {name or to.name} is neither in DVC's cache nor in its remote: "
                    "`dvc push` it from where it is"
                )
            shutil.copyfile(found, place)
            if md5_of(place) != md5:
                raise InputError(_damaged(self._what, pointer, name or to.name))


def find(path: Path, rev: str) -> Found:
    """Finds a path at a revision of the git repository around it.

    Raises InputError if there is no repository, or the revision does not have the path.
    """
    repository = vcs.top(path.parent)
    if repository is None:
        raise InputError(
            f"{path} lies in no git repository, so {rev!r} names nothing: "
            "`git init`, or name no revision"
        )
    commit = vcs.commit_of(repository, rev)
    for tracked in (path, *path.parents):
        if tracked.name in ("", "..") or not _real(tracked).is_relative_to(repository):
            break
        file = tracked.with_name(f"{tracked.name}.dvc")
        text = vcs.text_at(repository, commit, _real(file))
        if text is not None:
            return Found(path, rev, repository, commit, pointer_of(file, text, f"{file} at {rev}"))
    place, listed = _real(path), ""
    if place.is_relative_to(repository):
        listed = vcs.git(repository, "ls-tree", "-r", "-z", "--name-only", commit, "--", str(place))
    if not listed:
        raise InputError(
            f"{path} is not tracked at {rev} ({commit[:12]}), neither by DVC nor by git: "
            "is this its path there?"
        )
    _refuse_pointers(f"{path} at {rev}", listed.split("\0"))
    return Found(path, rev, repository, commit, None)


def _refuse_pointers(what: str, names: Iterable[str]) -> None:
    """Raises InputError for files in a folder of data that are pointers to others in it."""
    pointers = [name for name in names if PurePosixPath(name).suffix == ".dvc"]
    if pointers:
        raise InputError(
            f"{what} has pointers to parts of it ({_shortened(sorted(pointers))}), so neither DVC "
            "nor git has a version of the whole: `dvc remove` them, and `cowest data add` the "
            "folder, which keeps it as one version; or name one of its parts"
        )


def matches(path: Path, pointer: Pointer) -> bool:
    """True if these are the bytes that the pointer names; files in `.dvcignore` don't count."""
    if path.is_file() or not pointer.is_folder:
        return path.is_file() and md5_of(path) == pointer.md5
    listing = listing_of(path)
    # It takes DVC a second to say what it ignores, so it is asked only if that can matter.
    if name_of(listing) == pointer.md5:
        return True
    return name_of(_without_left_out(listing, pointer)) == pointer.md5


def _without_left_out(listing: dict[str, str], pointer: Pointer) -> dict[str, str]:
    """Drops what `.dvcignore` names at the pointer's place, wherever the files themselves are."""
    ignored = vcs.left_out(pointer.tracked, list(listing))
    return {name: md5 for name, md5 in listing.items() if name not in ignored}


def _changed(path: Path, pointer: Pointer) -> str:
    """Says in words how the files differ from what the pointer names."""
    root = vcs.dvc_root(pointer.file.parent)
    before = None
    if root is not None and path.is_dir() and pointer.is_folder:
        before = cached_listing(vcs.dvc_cache(root), pointer.md5, pointer.file)
    if before is None:
        return "its bytes are others"
    now = _without_left_out(listing_of(path), pointer)
    both = before.keys() & now.keys()
    kinds = {
        "changed": [name for name in both if now[name] != before[name]],
        "missing": before.keys() - now.keys(),
        "new": now.keys() - before.keys(),
    }
    return "; ".join(
        f"{kind}: {_shortened(sorted(names))}" for kind, names in kinds.items() if names
    )


def _shortened(names: list[str]) -> str:
    """Names the first few files, and counts the others."""
    more = len(names) - SHOWN
    said = vcs.printable(", ".join(names[:SHOWN]))
    return f"{said} and {more} more" if more > 0 else said


def _damaged(what: str, pointer: Pointer, name: str) -> str:
    return (
        f"{what}: {name} did not come as {pointer.file} names it, so it is damaged or cut short in "
        "DVC's cache or remote: take it out of the cache (`dvc cache dir`; its name is its MD5) "
        "and run again, or `dvc push` it again from where it is whole"
    )


def _last_commit(repository: Path, path: Path) -> str:
    """The last commit that changed a path."""
    return vcs.git(repository, "log", "-1", "--format=%H", "--", str(_real(path)))


def hidden(name: Path) -> bool:
    """True for the files of a data set that `file_digest` leaves out."""
    return any(part.startswith(".") or part == "__pycache__" for part in name.parts)


def _real(path: Path) -> Path:
    """The path with links on the way to it resolved, as git writes paths."""
    return path.parent.resolve() / path.name
