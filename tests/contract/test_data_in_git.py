"""Data sets that git itself keeps, and pointers in git's own states, with real git."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowest.commands import data
from cowest.config import file_digest
from cowest.errors import InputError
from cowest.raw import snapshots, vcs

QUIZ = Path("data/raw/quiz")
LAID_OUT = Path("data/pinned/quiz")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A git repository with a commit, tagged `one`, that has two files of data."""
    for name in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL"):
        monkeypatch.setenv(f"GIT_{name}", "t@t")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    folder = tmp_path / "project"
    (folder / QUIZ / "deep").mkdir(parents=True)
    monkeypatch.chdir(folder)
    (QUIZ / "rows.jsonl").write_text('{"a": "$Format:%H$"}\n')
    (QUIZ / "deep" / "more.jsonl").write_text('{"b": 1}\n')
    git("init", "-q")
    commit("one")
    yield folder


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(tag: str) -> None:
    git("add", "-A", "--force")
    git("commit", "-qm", tag)
    git("tag", tag)


def point_to(file: Path) -> Path:
    """A pointer as DVC writes it, in a project of DVC, to a file that git ignores."""
    Path(".dvc").mkdir(exist_ok=True)
    md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    pointer = file.with_name(f"{file.name}.dvc")
    pointer.write_text(json.dumps({"outs": [{"md5": md5, "hash": "md5", "path": file.name}]}))
    return pointer


@pytest.mark.parametrize(
    "attributes",
    ["data/raw/quiz/deep export-ignore", "*.jsonl export-subst", "data/** export-ignore"],
)
def test_attributes_for_archives_change_no_data(attributes: str) -> None:
    Path(".gitattributes").write_text(attributes + "\n")
    commit("two")
    assert snapshots.lay_out(LAID_OUT, "two", QUIZ).kept == "git"
    assert file_digest(LAID_OUT) == file_digest(QUIZ)
    assert git("status", "--porcelain", "--", "data/raw") == "", "its index is as it was"


def test_line_ends_are_those_of_a_checkout() -> None:
    Path(".gitattributes").write_text("*.jsonl text eol=crlf\n")
    commit("two")
    for file in (QUIZ / "rows.jsonl", QUIZ / "deep" / "more.jsonl"):
        file.unlink()
    git("checkout", "-q", "--", ".")
    assert b"\r\n" in (QUIZ / "rows.jsonl").read_bytes()
    snapshots.lay_out(LAID_OUT, "two", QUIZ)
    assert file_digest(LAID_OUT) == file_digest(QUIZ)


def test_one_file_is_laid_out() -> None:
    file = snapshots.lay_out(Path("data/pinned/rows.jsonl"), "one", QUIZ / "rows.jsonl")
    assert file.digest == file_digest(QUIZ / "rows.jsonl")


def test_a_name_that_is_not_utf8_is_laid_out_or_said() -> None:
    (QUIZ / os.fsdecode(b".rows\xff.jsonl")).write_text("{}\n")
    commit("two")
    assert snapshots.lay_out(LAID_OUT, "two", QUIZ).digest == file_digest(QUIZ)
    assert (LAID_OUT / os.fsdecode(b".rows\xff.jsonl")).exists()
    odd = QUIZ / os.fsdecode(b"rows\xff.jsonl")
    odd.write_text("{}\n")
    commit("three")
    said = r": 'rows\\udcff.jsonl': no name in UTF-8, as a version needs: rename it"
    with pytest.raises(InputError, match=said):
        snapshots.version_of(QUIZ)
    with pytest.raises(InputError, match=said):
        snapshots.lay_out(Path("data/pinned/other"), "three", QUIZ)
    assert snapshots.lay_out(Path("data/pinned/rows.jsonl"), "three", odd).kept == "git"


def test_a_project_in_a_folder_whose_name_is_not_utf8_has_versions(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"project\xff")
    Path.cwd().rename(folder)
    os.chdir(folder)
    assert snapshots.version_of(QUIZ).kept == "git"


