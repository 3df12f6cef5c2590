"""Pairs bought from one strong model for another: report and decision say whose answers taught."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config, io, stages, version
from cowest.records import Decision, EvalReport, PreferencePair
from cowest.registry.mlflow import RegistryConfig
from tests import lines, tiny

pytestmark = pytest.mark.minutes


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project after a turn, in a folder of its own, which is the working folder."""
    return tiny.enter_turned(tmp_path, monkeypatch)


def turn(changes: dict[str, dict[str, Any]], first: str) -> None:
    """Runs the stages of a turn with changed settings: pin, and those from `first` on."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    for stage, values in changes.items():
        params[stage] |= values
    Path("params.yaml").write_text(yaml.safe_dump(params))
    found = list(lines.paths().items())
    names = [name for name, _ in found]
    for stage, ports in [found[0], *found[names.index(first) :]]:
        stages.run(stage, config.section(params, stage), None, **ports)


def strong(**more: Any) -> dict[str, Any]:
    """The project's scripted strong model with another rule, and so another name."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    rules = [{"match": "asked by nobody", "replies": ["x"]}, *params["refine"]["strong"]["rules"]]
    return {"strong": {"provider": "scripted", "rules": rules}, **more}


def decided() -> tuple[Decision, dict[str, str]]:
    """The decision, and the tags of its entry in the log."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    registry = config.parse(RegistryConfig, params["register"]["registry"], "registry").open()
    decision = io.read_document(Path("reports/decision.json"), Decision)
    (tags,) = (entry.tags for entry in registry.log() if entry.turn == decision.turn)
    return decision, dict(tags)


def test_another_strong_model_in_refine_is_said(project: Path) -> None:
    turn({"refine": strong()}, "refine")
    (teacher,) = {row.strong for row in io.read(Path("data/pairs.jsonl"), PreferencePair)}
    judge = io.read_document(Path("reports/eval.json"), EvalReport).strong
    assert teacher != judge
    said = f"aligned by the answers of {teacher}, and judged with {judge}"
    assert f"The challenger was {said}." in tiny.page()
    decision, tags = decided()
    assert decision.reason.endswith(f"; {said}")
    assert json.loads(tags["taught"]) == [teacher]


def test_another_strong_model_in_later_rounds_is_said(project: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    ask = strong(
        scorer=params["score"]["scorer"],
        drafting=params["draft"]["sampling"],
        refining=params["refine"]["sampling"],
        rule=params["pair"]["rule"],
        pairs={"kind": "pairs", "min_pairs": 2},
    )
    turn({"dpo": {"rounds": 2, "ask": ask}}, "dpo")
    judge = io.read_document(Path("reports/eval.json"), EvalReport).strong
    aligned = version.expect(Path("models/challenger")).aligned
    assert aligned is not None and judge in aligned.strong and len(aligned.strong) == 2
    (other,) = set(aligned.strong) - {judge}
    assert f"aligned by the answers of {other}, and judged with {judge}" in tiny.page()
    decision, tags = decided()
    assert f"aligned by the answers of {other}, and judged with {judge}" in decision.reason
    assert json.loads(tags["taught"]) == sorted(aligned.strong)


def test_where_one_model_teaches_and_judges_nothing_is_said(project: Path) -> None:
    assert "The challenger was aligned by the answers of" not in tiny.page()
    decision, tags = decided()
    assert "aligned by the answers" not in decision.reason
    judge = io.read_document(Path("reports/eval.json"), EvalReport).strong
    assert json.loads(tags["taught"]) == [judge]
