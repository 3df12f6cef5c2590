"""Versions of data sets with real git and DVC: added, shared through a folder and an S3 server,
named by a turn, refused when unfit.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowest import cli
from cowest.commands.data import add
from cowest.config import file_digest
from cowest.errors import CoWestError, InputError
from cowest.lineage import turn_of
from cowest.raw import snapshots
from tests import s3

HANDBOOK = Path("data/raw/handbook")
POINTER = Path("data/raw/handbook.dvc")


@pytest.fixture(scope="module", autouse=True)
def committer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """git wants a name; DVC keeps state beside the user, which is nobody's here."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AUTHOR_NAME": "t",
            "AUTHOR_EMAIL": "t@t",
            "COMMITTER_NAME": "t",
            "COMMITTER_EMAIL": "t@t",
        }.items():
            patch.setenv(f"GIT_{name}", value)
        for name, value in {
            "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
            "XDG_CACHE_HOME": str(home),
            "HOME": str(home),
        }.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two committed versions of a data set, the second in the work tree, and a
    folder as remote. To be copied.
    """
    folder = tmp_path_factory.mktemp("begun") / "project"
    source = folder.parent / "handbook"
    (source / "deep").mkdir(parents=True)
    (source / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (source / "deep" / "more.jsonl").write_text('{"b": 1}\n')
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        git("init", "-q")
        dvc("init", "-q")
        dvc("remote", "add", "-d", "shared", "../shared")
        (folder / "params.yaml").write_text(
            "turn: {raw: data/raw/handbook}\nprepare: {domain: handbook}\n"
        )
        git("add", "-A")
        git("commit", "-qm", "begun")
        add(source, message="one")
        git("tag", "one")
        (source / "rows.jsonl").write_text('{"a": 1}\n{"a": 3}\n{"a": 4}\n')
        add(source, message="two")
        git("tag", "two")
    return folder


@pytest.fixture
def project(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(begun, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def dvc(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"} | more
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def push() -> None:
    """Each version, one by one: with `--all-commits` DVC takes a remote's relative path from the
    wrong folder.
    """
    for version in ("one", "two"):
        git("checkout", "-q", version, "--", str(POINTER))
        dvc("push", "-q", str(POINTER))


def rows(place: Path = HANDBOOK) -> str:
    return (place / "rows.jsonl").read_text()


def test_add_says_what_it_is_and_what_to_commit(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert git("status", "--porcelain") == "", (
        "what was asked for is committed, and the data are git's business no more"
    )
    assert git("log", "--format=%s") == "two\none\nbegun"
    (HANDBOOK / "rows.jsonl").write_text('{"a": 5}\n')
    add(HANDBOOK)
    said = capsys.readouterr().out
    assert "data/raw/handbook: 2 files, 2 rows, " in said
    assert f"digest  {file_digest(HANDBOOK)}" in said
    assert "git add data/raw/handbook.dvc data/raw/.gitignore && git commit" in said
    assert git("log", "--format=%s").startswith("two"), "no commit that nobody asked for"
    add(HANDBOOK)
    assert "this version was there already" in capsys.readouterr().out


def test_add_writes_over_nothing_that_no_version_has(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rows.jsonl").write_text("{}\n")
    (HANDBOOK / "rows.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(InputError, match="holds files that no version has"):
        add(tmp_path / "other", name="handbook")
    assert rows() == '{"mine": 1}\n'
    (tmp_path / "other" / "link").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="is a link"):
        add(tmp_path / "other", name="fresh")
    with pytest.raises(InputError, match="the project itself"):
        add(Path(".."), name="fresh")
    with pytest.raises(CoWestError, match="no name of a data set"):
        add(HANDBOOK.parent.parent.parent / "params.yaml", name="../escape")
    plain = Path("data/raw/plain")
    plain.mkdir()
    (plain / "rows.jsonl").write_text("{}\n")
    git("add", "-f", str(plain))
    with pytest.raises(InputError, match="git rm -r -q --cached"):
        add(plain)
    assert not plain.with_name("plain.dvc").exists()


def test_a_commit_that_git_refuses_leaves_the_version(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rows.jsonl").write_text("{}\n")
    hook = Path(".git/hooks/pre-commit")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no such ticket >&2\nexit 1\n")
    hook.chmod(0o755)
    said = "no such ticket. The version of data/raw/fresh is made, and only its commit is missing"
    with pytest.raises(InputError, match=said):
        add(tmp_path / "other", name="fresh", message="three")
    hook.unlink()
    add(tmp_path / "other", name="fresh", message="three")
    assert git("log", "-1", "--format=%s") == "three" and not git("status", "--porcelain")


def test_a_commit_without_git_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    dvc("init", "-q", "--no-scm")
    with pytest.raises(CoWestError, match="there is no git repository here"):
        add(Path("../rows.jsonl"), message="one")
    assert not Path("data").exists()


def test_add_that_fails_leaves_what_was_there(project: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rows.jsonl").write_text("{}\n")
    before, pointer = rows(), POINTER.read_text()
    (HANDBOOK.parent / ".gitignore").unlink()
    (HANDBOOK.parent / ".gitignore").mkdir()  # DVC can't write it
    with pytest.raises(CoWestError):
        add(tmp_path / "other", name="fresh")
    assert not Path("data/raw/fresh").exists() and not Path("data/raw/fresh.dvc").exists()
    Path(".dvc/config.local").write_text("[no\n")
    with pytest.raises(CoWestError):
        add(tmp_path / "other", name="handbook")
    assert (rows(), POINTER.read_text()) == (before, pointer)
    assert sorted(path.name for path in HANDBOOK.parent.iterdir()) == [
        ".gitignore",
        "handbook",
        "handbook.dvc",
    ]


def test_a_turn_rests_on_the_committed_version(project: Path) -> None:
    found = turn_of(HANDBOOK, Path("params.yaml")).raw
    assert found is not None
    assert (found.kept, found.rev, found.digest) == (
        "dvc",
        git("rev-parse", "two"),
        file_digest(HANDBOOK),
    )
    git("commit", "-q", "--allow-empty", "-m", "something else")
    assert turn_of(HANDBOOK, Path("params.yaml")).raw == found, (
        "the commit that brought the data, whatever came after"
    )


def test_dirty_missing_and_uncommitted_data_are_refused(project: Path) -> None:
    (HANDBOOK / "rows.jsonl").write_text("{}\n")
    (HANDBOOK / "new.jsonl").write_text("{}\n")
    (HANDBOOK / "deep" / "more.jsonl").unlink()
    with pytest.raises(
        InputError,
        match=r"changed: rows.jsonl; missing: deep/more.jsonl; new: new.jsonl.*`cowest data add "
        r".*dvc checkout",
    ):
        snapshots.version_of(HANDBOOK)
    shutil.rmtree(HANDBOOK)
    with pytest.raises(
        InputError, match=r"is not here, and data/raw/handbook.dvc names its version: `dvc pull"
    ):
        snapshots.version_of(HANDBOOK)
    dvc("checkout", "-q", str(POINTER))
    (HANDBOOK / "rows.jsonl").write_text("{}\n")
    add(HANDBOOK)
    with pytest.raises(InputError, match="no commit holds"):
        snapshots.version_of(HANDBOOK)


def test_bit_rot_that_keeps_the_time_stamp_is_seen(project: Path) -> None:
    file = HANDBOOK / "rows.jsonl"
    stamp = file.stat()
    file.write_text(rows().replace("3", "8"))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(InputError, match=r"changed: rows\.jsonl"):
        snapshots.version_of(HANDBOOK)


def test_what_dvcignore_names_is_no_change(project: Path) -> None:
    with Path(".dvcignore").open("a") as file:
        file.write("*.tmp\n")
    (HANDBOOK / "left.tmp").write_text("x")
    assert snapshots.version_of(HANDBOOK).kept == "dvc"


def test_a_revision_is_laid_out_beside_or_refused_in_place(project: Path) -> None:
    with pytest.raises(InputError, match="not written over"):
        snapshots.lay_out(HANDBOOK, "one")
    assert '"a": 3' in rows()
    place = Path("data/pinned/handbook")
    found = snapshots.lay_out(place, "one", HANDBOOK)
    assert (found.rev, found.path, '"a": 2' in rows(place)) == (
        git("rev-parse", "one"),
        "data/raw/handbook",
        True,
    )
    assert snapshots.lay_out(place, "two", HANDBOOK).rev == git("rev-parse", "two"), (
        "laid out here and untouched: replaced"
    )
    assert rows(place) == rows()
    (place / "rows.jsonl").write_text("mine\n")
    with pytest.raises(InputError, match="not written over"):
        snapshots.lay_out(place, "one", HANDBOOK)
    assert rows(place) == "mine\n"
    assert [part.name for part in place.parent.iterdir()] == ["handbook"], "nothing is left behind"
    assert (
        snapshots.lay_out(place.with_name("rows.jsonl"), "one", HANDBOOK / "rows.jsonl").kept
        == "dvc"
    )
    assert '"a": 2' in place.with_name("rows.jsonl").read_text()
    assert (
        snapshots.lay_out(Path("data/pinned/params.yaml"), "one", Path("params.yaml")).kept == "git"
    )


def test_the_same_data_make_the_same_turn_wherever_they_lie(project: Path) -> None:
    key = turn_of(HANDBOOK, Path("params.yaml")).key
    settings = (
        "turn: {raw: data/pinned/handbook, path: data/raw/handbook, rev: two}\nprepare: "
        "{domain: handbook}\n"
    )
    Path("params.yaml").write_text(settings)
    pinned = turn_of(Path("data/pinned/handbook"), Path("params.yaml"))
    assert pinned.key == key
    assert pinned.raw is not None and pinned.raw.rev == git("rev-parse", "two")


@pytest.mark.parametrize(
    ("rev", "path", "said"),
    [
        ("nowhere", HANDBOOK, "'nowhere' is no revision of the git repository"),
        ("--help", HANDBOOK, "'--help' is no revision"),
        ("two", Path("data/raw/other"), "is not tracked at two"),
        ("one~1", HANDBOOK, "is not tracked at one~1"),
        ("two", Path("../outside"), "is not tracked at two|no git repository"),
    ],
)
def test_what_a_revision_does_not_have_is_said(
    project: Path, rev: str, path: Path, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        snapshots.lay_out(Path("data/pinned/x"), rev, path)
    assert not Path("data/pinned/x").exists()


@pytest.mark.parametrize(
    "line",
    [
        "  path: /etc/passwd",
        "  path: ../../../handbook",
        "  path: handbook\nwdir: ../..",
        "  path: handbook\ncmd: touch owned",
    ],
)
def test_a_hostile_pointer_is_not_followed(project: Path, line: str) -> None:
    POINTER.write_text(POINTER.read_text().replace("  path: handbook", line))
    git("commit", "-qam", "hostile")
    for look in (
        lambda: snapshots.version_of(HANDBOOK),
        lambda: snapshots.lay_out(Path("data/pinned/x"), "HEAD", HANDBOOK),
    ):
        with pytest.raises(InputError, match="which no pointer to data should"):
            look()
    assert not Path("owned").exists()


def test_a_listing_that_leaves_its_folder_is_not_followed(project: Path) -> None:
    md5 = snapshots.pointer_of(POINTER, POINTER.read_text(), "it").md5
    cached = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
    entries = [
        *json.loads(cached.read_text()),
        {"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "../../../escaped"},
    ]
    forged = json.dumps(entries)
    import hashlib

    name = f"{hashlib.md5(forged.encode()).hexdigest()}.dir"
    (Path(".dvc/cache/files/md5") / name[:2]).mkdir(exist_ok=True)
    (Path(".dvc/cache/files/md5") / name[:2] / name[2:]).write_text(forged)
    POINTER.write_text(POINTER.read_text().replace(md5, name))
    git("commit", "-qam", "hostile")
    with pytest.raises(InputError, match="a file outside of it"):
        snapshots.lay_out(Path("data/pinned/x"), "HEAD", HANDBOOK)
    assert not list(project.parent.rglob("escaped"))


def test_a_damaged_cache_is_told_from_a_good_one(project: Path) -> None:
    for cached in (
        path
        for path in Path(".dvc/cache/files").rglob("*")
        if path.is_file() and not path.name.endswith(".dir")
    ):
        cached.chmod(0o644)
        cached.write_bytes(b"x" + cached.read_bytes()[1:])
    with pytest.raises(InputError, match=r"did not come as data/raw/handbook\.dvc names it"):
        snapshots.lay_out(Path("data/pinned/x"), "one", HANDBOOK)
    assert not Path("data/pinned/x").exists()


def test_a_remote_that_was_cut_short_is_seen(project: Path, tmp_path: Path) -> None:
    push()
    for stored in (
        path
        for path in (tmp_path / "shared").rglob("*")
        if path.is_file() and not path.name.endswith(".dir")
    ):
        stored.chmod(0o644)
        stored.write_bytes(stored.read_bytes()[:-1])
    _clone(project, tmp_path)
    with pytest.raises(InputError, match="damaged or cut short"):
        snapshots.lay_out(HANDBOOK, "one")
    assert not HANDBOOK.exists()


def test_without_git_or_dvc_it_is_as_before_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    HANDBOOK.mkdir(parents=True)
    (HANDBOOK / "rows.jsonl").write_text("{}\n")
    found = snapshots.version_of(HANDBOOK)
    assert (found.kept, found.rev, found.digest) == ("unversioned", None, file_digest(HANDBOOK))
    with pytest.raises(InputError, match="is in no DVC project"):
        add(HANDBOOK)
    with pytest.raises(InputError, match="lies in no git repository"):
        snapshots.lay_out(HANDBOOK, "one")
    git("init", "-q")
    assert snapshots.version_of(HANDBOOK).kept == "unversioned"
    git("add", "-A")
    git("commit", "-qm", "raw")
    assert (snapshots.version_of(HANDBOOK).kept, snapshots.version_of(HANDBOOK).rev) == (
        "git",
        git("rev-parse", "HEAD"),
    )
    (HANDBOOK / ".notes").write_text("hidden files are no data")
    assert snapshots.version_of(HANDBOOK).kept == "git"
    (HANDBOOK / "rows.jsonl").write_text("{} \n")
    (HANDBOOK / "more.jsonl").write_text("{}\n")
    with pytest.raises(
        InputError,
        match=r"not the version that git has of it "
        r"\(.*more.jsonl, .*rows.jsonl\).*git checkout -- ",
    ):
        snapshots.version_of(HANDBOOK)
    (HANDBOOK / "rows.jsonl").write_text("{}\n")
    Path(".gitignore").write_text("more.jsonl\n")
    assert snapshots.version_of(HANDBOOK).kept == "unversioned", (
        "git ignores a part: no revision can name the whole"
    )
    Path(".gitignore").unlink()
    (HANDBOOK / "more.jsonl").rename("q*.jsonl")
    (HANDBOOK.parent / "q2.jsonl").symlink_to(Path("q*.jsonl").resolve())
    git("add", "-A")
    git("commit", "-qm", "a link, and a name that is a pattern")
    assert snapshots.version_of(HANDBOOK.parent).kept == "unversioned", "git has the link alone"
    assert snapshots.version_of(Path("q*.jsonl")).kept == "git"
    Path("q2.jsonl").write_text("no part of it")
    assert snapshots.version_of(Path("q*.jsonl")).kept == "git"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert snapshots.version_of(HANDBOOK).kept == "unversioned"


def test_a_folder_shares_versions(project: Path, tmp_path: Path) -> None:
    push()
    clone = _clone(project, tmp_path)
    assert snapshots.lay_out(HANDBOOK, "one").rev == git("rev-parse", "one"), (
        "nothing lies there: it is laid out in place"
    )
    assert '"a": 2' in rows()
    shutil.rmtree(HANDBOOK)
    dvc("pull", "-q")
    assert snapshots.version_of(HANDBOOK).rev == git("rev-parse", "two")
    shutil.rmtree(tmp_path / "shared")
    shutil.rmtree(clone / ".dvc" / "cache")
    with pytest.raises(InputError, match=r"data/raw/handbook at one: .*dvc push"):
        snapshots.lay_out(Path("data/pinned/x"), "one", HANDBOOK)


def _clone(project: Path, tmp_path: Path) -> Path:
    clone = tmp_path / "clone"
    git("clone", "-q", str(project), str(clone))
    os.chdir(clone)
    return clone


def test_an_s3_server_shares_versions_and_no_secret_is_said(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3.server(tmp_path / "s3") as found:
        for name, value in {**found.environment(), "AWS_MAX_ATTEMPTS": "1"}.items():
            monkeypatch.setenv(name, value)
        dvc("remote", "add", "-d", "team", f"{found.bucket}/versions")
        dvc("remote", "modify", "team", "endpointurl", found.url)
        git("commit", "-qam", "remote")
        push()
        _clone(project, tmp_path)
        dvc("pull", "-q")
        assert snapshots.version_of(HANDBOOK).rev == git("rev-parse", "two")
        snapshots.lay_out(Path("data/pinned/handbook"), "one", HANDBOOK)
        assert '"a": 2' in rows(Path("data/pinned/handbook"))

        shutil.rmtree(".dvc/cache")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-private")
        with pytest.raises(
            InputError, match="are the remote's credentials set, and right"
        ) as refused:
            snapshots.lay_out(Path("data/pinned/x"), "one", HANDBOOK)
        dvc("remote", "modify", "--local", "team", "secret_access_key", "also-private-4711")
        dvc("remote", "modify", "--local", "team", "access_key_id", "private-key-id")
        with pytest.raises(InputError) as again:
            snapshots.lay_out(Path("data/pinned/x"), "one", HANDBOOK)
        said = f"{refused.value} {again.value}"
        assert not any(
            secret in said
            for secret in ("wrong-and-private", "also-private-4711", "private-key-id", found.key)
        ), said
    dvc("config", "--local", "--unset", "remote.team.secret_access_key")
    dvc("config", "--local", "--unset", "remote.team.access_key_id")
    with pytest.raises(InputError, match="is the remote's server up"):
        snapshots.lay_out(Path("data/pinned/x"), "one", HANDBOOK)
    assert not Path("data/pinned/x").exists()


def test_versions_are_compared_by_revision(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version, answer in (("three", "Oslo"), ("four", "Bergen")):
        (HANDBOOK / "t.csv").write_text(f"question,answer\nwhere?,{answer}\n{version}?,Ada\n")
        add(HANDBOOK, message=version)
        git("tag", version)
    table = "{file: t.csv, prompt: question, targets: answer, splits: {shares: {train: 1}}}"
    Path("params.yaml").write_text(
        f"turn: {{raw: data/raw/handbook}}\nprepare: {{domain: table, table: {table}}}\n"
    )
    before = sorted(Path().iterdir())
    capsys.readouterr()
    assert cli.main(["data", "diff", "three", "four"]) == 0
    said = capsys.readouterr().out
    assert (
        "changed          1   (other right answers: 1)" in said
        and "added            1" in said
        and "removed          1" in said
    )
    assert (
        cli.main(
            ["data", "diff", "three:data/raw/handbook", "data/raw/handbook", "--html", "page.html"]
        )
        == 0
    )
    assert capsys.readouterr().out.splitlines()[2:8] == said.splitlines()[2:8]
    assert cli.main(["data", "diff", "three", "nowhere"]) == 1
    assert "'nowhere' is no revision" in capsys.readouterr().err
    assert sorted(Path().iterdir()) == sorted([*before, Path("page.html")]), (
        "nothing is left behind"
    )


@pytest.mark.parametrize("to", ["/etc/hostname", "../../../../outside"])
def test_a_link_that_leaves_the_data_in_git_is_one_error(project: Path, to: str) -> None:
    Path("kept").mkdir()
    Path("kept/link.csv").symlink_to(to)
    git("add", "-A")
    git("commit", "-qm", "a link")
    with pytest.raises(InputError, match=r"link\.csv' is a link"):
        snapshots.lay_out(Path("data/pinned/x"), "HEAD", Path("kept"))
    assert not Path("data/pinned/x").exists()
