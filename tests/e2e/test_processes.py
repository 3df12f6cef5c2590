"""Several processes train what one trains; whoever of them ends, all end, and the next go on."""

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

from cowest import io, stages, version
from cowest.domains import domain
from cowest.errors import ConfigError
from cowest.ledger import store
from tests import tiny
from tests.factories import make_feedback
from tests.trained import SFT, furthest, rows

pytestmark = pytest.mark.slow

TRAINING = {
    "learning_rate": 0.003,
    "epochs": 2,
    "batch_size": 8,
    "warmup_steps": 0,
    "max_length": 96,
    "dtype": "float32",
}
STARTED: list["subprocess.Popen[str]"] = []
DPO = {"pairs": "pairs.jsonl", "feedback": "feedback.jsonl", "policy": "policy"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy and a challenger that one process trained, and what it trained them from."""
    folder = tmp_path_factory.mktemp("processes")
    policy = {"model": str(tiny.model()), "dtype": "float32"}
    params = {
        "sft": {"policy": policy, "prompts": "handbook", "training": TRAINING},
        "dpo": {"policy": policy, "training": {**TRAINING, "epochs": 12}, "checkpoint_minutes": 0},
    }
    params["sft"]["lora"] = {"r": 4, "alpha": 8}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    io.write(folder / "corpus.jsonl", list(domain("handbook").corpus(tiny.HANDBOOK))[:50])
    io.write(folder / "pairs.jsonl", rows())
    io.write(folder / "feedback.jsonl", [make_feedback(0), make_feedback(1, score=0.0)])
    version.write_none(folder / "start")
    with tiny.standing_in(folder):
        stages.run("sft", params["sft"], **SFT)
        stages.run("dpo", params["dpo"], **DPO, challenger="challenger")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def settings(project: Path, stage: str) -> Any:
    return yaml.safe_load((project / "params.yaml").read_text())[stage]


def started(project: Path, out: str, **more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cowest.cli", "dpo", "--challenger", out]
    for name, path in DPO.items():
        command += [f"--{name}", path]
    process = subprocess.Popen(
        command,
        cwd=project,
        env=tiny.surroundings(COWEST_NPROC="2", OMP_NUM_THREADS="1", **more),
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def _nobody_is_left() -> Iterator[None]:
    """A test that fails leaves no training behind."""
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def ranks(project: Path) -> dict[str, int]:
    """The processes that train in this project, by their rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().split(b"\0")
            at = (place / "cwd").resolve()
            words = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if at == project.resolve() and b"cowest.rank" in command and b"--processes" in command:
            for word in words:
                if word.startswith(b"RANK="):
                    found[word[5:].decode()] = int(place.name)
    return found


def until(came: Any, what: str) -> Any:
    """Waits until `came` gives anything, and returns that."""
    end = time.monotonic() + 900
    while time.monotonic() < end:
        found = came()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"waited a quarter of an hour for {what}")


def test_two_processes_specialise_as_one_does(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COWEST_NPROC", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with tiny.standing_in(project):
        shutil.move("policy", "one")
        stages.run("sft", settings(project, "sft"), **SFT)
        counted = [account for account in store.open_store().ledger() if account.stage == "sft"]
    assert furthest(project / "one", project / "policy") < 1e-3
    assert version.expect(project / "policy").trained == version.expect(project / "one").trained
    # One stage, counted once, with the memory of the process that trained.
    (sft,) = counted
    assert sft.seconds > 1 and sft.peak_memory > 2**28
    assert not list(project.glob(".policy*"))
    capfd.readouterr()


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_whoever_ends_all_end_and_the_next_go_on(project: Path) -> None:
    def mark() -> set[Path]:
        return set(project.glob(".cowest/training/*/checkpoint-*.whole"))

    said = []
    endings = (
        ("1", signal.SIGKILL, 1),
        ("launcher", signal.SIGTERM, 130),
        ("launcher", signal.SIGKILL, -signal.SIGKILL),
    )
    for who, sent, status in endings:
        before = mark()
        process = started(project, "two")
        until(lambda: len(ranks(project)) == 2 and mark() - before, "a checkpoint")  # noqa: B023
        os.kill({**ranks(project), "launcher": process.pid}[who], sent)
        said.append(process.communicate(timeout=900)[1])
        until(lambda: not ranks(project), "the ranks' end")
        assert process.returncode == status and not (project / "two").exists()
    assert "process 2 of 2 was ended by SIGKILL" in said[0], said[0]
    assert "dpo: training goes on after step " in said[1], said[1]

    process = started(project, "two")
    err = process.communicate(timeout=900)[1]
    assert process.returncode == 0, err
    assert err.count("dpo: training goes on after step ") == 1, err
    assert furthest(project / "challenger", project / "two") < 1e-3
    assert not list(project.glob(".cowest/training/*"))


def test_fewer_gpus_than_processes_is_an_error_before_anything_is_loaded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_NPROC", "2")
    section = settings(project, "sft")
    section["policy"]["device"] = "cuda"
    with tiny.standing_in(project), pytest.raises(ConfigError, match="torch sees 0 GPUs"):
        stages.run("sft", {**section, "start": "champion", "lora": {"r": 2}}, **SFT)
