"""A relative path in the settings is relative to their file, wherever one stands."""

import json
from pathlib import Path

import pytest

from cowest import io
from cowest.cli import main
from cowest.records import Feedback, Refinement
from tests import factories


def test_settings_name_files_beside_them_and_flags_files_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, here = tmp_path / "a project", tmp_path / "here"
    project.mkdir()
    here.mkdir()
    (project / "names.txt").write_text("Zorbatron\n")
    (here / "names.txt").write_text("nobody\n")
    judge = {
        "provider": "openai",
        "model": "big",
        "base_url": "http://127.0.0.1:9/v1",
        "key_env": None,
        "egress": {"on_found": "refuse", "terms_file": "names.txt"},
    }
    scorer = {"scorer": "judge", "model": judge}
    settings = {"score": {"scorer": scorer, "max_failed": None}}
    (project / "params.yaml").write_text(json.dumps(settings))
    monkeypatch.chdir(here)
    monkeypatch.delenv("COWEST_STORE", raising=False)
    fields = factories.make_feedback(draft="Zorbatron", refinement="Zorbatron", solo="Zorbatron")
    row = {name: getattr(fields, name) for name in Refinement.model_fields}
    io.write(Path("refined.jsonl"), [Refinement(**row)])
    flags = ["--refinements", "refined.jsonl", "--feedback", "out.jsonl"]
    assert main(["score", *flags, "--params", "../a project/params.yaml"]) == 0
    # The judge was asked nothing, since the name is one of the project's terms.
    (scored,) = io.read(Path("out.jsonl"), Feedback)
    assert "term" in (scored.failed or "")
    assert Path.cwd() == here
    assert {path.name for path in here.iterdir()} == {"names.txt", "refined.jsonl", "out.jsonl"}
    assert (project / ".cowest" / "calls.sqlite").exists()
