"""TrainJobs: what is sent to a cluster, what comes back, and what is left there when it ends badly.

The cluster is a stub (`tests.cluster`), the processes of its nodes are real.
"""

import copy
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import io, lineage, stages, version
from cowest.config import digest, file_digest, parse
from cowest.distributed import sent, trainjob
from cowest.distributed.parcels import Parcels
from cowest.domains import domain
from cowest.errors import ConfigError, CoWestError, InputError
from cowest.ledger import store
from cowest.profiles import Profile
from cowest.stages.sft import SFTConfig
from cowest.steps.summary import RunOutcome, summarise
from tests import cluster, lines, s3, tiny
from tests.cluster import Cluster
from tests.factories import make_feedback, make_pair
from tests.trained import SFT, weights


def may(verb: str, group: str, resource: str) -> bool:
    """True if infra/trainer/rbac.yaml gives a step this right."""
    if (group, resource) == ("", "configmaps"):
        return True  # what Kubeflow Trainer shows everybody
    for role in yaml.safe_load_all((lines.ROOT / "infra/trainer/rbac.yaml").read_text()):
        for rule in role.get("rules", ()):
            if group in rule["apiGroups"] and resource in rule["resources"]:
                return verb in rule["verbs"]
    return False


@pytest.fixture
def stub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """A stub of a cluster, and a project that knows it and asks for two nodes."""
    # A look at the stub takes a while, in which its nodes wait.
    monkeypatch.setattr(trainjob, "PAUSE", 2.0 if "slow" in request.keywords else 0.1)
    monkeypatch.setenv("COWEST_RUN", "run-1")
    (tmp_path / "cluster").mkdir()
    with cluster.stub(tmp_path / "cluster") as found:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "cluster" / "kubeconfig"))
        ask(monkeypatch, tmp_path)
        yield found
        assert not [right for right in sorted(found.asked) if not may(*right)]


