"""The two ends of a turn, around a real registry: what is pinned, what is registered, and doing
either twice.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from cowest import io, stages, version
from cowest.config import file_digest
from cowest.errors import ContractError, CoWestError, InputError
from cowest.evaluation import compare, gather
from cowest.gates import Gate
from cowest.lineage import Turn
from cowest.records import Decision
from cowest.registry.mlflow import RegistryConfig
from tests.factories import make_trial
from tests.registries import empty_registry, make_version

PARAMS = "prepare: {domain: handbook}\ndpo: {beta: 0.1, targets: [a, b]}\n"
CURVES = (
    '{"stage": "dpo", "step": 5, "loss": 0.7}\n{"stage": "dpo", "step": 10, "loss": 0.5, '
    '"rewards/margins": 1.5}\n'
)


class Project:
    """A project's folder in the state in which `compare` leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry = folder, empty_registry(folder)
        (folder / "raw").mkdir()
        (folder / "raw" / "rows.jsonl").write_text("{}\n")
        (folder / "params.yaml").write_text(PARAMS)
        for name in ("queries", "corpus", "pairs"):
            (folder / f"{name}.jsonl").write_text(f"a row of {name}\n" * 3)
        make_version(folder / "policy", "after sft")
        make_version(folder / "challenger", "after dpo", CURVES)
        self.judge(better=True)

    def judge(self, *, better: bool) -> None:
        scores = {"before": 0.0, "after": 1.0} if better else {"before": 1.0, "after": 0.0}
        queries = (
            [make_trial(number, system, score=score) for system, score in scores.items()]
            for number in range(8)
        )
        report = compare(
            gather(queries), [Gate(of="after", over="before", at_least=0.0)], draws=1000, seed=0
        )
        io.write_document(self.folder / "eval.json", report)

    def pin(self) -> Turn:
        paths = {name: self.folder / name for name in ("raw", "start", "champion")}
        self.run("pin", **paths, params=self.folder / "params.yaml", turn=self.folder / "turn.json")
        return io.read_document(self.folder / "turn.json", Turn)

    def register(self) -> Decision:
        paths = {
            "policy": "policy",
            "challenger": "challenger",
            "params": "params.yaml",
            "turn": "turn.json",
            "report": "eval.json",
        }
        paths |= {name: f"{name}.jsonl" for name in ("queries", "corpus", "pairs")}
        self.run(
            "register",
            **{name: self.folder / path for name, path in paths.items()},
            decision=self.folder / "decision.json",
        )
        return io.read_document(self.folder / "decision.json", Decision)

    def run(self, stage: str, **ports: Any) -> None:
        stages.run(stage, {"registry": self.registry.model_dump()}, **ports)

    def new_data(self, text: str) -> None:
        (self.folder / "raw" / "rows.jsonl").write_text(text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    return Project(tmp_path)


def test_the_first_turn_starts_from_nothing_and_the_second_from_its_champion(
    project: Project,
) -> None:
    assert project.pin().champion is None
    assert version.read(project.folder / "start") is None
    assert version.read(project.folder / "champion") is None
    first = project.register()
    assert (first.version, first.promoted, first.champion) == (1, True, 1)
    project.new_data("{}\n{}\n")
    assert project.pin().champion == 1
    assert (
        file_digest(project.folder / "start")
        == file_digest(project.folder / "champion")
        == file_digest(project.folder / "challenger")
    )


def test_the_decision_is_a_document_of_six_fields(project: Project) -> None:
    key = project.pin().key
    made = project.register()
    text = (project.folder / "decision.json").read_text()
    assert text == (
        f'{{\n  "turn": "{key}",\n  "version": 1,\n  "promoted": true,\n  "against": null,\n'
        f'  "champion": 1,\n  "reason": "{made.reason}"\n}}\n'
    )
    refused = Decision.model_validate_json(text.replace("true", "false"))
    assert (made.verdict, refused.verdict) == ("promoted", "refused")
    with pytest.raises(ValueError, match="verdict"):
        Decision.model_validate_json(text.replace("true", '"yes"'))


def test_a_failed_gate_is_a_refusal_with_its_reason(project: Project) -> None:
    project.judge(better=False)
    project.pin()
    outcome = project.register()
    assert (outcome.promoted, outcome.champion) == (False, None)
    assert "after" in outcome.reason
    assert "before" in outcome.reason


def test_a_turn_that_is_started_again_keeps_what_it_pinned(project: Project) -> None:
    pinned = project.pin()
    project.registry.open().decide(
        make_version(project.folder / "other"),
        turn="ee",
        promote=True,
        against=None,
        reason="so",
        tags={},
    )
    assert project.pin() == pinned
    assert version.read(project.folder / "champion") is None
    (project.folder / "champion" / "version.json").unlink()
    assert project.pin().champion == 1, "what was pinned is gone: it is pinned afresh"
    assert version.read(project.folder / "champion") is not None


def test_a_turn_that_came_too_late_is_judged_again(project: Project) -> None:
    project.pin()
    project.registry.open().decide(
        make_version(project.folder / "other"),
        turn="ee",
        promote=True,
        against=None,
        reason="so",
        tags={},
    )
    late = project.register()
    assert (late.promoted, late.champion) == (False, 1)
    assert project.registry.open().log()[-1].verdict == "late"
    assert project.pin().champion == 1
    again = project.register()
    assert (again.version, again.promoted, again.champion) == (3, True, 3)


def test_registering_twice_changes_nothing(project: Project) -> None:
    project.pin()
    first = project.register()
    before = _history(project.registry, project.pin().key)
    (project.folder / "decision.json").unlink()
    assert project.register() == first
    assert len(project.registry.open().log()) == 1
    assert _history(project.registry, project.pin().key) == before


def test_the_tracker_holds_the_turn(project: Project) -> None:
    key = project.pin().key
    project.register()
    runs = project.registry.runs()
    run = runs.find(key)
    assert run is not None
    assert run.data.params["dpo.beta"] == "0.1"
    assert run.data.params["dpo.targets.0"] == "a"
    assert run.data.metrics["systems/after/mean"] == 1.0
    assert run.data.metrics["passed"] == 1.0
    raw, pairs = (json.loads(run.data.tags[f"dataset/{name}"]) for name in ("raw", "pairs"))
    assert (raw["kept"], raw["digest"]) == ("unversioned", file_digest(project.folder / "raw"))
    assert pairs == {
        "path": "data/pairs.jsonl",
        "digest": file_digest(project.folder / "pairs.jsonl"),
        "kept": "derived",
        "rows": 3,
    }
    assert (
        project.registry.open().log()[0].tags["dataset/pairs"] == run.data.tags["dataset/pairs"]
    ), "and so does the decision"
    inputs = {
        tag.value: one.dataset
        for one in run.inputs.dataset_inputs
        for tag in one.tags
        if tag.key == "mlflow.data.context"
    }
    assert inputs.keys() == {"raw", "queries", "corpus", "pairs"}
    assert (inputs["pairs"].name, inputs["pairs"].digest) == (
        "data/pairs.jsonl",
        pairs["digest"][:36],
    )
    assert run.data.tags["data/rows.jsonl"] == file_digest(project.folder / "raw" / "rows.jsonl")
    assert _history(project.registry, key) == [(5, 0.7), (10, 0.5)]
    assert {file.path for file in runs.client.list_artifacts(run.info.run_id)} == {
        "eval.json",
        "turn.json",
        "version",
    }


def test_a_turn_that_was_cut_short_while_it_was_tracked_is_completed(project: Project) -> None:
    key = project.pin().key
    runs = project.registry.runs()
    run = runs.of(key)
    runs.client.log_metric(run.info.run_id, "dpo/loss", 0.7, timestamp=run.info.start_time, step=5)
    project.register()
    assert _history(project.registry, key) == [(5, 0.7), (10, 0.5)]


def test_settings_that_changed_after_the_pin_are_refused(project: Project) -> None:
    project.pin()
    (project.folder / "params.yaml").write_text(PARAMS.replace("0.1", "0.2"))
    with pytest.raises(ContractError, match="changed since"):
        project.register()
    assert project.registry.open().log() == []


def test_a_broken_curve_or_report_registers_nothing(project: Project) -> None:
    project.pin()
    make_version(project.folder / "challenger", "after dpo", CURVES + '{"step": 3}\n')
    with pytest.raises(InputError, match=r"curves\.jsonl:3"):
        project.register()
    (project.folder / "eval.json").write_text("{}")
    with pytest.raises(CoWestError, match=r"eval\.json is not a EvalReport"):
        project.register()
    assert project.registry.open().log() == []


def _history(config: RegistryConfig, turn: str) -> list[tuple[int, float]]:
    runs = config.runs()
    run = runs.find(turn)
    assert run is not None
    return [
        (point.step, point.value)
        for point in runs.client.get_metric_history(run.info.run_id, "dpo/loss")
    ]
