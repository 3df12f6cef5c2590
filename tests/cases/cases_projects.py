"""Cases of projects: they need no file of the folder, and each makes a small project of its own."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from cowest import io, version
from cowest.errors import CoWestError
from cowest.models import audit
from tests import factories, lines, tiny
from tests.cases.outcome import Outcome
from tests.registries import make_version, migrated, registry_in


def cases(folder: Path) -> Iterator[Outcome]:
    """Run each, in order."""
    with tempfile.TemporaryDirectory(prefix="cowest-cases-") as scratch:
        place = Path(scratch)
        yield _dubious_ownership(place / "ownership")
        yield _symlink_cache(place / "links")
        yield _space(place / "space")
        yield _doctor_elsewhere(place / "doctor")
        yield _deleted(place / "deleted")
        yield from _moved(place / "moved")
        yield _no_home(place / "home")
        yield _terminal(place / "terminal")


def _cowest(folder: Path, *words: str, **around: str) -> subprocess.CompletedProcess[str]:
    return _run(folder, sys.executable, "-m", "cowest.cli", *words, **around)


def _run(folder: Path, *command: str, **around: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=tiny.surroundings(**around),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def _project(folder: Path) -> Path:
    """A project before its first turn, with a registry that has a champion."""
    tiny.copy_project(folder)
    shutil.copy(lines.ROOT / "dvc.yaml", folder)
    shutil.copy(migrated(), folder / "mlflow.db")
    config = registry_in(folder)
    made = make_version(folder / "made", "weights")
    config.open().decide(made, turn="aa", promote=True, against=None, reason="first", tags={})
    return folder


def _line(said: str, sign: str) -> str:
    """The first line with the sign in it, or else the last."""
    found = [line for line in said.splitlines() if sign in line]
    return (found or said.splitlines()[-1:] or [""])[0]


def _dubious_ownership(folder: Path) -> Outcome:
    tiny.copy_project(folder)
    _run(folder, "git", "init", "--quiet")
    # git's own switch for its tests: it takes every repository for somebody else's.
    around = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    said = _cowest(folder, "doctor", **around)
    line = _line(said.stdout, "another user")
    holds = said.returncode == 1 and f"safe.directory {folder}" in line
    return Outcome("dubious ownership", "doctor names it and git's mend", line, holds)


def _symlink_cache(folder: Path) -> Outcome:
    made = make_version(folder / "models" / "policy", "weights")
    shutil.copytree(tiny.model(), made / "base")
    for words in (["init", "--no-scm"], ["config", "cache.type", "symlink"], ["add", str(made)]):
        _run(folder, sys.executable, "-m", "dvc", *words, "--quiet")
    links = [path for path in made.rglob("*") if path.is_symlink()]
    said = f"{len(links)} links read"
    try:
        version.expect(made)
        audit.audit(made / "base")
    except CoWestError as error:
        said = str(error)
    holds = bool(links) and said.endswith("links read")
    return Outcome("DVC's symlink cache", "links into the cache are files", said, holds)


def _space(folder: Path) -> Outcome:
    tiny.copy_project(folder)
    raw = folder / "data" / "raw" / "Bob's hand book"
    (folder / "data" / "raw" / "handbook").rename(raw)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["turn"]["raw"] = raw.relative_to(folder).as_posix()
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    pipeline = (lines.ROOT / "dvc.yaml").read_text().replace(", src/cowest]", "]")
    (folder / "dvc.yaml").write_text(pipeline)
    _run(folder, sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet")
    done = _run(folder, sys.executable, "-m", "dvc", "repro", "--single-item", "prepare")
    holds = done.returncode == 0 and (folder / "data" / "queries.raw.jsonl").exists()
    line = _line(done.stdout + done.stderr, "prepare:")
    return Outcome("a space in turn.raw", "prepare reads the data", line, holds)


def _doctor_elsewhere(folder: Path) -> Outcome:
    project = _project(folder / "project")
    here = folder / "here"
    here.mkdir()
    done = _cowest(here, "doctor", "--params", "../project/params.yaml")
    line = _line(done.stdout, "call store")
    holds = f"{project}/.cowest" in line and not list(here.iterdir()) and done.returncode == 0
    return Outcome("doctor --params elsewhere", "looks into the project", line, holds)


def _deleted(folder: Path) -> Outcome:
    project = _project(folder)
    client = registry_in(project).runs().client
    client.delete_experiment(client.get_experiment_by_name("handbook").experiment_id)
    doctor, turn = _cowest(project, "doctor"), _cowest(project, "turn")
    line = _line(doctor.stdout, "experiment")
    holds = "mlflow experiments restore" in line and "was deleted" in turn.stderr
    holds = holds and not (project / "turn.json").exists()
    return Outcome("a deleted experiment", "named before anything is run", line, holds)


def _moved(folder: Path) -> Iterator[Outcome]:
    first = _project(folder / "first")
    moved = first.rename(folder / "second place")
    here = folder / "here"
    here.mkdir()
    done = _cowest(here, "status", "--json", "--params", "../second place/params.yaml")
    champion = json.loads(done.stdout)["champion"]
    registry_in(moved).open().fetch(champion, folder / "fetched")
    holds = champion == 1 and version.expect(folder / "fetched") is not None
    said = f"version {champion} fetched"
    yield Outcome("a moved project", "its champion is found, from anywhere", said, holds)
    shutil.rmtree(moved / "mlartifacts")
    doctor = _cowest(moved, "doctor")
    line = _line(doctor.stdout, "registry")
    holds = doctor.returncode == 1 and "bring the folder along" in line
    yield Outcome("a project moved in part", "doctor names what is missing", line, holds)


def _no_home(folder: Path) -> Outcome:
    tiny.copy_project(folder)
    done = _cowest(folder, "doctor", HOME="/dev/null", XDG_CACHE_HOME="", COWEST_CACHE="")
    line = _line(done.stdout, "disk, cache")
    holds = done.returncode == 0 and "Traceback" not in done.stderr
    return Outcome("no HOME that can be written", "goes on with a cache of its own", line, holds)


def _terminal(folder: Path) -> Outcome:
    for name, text in (("before", "Zürich → ?"), ("after", "東京 → ?")):
        io.write(folder / f"{name}.jsonl", [factories.make_query(text=text)])
    words = ["data", "diff", "before.jsonl", "after.jsonl"]
    said = []
    holds = True
    for encoding in ("ascii", "cp1252"):
        done = _cowest(folder, *words, PYTHONIOENCODING=encoding)
        said.append(_line(done.stdout + done.stderr, "\\u6771"))
        holds = holds and done.returncode == 0 and bool(re.search(r"\\u6771\\u4eac", said[-1]))
    return Outcome("a terminal that can't show a letter", "its number", "; ".join(said), holds)
