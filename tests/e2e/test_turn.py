"""`cowest turn` and `cowest status` in a project whose one DVC stage makes in a second what the
real ones make in minutes.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.registries import migrated

pytestmark = pytest.mark.minutes

ROOT = Path(__file__).parents[2]
PIPELINE = """\
stages:
  compare:
    cmd: python make.py
    deps: [make.py]
    params: [dpo, sft]
    outs: [models/policy, models/challenger, reports/eval.json, data/queries.jsonl,
           data/corpus.jsonl, data/pairs.jsonl]
"""
MAKE = f"""\
import pathlib, sys
sys.path.append({str(ROOT)!r})
from cowest import io
from cowest.config import load
from cowest.lineage import Turn, names_of
from tests.registries import make_pair, make_report, make_version

pinned = io.read_document(pathlib.Path("turn.json"), Turn)
names = names_of(load(pathlib.Path("params.yaml")), pinned)
make_version(pathlib.Path("models/policy"), "after sft", base=names.base)
make_version(pathlib.Path("models/challenger"), "after dpo", base=names.base)
for name in ("queries", "corpus"):
    pathlib.Path(f"data/{{name}}.jsonl").write_text(f"a row of {{name}}\\n")
io.write(pathlib.Path("data/pairs.jsonl"), [make_pair()])
judges = {{"strong": names.strong, "scorer": names.scorer}}
report = make_report(pathlib.Path("models"), pathlib.Path("params.yaml"), **judges)
io.write_document(pathlib.Path("reports/eval.json"), report)
"""


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A copy of the package for the commands: its code is a part of the turn's key, and somebody
    may be editing ours.
    """
    copy = shutil.copytree(ROOT / "src", tmp_path_factory.mktemp("package") / "src")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(copy))
        yield


@pytest.fixture
def project(tmp_path: Path) -> Path:
    params = (ROOT / "params.yaml").read_text()
    for embedded in (
        "smollm2-135m-instruct",
        "gemma3-270m",
    ):  # which a fresh machine has not fetched
        params = params.replace(f"model: {embedded}", f"model: {tiny.model()}")
    # This pipeline has no place for answers to general questions.
    params = re.sub(r"\n  probe: .*", "", params)
    # The report is made without drafts, which the guards look at.
    params = params.replace("\ncompare:\n", "\ncompare:\n  guards: false\n")
    (tmp_path / "params.yaml").write_text(params)
    shutil.copy(migrated(), tmp_path / "mlflow.db")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "make.py").write_text(MAKE)
    (tmp_path / "data/raw/handbook").mkdir(parents=True)
    (tmp_path / "data/raw/handbook/rows.jsonl").write_text("{}\n")
    # Its first row is read before a turn; the stages here make their files of nothing.
    shutil.copy(tiny.HANDBOOK / "questions.jsonl", tmp_path / "data/raw/handbook")
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True
    )
    return tmp_path


def cowest(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cowest.cli", *arguments]
    return subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=600, check=False
    )


