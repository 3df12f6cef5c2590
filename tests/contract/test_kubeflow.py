"""submit, schedule, unschedule and status against the stub of a KFP API server (tests/kfp_stub.py).

No cluster has run these. The stub refuses what the sources of the real server refuse, and the
official client works against it.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest.errors import ClusterError, ConfigError, InputError, StoreError
from cowest.kubeflow import package, server, verdicts
from cowest.ledger.runs import NotedRun, note_run
from cowest.ledger.store import open_store
from cowest.records import Decision
from cowest_pipelines.__main__ import main
from tests import kfp_stub, lines, tiny
from tests.kfp_stub import Stub

NIGHT = ["--cron", "0 0 2 * * *"]
SAMPLES = {"STRING": "s3://bucket/raw", "BOOLEAN": "true", "LIST": "[]", "STRUCT": "{}"}
"""A value for a parameter of each type that is no number."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The turn of this repository, compiled."""
    out = tmp_path_factory.mktemp("compiled") / "turn.yaml"
    assert main(["compile", "--params", str(lines.ROOT / "params.yaml"), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of one step with one parameter, compiled."""
    from kfp import compiler, dsl

    @dsl.component(base_image="cowest-python:1", install_kfp_package=False)
    def step(raw: str):  # type: ignore[no-untyped-def]
        print(raw)

    @dsl.pipeline(name="flywheel")
    def flywheel(raw: str):  # type: ignore[no-untyped-def]
        step(raw=raw)

    out = tmp_path_factory.mktemp("small") / "turn.yaml"
    compiler.Compiler().compile(flywheel, str(out))
    return out


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server, named by the environment."""
    for name in ("COWEST_KFP_TOKEN", "COWEST_KFP_NAMESPACE", "KF_PIPELINES_UI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with kfp_stub.serving() as stub:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", stub.host)
        yield stub


def needed(path: Path) -> list[str]:
    """A value for each parameter without a default."""
    found = []
    for one in package.read(path).parameters.values():
        if one.needed:
            found += ["--set", f"{one.name}={SAMPLES.get(one.kind, '3')}"]
    return found


def scheduled(compiled: Path, *more: str) -> int:
    return main(["schedule", str(compiled), *needed(compiled), *(more or NIGHT)])


def changed(compiled: Path, folder: Path) -> Path:
    """The same pipeline on another image."""
    path = folder / "patched.yaml"
    text = compiled.read_text()
    assert "cowest-python:" in text
    path.write_text(text.replace("cowest-python:", "patched-python:"))
    return path


# submit


def test_a_run_is_submitted_with_its_parameters(
    stub: Stub, compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(compiled), *needed(compiled), "--service-account", "wheel"]) == 0
    (run,) = stub.runs
    assert run["service_account"] == "wheel"
    assert run["runtime_config"]["parameters"] == package.read(compiled).arguments(
        needed(compiled)[1::2]
    )
    assert f"{stub.host}/#/runs/details/{run['run_id']}" in capsys.readouterr().out
    assert stub.rows["versions"] == [], "a trial changes what a schedule runs"
    assert main(["submit", str(compiled), *needed(compiled)]) == 0
    assert len(stub.rows["experiments"]) == 1


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        (["--set", "nonsense=1"], "--set nonsense: "),
        (["--set", "nonsense"], "--set nonsense: write name=value"),
        (["--name", "My Wheel"], "small letters, digits and dashes"),
    ],
)
def test_a_slip_is_said_before_the_server_is_asked(
    stub: Stub, small: Path, capsys: pytest.CaptureFixture[str], slip: list[str], said: str
) -> None:
    assert main(["submit", str(small), *needed(small), *slip]) == 1
    assert said in capsys.readouterr().err
    assert stub.calls == []


