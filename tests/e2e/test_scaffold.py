"""A scaffolded project: what `init` writes goes through `prepare` and `validate`, and is a turn
that DVC can run.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cowest import io, stages
from cowest.cli import main
from cowest.records import Query
from tests import tiny
from tests.scaffolds import asked, quiz, scaffold


@pytest.mark.parametrize("kind", ["quiz.csv", "qa.jsonl"])
def test_a_scaffold_prepares_and_validates(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = scaffold(tmp_path, quiz() if kind == "quiz.csv" else asked(), kind)
    monkeypatch.chdir(tmp_path / "made")
    ports = [
        "--queries",
        "data/raw.jsonl",
        "--corpus",
        "data/corpus.jsonl",
        "--quarantine",
        "data/quarantine.jsonl",
    ]
    assert main(["prepare", "--raw", params["turn"]["raw"], *ports]) == 0
    ports = {
        "rows": "data/raw.jsonl",
        "against": "data/raw",
        "valid": "data/queries.jsonl",
        "page": "reports/queries.html",
    }
    assert (
        main(
            [
                "validate@queries",
                *(word for port, path in ports.items() for word in (f"--{port}", path)),
            ]
        )
        == 0
    )
    rows = list(io.read(Path("data/queries.jsonl"), Query))
    assert len(rows) == (60 if kind == "quiz.csv" else 50)


def test_dvc_runs_the_scaffold_and_sees_other_code(tmp_path: Path) -> None:
    params = scaffold(tmp_path, quiz(), "quiz.csv")
    folder = tmp_path / "made"
    settings = folder / "params.yaml"
    settings.write_text(
        settings.read_text().replace("model: smollm2-135m-instruct", f"model: {tiny.model()}")
    )
    ports = {
        "raw": params["turn"]["raw"],
        "params": "params.yaml",
        "turn": "turn.json",
        "start": "models/start",
        "champion": "models/champion",
    }
    with tiny.standing_in(folder):
        stages.run("pin", params["pin"], **ports)

    def repro() -> str:
        command = [sys.executable, "-m", "dvc", "repro", "validate@queries"]
        paths = {"PYTHONPATH": str(Path(stages.__file__).parents[2])}
        ran = subprocess.run(
            command,
            cwd=folder,
            env={**tiny.surroundings(), **paths},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert "Running stage 'prepare'" in repro()
    assert "Stage 'prepare' didn't change" in repro()
    turn = yaml.safe_load((folder / "turn.json").read_text())
    (folder / "turn.json").write_text(
        (folder / "turn.json").read_text().replace(turn["code"], "0" * 64)
    )
    assert "Running stage 'prepare'" in repro()
