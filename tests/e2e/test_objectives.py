"""Each objective is one setting: the same stages, one artifact, the same gate and report."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config, io, stages, version
from cowest.errors import ContractError
from cowest.preflight import preflight
from cowest.records import Decision, EvalReport, Feedback, PreferencePair
from cowest.report import contents
from tests import lines, tiny

pytestmark = pytest.mark.minutes


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project after a turn by DPO, in a folder of its own, which is the working folder."""
    return tiny.enter_turned(tmp_path, monkeypatch)


def align(by: str, **dpo: Any) -> dict[str, Any]:
    """Changes the objective in params.yaml; returns the settings."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    for stage in ("refine", "pair", "dpo"):
        params[stage]["align"] = by
    params["dpo"] |= dpo
    Path("params.yaml").write_text(yaml.safe_dump(params))
    preflight(Path("params.yaml"))
    return params


def run(params: dict[str, Any], first: str, last: str) -> None:
    """Runs the stages of a turn from one to another, pin before them."""
    found = list(lines.paths().items())
    names = [name for name, _ in found]
    for stage, ports in [found[0], *found[names.index(first) : names.index(last) + 1]]:
        stages.run(stage, config.section(params, stage), None, **ports)


def test_kto_is_one_setting(project: Path) -> None:
    run(align("kto"), "pair", "register")
    rows = list(io.read(Path("data/pairs.jsonl"), PreferencePair))
    helped = sum(not row.rejected for row in rows)
    assert 0 < helped < len(rows) and all(not (row.chosen and row.rejected) for row in rows)
    assert version.expect(Path("models/challenger")).adapter != (
        version.expect(Path("models/policy")).adapter
    )
    judged = io.read_document(Path("reports/eval.json"), EvalReport)
    assert {"before", "after"} <= judged.systems.keys()
    assert io.read_document(Path("reports/decision.json"), Decision).promoted
    said = tiny.page()
    assert f"queries were trained on, each alone: {helped} helped, {len(rows) - helped} did" in said
    assert "estimated KL" in said


def test_grpo_is_one_setting(project: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["validate"]["pairs"]["min_pairs"] = 0
    Path("params.yaml").write_text(yaml.safe_dump(params))
    ask = {
        "strong": params["refine"]["strong"],
        "scorer": params["score"]["scorer"],
        "drafting": params["draft"]["sampling"],
        "refining": params["refine"]["sampling"],
        "rule": params["pair"]["rule"],
    }
    # So few that training ends after a step or two.
    grpo = {"dev": 2, "judge_steps": 2, "calls": 80}
    run(align("grpo", ask=ask, grpo=grpo), "refine", "register")
    assert list(io.read(Path("data/pairs.jsonl"), PreferencePair)) == []
    aligned = version.expect(Path("models/challenger")).aligned
    assert aligned is not None and aligned.align == "grpo"
    judged = io.read_document(Path("reports/eval.json"), EvalReport)
    assert {"before", "after"} <= judged.systems.keys()
    assert io.read_document(Path("reports/decision.json"), Decision).promoted
    said = tiny.page()
    learned = f"{aligned.rows[0]} drafts that were made in training up to the checkpoint"
    if aligned.rows[0] == 0:
        learned = "no checkpoint was better"
    assert f"Aligned by <code>grpo</code>: {learned}" in said or f"by grpo: {learned}" in said
    for curve in (
        "Alignment: estimated KL to the reference",
        "GRPO: gain of drafts",
        "GRPO: score on the queries held back",
        "GRPO: tokens per draft",
    ):
        assert curve in said


def test_self_asks_the_strong_model_nothing_before_it_is_judged(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(align("self"), "refine", "score")
    said = capsys.readouterr().err
    assert "refine: nobody was asked, as `align: self` has it" in said
    assert "refine: 0 completions" not in said and "calls to" not in said
    rows = list(io.read(Path("data/feedback.raw.jsonl"), Feedback))
    assert all(
        (row.strong, row.refinement, row.solo, row.score) == ("nobody", None, None, None)
        for row in rows
    )
    # A tiny model's drafts are never right: have some so, that there are pairs.
    some = [row.model_copy(update={"draft_score": float(row.sample == 0)}) for row in rows]
    io.write(Path("data/feedback.raw.jsonl"), some)
    run(align("self"), "validate@feedback", "register")
    assert io.read_document(Path("reports/decision.json"), Decision).turn
    assert "No strong model was asked about the" in tiny.page()


def test_feedback_for_half_of_the_calls_goes_through_a_turn(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["refine"]["select"] = {"share": 0.5, "allow_cut": True}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    preflight(Path("params.yaml"))
    before = contents.gains(Path("data/feedback.jsonl"))
    run(params, "refine", "register")
    found = contents.gains(Path("data/feedback.jsonl"))
    assert found.calls <= 0.5 * before.calls and found.whole == before.calls == before.whole
    assert found.unasked + found.drafts == before.drafts and found.passed_over > 0
    assert f"refine: {found.calls} of {before.calls} calls, as" in capsys.readouterr().err
    rows = list(io.read(Path("data/pairs.jsonl"), PreferencePair))
    assert rows and {row.strong for row in rows} == {rows[0].strong} != {"nobody"}
    assert io.read_document(Path("reports/decision.json"), Decision).turn
    said = tiny.page()
    assert f"{found.calls} of the {before.calls} calls that all drafts would have taken" in said
    assert f"among them all drafts of {found.passed_over} queries" in said


def test_rows_of_another_objective_are_refused(project: Path) -> None:
    params = align("kto")
    with pytest.raises(ContractError, match=r"`align: kto` learns from these: give `pair\.align`"):
        run(params, "dpo", "dpo")