@pytest.mark.parametrize(
    "given",
    [
        "raw=https://u:5ecret-token@git.example/x.git",
        "https://u:5ecret-token@git.example/x.git",
        "https://u:5ecret-token@git.example/x?a=b",
        "https://u:5ecret=token@git.example/x.git",
        "nonsense=https://u:5ecret-token@git.example/x.git",
        "nonsense=https://ghp_5ecret0123456789abcdef@git.example/x.git",
    ],
)
@pytest.mark.parametrize("command", [["submit"], ["schedule", *NIGHT]], ids=["submit", "schedule"])
def test_a_password_is_refused_before_the_server_is_asked_and_is_not_shown(
    command: list[str],
    given: str,
    stub: Stub,
    small: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Many can read a run's inputs, and the server keeps them."""
    assert main([command[0], str(small), *command[1:], "--set", given]) == 1
    said = capsys.readouterr()
    assert "the address holds a password" in said.err
    assert "5ecret" not in said.err + said.out and stub.calls == []


def test_values_are_read_by_the_type_of_their_parameter(tmp_path: Path) -> None:
    kinds = {
        "shards": {"parameterType": "NUMBER_INTEGER", "defaultValue": 1},
        "budget": {"parameterType": "NUMBER_DOUBLE", "isOptional": True},
        "force": {"parameterType": "BOOLEAN", "defaultValue": False},
        "tags": {"parameterType": "LIST", "isOptional": True},
        "raw": {"parameterType": "STRING", "description": "where the raw data are"},
    }
    path = tmp_path / "turn.yaml"
    root = {"inputDefinitions": {"parameters": kinds}}
    document = {"schemaVersion": "2.1.0", "pipelineInfo": {"name": "turn"}, "root": root}
    path.write_text(yaml.safe_dump(document))
    read = package.read(path)
    given = ["shards=3", "budget=2.5", "force=true", 'tags=["a"]', "raw=007"]
    assert read.arguments(given) == {
        "shards": 3,
        "budget": 2.5,
        "force": True,
        "tags": ["a"],
        "raw": "007",
    }
    for wrong, said in {
        "shards=2.5": "a whole number is needed",
        "shards=true": "a whole number is needed",
        "shards=1e999": "a whole number is needed",
        "shards=0": "--set shards=0: give a number from 1 to 1000",
        "shards=-3": "give a number from 1 to 1000",
        "shards=100000": "give a number from 1 to 1000",
        "budget=NaN": "a number is needed",
        "budget=1e999": "a number is needed",
        "force=yes": "true or false",
        "tags={}": "a list in JSON is needed",
        "shard=3": "did you mean shards?",
        "raw=8": "is given twice",
    }.items():
        with pytest.raises(ConfigError) as caught:
            read.arguments(["raw=007", wrong])
        assert said in str(caught.value)
    with pytest.raises(ConfigError, match=r"raw \(where the raw data are\)"):
        read.arguments([])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "a: [",
        "root: {}\npipelineInfo: {name: x}\nschemaVersion: 1.0",
        "\x00",
        "a: &a [*a]",
    ],
)
def test_a_file_that_is_no_compiled_pipeline_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "turn.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"turn\.yaml is no"):
        package.read(path)


# schedule