def decisions(project: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(cowest(project, "status", "--json").stdout)[
        "decisions"
    ]
    return found


def test_a_turn_and_what_comes_after_it(project: Path) -> None:
    first = cowest(project, "turn")
    assert first.returncode == 0, first.stderr
    assert "version 1 was promoted" in first.stdout
    assert "collaboration after alignment" in first.stdout
    assert (project / "reports/index.html").exists()

    second = cowest(project, "turn")
    assert second.returncode == 0, second.stderr
    assert second.stdout.startswith("nothing is new: turn ")
    assert "version 1 is champion" in second.stdout
    assert len(second.stdout.splitlines()) == 1
    assert len(decisions(project)) == 1

    (project / "reports/index.html").unlink()
    (project / "reports/decision.json").unlink()
    cut_short = cowest(project, "turn")
    assert "version 1 was promoted" in cut_short.stdout, (
        "cut short after the decision: what is left to do is done"
    )
    assert (project / "reports/index.html").exists()

    changed = cowest(project, "turn", "--set", "dpo.beta=0.123")
    assert changed.returncode == 0, changed.stderr
    assert "dpo.beta is 0.123 (was " in changed.stdout
    assert "version 2 is champion" in changed.stdout
    assert [one["against"] for one in decisions(project)] == [None, 1]

    status = cowest(project, "status")
    assert "champion  version 2" in status.stdout
    assert "raw       data/raw/handbook, unversioned, digest " in status.stdout
    derived = [line for line in status.stdout.splitlines() if line.startswith("derived ")]
    assert len(derived) == 1 and derived[0].endswith(", pairs 1 rows")
    assert (
        "<code>data/raw/handbook</code>, unversioned"
        in (project / "reports/index.html").read_text()
    )
    assert {path.name for path in project.iterdir()} >= {"mlflow.db", "mlartifacts"}
    kept = [path.relative_to(project) for path in (project / "mlartifacts").rglob("*")]
    assert sum(path.name == "index.html" for path in kept) == 2, "each turn's page is in its run"
    assert any(path.parent.name == "figures" for path in kept)
    assert not (project / "mlruns").exists()


def test_a_dry_run_says_what_a_turn_may_cost_and_calls_nothing(tmp_path: Path) -> None:
    params = yaml.safe_load((tiny.copy_project(tmp_path) / "params.yaml").read_text())
    strong = {"provider": "openai", "model": "big", "price": {"prompt": 1, "completion": 10}}
    params["refine"]["strong"] = params["evaluate"]["strong"] = strong
    params["pin"]["budget"] = {"usd": 0.01}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    said = cowest(tmp_path, "turn", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert (
        "refine    180 calls to big@api.openai.com/v1 (0 more are in the store): at most "
        in said.stdout
    )
    assert "note: OPENAI_API_KEY is not set, and big needs it: export it, or no turn" in said.stdout
    assert "in all    " in said.stdout and "this is more than pin.budget" in said.stdout
    assert said.stdout.splitlines()[-1].endswith("$0.0000 and 0 tokens are spent of $0.01")
    assert not (tmp_path / "turn.json").exists() and not (tmp_path / "mlflow.db").exists()
    before = (tmp_path / "params.yaml").read_bytes()
    fewer = cowest(tmp_path, "turn", "--dry-run", "--set", "draft.sampling.n=2")
    assert fewer.returncode == 0, fewer.stderr
    assert "with params.yaml: draft.sampling.n is 2 (was 4)" in fewer.stdout
    assert "refine    108 calls" in fewer.stdout
    assert (tmp_path / "params.yaml").read_bytes() == before
    wrong = cowest(tmp_path, "turn", "--dry-run", "--set", "draft.sampling.n=-1")
    assert wrong.returncode == 1
    assert (tmp_path / "params.yaml").read_bytes() == before


def test_a_stage_that_fails_is_named_and_nothing_is_decided(project: Path) -> None:
    (project / "make.py").write_text("raise SystemExit('no memory left')\n")
    failed = cowest(project, "turn")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("cowest: stage compare failed")
    assert "no memory left" in failed.stderr
    assert decisions(project) == []
    (project / "make.py").write_text(MAKE)
    assert "version 1 was promoted" in cowest(project, "turn").stdout


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("dpo.beta=much", "dpo: beta"),
        ("dpo.bta=0.1", "dpo: bta"),
        ("draft.policy.model=x", "same as models.policy"),
    ],
)
def test_a_wrong_setting_stops_it_before_anything_runs(
    project: Path, assignment: str, said: str
) -> None:
    failed = cowest(project, "turn", "--set", assignment)
    assert failed.returncode == 1
    assert said in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    assert not (project / "turn.json").exists()


FAILS_ONCE = """\
import pathlib
with open("runs", "a") as runs:
    runs.write("one\\n")
if pathlib.Path("broken").exists():
    pathlib.Path("broken").unlink()
    raise SystemExit("no memory left")
"""


def test_other_files_of_a_model_run_every_stage_even_if_turns_are_cut_short(project: Path) -> None:
    shutil.copytree(tiny.model(), project / "tiny")
    params = (project / "params.yaml").read_text().replace(str(tiny.model()), "tiny")
    (project / "params.yaml").write_text(params)
    (project / "make.py").write_text(FAILS_ONCE + MAKE)
    assert cowest(project, "turn").returncode == 0
    config = project / "tiny" / "config.json"
    config.write_text(config.read_text() + "\n")
    # One start fails in `pin`, which has taken turn.json away by then, and one in a stage.
    (project / "looks.json").unlink()
    (project / "looks.json").mkdir()
    assert cowest(project, "turn").returncode == 1
    assert not (project / "turn.json").exists()
    (project / "looks.json").rmdir()
    (project / "broken").touch()
    assert cowest(project, "turn").returncode == 1
    assert not (project / "broken").exists(), "the stage ran"
    again = cowest(project, "turn")
    assert again.returncode == 0, again.stderr
    assert len((project / "runs").read_text().splitlines()) == 3
    assert not (project / ".cowest" / "forced").exists(), "nothing is forced any more"


