"""One turn in three forms: stage by stage from the command line's own `run`, by DVC, and as a
KFP pipeline.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config, io
from cowest.records import Decision, PreferencePair, Validation
from cowest.registry.mlflow import RegistryConfig
from cowest.report import contents
from cowest.steps.summary import RunOutcome
from cowest_pipelines.__main__ import main
from tests import lines, tiny
from tests.servers import Fate, chat_server, completion

pytestmark = pytest.mark.minutes

LOCAL = (sys.executable, "-m", "cowest_pipelines", "local", "--root", "steps")
SHARDED = {"drafts": "draft", "refinements": "refine"}
"""Ports whose files are parts, by the component that writes them."""
ROWS = ("drafts", "refinements", "feedback", "pairs")
"""Ports whose files every form must write byte for byte alike."""


@pytest.fixture(scope="module")
def kfp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after a turn as a KFP pipeline, in three shards, of which one has no queries."""
    folder = tiny.copy_project(tmp_path_factory.mktemp("kfp"))
    run(folder, *LOCAL, "--shards", "3")
    return folder


@pytest.fixture(scope="module")
def dvc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `cowest turn`, with a space in its name and in that of its data, whose
    stages' files are links of DVC.
    """
    folder = tiny.copy_project(tmp_path_factory.mktemp("dvc") / "first place")
    raw = folder / "data" / "raw"
    (raw / "handbook").rename(raw / "Bob's handbook")
    values = config.load(folder / "params.yaml")
    values["turn"]["raw"] = "data/raw/Bob's handbook"
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    # DVC watches the sources in the project's own tree; the code that runs is this environment's.
    (folder / "src").mkdir()
    (folder / "src" / "cowest").symlink_to(lines.ROOT / "src" / "cowest")
    shutil.copy(lines.ROOT / "dvc.yaml", folder)
    shutil.copy(lines.ROOT / ".dvcignore", folder)
    run(folder, "git", "init", "-q")
    run(folder, sys.executable, "-m", "dvc", "init", "-q")
    run(folder, sys.executable, "-m", "dvc", "config", "cache.type", "symlink")
    assert "version 1 was promoted" in run(folder, "cowest", "turn")
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
        expected = (tiny.turned() / "data" / f"{name}.jsonl").read_bytes()
        if name not in SHARDED:
            assert step(kfp, name).read_bytes() == expected, name
            continue
        parts = sorted(kfp.glob(f"steps/flywheel-*/for-loop-*/{SHARDED[name]}/{name}"))
        assert len(parts) == 3 and b"" in [part.read_bytes() for part in parts]
        assert b"".join(part.read_bytes() for part in parts) == expected, name


def test_kfp_writes_the_same_report_and_trials(kfp: Path) -> None:
    for name, place in (("trials", "data/trials.jsonl"), ("agreement", "data/agreement.jsonl")):
        (found,) = kfp.glob(f"steps/flywheel-*/collect-trials/{name}")
        assert found.read_bytes() == (tiny.turned() / place).read_bytes(), name
    (report,) = kfp.glob("steps/flywheel-*/compare/report")
    assert report.read_bytes() == (tiny.turned() / "reports" / "eval.json").read_bytes()


def test_kfp_shows_a_person_what_became_of_the_run(kfp: Path) -> None:
    found = outcomes(kfp)[0]
    assert (found.became, found.version, found.champion) == ("promoted", 1, 1)
    assert found.turn == io.read_document(step(kfp, "decision"), Decision).turn
    (page,) = kfp.glob("steps/flywheel-*/page*/page")
    assert "<html" in page.read_text()[:200] and "promoted" in page.read_text()
    (numbers,) = kfp.glob("steps/flywheel-*/compare/executor_output.json")
    shown = json.loads(numbers.read_text())["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert shown["passed"] == 1.0 and "after" in shown


def test_all_forms_are_the_same_turn_with_the_same_decision(dvc: Path, kfp: Path) -> None:
    plain = io.read_document(tiny.turned() / "reports" / "decision.json", Decision)
    assert io.read_document(dvc / "reports" / "decision.json", Decision) == plain
    assert io.read_document(step(kfp, "decision"), Decision) == plain


def test_a_project_goes_on_in_another_place(dvc: Path, tmp_path: Path) -> None:
    """The last test of the project of `cowest turn`: it is gone from its place afterwards."""
    weights = Path("models", "challenger", "adapter", "adapter_model.safetensors")
    assert (dvc / weights).is_symlink()
    second = dvc.with_name("second place")
    dvc.rename(second)
    here = tmp_path / "here"
    here.mkdir()
    where = ("--params", str(second / "params.yaml"))
    assert json.loads(run(here, "cowest", "status", "--json", *where))["champion"] == 1
    answer = json.loads(run(here, "cowest", "ask", "--json", "Where is it made?", *where))
    assert answer["version"] == 1
    # Links of DVC are absolute, too: it lays its files out anew.
    assert not (second / weights).exists()
    run(second, sys.executable, "-m", "dvc", "checkout", "--relink", "--force")
    assert run(here, "cowest", "turn", *where).startswith("nothing is new")
    said = run(here, "cowest", "turn", "--set", "dpo.beta=0.2", *where)
    assert "version 2 was" in said
    decisions = json.loads(run(here, "cowest", "status", "--json", *where))["decisions"]
    assert [one["against"] for one in decisions] == [None, 1]
    assert not dvc.exists()
    assert not list(here.iterdir())


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


@pytest.fixture(scope="module")
def again(kfp: Path) -> str:
    """The output of the same pipeline that runs once more."""
    return run(kfp, *LOCAL)


def test_a_turn_that_is_nothing_new_ends_after_the_pre_flight(kfp: Path, again: str) -> None:
    assert "nothing is new: turn" in again.splitlines()[-1]
    first, second = sorted(kfp.glob("steps/flywheel-*"))
    assert {path.name for path in second.iterdir()} == {"preflight", "summary"}
    assert len(list(first.iterdir())) > 10
    assert [one.became for one in outcomes(kfp)] == ["promoted", "nothing new"]


@dataclass
class Story:
    """A turn whose first run was killed in the middle of its calls, and its second run."""

    folder: Path
    killed: str
    answered: int
    """Calls that the endpoint answered before the kill."""
    ended: str
    asked: Counter[str]
    """Number of times that each prompt was asked in both runs together."""
    refused: int
    """Calls whose key the endpoint refused in the second run."""


@pytest.fixture(scope="module")
def story(kfp: Path, again: str, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The project with a champion, another strong model, and a gate that nothing passes."""
    folder = tmp_path_factory.mktemp("story") / "project"
    shutil.copytree(kfp, folder, ignore=shutil.ignore_patterns("steps"))
    values = config.load(folder / "params.yaml")
    told = " ".join(values["refine"]["strong"]["rules"][1]["replies"])
    state = {"kill": True, "refuse": 0, "refused": 0}

    def fate(body: dict[str, Any]) -> Fate:
        if state["kill"] and server.calls == KILLED_AT:
            kill_step("refine", folder)
            # Its caller is gone.
            return Fate(cut=0)
        if state["refuse"]:
            state["refuse"], state["refused"] = 0, 1
            return Fate(401, b'{"error": {"message": "no"}}')
        text = body["messages"][-1]["content"]
        return Fate(body=completion(told if re.search(r"Notes: \W*[A-Ma-m]", text) else "no idea"))

    with chat_server(otherwise=fate) as server:
        strong = {
            "provider": "openai",
            "model": "tiny",
            "base_url": server.url,
            "key_env": None,
            "concurrency": 2,
        }
        values["refine"]["strong"] = values["evaluate"]["strong"] = strong
        values["serve"]["strong"] = strong
        values["compare"]["gates"] = [{"over": "before", "at_least": 0.99}]
        (folder / "params.yaml").write_text(yaml.safe_dump(values))
        (folder / "mine.yaml").write_text(PROFILE)
        flags = (*LOCAL, "--profile", "mine.yaml", "--shards", "2")
        killed = run(folder, *flags, fails=True)
        answered = server.calls - 1
        state |= {"kill": False, "refuse": 1}
        (folder / "mine.yaml").write_text(TRIED_AGAIN)
        ended = run(folder, *flags)
    return Story(folder, killed, answered, ended, server.asked(), state["refused"])


