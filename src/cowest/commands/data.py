"""Versions of data sets: `cowest data add` makes one of what it is given, under DVC; `cowest data diff` says what differs between two.

DVC's own commands do the rest: `dvc push` and `dvc pull` share versions, `dvc checkout` brings the committed one back.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from cowest import io
from cowest.commands import data_fetch
from cowest.config import file_digest, load, parse, section
from cowest.errors import ConfigError, CoWestError, InputError, RecordError
from cowest.lineage import TurnConfig
from cowest.raw import snapshots, tables, vcs
from cowest.raw.difference import Read
from cowest.raw.intake import Intake
from cowest.records import Demonstration, Query
from cowest.stages.prepare import PrepareConfig

RAW = Path("data/raw")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def main(argv: list[str]) -> int:
    """0: done. Raises CoWestError."""
    parser = argparse.ArgumentParser(
        prog="cowest data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "fetch",
        help="fetch raw data: from a path, a URL, or a data set of the Hugging Face hub",
        add_help=False,
    )
    if argv[:1] == ["fetch"]:
        return data_fetch.main(argv[1:])
    adding = commands.add_parser(
        "add", help="make a version of a file or folder, as data/raw/NAME", description=add.__doc__
    )
    adding.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="a file or a folder; in data/raw it stays where it is",
    )
    adding.add_argument("--name", help="what it is called in data/raw (as PATH is)")
    adding.add_argument(
        "--commit", metavar="MESSAGE", help="commit its pointer to git, and nothing else"
    )
    differing = commands.add_parser(
        "diff", help="what differs between two versions, row by row", description=diff.__doc__
    )
    for name, words in (
        (
            "first",
            "a git revision (of turn.raw; REV:PATH for another), a folder of raw data, or a file of queries",
        ),
        ("second", "the same"),
    ):
        differing.add_argument(name, metavar=name.upper(), help=words)
    differing.add_argument("--html", type=Path, metavar="FILE", help="write it as a page too")
    differing.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        help="whose `prepare` reads raw data (params.yaml)",
    )
    given = parser.parse_args(argv)
    if given.command == "add":
        add(given.path, given.name, given.commit)
    else:
        diff(given.first, given.second, given.params, given.html)
    return 0


def add(path: Path, name: str | None = None, message: str | None = None) -> None:
    """Copies a data set to data/raw, has DVC keep it, and says what to commit. Raises CoWestError, and leaves all as it was."""
    _refuse(path)
    root = vcs.dvc_root(Path())
    if root is None:
        raise InputError(
            f"{Path.cwd()} is in no DVC project: `dvc init` makes one (`git init` before it, so that versions have revisions)"
        )
    repository = vcs.top(Path())
    if (
        repository is not None
        and vcs.ask_dvc(root, "config", "core.no_scm").stdout.strip().lower() == "true"
    ):
        # `cowest init` wrote it where there was no git yet; now there is, and versions are to have revisions.
        vcs.dvc(
            root,
            "config",
            "--unset",
            "core.no_scm",
            what=f"{root}/.dvc/config says that there is no git, and there is",
        )
    within = path.resolve().is_relative_to(RAW.resolve()) and path.resolve() != RAW.resolve()
    if within and name is not None:
        raise ConfigError(f"--name {name}: {path} is in {RAW} already, and has its name")
    called = name or (path.stem if path.is_file() else path.resolve().name)
    if not NAME.fullmatch(called):
        raise ConfigError(
            f"{called!r} is no name of a data set: letters, digits, points, dashes, and a letter or digit first; give one with --name"
        )
    place = RAW / path.resolve().relative_to(RAW.resolve()).parts[0] if within else RAW / called
    before = _before(place, repository)
    if within:
        _keep(place, root)
    else:
        _put(path, place, root, before)
    _say(place, root, repository, before)
    if message is not None:
        _commit(place, repository, message)


def _refuse(path: Path) -> None:
    """What makes no version: nothing there, no files, and links, which point to what may be gone tomorrow."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        return
    if not path.is_dir():
        raise InputError(f"{path} is no ordinary file: give a file or a folder")
    if path.resolve() == Path().resolve() or Path().resolve().is_relative_to(path.resolve()):
        raise InputError(f"{path} is the project itself, or around it: give the folder of the data")
    links = [part for part in path.rglob("*") if part.is_symlink()]
    if links:
        raise InputError(f"{links[0]} is a link: give the folder that has the files themselves")
    if not any(part.is_file() for part in path.rglob("*")):
        raise InputError(f"{path} has no files")


def _before(place: Path, repository: Path | None) -> snapshots.Pointer | None:
    """The version that is there now. Raises InputError for data that git has, or for a new version over changes that none has."""
    if repository is not None and vcs.git(repository, "ls-files", "--", str(place.absolute())):
        raise InputError(
            f"git itself has the files of {place}, and a file is kept by git or by DVC, not by both: `git rm -r -q --cached {place}` and "
            "commit that first, or leave them with git, which does well while they are small"
        )
    return snapshots.pointer_here(place) if place.exists() else None


