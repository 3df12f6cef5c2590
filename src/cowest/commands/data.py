"""Versions of data sets under DVC: `add` makes one, `diff` compares two, `fetch` gets raw data.

DVC's own commands do the rest: `dvc push` and `dvc pull` share versions, `dvc checkout` brings the
committed one back.

Held-out queries wear out: each decision on the same ones costs confidence (`cowest status` says how
many there were; compare.spend). New held-out rows of new groups renew them: add them to the raw
data with the split `test`, move rows of old test groups to `train`, and make a version with `add`.
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
from cowest.commands import add_params, data_fetch
from cowest.config import enter, file_digest, load, parse, section
from cowest.errors import ConfigError, CoWestError, InputError, RecordError
from cowest.lineage import TurnConfig
from cowest.raw import snapshots, tables, vcs
from cowest.raw.difference import Read
from cowest.raw.files import byte_lines
from cowest.raw.intake import Intake
from cowest.records import Demonstration, Query
from cowest.stages.prepare import PrepareConfig

RAW = Path("data/raw")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def main(argv: list[str]) -> int:
    """0: done. Raises CoWestError."""
    if argv[:1] == ["fetch"]:
        return data_fetch.main(argv[1:])
    given = _parser().parse_args(argv)
    if given.command == "add":
        add(given.path, given.name, given.commit)
    else:
        diff(given.first, given.second, given.params, given.html)
    return 0


def _parser() -> argparse.ArgumentParser:
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
    differing.add_argument(
        "first",
        metavar="FIRST",
        help="a git revision (of turn.raw; REV:PATH for another), a folder of raw data, "
        "or a file of queries",
    )
    differing.add_argument("second", metavar="SECOND", help="the same")
    differing.add_argument("--html", type=Path, metavar="FILE", help="write it as a page too")
    add_params(differing, "whose `prepare` reads raw data (params.yaml)")
    return parser


def add(path: Path, name: str | None = None, message: str | None = None) -> None:
    """Copies a data set to data/raw, has DVC keep it, and says what to commit.

    Raises CoWestError, and then everything is as it was. If git refuses the commit alone, the
    version is made all the same.
    """
    _refuse(path)
    root = vcs.dvc_root(Path())
    if root is None:
        raise InputError(
            f"{Path.cwd()} is in no DVC project: `dvc init` makes one "
            "(`git init` before it, so that versions have revisions)"
        )
    repository = vcs.top(Path())
    if repository is not None:
        _use_git(root)
    elif message is not None:
        raise ConfigError(
            "--commit: there is no git repository here: `git init` makes one, or leave --commit out"
        )
    inside = path.resolve().is_relative_to(RAW.resolve()) and path.resolve() != RAW.resolve()
    if inside and name is not None:
        raise ConfigError(
            f"--name {name}: {path} is in {RAW} already, and keeps its name: leave --name out"
        )
    called = name or (path.stem if path.is_file() else path.resolve().name)
    if not NAME.fullmatch(called):
        raise ConfigError(
            f"{called!r} is no name of a data set: letters, digits, points, dashes, and a letter "
            "or digit first; give one with --name"
        )
    place = RAW / called
    if inside:
        # DVC keeps what lies directly in data/raw: a file deeper down is part of that version.
        place = RAW / path.resolve().relative_to(RAW.resolve()).parts[0]
    before = _before(place, repository)
    if inside:
        _keep(place, root)
    else:
        _put(path, place, root, before)
    _say(place, root, repository, before, to_commit=message is None)
    if message is not None and repository is not None:
        try:
            _commit(place, repository, message)
        except InputError as error:
            raise InputError(
                f"{error}. The version of {place} is made, and only its commit is missing: mend "
                "that, and give the same command again"
            ) from None


def _refuse(path: Path) -> None:
    """Raises InputError for a path of which no version can be made."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        return
    if not path.is_dir():
        raise InputError(f"{path} is no ordinary file: give a file or a folder")
    if path.resolve() == Path().resolve() or Path().resolve().is_relative_to(path.resolve()):
        raise InputError(f"{path} is the project itself, or around it: give the folder of the data")
    parts = list(path.rglob("*"))
    for part in parts:
        # A link points to what may be gone tomorrow.
        if part.is_symlink():
            raise InputError(f"{part} is a link: give the folder that has the files themselves")
    if not any(part.is_file() for part in parts):
        raise InputError(f"{path} has no files")


