"""DPO that is killed, in several processes, and by either way: always the same adapter."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config, io, version
from cowest import training as trained
from cowest.config import Sampling, file_digest
from cowest.domains import domain
from cowest.models import hf
from cowest.models.hf import HFConfig
from cowest.protocols import Completion, Request
from cowest.stages import dpo
from tests import tiny
from tests.factories import make_feedback
from tests.trained import furthest, rows, weights

pytestmark = pytest.mark.slow

TRAINING = {
    "learning_rate": 0.003,
    "epochs": 4,
    "batch_size": 8,
    "warmup_steps": 0,
    "max_length": 96,
    "dtype": "float32",
}
STEPS = 4 * 48 // 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy with an adapter as SFT leaves one, pairs, feedback, and the challenger of them."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("dpo")
    settings = HFConfig(model=str(tiny.model()))
    model, _ = hf.load(settings)
    torch.manual_seed(0)
    shape = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(model, shape)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder / "policy" / "adapter")
    prompts = domain("handbook").prompts
    base = settings.base_name(settings.folder())
    version.write(folder / "policy", base=base, prompts=prompts, trained="sft")
    io.write(folder / "pairs.jsonl", rows())
    io.write(folder / "feedback.jsonl", [make_feedback(0), make_feedback(1, score=0.0)])
    train(folder, "whole")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same in a folder of its own, which is the working folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    section = {"policy": {"model": str(tiny.model())}, "training": TRAINING}
    section["checkpoint_minutes"] = 0
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"dpo": section}))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    left = tmp_path / ".cowest" / "training"
    assert not left.exists() or not list(left.iterdir()), "checkpoints of a stage that has ended"


def train(
    folder: Path,
    out: str,
    training: dict[str, Any] | None = None,
    start: str = "policy",
    **more: Any,
) -> None:
    values = {
        "policy": {"model": str(tiny.model())},
        "training": {**TRAINING, **(training or {})},
        **more,
    }
    settings = config.parse(dpo.DPOConfig, values, "test")
    names = ("pairs.jsonl", "feedback.jsonl", start, out)
    dpo.main(*(folder / name for name in names), settings)


def command(out: str, *launcher: str) -> list[str]:
    ports = ["--pairs", "pairs.jsonl", "--feedback", "feedback.jsonl", "--policy", "policy"]
    return [sys.executable, "-m", *launcher, "cowest.cli", "dpo", *ports, "--challenger", out]


def answers(folder: Path) -> list[Completion]:
    """Returns a challenger's answers to the questions of its pairs, as `evaluate` asks it."""
    requests = []
    for pair in rows():
        prompt = domain("handbook").prompts.draft.render(pair.prompt)
        requests.append(Request(prompt, Sampling(max_tokens=12)))
    with HFConfig(model=str(tiny.model())).open(adapter=folder / "adapter") as model:
        return list(model.generate(requests))