def ask(monkeypatch: pytest.MonkeyPatch, folder: Path, **more: Any) -> None:
    values = {"store": f"file://{folder}/store", "namespace": "test", **more}
    monkeypatch.setenv("COWEST_TRAINJOB", json.dumps(values))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A corpus and no champion; the working folder."""
    io.write(tmp_path / "corpus.jsonl", list(domain("handbook").corpus(tiny.HANDBOOK))[:20])
    version.write_none(tmp_path / "start")
    with tiny.standing_in(tmp_path):
        yield tmp_path


def settings(**training: Any) -> dict[str, Any]:
    how = {"learning_rate": 0.003, "batch_size": 8, "warmup_steps": 0, "max_length": 96}
    return {
        "policy": {"model": str(tiny.model()), "dtype": "float32"},
        "prompts": "handbook",
        "lora": {"r": 4, "alpha": 8},
        "training": {**how, "dtype": "float32", **training},
    }


def specialise(**training: Any) -> None:
    stages.run("sft", settings(**training), **SFT)


@pytest.mark.slow
def test_two_nodes_specialise_by_address_alone_as_one_process_does(
    stub: Cluster,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as alone:
        alone.delenv("COWEST_TRAINJOB")
        specialise()
    shutil.move("policy", "one")
    by_two_nodes(stub, specialise)
    same(project / "one", project / "policy")

    (job,) = stub.taken
    assert job["spec"]["trainer"]["numNodes"] == 2
    assert job["metadata"]["labels"]["app.kubernetes.io/instance"] == "run-1"
    assert not stub.jobs, "the TrainJob is still there"
    # Nothing of the step's files was in reach of the nodes, and each fetched its own.
    for number in (0, 1):
        (task,) = (stub.folder / f"node-{number}" / "scratch" / "tasks").iterdir()
        assert file_digest(task / "in" / "corpus") == file_digest(project / "corpus.jsonl")
    rows = [one for one in store.open_store().ledger() if one.stage == "sft"]
    assert len(rows) == 1 and rows[0].seconds > 1

    # The step was killed before it had fetched the adapter, and is started again.
    before = file_digest(project / "policy")
    shutil.rmtree("policy")
    capsys.readouterr()
    specialise()
    assert "an earlier attempt trained this" in capsys.readouterr().err
    assert file_digest(project / "policy") == before and len(stub.taken) == 1


@pytest.mark.slow
def test_two_nodes_align_by_a_bucket_as_one_process_does(
    stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as alone:
        alone.delenv("COWEST_TRAINJOB")
        specialise()
        io.write(project / "pairs.jsonl", [make_pair(number) for number in range(20)])
        io.write(project / "feedback.jsonl", [make_feedback(0), make_feedback(1, score=0.0)])
        align("one")
    (project / "s3").mkdir()
    with s3.server(project / "s3") as server:
        for name, value in {**server.environment(), "AWS_ENDPOINT_URL": server.url}.items():
            monkeypatch.setenv(name, value)
        ask(monkeypatch, project, store=f"{server.bucket}/trainjobs")
        by_two_nodes(stub, lambda: align("two"))
    same(project / "one", project / "two")
    assert version.expect(project / "two").gains == version.expect(project / "one").gains
    assert not stub.jobs


def align(challenger: str) -> None:
    config = {name: settings()[name] for name in ("policy", "training")}
    ports = {"pairs": "pairs.jsonl", "feedback": "feedback.jsonl", "policy": "policy"}
    stages.run("dpo", config, **ports, challenger=challenger)


def by_two_nodes(stub: Cluster, train: Callable[[], None]) -> None:
    """Trains; what the nodes said is shown if it fails."""
    try:
        train()
    except CoWestError as error:
        logs = [path.read_text() for path in stub.folder.glob("node-*/log")]
        raise AssertionError("\n".join([str(error), *logs])) from error


def same(one: Path, other: Path) -> None:
    """Two versions are the same but for rounding."""
    found = weights(one)
    for name, weight in weights(other).items():
        assert (weight - found[name]).abs().max() < 1e-3 * found[name].abs().max(), name
    first, second = version.expect(one), version.expect(other)
    assert (second.base, second.trained, second.prompts) == (
        first.base,
        first.trained,
        first.prompts,
    )


@pytest.mark.slow
def test_fewer_processes_than_asked_for_is_the_error_that_the_step_raises(
    stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, project, nodes=1, processes=2)
    stub.fewer = 1
    with pytest.raises(ConfigError, match="2 processes were asked for and 1 started"):
        specialise()
    assert not stub.jobs and not Path("policy").exists()


def test_a_job_that_fails_shows_the_end_of_its_log(stub: Cluster, project: Path) -> None:
    stub.says = "CUDA error: no device\nexitcode 7"
    with pytest.raises(
        CoWestError, match=r"(?s)cowest-sft-\w+ failed \(Stub\); .*CUDA.*exitcode 7"
    ):
        specialise()
    assert not stub.jobs and not Path("policy").exists()


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("DeadlineExceeded", r"has not ended in 30 hours .*give COWEST_TRAINJOB more `hours`"),
        ("JobSetFailed", r"(?s)failed \(JobSetFailed: as the stub says\); .*\(there is none\)"),
    ],
)
def test_a_job_that_the_cluster_fails_says_why(
    reason: str, said: str, stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller deletes the pods, so that there is no log."""
    stub.runs = False
    stub.fails = (reason, "as the stub says")
    ask(monkeypatch, project, hours=30)
    with pytest.raises(CoWestError, match=said):
        specialise()
    assert not stub.jobs


