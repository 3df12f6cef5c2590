"""One turn in three forms: stage by stage from the command line's own `run`, by DVC, and as a
KFP pipeline.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config, io
from cowest.records import Decision, PreferencePair, Validation
from cowest.registry.mlflow import RegistryConfig
from cowest.report import contents
from cowest_pipelines.__main__ import main
from tests import lines, tiny

pytestmark = pytest.mark.minutes

ROWS = ("drafts", "refinements", "feedback", "pairs")
"""Ports whose files every form must write byte for byte alike."""


@pytest.fixture(scope="module")
def kfp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after a turn as a KFP pipeline."""
    folder = tiny.copy_project(tmp_path_factory.mktemp("kfp"))
    run(folder, sys.executable, "-m", "cowest_pipelines", "local", "--root", "steps")
    return folder


@pytest.fixture(scope="module")
def dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `cowest turn`."""
    folder = tiny.copy_project(tmp_path_factory.mktemp("dvc"))
    text = (lines.ROOT / "dvc.yaml").read_text()
    # DVC watches the sources in the project's own tree; the code that runs is this environment's.
    (folder / "src").mkdir()
    (folder / "src" / "cowest").symlink_to(lines.ROOT / "src" / "cowest")
    (folder / "dvc.yaml").write_text(text)
    shutil.copy(lines.ROOT / ".dvcignore", folder)
    run(folder, "git", "init", "-q")
    run(folder, sys.executable, "-m", "dvc", "init", "-q")
    run(folder, "cowest", "turn")
    return folder


def test_the_command_line_makes_pairs_and_promotes() -> None:
    folder = tiny.turned()
    assert len(list(io.read(folder / "data" / "pairs.jsonl", PreferencePair))) >= 5
    assert io.read_document(folder / "reports" / "decision.json", Decision).promoted


def test_the_champion_of_a_turn_loads_with_mlflow_and_its_calls_are_traced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow
    from mlflow.tracing.client import TracingClient

    folder = tiny.turned()
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    # Loading writes beside MLmodel, and the project is to be read only.
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    artifacts = str(folder / "mlartifacts")
    runs = RegistryConfig(
        uri=f"sqlite:///{tmp_path}/copy/mlflow.db", name="handbook", artifacts=artifacts
    ).runs()
    (place,) = (tmp_path / "copy" / "mlartifacts").rglob("MLmodel")
    model = mlflow.pyfunc.load_model(str(place.parent))
    (asked,) = model.input_example.to_dict("records")
    (answered,) = model.predict([asked]).to_dict("records")
    assert answered["failed"] is None and answered["draft"] and answered["answer"]
    (run,) = runs.client.search_runs([runs.client.get_experiment_by_name("handbook").experiment_id])
    traces = TracingClient(runs.uri).search_traces(
        locations=[run.info.experiment_id], run_id=run.info.run_id
    )
    assert len(traces) == 5
    assert asked["question"] in {
        one.data.spans[0].inputs["messages"][-1]["content"] for one in traces
    }


def test_dvc_writes_the_same_rows(dvc: Path) -> None:
    for name in ROWS:
        assert (dvc / "data" / f"{name}.jsonl").read_bytes() == (
            tiny.turned() / "data" / f"{name}.jsonl"
        ).read_bytes(), name


@pytest.mark.parametrize("kind", ["queries", "corpus", "feedback", "pairs"])
def test_the_report_of_a_turn_reads_what_validate_found(dvc: Path, kfp: Path, kind: str) -> None:
    plain = io.read_document(tiny.turned() / "reports" / f"{kind}.json", Validation)
    assert plain.kind == kind and plain.fit and plain.taken == plain.left + plain.aside
    assert contents.gather(dvc).contracts[kind] == plain
    assert plain in [io.read_document(path, Validation) for path in steps(kfp, "findings")]


def test_kfp_writes_the_same_rows(kfp: Path) -> None:
    for name in ROWS:
        assert (
            step(kfp, name).read_bytes() == (tiny.turned() / "data" / f"{name}.jsonl").read_bytes()
        ), name


def test_all_forms_are_the_same_turn_with_the_same_decision(dvc: Path, kfp: Path) -> None:
    plain = io.read_document(tiny.turned() / "reports" / "decision.json", Decision)
    assert io.read_document(dvc / "reports" / "decision.json", Decision) == plain
    assert io.read_document(step(kfp, "decision"), Decision) == plain


def test_kfp_takes_the_branch_of_its_gate(kfp: Path) -> None:
    registry = RegistryConfig(
        uri=f"sqlite:///{kfp}/mlflow.db", name="handbook", artifacts=str(kfp / "mlartifacts")
    ).open()
    assert [decision.promoted for decision in registry.log()] == [True]
    assert len(steps(kfp, "decision")) == 1, "both branches were taken"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"draft": {"temprature": 1}},
            "draft: policy: Field required; temprature: unknown setting or field",
        ),
        ({"dpo": None}, "params.yaml: dpo: policy: Field required; training: Field required"),
        (
            {"turn": {"raw": "nowhere"}},
            "nowhere: no such file or folder: params.yaml names the raw data in turn.raw",
        ),
    ],
)
def test_a_slip_in_the_settings_is_said_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        yaml.safe_dump({**config.load(tiny.project() / "params.yaml"), **wrong})
    )
    assert main(["local"]) == 1
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def step(folder: Path, port: str) -> Path:
    """What a pipeline left in an output; where two steps have such a port, the later one's."""
    return steps(folder, port)[-1]


def steps(folder: Path, port: str) -> list[Path]:
    port, of = ("valid", "validate-4") if port == "pairs" else (port, "*")
    return sorted((folder / "steps").glob(f"flywheel-*/{of}/{port}"))


def run(folder: Path, *command: str) -> str:
    """Runs a command in a project; its whole output is the failure's message."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=tiny.surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (
        f"{' '.join(map(os.path.basename, command))}:\n{done.stdout[-6000:]}"
    )
    return done.stdout