def _put(path: Path, place: Path, root: Path, before: snapshots.Pointer | None) -> None:
    """Copies it there, whole or not at all, over a version that DVC has and nothing else."""
    if place.exists() and (before is None or not snapshots.matches(place, before)):
        raise InputError(
            f"{place} holds files that no version has, and they would be lost: `cowest data add {place}` makes a version of them first; "
            "or move them away"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as folder:
        copy, old = Path(folder) / "new", Path(folder) / "old"
        copy.mkdir()
        if path.is_file():
            shutil.copyfile(path, copy / path.name)
        else:
            shutil.copytree(
                path, copy, dirs_exist_ok=True, copy_function=shutil.copyfile, ignore=_hidden
            )
        if place.exists():
            place.replace(old)
        copy.replace(place)
        try:
            _keep(place, root)
        except BaseException:
            shutil.rmtree(place)
            if old.exists():
                old.replace(place)
            raise


def _hidden(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name.startswith(".") or name == "__pycache__"}


def _keep(place: Path, root: Path) -> None:
    vcs.dvc(root, "add", "--quiet", str(place.resolve()), what=str(place))


def _say(
    place: Path, root: Path, repository: Path | None, before: snapshots.Pointer | None
) -> None:
    pointer = snapshots.pointer_here(place)
    assert pointer is not None, "DVC has just written it"
    files = (
        [part for part in sorted(place.rglob("*")) if part.is_file()] if place.is_dir() else [place]
    )
    counts = [rows_of(part) for part in files]
    rows = sum(count for count in counts if count is not None)
    size = sum(part.stat().st_size for part in files)
    uncounted = (
        f", in {sum(count is not None for count in counts)} of them" if None in counts else ""
    )
    print(
        f"{place}: {len(files):,} file{'s' if len(files) > 1 else ''}, {rows:,} rows{uncounted}, {size:,} bytes"
    )
    print(f"digest  {file_digest(place)}   (DVC: {pointer.md5})")
    if before is not None:
        print(
            "as it was: this version was there already"
            if before.md5 == pointer.md5
            else f"before  {before.md5}; `cowest data diff HEAD {place}` says what differs"
        )
    if repository is None:
        print(
            "there is no git repository here, so the version has no revision: `git init` for turns that can name one"
        )
        return
    ignore = place.parent / ".gitignore"
    if vcs.git(
        repository,
        "status",
        "--porcelain",
        "--",
        str(pointer.file.resolve()),
        str(ignore.resolve()),
    ):
        print(f"commit  git add {pointer.file} {ignore} && git commit -m 'Data: {place.name}'")
    remote = vcs.ask_dvc(root, "config", "core.remote").stdout.strip()
    print(
        f"share   dvc push   (to {remote})"
        if remote
        else "share   dvc remote add -d NAME PLACE, a folder or s3://bucket/path; then dvc push"
    )


def _commit(place: Path, repository: Path | None, message: str) -> None:
    if repository is None:
        raise ConfigError("--commit: there is no git repository here")
    files = [
        str(file.resolve())
        for file in (place.with_name(f"{place.name}.dvc"), place.parent / ".gitignore")
        if file.exists()
    ]
    if not vcs.git(repository, "status", "--porcelain", "--", *files):
        print("nothing to commit")
        return
    vcs.git(repository, "add", "--", *files)
    vcs.git(repository, "commit", "--quiet", "-m", message, "--", *files)
    print(f"committed as {vcs.commit_of(repository, 'HEAD')[:12]}")


def diff(first: str, second: str, params: Path, html: Path | None = None) -> None:
    """Prints which queries are added, removed and changed, and how lengths, right answers, splits and tags are distributed in both.
    Rows are streamed: two versions of a million rows each take about 300 MB. Raises CoWestError."""
    from cowest.raw import difference
    from cowest.report import difference as words

    with ExitStack() as laid_out:
        places = [_placed(side, params, laid_out) for side in (first, second)]
        found = difference.compare(
            _reader(places[0], params), _reader(places[1], params), (first, second)
        )
    print(words.text(found))
    if html is not None:
        io.write_text(html, words.page(found))
        print(f"\npage: {html}")


def _placed(side: str, params: Path, laid_out: ExitStack) -> Path:
    """Where the files of one side lie: a path that is here, or a revision's, fetched for as long as this takes."""
    if Path(side).exists():
        return Path(side)
    rev, _, inside = side.partition(":")
    named = (
        None
        if inside
        else parse(TurnConfig, section(load(params), "turn", str(params)), f"{params}: turn")
    )
    path = Path(inside) if named is None else named.path or named.raw
    found = snapshots.find(path, rev)
    folder = Path(
        laid_out.enter_context(tempfile.TemporaryDirectory(prefix=".cowest-diff-", dir=Path()))
    )
    found.fetch(folder / path.name)
    return folder / path.name


def _reader(place: Path, params: Path) -> Read:
    """Reads the queries there: rows of a turn as they are, raw data through the project's `prepare`."""
    if place.is_file() and place.suffix == ".jsonl" and _are_queries(place):
        return lambda: io.read(place, Query)
    source = parse(
        PrepareConfig, section(load(params), "prepare", str(params)), f"{params}: prepare"
    ).source

    def read() -> Iterator[Query | Demonstration]:
        intake = Intake(most=sys.maxsize)
        yield from source.rows(place, intake)
        if intake.bad or not intake.used:
            print(f"{place.name}: {intake.told()}", file=sys.stderr)

    return read


def _are_queries(file: Path) -> bool:
    try:
        next(io.read(file, Query), None)
    except RecordError:
        return False
    return True


def rows_of(path: Path) -> int | None:
    """Rows of a table; None for another file, or where reading it takes an extra that is not there."""
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return sum(1 for line in io.lines(path) if line.strip())
        return sum(1 for _ in tables.rows(path, None, None))
    except CoWestError:
        return None