def test_a_version_is_bound_to_the_data_it_was_made_of(project: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(
            command, cwd=project, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    assert cowest(project, "data", "add", "data/raw/handbook").returncode == 0
    uncommitted = cowest(project, "turn")
    assert uncommitted.returncode == 1 and "that no commit holds" in uncommitted.stderr
    git("add", "data/raw/handbook.dvc", "data/raw/.gitignore")
    git("commit", "-qm", "one")
    (project / "data/raw/handbook/rows.jsonl").write_text("{}\n{}\n")
    dirty = cowest(project, "turn")
    assert (
        dirty.returncode == 1
        and "(changed: rows.jsonl)" in dirty.stderr
        and "cowest data add" in dirty.stderr
    )
    assert not (project / "turn.json").exists()

    params = (project / "params.yaml").read_text()
    pinned = params.replace(
        "raw: data/raw/handbook",
        "raw: data/pinned/handbook\n  path: data/raw/handbook\n  rev: HEAD",
    )
    (project / "params.yaml").write_text(pinned)
    turned = cowest(project, "turn")
    assert turned.returncode == 0, turned.stderr
    assert (project / "data/pinned/handbook/rows.jsonl").read_text() == "{}\n"
    assert (project / "data/raw/handbook/rows.jsonl").read_text() == "{}\n{}\n", (
        "what is worked on stays as it is"
    )
    commit = git("rev-parse", "HEAD")
    kept = json.loads(decisions(project)[0]["tags"]["dataset/raw"])  # type: ignore[index]
    assert (kept["path"], kept["rev"], kept["kept"]) == ("data/raw/handbook", commit, "dvc")
    assert (
        f"raw       data/raw/handbook, DVC, commit {commit[:12]}, digest {kept['digest'][:12]}"
        in cowest(project, "status").stdout
    )
    assert (
        f"at commit <code>{commit[:12]}</code>, kept by DVC"
        in (project / "reports/index.html").read_text()
    )


def test_two_turns_at_once_are_one_too_many(project: Path) -> None:
    (project / ".cowest").mkdir()
    with (project / ".cowest" / "turn.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = cowest(project, "turn")
    assert second.returncode == 1
    assert second.stderr.startswith("cowest: another turn runs in ")
    assert not (project / "turn.json").exists()


def test_data_that_change_under_a_turn_decide_nothing(project: Path) -> None:
    (project / "make.py").write_text(
        MAKE + "pathlib.Path('data/raw/handbook/rows.jsonl').write_text('{} ')\n"
    )
    changed = cowest(project, "turn")
    assert changed.returncode == 1
    assert "data/raw/handbook was changed while the turn ran" in changed.stderr
    assert decisions(project) == []


def test_killed_it_leaves_the_project_to_its_stage(project: Path) -> None:
    (project / "make.py").write_text(
        "import os, time\nopen('pid', 'w').write(str(os.getppid()))\ntime.sleep(300)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "cowest.cli", "turn"],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(1200):
        if (project / "pid").exists() and (project / "pid").read_text():
            break
        time.sleep(0.1)
    group = os.getpgid(int((project / "pid").read_text()))
    process.kill()
    process.wait(timeout=30)
    pinned = (project / "turn.json").read_bytes()
    try:
        second = cowest(project, "turn", "--set", "dpo.beta=0.123")
    finally:
        os.killpg(group, signal.SIGKILL)
    assert second.returncode == 1
    assert second.stderr.startswith("cowest: another turn runs in "), second.stderr
    assert (project / "turn.json").read_bytes() == pinned


def test_ended_from_outside_it_takes_its_stage_along(project: Path) -> None:
    (project / "make.py").write_text(
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "cowest.cli", "turn"],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(600):
        if (project / "pid").exists() and (project / "pid").read_text():
            break
        time.sleep(0.1)
    stage = int((project / "pid").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130
    for _ in range(100):
        if (
            not Path(f"/proc/{stage}/cmdline").exists()
            or b"make.py" not in Path(f"/proc/{stage}/cmdline").read_bytes()
        ):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the stage lives on")
    (project / "make.py").write_text(MAKE)
    assert "version 1 was promoted" in cowest(project, "turn").stdout
