"""A run of the second evidence on tiny models, from its raw files to its numbers: every arm is
made, and a run that is cut goes on.
"""

import atexit
import functools
import json
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cowest import io
from cowest.config import Sampling, parse
from cowest.domains.invent_sites import World
from cowest.models.hf import HFConfig
from cowest.records import Draft, Feedback, grown
from tests import tiny
from tests.bench.evidence.sites import costs as costs_of
from tests.bench.evidence.sites import design, plan, report
from tests.bench.evidence.sites.arms import ON_POLICY, SELECTED, TRAINED
from tests.bench.evidence.sites.run import Run

pytestmark = pytest.mark.slow

ARMS = (*TRAINED, *SELECTED)
ALONE = ("policy", *ARMS, *ON_POLICY)


@functools.cache
def model() -> Path:
    """The tiny model with room for the strong model's shots."""
    folder = Path(tempfile.mkdtemp(prefix="cowest-sites-"))
    atexit.register(shutil.rmtree, folder)
    shutil.copytree(tiny.model(), folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def settings() -> plan.Settings:
    base: dict[str, Any] = {"provider": "hf", "model": str(model()), "dtype": "float32"}
    shot = {"max_tokens": 4}
    return plan.Settings(
        seed=5,
        world=World(products={"archive": 1, "train": 2, "dev": 1, "test": 1}),
        policy=base,
        strong=base,
        second=base,
        trained=ARMS,
        grpo={
            "grpo.dev": 2,
            "grpo.judge_steps": 2,
            "training.batch_size": 4,
            "training.epochs": 1,
        },
        changes={
            "sft.training.epochs": 1,
            "sft.training.max_length": 512,
            "sft.lora": {"r": 2, "alpha": 4},
            "draft.sampling": {"temperature": 0.9, "n": 2, **shot},
            "draft.candidates": shot,
            "evaluate.drafting": shot,
            "refine.sampling": shot,
            "pair.rule": {"per_query": 2, "allow_cut": True},
            "dpo.training.epochs": 1,
            "dpo.training.max_length": 512,
        },
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("evidence") / "sites-5"
    folder.mkdir()
    patch = pytest.MonkeyPatch()
    patch.setenv("COWEST_STORE", str(folder / "calls.sqlite"))
    made = Run(settings(), folder)
    made.specialise()
    made.feed_back()
    _score(folder / "feedback_train.jsonl")
    for arm in ARMS:
        made.align(arm)
    made.hold_out()
    made.evaluate()
    patch.undo()
    return folder


def _score(path: Path) -> None:
    """A tiny model is never right, so what teaches is planted: later drafts helped."""
    rows = []
    for row in io.read(path, Feedback):
        helped = float(row.candidate == row.tags[0] or (row.candidate is None and row.sample == 1))
        rows.append(grown(Feedback, row, score=helped, draft_score=float(row.sample == 0)))
    io.write(path, rows)


def test_every_system_answers_every_held_out_question(run: Path) -> None:
    found = json.loads((run / "run.json").read_text())
    systems = {*ALONE, *plan.COMPARATORS, "best_prompt", "table", "ridge", "ideal"}
    assert systems | {"strong alone"} | {f"{name} alone" for name in ALONE} == set(found["scores"])
    assert {len(scores) for scores in found["scores"].values()} == {8}
    assert set(found["second"]["scores"]) == set(found["scores"])
    assert [tags[2] for tags in found["tags"]].count("new") == 4
    costs, calls = found["costs"], found["pairs"]["aligned_joined"]["calls"]
    assert costs["refine_train"]["strong_calls"] == calls, "each call, and no draft of the policy"
    assert costs["draft_train"]["strong_calls"] == 0 < costs["draft_train"]["calls"]
    assert 0 < costs["train_grpo"]["strong_calls"] <= calls
    assert _asked_by_grpo(run) == costs["train_grpo"]["strong_calls"], "no answer of another arm's"
    assert costs["held_likelihood"]["calls"] == 4 * 8, "each question after each direct reply"
    assert set(report.folded([found], 8)["costs"]) == set(costs_of.arms())
    assert costs["train_grpo"]["cpu_seconds"] > 0
    for half in SELECTED:
        assert 0 < 2 * found["pairs"][half]["calls"] <= found["pairs"]["aligned_joined"]["calls"]
    assert found["pairs"]["aligned_joined"]["candidates chosen"] > 0
    assert found["pairs"]["aligned"]["candidates chosen"] == 0
    assert report.folded([found], 8)["finished"] == 1


def _asked_by_grpo(run: Path) -> int:
    """The strong model's answers in the store of GRPO's own; policies' names have an adapter."""
    with closing(sqlite3.connect(run / "calls_grpo.sqlite")) as calls:
        (count,) = calls.execute("SELECT COUNT(*) FROM calls WHERE model NOT LIKE '%+%'").fetchone()
    return int(count)


def test_each_way_to_align_trains_weights_of_its_own(run: Path) -> None:
    adapters = {}
    for name in ("policy", *(f"policy_{arm}" for arm in ARMS)):
        adapters[name] = (run / name / "adapter" / "adapter_model.safetensors").read_bytes()
    assert len(set(adapters.values())) == len(adapters)


def test_what_is_looked_up_is_the_policys_own_reply(run: Path) -> None:
    """The planted feedback says that the needed site helped, so a table knows seen wordings."""
    direct = {}
    for row in io.read(run / "direct.jsonl", Draft):
        if row.candidate is not None:
            direct[row.id, row.candidate] = row.draft
    rows = list(io.read(run / "held_table.jsonl", Draft))
    known = [row for row in rows if row.draft == direct[row.id, row.tags[0]]]
    assert known and {row.draft for row in rows} <= set(direct.values())
    for name in ("everything", "routed", "likelihood", "ridge", "bm25_1"):
        for row in io.read(run / f"held_{name}.jsonl", Draft):
            replies = {text for (query, _), text in direct.items() if query == row.id}
            assert row.draft in replies or name in ("everything", "routed"), name


def test_a_run_that_was_cut_makes_only_what_is_not_there(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    numbers = json.loads((run / "run.json").read_text())
    for name in ("run.json", "trials.jsonl", "held_no_nll.jsonl"):
        (run / name).unlink()
    again = Run(settings(), run)
    again.specialise()
    again.feed_back()
    for arm in ARMS:
        again.align(arm)
    again.hold_out()
    again.evaluate()
    found = json.loads((run / "run.json").read_text())
    assert found["scores"] == numbers["scores"]
    made = ("held_no_nll.jsonl", "trials.jsonl", "run.json", "costs.json", "start")
    for path, time in before.items():
        kept = path.stat().st_mtime_ns == time
        assert kept or path.name in made or "calls.sqlite" in path.name, path.name


def test_the_design_measures_every_arm_that_trains_no_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    asked = settings()
    base = parse(HFConfig, asked.policy, "policy")
    answering = Sampling(max_tokens=2)
    found = design.measured(tmp_path / "raw", 5, base, base, answering, asked.world)
    assert set(found) == set(design.ARMS)
    for scores in found.values():
        counts = {wording: len(values) for wording, values in scores.items()}
        assert counts == {"all": 8, "new": 4, "seen": 4}