def test_a_schedule_is_made_and_replaced(
    stub: Stub, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scheduled(small, *NIGHT, "--timezone", "Asia/Kolkata") == 0
    said = capsys.readouterr().out
    assert said.count("02:00:00 UTC") == 0 and said.count("02:00:00 Asia/Kolkata") == 5
    assert said.count("20:30:00 UTC") == 5
    (first,) = stub.enabled()
    assert first["max_concurrency"] == 1 and first["no_catchup"] is True
    assert "pipeline_version_id" not in first["pipeline_version_reference"]
    # The same again changes nothing.
    before = len(stub.calls)
    assert scheduled(small) == 0
    assert stub.enabled() == [first]
    assert {call.split()[0] for call in stub.calls[before:]} == {"GET"}
    # Other times: another one, alone.
    assert scheduled(small, "--cron", "0 0 3 * * *") == 0
    (second,) = stub.schedules
    assert stub.enabled() == [second] and second["recurring_run_id"] != first["recurring_run_id"]
    # A patched image: the same schedule runs it from now on.
    assert scheduled(changed(small, tmp_path), "--cron", "0 0 3 * * *") == 0
    assert stub.schedules == [second]
    stub.tick()
    version = stub.runs[-1]["pipeline_version_reference"]["pipeline_version_id"]
    assert "patched-python:" in str(stub.specs[version])
    # Back to the older file: it is the newest version again.
    stub.runs[-1]["state"] = "SUCCEEDED"
    assert scheduled(small, "--cron", "0 0 3 * * *") == 0
    stub.tick()
    version = stub.runs[-1]["pipeline_version_reference"]["pipeline_version_id"]
    assert "patched-python:" not in str(stub.specs[version])


@pytest.mark.parametrize("before", [[], NIGHT], ids=["new", "replaced"])
def test_a_kill_between_any_two_requests_is_mended_by_the_next_call(
    stub: Stub, small: Path, tmp_path: Path, before: list[str]
) -> None:
    other = changed(small, tmp_path)
    killed = 0
    for requests in range(1, 30):
        stub.rows = {name: [] for name in stub.rows}
        if before:
            assert scheduled(small, *before) == 0
        stub.dies_after = requests
        done = scheduled(other, "--cron", "0 0 3 * * *")
        stub.dies_after = None
        assert len(stub.enabled()) <= 1, f"two would run after {requests} requests"
        assert scheduled(other, "--cron", "0 0 3 * * *") == 0
        (one,) = stub.schedules
        assert stub.enabled() == [one] and one["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
        if done == 0:
            break
        killed += 1
    assert killed >= 8, "the command was hardly ever cut"


def killed_at(stub: Stub, request: int, command: list[str]) -> bool:
    """Runs a command in a process that is killed at one of its requests; False if it ends before.

    The request takes effect, and its answer does not come.
    """
    stub.held.clear()
    stub.released.clear()
    stub.holds = request
    process = subprocess.Popen(
        [sys.executable, "-m", "cowest_pipelines", *command],
        env=tiny.surroundings(KF_PIPELINES_ENDPOINT=stub.host),
        stdout=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not stub.held.wait(0.05):
            pass
    finally:
        process.kill()
        process.wait()
        stub.holds = None
        stub.released.set()
    assert process.returncode == (-signal.SIGKILL if stub.held.is_set() else 0)
    return stub.held.is_set()


@pytest.mark.slow
@pytest.mark.parametrize("before", [[], NIGHT], ids=["new", "replaced"])
def test_a_real_kill_between_any_two_requests_is_mended_by_the_next_call(
    stub: Stub, small: Path, tmp_path: Path, before: list[str]
) -> None:
    other = changed(small, tmp_path)
    command = ["schedule", str(other), *needed(other), "--cron", "0 0 3 * * *"]
    for request in range(1, 30):
        stub.rows = {name: [] for name in stub.rows}
        if before:
            assert scheduled(small, *before) == 0
        if not killed_at(stub, request, command):
            break
        assert len(stub.enabled()) <= 1, f"two would run after request {request}"
        assert scheduled(other, "--cron", "0 0 3 * * *") == 0
        (one,) = stub.schedules
        assert stub.enabled() == [one] and one["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert 8 < request < 29, "the command was hardly ever killed, or always"


def test_a_kill_and_other_times_leave_one_schedule(stub: Stub, small: Path) -> None:
    assert scheduled(small) == 0
    for requests in range(1, 12):
        stub.dies_after = requests
        scheduled(small, "--cron", f"0 {requests} 3 * * *")
        stub.dies_after = None
    assert scheduled(small, "--cron", "0 0 4 * * *") == 0
    (one,) = stub.schedules
    assert stub.enabled() == [one] and one["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * *"


def test_a_schedule_is_not_replaced_under_a_run(
    stub: Stub, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scheduled(small) == 0
    stub.tick()
    (run,) = stub.runs
    assert scheduled(changed(small, tmp_path), "--cron", "0 0 3 * * *") == 1
    assert "is under way" in capsys.readouterr().err
    assert len(stub.rows["versions"]) == 1, "the next run would take a version that was refused"
    assert main(["unschedule", "--name", "flywheel"]) == 1
    # A newer version alone replaces nothing.
    assert scheduled(changed(small, tmp_path)) == 0
    assert scheduled(small, "--cron", "0 0 3 * * *", "--now") == 0
    assert run["state"] == "RUNNING", "the run was ended with its schedule"
    assert len(stub.enabled()) == 1


def test_a_schedule_of_another_pipeline_is_left_alone(
    stub: Stub, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scheduled(small) == 0
    stub.schedules[0]["pipeline_version_reference"] = {"pipeline_id": "another"}
    assert scheduled(small) == 1
    assert "runs another pipeline" in capsys.readouterr().err
    assert len(stub.schedules) == 1


def test_two_names_are_two_schedules(stub: Stub, small: Path) -> None:
    for name in ("ours", "theirs", "ours"):
        assert scheduled(small, *NIGHT, "--name", name) == 0
    assert {one["display_name"] for one in stub.enabled()} == {"ours", "theirs"}
    assert main(["unschedule", "--name", "ours"]) == 0
    assert [one["display_name"] for one in stub.enabled()] == ["theirs"]


def test_a_server_that_ties_a_schedule_to_a_version_is_refused(
    stub: Stub, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.pins = True
    assert scheduled(small) == 1
    assert "upgrade it to KFP 2.5 or later" in capsys.readouterr().err
    assert stub.schedules == []


def test_many_schedules_are_read_page_by_page(stub: Stub, small: Path) -> None:
    assert scheduled(small) == 0
    (one,) = stub.schedules
    for number in range(105):
        stub.schedules.append({**one, "recurring_run_id": f"left-{number}", "status": "DISABLED"})
    assert scheduled(small) == 0
    assert stub.schedules == stub.enabled() and len(stub.schedules) == 1


def test_unscheduling_can_be_said_twice(
    stub: Stub, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scheduled(small) == 0
    stub.schedules.append({**stub.schedules[0], "display_name": "a\x1b[2Jb"})
    assert main(["unschedule", "--name", "flywhel"]) == 0
    assert "there is no schedule flywhel (there is a [2Jb, flywheel)" in capsys.readouterr().out
    stub.schedules.pop()
    for _ in range(2):
        assert main(["unschedule", "--name", "flywheel"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert stub.schedules == []


# status


def test_status_shows_runs_and_why_they_failed(
    stub: Stub, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--name", "flywheel"]) == 0
    assert "schedule flywheel: none\nruns: none yet" in capsys.readouterr().out
    assert scheduled(small) == 0
    stub.tick()
    stub.runs[0] |= {"state": "FAILED", "finished_at": stub.now()}
    task = {"display_name": "refine", "state": "FAILED", "error": {"message": "no\n\x1b[31mkey"}}
    stub.runs[0]["run_details"] = {"task_details": [task, {"display_name": "score"}]}
    assert main(["submit", str(small), *needed(small)]) == 0
    capsys.readouterr()
    assert main(["status", "--name", "flywheel"]) == 0
    said = capsys.readouterr().out
    assert "`0 0 2 * * *`, on: " in said
    assert said.index("PENDING") < said.index("FAILED in 0 min")
    assert "    refine: no [31mkey\n" in said
    assert main(["status", "--name", "flywheel", "--json", "--last", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["state"] for run in told["runs"]] == ["PENDING"]
    assert told["schedules"][0]["enabled"] is True


class Log:
    """A registry that holds decisions in memory."""

    def __init__(self, *decisions: Decision) -> None:
        self._decisions = list(decisions)

    def begun(self) -> bool:
        return True

    def open(self) -> Any:
        return self

    def log(self) -> list[Decision]:
        return self._decisions


def test_what_was_decided_is_known_by_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    decision = Decision(
        turn="a" * 64, version=3, verdict="refused", against=2, reason="no gain is seen"
    )
    config: Any = Log(decision)
    with pytest.raises(StoreError, match="is not on this machine: set COWEST_STORE"):
        verdicts.of_runs(["one"], config)
    assert not (tmp_path / "calls.sqlite").exists(), "a look made a store"
    here = open_store()
    note_run(here, NotedRun("one", decision.turn, None))
    note_run(here, NotedRun("two", decision.turn, decision.version))
    note_run(here, NotedRun("three", "f" * 64, None))
    assert verdicts.of_runs(["one", "two", "three", "four"], config) == {
        "one": "turn aaaaaaaa: version 3 refused: no gain is seen",
        "two": "nothing was new: turn aaaaaaaa was decided before, on version 3",
        "three": "turn ffffffff is not decided",
    }


def test_status_shows_what_was_decided_or_why_it_does_not(
    stub: Stub, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", str(small), *needed(small)]) == 0
    status = ["status", "--name", "flywheel"]
    with tiny.standing_in(tmp_path):
        assert main(status) == 0
        assert "decisions are not shown: params.yaml: no such file" in capsys.readouterr().out
        registry = {"uri": "sqlite:///mlflow.db", "name": "handbook"}
        Path("params.yaml").write_text(yaml.safe_dump({"register": {"registry": registry}}))
        assert main(status) == 0
        assert "the call store of the runs is not on this machine" in capsys.readouterr().out
        note_run(open_store(), NotedRun(stub.runs[0]["run_id"], "f" * 64, None))
        assert main(status) == 0
        said = capsys.readouterr().out
        assert "    turn ffffffff is not decided\n" in said and "note:" not in said
        assert main([*status, "--json"]) == 0
        (run,) = json.loads(capsys.readouterr().out)["runs"]
        assert run["decided"] == "turn ffffffff is not decided"
        assert not Path("mlflow.db").exists(), "a look made a registry"


# the page


def test_the_commands_of_the_page_run_as_they_stand(
    stub: Stub, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flywheel.yaml").write_bytes(compiled.read_bytes())
    page = (lines.ROOT / "docs" / "kubeflow.md").read_text(encoding="utf-8")
    ours = r"^ *python -m cowest_pipelines ((?:submit|schedule|unschedule|status) .+)$"
    shown = re.findall(ours, page, re.MULTILINE)
    assert {command.split()[0] for command in shown} == {
        "submit",
        "schedule",
        "unschedule",
        "status",
    }
    for command in shown:
        assert main(shlex.split(command)) == 0, command
    assert len(stub.runs) == 2 and stub.schedules == []
    parameters = stub.runs[1]["runtime_config"]["parameters"]
    assert parameters == {"revision": "v1.2", "budget_usd": "20"}


def test_the_manifests_of_the_page_are_there() -> None:
    page = (lines.ROOT / "docs" / "kubeflow.md").read_text(encoding="utf-8")
    named = set(re.findall(r"infra/[a-z/-]+\.yaml", page))
    assert named >= {"infra/kubernetes/roles.yaml", "infra/kubernetes/schedule.yaml"}
    for name in named:
        assert (lines.ROOT / name).is_file(), name


# the server


def test_a_token_is_taken_from_a_file_or_the_environment_and_never_shown(
    stub: Stub,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stub.token = "sesame-5ecret"
    status = ["status", "--name", "flywheel"]
    assert main(status) == 1
    assert "401, it wants a valid token: give --token-file" in capsys.readouterr().err
    (tmp_path / "token").write_text("sesame-5ecret\n")
    assert main([*status, "--token-file", str(tmp_path / "token")]) == 0
    monkeypatch.setenv("COWEST_KFP_TOKEN", "sesame-5ecret")
    assert main(status) == 0
    # A server may say the token in its refusal.
    stub.page = {"status": 403, "body": b'{"message": "sesame-5ecret may not list"}'}
    capsys.readouterr()
    assert main(status) == 1
    said = capsys.readouterr()
    assert "sesame" not in said.err + said.out and "*** may not list" in said.err
    assert "sesame" not in repr(server.find(stub.host, None, None, {"COWEST_KFP_TOKEN": "sesame"}))


def test_a_token_does_not_go_over_a_network_in_clear() -> None:
    env = {"COWEST_KFP_TOKEN": "sesame"}
    with pytest.raises(ConfigError, match="would cross the network in clear"):
        server.find("http://8.8.8.8:8888", None, None, env)
    assert server.find("https://8.8.8.8", None, None, env).token == "sesame"
    with pytest.raises(
        ConfigError, match="the file is not there, or can't be read, or is empty"
    ) as caught:
        server.find("http://127.0.0.1", None, "/nowhere/token", env)
    assert "sesame" not in str(caught.value)
    with pytest.raises(ConfigError, match="holds a name or password") as caught:
        server.find("https://me:sesame@kubeflow.example.com", None, None, {})
    assert "sesame" not in str(caught.value)


def test_in_a_cluster_the_service_account_asks(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-pod")
    env = {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KF_PIPELINES_SA_TOKEN_PATH": str(tmp_path / "token"),
    }
    found = server.find(None, None, None, env)
    assert found.host == server.IN_CLUSTER and found.token == "of-the-pod"
    with pytest.raises(ConfigError, match="no KFP server is named"):
        server.find(None, None, None, {})


def test_a_shared_server_wants_a_namespace(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with kfp_stub.serving(multi_user=True) as stub:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", stub.host)
        assert scheduled(small) == 1
        assert "give --namespace or COWEST_KFP_NAMESPACE" in capsys.readouterr().err
        assert scheduled(small, *NIGHT, "--namespace", "team-a") == 0
        assert scheduled(small, *NIGHT, "--namespace", "team-b", "--name", "theirs") == 0
        assert [one["namespace"] for one in stub.enabled()] == ["team-a", "team-b"]
        assert main(["submit", str(small), *needed(small), "--namespace", "team-a"]) == 0


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (
            {"status": 302, "headers": {"Location": "/dex/auth"}, "body": b"<html>"},
            "a redirect in place of an answer: a login stands before it",
        ),
        (
            {"status": 200, "headers": {"Content-Type": "text/html"}, "body": b"<html>Log in"},
            "200, a page in place of an answer: a login stands before it",
        ),
        ({"status": 404, "body": b"404 page not found"}, "no KFP of version 2 answers there"),
        ({"status": 403, "body": b"RBAC: access denied"}, "403, this account may not GET /healthz"),
        (
            {"status": 500, "body": b'{"message": "database is \\u001b[31m down"}'},
            "500 to GET /healthz: database is [31m down",
        ),
        ({"status": 502, "body": b"<html>bad gateway"}, "502 to GET /healthz"),
        ({"status": 200, "body": b"[" * 100_000}, "a page in place of an answer"),
        ({"status": 200, "body": b"[]"}, "a page in place of an answer"),
    ],
)
def test_what_is_no_answer_is_said(
    stub: Stub, capsys: pytest.CaptureFixture[str], page: dict[str, Any], said: str
) -> None:
    stub.page = page
    assert main(["status", "--name", "flywheel"]) == 1
    assert said in capsys.readouterr().err
    assert len(stub.calls) == 1, "it was asked again, or a redirect was followed"


def test_a_server_that_is_down_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    assert main(["status", "--name", "flywheel"]) == 1
    assert "check the address, and that its port is forwarded" in capsys.readouterr().err


def test_an_answer_that_does_not_come_is_not_waited_for(stub: Stub) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = server.find(f"http://127.0.0.1:{silent.getsockname()[1]}", None, None, {})
        with (
            pytest.raises(ClusterError, match=r"no answer in 0\.2 s"),
            server.connected(found, 0.2),
        ):
            pass


def test_a_run_that_may_have_begun_is_said(
    stub: Stub, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.dies_after = 4
    assert main(["submit", str(small), *needed(small)]) == 1
    assert "the server may have done it all the same: look with `status`" in capsys.readouterr().err
    assert len(stub.runs) == 1


# the stub


def test_the_official_client_works_against_the_stub(stub: Stub, compiled: Path) -> None:
    from kfp import Client

    warnings.simplefilter("ignore")
    client = Client(host=stub.host)
    made = client.upload_pipeline(str(compiled), "official")
    version = client.upload_pipeline_version(
        str(compiled), "official-2", pipeline_id=made.pipeline_id
    )
    experiment = client.create_experiment("official")
    values = package.read(compiled).arguments(needed(compiled)[1::2])
    run = client.run_pipeline(
        experiment.experiment_id,
        "one",
        params=values,
        pipeline_id=made.pipeline_id,
        version_id=version.pipeline_version_id,
    )
    assert client.get_run(run.run_id).state == "PENDING"
    nightly = client.create_recurring_run(
        experiment.experiment_id,
        "nightly",
        cron_expression="0 0 2 * * *",
        pipeline_id=made.pipeline_id,
        # Without it, this client refuses, though the server takes the newest version then.
        version_id=version.pipeline_version_id,
        params=values,
        no_catchup=True,
    )
    client.disable_recurring_run(nightly.recurring_run_id)
    assert stub.enabled() == []
    assert client.list_recurring_runs().recurring_runs[0].display_name == "nightly"
    client.delete_recurring_run(nightly.recurring_run_id)
    assert stub.schedules == []


def test_the_stub_refuses_what_kfp_refuses(stub: Stub, compiled: Path, tmp_path: Path) -> None:
    found = server.find(stub.host, None, None, {})
    text = compiled.read_text()
    with server.connected(found) as api:
        with pytest.raises(ClusterError, match="invalid pipeline spec"):
            api.upload(
                "/pipelines/upload", text.replace("pipelineInfo", "pipelineinfo").encode(), name="x"
            )
        # A field of the Kubernetes part, whose protos are others.
        assert "podMetadata:" in text
        slip = text.replace("podMetadata:", "podMetadatta:").encode()
        with pytest.raises(ClusterError, match="podMetadatta"):
            api.upload("/pipelines/upload", slip, name="x")
        with pytest.raises(ClusterError, match="unrecognized field"):
            list(api.filtered("/runs", "runs", [server.equal("colour", "red")]))
        with pytest.raises(ClusterError, match="Invalid page token"):
            api.get("/runs", page_token="x")
        with pytest.raises(ClusterError, match="Invalid sorting field"):
            api.get("/runs", sort_by="colour")
    assert scheduled(compiled) == 0
    good = dict(stub.schedules[0])
    for name in ("recurring_run_id", "created_at", "status"):
        del good[name]
    with server.connected(found) as api:
        for wrong, said in [
            ({"max_concurrency": 0}, "Max concurrency"),
            ({"max_concurrency": 11}, "Max concurrency"),
            ({"trigger": {"cron_schedule": {"cron": "0 0 2 *"}}}, "not a supported format"),
            ({"display_name": ""}, "empty"),
            ({"runtime_config": {"parameters": {"x": 1}}}, "parameter"),
            ({"colour": "red"}, "unknown fields"),
        ]:
            with pytest.raises(ClusterError, match=said):
                api.post("/recurringruns", good | wrong)