def test_a_job_that_finds_no_nodes_ends_in_time_and_is_removed(
    stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.runs = False
    ask(monkeypatch, project, hours=1 / 3600)
    monkeypatch.setattr(trainjob, "GRACE", 0.2)
    with pytest.raises(CoWestError, match="check that the cluster has nodes for it"):
        specialise()
    assert len(stub.taken) == 1 and not stub.jobs


def test_a_cluster_out_of_reach_for_a_moment_ends_nothing(
    stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.runs = False
    ask(monkeypatch, project, hours=0.5 / 3600)
    monkeypatch.setattr(trainjob, "GRACE", 0.5)
    make = stub.make

    def made(job: dict[str, Any]) -> None:
        make(job)
        stub.down = 4

    monkeypatch.setattr(stub, "make", made)
    with pytest.raises(CoWestError, match="check that the cluster has nodes for it"):
        specialise()
    assert stub.down == 0


def test_a_retry_that_meets_a_moments_failure_waits_for_the_job_of_the_try_before(
    stub: Cluster,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended_by(signal.SIGKILL, stub, project)
    (name,) = stub.jobs
    stub.down = 2
    ask(monkeypatch, project, hours=0.5 / 3600)
    monkeypatch.setattr(trainjob, "GRACE", 0.5)
    with pytest.raises(CoWestError, match="check that the cluster has nodes for it"):
        specialise()
    said = capsys.readouterr().err
    assert f"waiting for the TrainJob {name} of an earlier attempt" in said
    assert "apiserver not ready" in said and len(stub.taken) == 1


def test_a_cluster_that_a_retry_can_not_ask_keeps_the_job_of_the_try_before(
    stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_by(signal.SIGKILL, stub, project)
    (name,) = stub.jobs
    stub.down = 2
    monkeypatch.setattr(trainjob, "SILENCE", 0.0)
    monkeypatch.setattr(trainjob, "PAUSE", 0.0)
    with pytest.raises(CoWestError, match="could not read the state of the TrainJob"):
        specialise()
    assert set(stub.jobs) == {name}


RIGHTS = r"account the rights in infra/trainer/rbac\.yaml; if it trains, it goes on"


@pytest.mark.parametrize(
    ("status", "refusal", "silence", "said"),
    [
        (503, "not ready", 0.0, "it goes on, and the step waits for it when run again"),
        # It is no outage, so that nobody waits.
        (403, 'User "step" cannot get resource "trainjobs" in API group', 300.0, RIGHTS),
        (401, "Unauthorized", 300.0, RIGHTS),
        # No right helps with a webhook's refusal, or a quota's.
        (403, 'webhook "w" denied the request: no', 300.0, 'request: no"}; if it trains, it goes'),
    ],
)
def test_a_job_whose_state_can_not_be_read_is_left_alone(
    status: int,
    refusal: str,
    silence: float,
    said: str,
    stub: Cluster,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may train well: the cluster's API comes back after the step gave it up."""
    stub.runs = False
    stub.status, stub.refusal = status, refusal
    ask(monkeypatch, project, hours=1 / 3600)
    monkeypatch.setattr(trainjob, "GRACE", 0.5)
    monkeypatch.setattr(trainjob, "SILENCE", silence)
    make = stub.make

    def made(job: dict[str, Any]) -> None:
        make(job)
        stub.down = 2

    monkeypatch.setattr(stub, "make", made)
    with pytest.raises(CoWestError, match=said):
        specialise()
    (name,) = stub.jobs
    # The next attempt finds it.
    stub.down = 0
    with pytest.raises(CoWestError, match=f"{name} has not ended in"):
        specialise()
    assert len(stub.taken) == 1 and not stub.jobs


def test_a_job_that_somebody_removes_is_said(
    stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.runs = False
    ask(monkeypatch, project)
    pause = time.sleep

    def removed(seconds: float) -> None:
        monkeypatch.setattr(time, "sleep", pause)
        assert trainjob.remove_of("another-run") == ([], [])
        assert trainjob.remove_of("run-1") == ([stub.taken[0]["metadata"]["name"]], [])

    monkeypatch.setattr(time, "sleep", removed)
    with pytest.raises(CoWestError, match="somebody removed the TrainJob"):
        specialise()


def ended_by(end: signal.Signals, stub: Cluster, project: Path) -> None:
    """Begins a training in a process of its own, and ends that while its TrainJob waits."""
    stub.runs = False
    (project / "params.yaml").write_text(yaml.safe_dump({"sft": settings()}))
    code = f"from cowest import stages; stages.run('sft', {settings()!r}, **{SFT!r})"
    environment = tiny.surroundings()
    # As KFP runs a step: nobody made SIGTERM an interruption before.
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    until = time.monotonic() + 300
    while not stub.jobs:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(end)
    assert process.wait(timeout=300) != 0
    assert len(stub.taken) == 1


def test_a_step_that_is_ended_removes_its_job(stub: Cluster, project: Path) -> None:
    ended_by(signal.SIGTERM, stub, project)
    assert not stub.jobs


def test_the_last_step_of_a_run_removes_the_job_of_a_step_that_was_killed(
    stub: Cluster, project: Path
) -> None:
    ended_by(signal.SIGKILL, stub, project)
    (name,) = stub.jobs
    summarise("another-run", "FAILED", "", "{}", "page", "outcome")
    assert set(stub.jobs) == {name}
    summarise("run-1", "FAILED", "", "{}", "page", "outcome")
    assert not stub.jobs
    notes = io.read_document(Path("outcome"), RunOutcome).notes
    assert f"trainings that were left on the cluster were removed: {name}" in notes
    assert name in Path("page").read_text()


def test_a_job_that_can_not_be_removed_is_a_note_and_no_removal(
    stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_by(signal.SIGKILL, stub, project)
    (name,) = stub.jobs
    stub.keeps = True
    monkeypatch.setattr(trainjob, "GRACE", 0.2)
    summarise("run-1", "FAILED", "", "{}", "page", "outcome")
    notes = " ".join(io.read_document(Path("outcome"), RunOutcome).notes)
    assert f"kubectl delete trainjob {name} -n test" in notes
    assert "were removed" not in notes


def test_what_is_there_already_is_handed_on_without_a_job(stub: Cluster, project: Path) -> None:
    config = parse(SFTConfig, settings(), "test")
    tiny.make_adapter(project / "champion" / "adapter")
    base = config.policy.base_name(config.policy.folder())
    inputs = [base, file_digest(project / "corpus.jsonl"), config.lora, config.training]
    trained = digest([*inputs, config.prompts.draft])
    version.write(project / "champion", base=base, prompts=config.prompts, trained=trained)
    stages.run("sft", settings(), **{**SFT, "start": "champion"})
    assert not stub.taken
    assert (
        version.expect(project / "policy").adapter == version.expect(project / "champion").adapter
    )


def test_a_runtime_that_is_not_there_is_named(
    stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, project, runtime="another")
    with pytest.raises(CoWestError, match="no training runtime 'another'"):
        specialise()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{store: /no/address}", "is no address of a store"),
        ("{store: 'ftps3://b/x'}", "ftps3"),
        (
            "{store: 's3://b/x', image: 'cowest-train:0.1.0'}",
            "COWEST_TRAINJOB: image: .*by digest .* or by the commit",
        ),
    ],
)
def test_settings_that_are_wrong_are_named(
    text: str, said: str, stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_TRAINJOB", text)
    with pytest.raises(ConfigError, match=said):
        specialise()


def test_manifests_meet_the_schema_and_the_schema_is_strict(
    stub: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.runs = False
    ask(monkeypatch, project, hours=1 / 3600, image="registry.example/cowest@sha256:" + "0" * 64)
    monkeypatch.setattr(trainjob, "GRACE", 0.0)
    monkeypatch.delenv("COWEST_RUN")
    monkeypatch.setenv("COWEST_TURN", "f" * 64)
    with pytest.raises(CoWestError):
        specialise()
    (job,) = stub.taken
    del job["metadata"]["namespace"], job["metadata"]["creationTimestamp"]
    assert cluster.complaints(job, "trainjobs") == []
    assert job["metadata"]["labels"]["app.kubernetes.io/instance"] == "f" * 63
    assert job["spec"]["activeDeadlineSeconds"] == 1
    assert job["spec"]["trainer"]["image"].startswith("registry.example")
    runtime = yaml.safe_load(cluster.RUNTIME.read_text())
    assert cluster.complaints(runtime, "clustertrainingruntimes") == []
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    (container,) = node["template"]["spec"]["template"]["spec"]["containers"]
    assert Profile(image=container["image"]), "an example that a profile would refuse"

    wrong = copy.deepcopy(job)
    wrong["spec"]["trainer"]["numProcs"] = 2
    wrong["spec"]["trainer"]["numNodes"] = "two"
    wrong["metadata"]["name"] = "Cowest_1"
    assert len(cluster.complaints(wrong, "trainjobs")) == 3
    jobs = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    jobs[0]["template"]["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    assert cluster.complaints(runtime, "clustertrainingruntimes")


def test_only_files_that_are_what_they_say_are_fetched(tmp_path: Path) -> None:
    store = Parcels(f"file://{tmp_path}/store")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "one.txt").write_text("one")
    (tmp_path / "folder" / "sub" / "two.txt").write_text("two")
    (tmp_path / "folder" / ".hidden").write_text("mine")
    parcel = store.send(tmp_path / "folder")
    assert set(parcel) == {"one.txt", "sub/two.txt"}
    store.fetch(parcel, tmp_path / "back")
    assert file_digest(tmp_path / "back") == file_digest(tmp_path / "folder")

    for name in ("../out.txt", "/out.txt", "sub/../../out.txt", "..\\out.txt"):
        with pytest.raises(InputError, match="leads out of its folder"):
            store.fetch({name: parcel["one.txt"]}, tmp_path / "back")
    place = tmp_path / "store" / "files" / parcel["one.txt"]
    place.write_text("on")
    # Cut short, as by a kill: it is sent again.
    assert store.send(tmp_path / "folder") == parcel and place.read_text() == "one"
    place.write_text("two")
    with pytest.raises(InputError, match="holds other bytes"):
        store.fetch(parcel, tmp_path / "back")
    place.unlink()
    with pytest.raises(InputError, match="it is not there"):
        store.fetch(parcel, tmp_path / "back")


@pytest.mark.parametrize("port", ["inputs", "base", "outputs"])
@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "..", "a/b", "a\\b"])
def test_a_task_writes_nowhere_but_in_its_folder(port: str, name: str, tmp_path: Path) -> None:
    store = Parcels(f"file://{tmp_path}/store")
    (tmp_path / "one.txt").write_text("one")
    parcel = store.send(tmp_path / "one.txt")
    named = f"{tmp_path}{name}" if name.startswith("/") else name
    task: dict[str, Any] = {
        "stage": "sft",
        "config": {"policy": {}},
        "inputs": {"corpus": parcel},
        "base": {"tiny": {}},
        "outputs": ["policy"],
        "code": lineage.code_digest(),
    }
    task[port] = [named] if port == "outputs" else {named: parcel}
    store.write("tasks/key/task.json", json.dumps(task))
    with pytest.raises(InputError, match="leads out of its folder: remove the task"):
        sent.receive(store, "key", tmp_path / "node" / "tasks" / "key")
    assert not list(tmp_path.rglob("*escaped*")) and not (tmp_path / "node").exists()


def test_a_result_of_which_a_file_is_gone_is_made_again(tmp_path: Path) -> None:
    """A bucket's rule may remove an old file that a new result shares."""
    store = Parcels(f"file://{tmp_path}/store")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "one.txt").write_text("one")
    sent.answer(store, "key", {"policy": tmp_path / "made"})
    assert sent.collect(store, "key", {"policy": tmp_path / "back"})
    (parcel,) = (tmp_path / "store" / "files").iterdir()
    parcel.unlink()
    for _ in range(2):
        assert not sent.collect(store, "key", {"policy": tmp_path / "other"})
    assert not (tmp_path / "other").exists()
    sent.answer(store, "key", {"policy": tmp_path / "made"})
    assert sent.collect(store, "key", {"policy": tmp_path / "other"})