KILLED_AT = 20
"""Number of the call in the middle of which the step is killed."""
PROFILE = """
every: {retry: {times: 1, wait: 1s}}
steps: {refine: {retry: {times: 0}}, preflight: {retry: {times: 0}}}
"""
TRIED_AGAIN = PROFILE.replace("refine: {retry: {times: 0}}, ", "")
"""The same, with a second try for the step that a key's refusal ends."""


def test_a_run_whose_step_is_killed_fails_and_says_so(story: Story) -> None:
    assert "run again" in story.killed.splitlines()[-1]
    first, _ = outcomes(story.folder)
    assert first.became == "failed" and first.turn is not None
    assert first.champion == 1
    assert story.answered >= KILLED_AT - 1


def test_the_next_run_pays_only_for_what_is_missing(story: Story) -> None:
    twice = [prompt for prompt, count in story.asked.items() if count > 1]
    # Two steps with two calls under way each, and the one whose key was refused.
    assert len(twice) <= 2 * 2 + 1 and max(story.asked.values()) <= 3
    assert sum(story.asked.values()) > 2 * KILLED_AT


def test_a_step_that_fails_once_is_tried_again(story: Story) -> None:
    assert story.refused == 1
    assert "refuses" in story.ended or "401" in story.ended


def test_a_challenger_that_is_refused_leaves_the_champion(story: Story) -> None:
    assert "was refused" in story.ended.splitlines()[-1]
    registry = RegistryConfig(
        uri=f"sqlite:///{story.folder}/mlflow.db",
        name="handbook",
        artifacts=str(story.folder / "mlartifacts"),
    ).open()
    assert [one.verdict for one in registry.log()] == ["promoted", "refused"]
    assert registry.champion() == 1
    _, last = outcomes(story.folder)
    assert (last.became, last.version, last.champion) == ("refused", 2, 1)


def kill_step(function: str, folder: Path) -> None:
    """Kills a process that runs a component in a project."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            here = (process / "cwd").readlink()
        except OSError:
            continue
        # The shell around it has the same words.
        if function.encode() in words and b"kfp.dsl.executor_main" in words and here == folder:
            os.kill(int(process.name), signal.SIGKILL)
            return
    raise AssertionError(f"no process runs {function} in {folder}")


def outcomes(folder: Path) -> list[RunOutcome]:
    """Returns the outcome of each run, oldest first."""
    found = sorted(folder.glob("steps/flywheel-*/summary/outcome"))
    return [io.read_document(path, RunOutcome) for path in found]


def step(folder: Path, port: str) -> Path:
    """What a pipeline left in an output; where two steps have such a port, the later one's."""
    return steps(folder, port)[-1]


def steps(folder: Path, port: str) -> list[Path]:
    port, of = ("valid", "validate-4") if port == "pairs" else (port, "*")
    return sorted((folder / "steps").glob(f"flywheel-*/{of}/{port}"))


def run(folder: Path, *command: str, fails: bool = False) -> str:
    """Runs a command in a project; its whole output is the failure's message."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=tiny.surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == int(fails), (
        f"{' '.join(map(os.path.basename, command))}:\n{done.stdout[-6000:]}"
    )
    return done.stdout
