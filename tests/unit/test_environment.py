"""A terminal that can't show a letter, and a user without a home folder."""

import getpass
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cowest import environment, io
from cowest.records import Message
from tests import factories, tiny

SAID = "Zürich → 東京, and a name that is no text: \udcff"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_a_letter_that_a_terminal_cannot_show_ends_nothing(encoding: str, tmp_path: Path) -> None:
    code = f"from cowest import environment; environment.settle(); print({SAID!a})"
    around = tiny.surroundings(PYTHONIOENCODING=encoding)
    shown = subprocess.run([sys.executable, "-c", code], env=around, capture_output=True)
    assert shown.returncode == 0, shown.stderr
    assert SAID.encode(encoding, "backslashreplace") in shown.stdout
    c_locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    shown = subprocess.run(
        [sys.executable, "-c", code], env={**tiny.surroundings(), **c_locale}, capture_output=True
    )
    assert shown.returncode == 0, shown.stderr
    assert b"Z\\xfcrich" in shown.stdout
    for name, town in (("before", "Zürich"), ("after", "東京")):
        prompt = (Message(role="user", content=f"Where is {town} → ?"),)
        io.write(tmp_path / f"{name}.jsonl", [factories.make_query(prompt=prompt)])
    command = [sys.executable, "-m", "cowest.cli", "data", "diff", "before.jsonl", "after.jsonl"]
    shown = subprocess.run(command, cwd=tmp_path, env=around, capture_output=True)
    assert shown.returncode == 0, shown.stderr
    assert "Where is 東京 → ?".encode(encoding, "backslashreplace") in shown.stdout


def test_the_cache_of_a_user_whose_home_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COWEST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    found = environment.cache()
    assert found == Path(tempfile.gettempdir()) / f"cowest-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700


def test_the_cache_in_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("COWEST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "not made yet"))
    assert environment.cache() == tmp_path / "not made yet" / ".cache" / "cowest"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert environment.cache() == tmp_path / "cowest"
    monkeypatch.setenv("COWEST_CACHE", "/anywhere")
    assert environment.cache() == Path("/anywhere")


NOBODY = 54321
"""A user that no machine of ours has."""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("home", ["not set", "of somebody else", "not there"])
def test_a_user_that_the_machine_does_not_know_has_a_name_and_a_home(
    tmp_path: Path, home: str
) -> None:
    (tmp_path / "root's").mkdir(mode=0o700)
    places = {"of somebody else": "root's", "not there": "nowhere"}

    def look() -> str:
        os.environ.pop("HOME", None)
        if home in places:
            os.environ["HOME"] = str(tmp_path / places[home])
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            os.environ.pop(name, None)
        environment.settle()
        return f"{getpass.getuser()} in {os.environ['HOME']}"

    assert _as_nobody(tmp_path, look) == (
        f"user-{NOBODY} in {tempfile.gettempdir()}/cowest-{NOBODY}"
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_cache_of_a_user_that_the_machine_does_not_know(tmp_path: Path) -> None:
    def look() -> str:
        for name in ("HOME", "COWEST_CACHE", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        place = environment.cache()
        (place / "file").write_text("")
        return str(place)

    assert _as_nobody(tmp_path, look) == f"{tempfile.gettempdir()}/cowest-{NOBODY}"


def _as_nobody(tmp_path: Path, look: Callable[[], str]) -> str:
    """What a user says whom the machine does not know."""
    said = tmp_path / "said"
    said.touch()
    said.chmod(0o666)
    # A fork, since the files of this interpreter may be root's alone.
    child = os.fork()
    if child == 0:
        try:
            with said.open("w") as file:
                os.setuid(NOBODY)
                file.write(look())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return said.read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_cache_that_somebody_else_laid_out_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    laid_out = tmp_path / f"cowest-{os.getuid()}"
    laid_out.mkdir()
    os.chown(laid_out, NOBODY, NOBODY)
    monkeypatch.delenv("COWEST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = environment.cache()
    assert found != laid_out
    assert found.parent == tmp_path


def groups(root: Path, listed: str, files: dict[str, str]) -> Path:
    """A system with such control groups."""
    for name, text in {"proc/self/cgroup": listed, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


SYSTEM = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("listed", "files", "expected"),
    [
        ("0::/", {f"{SYSTEM}/cpu.max": "200000 100000"}, 2),
        ("0::/", {f"{SYSTEM}/cpu.max": "150000 100000"}, 2),
        ("0::/", {f"{SYSTEM}/cpu.max": "10000 100000"}, 1),
        ("0::/", {f"{SYSTEM}/cpu.max": "max 100000"}, None),
        ("0::/", {f"{SYSTEM}/cpu.max": "6400000 100000"}, None),
        # The group above is the narrower one, and a container does not see its own path.
        (
            "0::/pod/one",
            {f"{SYSTEM}/pod/cpu.max": "300000 100000", f"{SYSTEM}/pod/one/cpu.max": "max 100000"},
            3,
        ),
        ("0::/not/seen", {f"{SYSTEM}/cpu.max": "200000 100000"}, 2),
        # The first version of control groups.
        (
            "4:memory:/pod\n1:cpu,cpuacct:/pod",
            {
                f"{SYSTEM}/cpu/pod/cpu.cfs_quota_us": "400000",
                f"{SYSTEM}/cpu/pod/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (
            "1:cpu:/",
            {
                f"{SYSTEM}/cpu/cpu.cfs_quota_us": "-1",
                f"{SYSTEM}/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ("0::/", {}, None),
    ],
)
def test_no_more_threads_than_a_container_may_use(
    listed: str,
    files: dict[str, str],
    expected: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    assert environment.allowed_cores(groups(tmp_path, listed, files)) == expected


def test_threads_that_were_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "allowed_cores", lambda: 2)
    # Set first, so that what `settle` sets is undone.
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.delenv("OMP_NUM_THREADS")
    environment.settle()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    environment.settle()
    assert os.environ["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("running", "threads", "policy", "spins"),
    [
        ("1/90", "2", "PASSIVE", "3000"),
        ("2/90", "2", "PASSIVE", None),
        ("2/90", "1", "PASSIVE", "3000"),
        ("1/90", "2", "ACTIVE", None),
        ("1/90", "4", "PASSIVE", None),
        ("?", "1", "PASSIVE", None),
    ],
)
def test_threads_wait_in_place_where_each_has_a_core(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    running: str,
    threads: str,
    policy: str,
    spins: str | None,
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "loadavg").write_text(f"0.10 0.20 0.30 {running} 123\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    environment.spin_if_idle(tmp_path)
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    environment.spin_if_idle(tmp_path)
    assert os.environ["GOMP_SPINCOUNT"] == "7"