def test_a_hook_of_git_changes_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(Path(".git").absolute()))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.chdir("data")
    place = QUIZ.relative_to("data")
    assert snapshots.lay_out(Path("pinned"), "one", place).kept == "git"
    assert snapshots.version_of(place).kept == "git"


def test_what_git_ignores_of_a_version_is_not_added(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("")
    Path(".gitignore").write_text("/data/raw/.*\n")
    file = Path("data/raw/other.jsonl")
    file.write_text("{}\n")
    data.add(file)
    assert f"git add {file}.dvc && git commit" in capsys.readouterr().out
    data.add(file, message="other")
    said = capsys.readouterr().out
    assert "git add" not in said and "committed as" in said, "it is done, and nothing to do"
    assert vcs.is_committed(Path.cwd(), Path(f"{file}.dvc").resolve())
    assert git("ls-files", "--", "data/raw/.gitignore") == ""
    said = r"^git add: The following paths are ignored by one .*: data/raw/.gitignore$"
    with pytest.raises(InputError, match=said):
        vcs.git(Path.cwd(), "add", "--", "data/raw/.gitignore")


@pytest.mark.parametrize("quoted", [False, True])
def test_rows_that_a_quote_may_have_swallowed_are_not_counted(
    quoted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("")
    file = Path("data/raw/other.tsv")
    rows = ["q\ta", *[f"Who is {number}?\t{number}" for number in range(1, 301)]]
    if quoted:
        rows[10], rows[200] = '"Who?\t10', 'Who"\t200'
    file.write_text("\n".join(rows) + "\n")
    data.add(file)
    counted = "" if quoted else "300 rows, "
    size = file.stat().st_size
    assert f"other.tsv: 1 file, {counted}{size:,} bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("other.csv", "q;a\n" + "Who, then?;Ada\n" * 60),
        ("other.json", json.dumps([{"q": "Who?", "a": "Ada"}] * 60)),
    ],
)
def test_rows_are_counted_as_init_reads_them(
    name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("")
    file = Path("data/raw", name)
    file.write_text(text)
    data.add(file)
    assert f"{name}: 1 file, 60 rows, {len(text):,} bytes" in capsys.readouterr().out


def test_a_schema_beside_a_table_has_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("")
    folder = Path("data/raw/both")
    folder.mkdir()
    (folder / "t.csv").write_text("q,a\n" + "Who?,Ada\n" * 60)
    (folder / "schema.json").write_text('{"q": "text"}')
    data.add(folder)
    assert "both: 2 files, 60 rows, in 1 of them, " in capsys.readouterr().out


def test_a_submodule_is_no_part_of_a_version() -> None:
    git("init", "-q", str(QUIZ / "inner"))
    (QUIZ / "inner" / "rows.jsonl").write_text("{}\n")
    git("-C", str(QUIZ / "inner"), "add", "-A")
    git("-C", str(QUIZ / "inner"), "commit", "-qm", "inner")
    commit("two")
    with pytest.raises(InputError, match="inner' is a link or no ordinary file"):
        snapshots.lay_out(LAID_OUT, "two", QUIZ)
    assert not LAID_OUT.exists()


def test_a_folder_with_pointers_in_it_has_no_version() -> None:
    file = QUIZ / "train.jsonl"
    file.write_text("{}\n")
    point_to(file)
    (QUIZ / ".gitignore").write_text("train.jsonl\n")
    git("add", "-A")
    git("commit", "-qm", "two")
    said = r"has pointers to parts of it \(.*train.jsonl.dvc\).*`cowest data add`"
    with pytest.raises(InputError, match=f"quiz at HEAD {said}"):
        snapshots.lay_out(LAID_OUT, "HEAD", QUIZ)
    with pytest.raises(InputError, match=said):
        snapshots.version_of(QUIZ)
    assert snapshots.version_of(file).kept == "dvc", "one of its parts has a version"


@pytest.mark.parametrize("hiding", ["setting", "ignored"])
def test_a_pointer_that_git_hides_and_no_commit_holds_is_refused(hiding: str) -> None:
    file = Path("data/other.jsonl")
    file.write_text("{}\n")
    pointer = point_to(file)
    if hiding == "setting":
        git("config", "status.showUntrackedFiles", "no")
    else:
        Path(".gitignore").write_text("data/\n")
    with pytest.raises(InputError, match="names a version that no commit holds"):
        snapshots.version_of(file)
    assert not vcs.is_committed(Path.cwd(), pointer.resolve())
    git("add", "--force", str(pointer))
    assert not vcs.is_committed(Path.cwd(), pointer.resolve()), "it is staged alone"
    git("commit", "-qm", "two")
    assert vcs.is_committed(Path.cwd(), pointer.resolve())
    assert snapshots.version_of(file).rev == git("rev-parse", "HEAD")


def test_a_version_comes_to_its_place_with_its_record_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (QUIZ / "rows.jsonl").write_text("{}\n")
    commit("two")
    snapshots.lay_out(LAID_OUT, "one", QUIZ)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="space"):
        patch.setattr(snapshots, "write_text", full)
        snapshots.lay_out(LAID_OUT, "two", QUIZ)
    for rev in ("two", "one"):
        snapshots.lay_out(LAID_OUT, rev, QUIZ)