@pytest.mark.parametrize("step", ["tree", "trl"])
def test_a_killed_training_goes_on_to_the_same_bytes(
    project: Path, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["dpo"]["step"] = step
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    whole = project / "whole"
    if step == "trl":
        whole = project / "by-trl"
        train(project, whole.name, step=step)
        capsys.readouterr()
    process = subprocess.Popen(command("killed"), env=tiny.surroundings(), process_group=0)
    until = time.monotonic() + 120
    while not list(project.glob(".cowest/training/*/checkpoint-*.whole")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (project / "killed").exists()
    (folder,) = project.glob(".cowest/training/*")
    # Written when it was killed: later, and not whole.
    for name, mark in (("checkpoint-98", None), ("checkpoint-99", "of other bytes")):
        (folder / name).mkdir()
        (folder / name / "optimizer.pt").write_bytes(b"half")
        if mark is not None:
            (folder / f"{name}.whole").write_text(mark)

    train(project, "killed", checkpoint_minutes=0, step=step)
    said = capsys.readouterr().err
    assert "dpo: training goes on after step " in said
    assert int(said.rpartition(" ")[2]) in range(5, STEPS, 5)
    assert file_digest(project / "killed") == file_digest(whole)


def test_two_processes_train_the_same_adapter(project: Path) -> None:
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    # One thread each: on a busy machine, more wait for each other.
    done = subprocess.run(
        command("two", *launcher),
        env=tiny.surroundings(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert furthest(project / "whole", project / "two") < 1e-3
    assert version.expect(project / "two").gains == version.expect(project / "whole").gains
    logged = [(project / name / "curves.jsonl").read_text() for name in ("whole", "two")]
    one, two = ([json.loads(line) for line in text.splitlines()] for text in logged)
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for name in ("loss", "rewards/chosen", "rewards/margins", "epoch"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], abs=1e-3)


def test_less_memory_is_the_same_adapter(project: Path) -> None:
    train(project, "less", {"gradient_accumulation": 3, "activation_checkpointing": True})
    assert furthest(project / "whole", project / "less") < 1e-3


@pytest.mark.parametrize(
    "more",
    [
        {"batch_size": 48, "epochs": 3},
        {"batch_size": 8, "epochs": 2.5},
        {"batch_size": 6, "epochs": 1, "gradient_accumulation": 2},
    ],
)
def test_either_way_trains_the_same(project: Path, more: dict[str, Any]) -> None:
    """Both ways take the same pairs in each step."""
    train(project, "tree", more, loss="robust", label_smoothing=0.1)
    train(project, "trl", more, loss="robust", label_smoothing=0.1, step="trl")
    assert furthest(project / "trl", project / "tree") < 1e-2
    one, other = answers(project / "tree"), answers(project / "trl")
    assert [found.text for found in one] == [found.text for found in other]
    sums = [found.logprob for found in other]
    assert [found.logprob for found in one] == pytest.approx(sums, abs=1e-3)
    # Training moved them: equal they are not by standing still.
    before = answers(project / "policy")
    assert [found.logprob for found in before] != pytest.approx(sums, abs=1e-2)
    logged = [(project / name / "curves.jsonl").read_text() for name in ("tree", "trl")]
    first, last = ([json.loads(text.splitlines()[place]) for text in logged] for place in (0, -1))
    assert last[0]["step"] == last[1]["step"] and last[0]["epoch"] == last[1]["epoch"]
    tree, trl = first
    # What the report draws, and its neighbours.
    for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert tree[name] == pytest.approx(trl[name], rel=1e-4, abs=1e-5), name
    assert tree.keys() <= trl.keys()


def test_a_recurrent_policy_is_trained_pair_by_pair_and_it_is_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.make_recurrent("lfm2", project / "model")
    tiny.make_adapter(project / "start" / "adapter", of=model)
    settings = HFConfig(model=str(model))
    base = settings.base_name(settings.folder())
    version.write(project / "start", base=base, prompts=domain("handbook").prompts, trained="sft")
    whole = {"batch_size": 48, "epochs": 2}
    more = {"policy": {"model": str(model)}, "start": "start"}
    train(project, "trl", whole, step="trl", **more)
    assert "pair by pair" not in capsys.readouterr().err
    train(project, "tree", whole, step="tree", **more)
    said = capsys.readouterr().err
    assert "is trained pair by pair, with TRL, which takes longer: it keeps a state" in said
    assert file_digest(project / "tree") == file_digest(project / "trl")
    assert furthest(project / "start", project / "tree") > 1e-3


def test_bfloat16_trains_the_same_as_far_as_it_is_exact(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base and arithmetic are in bfloat16, where a CPU without it is as exact, and slower."""
    monkeypatch.setattr(trained, "is_fast_in_bfloat16", lambda capability: True)
    half = {"batch_size": 48, "epochs": 3, "dtype": "bfloat16"}
    for step in ("tree", "trl"):
        train(project, step, half, step=step)
    train(project, "exact", {**half, "dtype": "float32"})
    logged = []
    for name in ("tree", "trl", "exact"):
        text = (project / name / "curves.jsonl").read_text()
        logged.append(json.loads(text.splitlines()[0]))
    tree, trl, exact = logged
    for name in ("loss", "logps/chosen", "logps/rejected", "rewards/margins"):
        assert tree[name] == pytest.approx(exact[name], rel=0.02, abs=0.02), name
        assert trl[name] == pytest.approx(exact[name], rel=0.02, abs=0.02), name
    assert tree["loss"] != exact["loss"]
    assert {str(weight.dtype) for weight in weights(project / "tree").values()} == {"torch.float32"}