def _use_git(root: Path) -> None:
    """Tells DVC that there is a git repository, if it believes that there is none."""
    # `cowest init` wrote this setting when there was no git yet. Now there is, and versions should
    # have revisions.
    setting = vcs.ask_dvc(root, "config", "core.no_scm").stdout.strip().lower()
    if setting == "true":
        what = f"{root}/.dvc/config says that there is no git, and there is"
        vcs.dvc(root, "config", "--unset", "core.no_scm", what=what)


def _before(place: Path, repository: Path | None) -> snapshots.Pointer | None:
    """Returns the version that is there now. Raises InputError if git itself has the files."""
    if repository is not None and vcs.git(repository, "ls-files", "--", str(place.absolute())):
        raise InputError(
            f"git itself has the files of {place}, and a file is kept by git or by DVC, not by "
            f"both: `git rm -r -q --cached {place}` and commit that first, or leave them with git, "
            "which does well while they are small"
        )
    return snapshots.pointer_here(place) if place.exists() else None


def _put(path: Path, place: Path, root: Path, before: snapshots.Pointer | None) -> None:
    """Copies a data set to its place, whole or not at all.

    Only a version that DVC has is written over. Raises InputError for anything else.
    """
    if place.exists() and (before is None or not snapshots.matches(place, before)):
        raise InputError(
            f"{place} holds files that no version has, and they would be lost: "
            f"`cowest data add {place}` makes a version of them first; or move them away"
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
            # Also when it is interrupted: what was there before comes back.
            shutil.rmtree(place)
            if old.exists():
                old.replace(place)
            raise


def _hidden(_: str, names: list[str]) -> set[str]:
    return {name for name in names if snapshots.hidden(Path(name))}


def _keep(place: Path, root: Path) -> None:
    vcs.dvc(root, "add", "--quiet", str(place.resolve()), what=str(place))


def _say(
    place: Path,
    root: Path,
    repository: Path | None,
    before: snapshots.Pointer | None,
    to_commit: bool,
) -> None:
    """Prints what the version holds, and how to commit it, if that is asked for, and share it."""
    pointer = snapshots.pointer_here(place)
    assert pointer is not None, "DVC has just written it"
    print(f"{place}: {_contents(place)}")
    print(f"digest  {file_digest(place)}   (DVC: {pointer.md5})")
    if before is not None and before.md5 == pointer.md5:
        print("as it was: this version was there already")
    elif before is not None:
        print(f"before  {before.md5}; `cowest data diff HEAD {place}` says what differs")
    if repository is None:
        print(
            "there is no git repository here, so the version has no revision: "
            "`git init` for turns that can name one"
        )
        return
    if to_commit and _to_commit(place, repository):
        files = " ".join(map(str, _in_git(place, repository)))
        print(f"commit  git add {files} && git commit -m 'Data: {place.name}'")
    remote = vcs.ask_dvc(root, "config", "core.remote").stdout.strip()
    if remote:
        print(f"share   dvc push   (to {remote})")
    else:
        print("share   dvc remote add -d NAME PLACE, a folder or s3://bucket/path; then dvc push")


def _contents(place: Path) -> str:
    """Says how many files, rows and bytes there are."""
    files = [place]
    if place.is_dir():
        files = [part for part in sorted(place.rglob("*")) if part.is_file()]
    size = sum(file.stat().st_size for file in files)
    # A .json file beside a table may be notes on it, such as a schema.
    endings = {file.suffix.lower() for file in files}
    has_table = not endings.isdisjoint({*tables.ENDINGS} - {".json"})
    counts = []
    for file in files:
        is_note = has_table and file.suffix.lower() == ".json"
        counts.append(None if is_note else rows_of(file))
    known = [count for count in counts if count is not None]
    said = f"{len(files):,} file{'s' if len(files) > 1 else ''}"
    if known:
        said += f", {sum(known):,} rows"
    if 0 < len(known) < len(files):
        said += f", in {len(known)} of them"
    return f"{said}, {size:,} bytes"


def rows_of(path: Path) -> int | None:
    """Returns the number of rows of a table.

    None for another kind of file, if reading it takes an extra that is not installed, or if a row
    is bad: a quote may have swallowed others.
    """
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return sum(1 for line in byte_lines(path) if line.strip())
        # As `cowest init` reads it, before any setting says how.
        found = tables.rows(path, delimiter=tables.likely_delimiter(path))
        return sum(1 for _ in tables.sound(path, found))
    except CoWestError:
        return None


def _to_commit(place: Path, repository: Path) -> list[str]:
    """Lists the files of a version that no commit has as they are now."""
    files = [file.resolve() for file in _in_git(place, repository)]
    return [str(file) for file in files if not vcs.is_committed(repository, file)]


def _in_git(place: Path, repository: Path) -> list[Path]:
    """The files of a version that git is to have: its pointer, and what DVC has git ignore."""
    pointer, ignore = place.with_name(f"{place.name}.dvc"), place.parent / ".gitignore"
    # git adds no file that it ignores, and in this one nothing is lost.
    if not ignore.exists() or vcs.is_ignored(repository, ignore.resolve()):
        return [pointer]
    return [pointer, ignore]


def _commit(place: Path, repository: Path, message: str) -> None:
    files = _to_commit(place, repository)
    if not files:
        print("nothing to commit")
        return
    vcs.git(repository, "add", "--", *files)
    # The paths once more: what else is staged is somebody's work and waits for its own commit.
    vcs.git(repository, "commit", "--quiet", "-m", message, "--", *files)
    print(f"committed as {vcs.commit_of(repository, 'HEAD')[:12]}")


def diff(first: str, second: str, params: Path, html: Path | None = None) -> None:
    """Prints which queries are added, removed and changed between two versions.

    Also prints how lengths, right answers, splits and tags are distributed in both. Rows are
    streamed: two versions of a million rows each take about 300 MB. Raises CoWestError.
    """
    from cowest.raw import difference
    from cowest.report import difference as words

    with ExitStack() as stack:
        here = [Path(side).absolute() if Path(side).exists() else None for side in (first, second)]
        page = None if html is None else html.absolute()
        # Two files of rows can be compared outside of a project.
        if params.exists():
            params = enter(params)
        before = here[0] or _laid_out(first, params, stack)
        after = here[1] or _laid_out(second, params, stack)
        found = difference.compare(_reader(before, params), _reader(after, params), (first, second))
    print(words.text(found))
    if page is not None:
        io.write_text(page, words.page(found))
        print(f"\npage: {html}")


def _laid_out(side: str, params: Path, stack: ExitStack) -> Path:
    """Returns the path of a revision's files, which are there until the stack ends."""
    rev, _, inside = side.partition(":")
    path = Path(inside)
    if not inside:
        turn = parse(TurnConfig, section(load(params), "turn", str(params)), f"{params}: turn")
        path = turn.path or turn.raw
    found = snapshots.find(path, rev)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".cowest-diff-", dir=Path()))
    place = Path(folder) / path.name
    found.fetch(place)
    return place


def _reader(place: Path, params: Path) -> Read:
    """Returns what reads the queries there.

    Rows of a turn are read as they are, raw data through the project's `prepare`.
    """
    if place.is_file() and place.suffix == ".jsonl" and _are_queries(place):
        return lambda: io.read(place, Query)
    settings = section(load(params), "prepare", str(params))
    source = parse(PrepareConfig, settings, f"{params}: prepare").source

    def read() -> Iterator[Query | Demonstration]:
        # Bad rows are counted and not judged: two versions can be compared all the same.
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