def test_what_is_in_the_way_is_said_without_a_pointer_that_is_not_there() -> None:
    LAID_OUT.mkdir(parents=True)
    with pytest.raises(InputError, match="holds another version than one names") as error:
        snapshots.lay_out(LAID_OUT, "one", QUIZ)
    assert "dvc" not in str(error.value)


def test_a_path_that_a_version_lacks_is_not_tracked() -> None:
    md5 = hashlib.md5(b"{}\n", usedforsecurity=False).hexdigest()
    listing = json.dumps([{"md5": md5, "relpath": "rows.jsonl"}])
    name = hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest()
    for called, content in ((name + ".dir", listing), (md5, "{}\n")):
        cached = Path(".dvc/cache/files/md5") / called[:2] / called[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(content)
    out = {"md5": f"{name}.dir", "hash": "md5", "path": "kept"}
    Path(".dvc/config").write_text("")
    Path("data/kept.dvc").write_text(json.dumps({"outs": [out]}))
    git("add", "data/kept.dvc")
    git("commit", "-qm", "two")
    found = snapshots.lay_out(Path("data/pinned/rows.jsonl"), "HEAD", Path("data/kept/rows.jsonl"))
    assert found.kept == "dvc"
    with pytest.raises(InputError, match=r"data/kept/none.jsonl is not tracked at HEAD \(.{12}\)"):
        snapshots.lay_out(Path("data/pinned/x"), "HEAD", Path("data/kept/none.jsonl"))


def test_a_repository_without_the_revision_is_said_by_its_address(tmp_path: Path) -> None:
    here = str(Path.cwd())
    with pytest.raises(InputError, match=f"^{here} has no revision 'v9': is it pushed"):
        vcs.clone(here, "v9", tmp_path / "clone")
    git("branch", "other")
    assert vcs.clone(here, "other", tmp_path / "branch") == git("rev-parse", "HEAD")
    git("init", "-q", str(tmp_path / "empty"))
    with pytest.raises(InputError, match="empty has no commit: is it pushed"):
        vcs.clone(str(tmp_path / "empty"), None, tmp_path / "none")


def test_the_cause_that_ssh_gives_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = tmp_path / "refusing"
    refusing.write_text(
        "#!/bin/sh\necho 'me@there: Permission denied (publickey).' >&2\nexit 255\n"
    )
    refusing.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(refusing))
    said = r"me@there: Permission denied \(publickey\)\. fatal: Could not read from remote"
    with pytest.raises(InputError, match=f"^git clone: {said}"):
        vcs.clone("ssh://me@there/x.git", None, tmp_path / "clone")


def test_a_pointer_in_a_commit_may_hold_a_text_that_is_not_utf_8() -> None:
    file = Path("data/other.jsonl")
    file.write_text("{}\n")
    pointer = point_to(file)
    pointer.write_bytes(pointer.read_bytes().replace(b"{", b'{"desc": "caf\xe9", ', 1))
    commit("two")
    assert snapshots.pointer_here(file) == snapshots.find(file, "two").pointer
