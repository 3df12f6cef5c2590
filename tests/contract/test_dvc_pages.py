"""`dvc metrics` and `dvc plots` of a project, from the files that `compare` writes."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cowest import io, stages
from cowest.records import EvalReport
from cowest.report import tables
from cowest.report_parts import Probe, ProbeScore
from tests import lines, tiny
from tests.factories import make_trial
from tests.registries import make_version

pytestmark = pytest.mark.slow

STEPS = '{"stage": "sft", "step": 5, "loss": 2.5}\n{"stage": "sft", "step": 10, "loss": 1.25}\n'
ALIGNED = STEPS + '{"stage": "dpo", "step": 5, "loss": 0.69, "rewards/margins": 0.0}\n'
PAGES = ("reports/metrics.json", "reports/systems.csv", "reports/sft.csv", "reports/dpo.csv")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which `compare` ran as its dvc.yaml has it."""
    folder = tmp_path_factory.mktemp("project")
    make_version(folder / "models/policy", "a", STEPS)
    make_version(folder / "models/challenger", "b", ALIGNED)
    (folder / "data").mkdir()
    rows = []
    for number in range(12):
        for system in ("before", "after", "champion"):
            score = float(system == "after" or number % 3 == 0)
            rows.append(make_trial(number, system, score=score))
    io.write(folder / "data/trials.jsonl", rows)
    with tiny.standing_in(folder):
        rules = {"gates": [{"over": "before"}], "draws": 1000}
        ports = lines.paths()["compare"]
        # What other stages make, and the pages have nothing of.
        for name in ("agreement", "looks", "probe"):
            del ports[name]
        stages.run("compare", rules, None, **ports)
    shutil.copy(lines.ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text("turn: {raw: data/raw}\n")
    dvc(folder, "init", "--no-scm", "-q")
    return folder


def dvc(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_metrics_fit_a_terminal(project: Path) -> None:
    said = dvc(project, "metrics", "show")
    assert max(map(len, said.splitlines())) <= 100, said
    head, row = said.splitlines()
    names = ["strong", "before", "after", "champion", "change", "low", "passed"]
    assert sorted(head.split()) == sorted(["Path", *names])
    assert row.startswith("reports/metrics.json ")
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert list(metrics) == names and metrics["passed"] is True


def test_two_turns_differ_on_a_terminal(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".dvc"))
    ignored = lines.ROOT / "src/cowest/commands/scaffold/gitignore.template"
    shutil.copy(ignored, tmp_path / ".gitignore")
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.com"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "-q")
    subprocess.run([*git, "add", "."], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-qm", "a turn"], cwd=tmp_path, check=True)
    place = tmp_path / "reports/metrics.json"
    metrics = json.loads(place.read_text())
    place.write_text(json.dumps(metrics | {"after": metrics["after"] - 0.123}))
    said = dvc(tmp_path, "metrics", "diff")
    assert "after" in said and "-0.123" in said
    assert max(map(len, said.splitlines())) <= 100, said


def test_plots_make_a_page_that_needs_no_network(project: Path) -> None:
    dvc(project, "plots", "show", "--out", "page")
    page = (project / "page" / "index.html").read_text()
    for name in ("score of each system", "SFT loss", "DPO loss"):
        assert name in page
    report = io.read_document(project / "reports/eval.json", EvalReport)
    with (project / "reports/systems.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == list(report.systems)
    assert float(rows[0]["score"]) == report.systems[rows[0]["system"]].mean
    assert (project / "reports/sft.csv").read_text() == "step,loss\n5,2.5\n10,1.25\n"
    assert (project / "reports/dpo.csv").read_text() == "step,loss,rewards/margins\n5,0.69,0.0\n"


def test_an_older_pipeline_names_none_of_them(project: Path, tmp_path: Path) -> None:
    report = tmp_path / "eval.json"
    rules = {"gates": [{"over": "before"}], "draws": 1000}
    stages.run("compare", rules, None, trials=project / "data/trials.jsonl", report=report)
    assert report.read_bytes() == (project / "reports/eval.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]


@pytest.mark.parametrize("place", ["dvc.yaml", "src/cowest/commands/scaffold/dvc.yaml.template"])
def test_every_pipeline_names_the_pages(place: str) -> None:
    found = yaml.safe_load((lines.ROOT / place).read_text())
    plots = [name for plot in found["plots"] for name in plot]
    assert (*found["metrics"], *plots) == PAGES
    outs = [name for out in found["stages"]["compare"]["outs"] for name in out]
    assert outs == ["reports/eval.json", *PAGES]


def test_general_questions_are_a_metric_where_they_are_asked(project: Path, tmp_path: Path) -> None:
    report = io.read_document(project / "reports/eval.json", EvalReport)
    answered = ProbeScore(model="policy@after", score=0.1234, failed=0, kinds={})
    asked = {"file": "f" * 64, "questions": 300, "scorer": "contains:2", "kinds": {}}
    probe = Probe(**asked, systems={"after": answered})
    tables.write_metrics(tmp_path / "metrics.json", report.model_copy(update={"probe": probe}))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["probe"] == 0.123
    assert list(metrics)[-2:] == ["probe", "passed"]
