"""The first and the last step of a run on a cluster: what they find, and what they tell."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config, io, reach, steps
from cowest.errors import CoWestError, RegistryError
from cowest.ledger.claims import spent
from cowest.ledger.runs import NotedRun, find_run, note_run
from cowest.ledger.store import CallStore, open_store
from cowest.lineage import Turn, data_digests
from cowest.records import DataSet, Decision, Draft
from cowest.registry.mlflow import RegistryConfig
from cowest.stages.pin import PinConfig
from cowest.steps import begin as begin_step
from cowest.steps import summary as summary_step
from cowest.steps.begin import RunInputs, begin
from cowest.steps.summary import RunOutcome, summarise
from tests import stores, tiny
from tests.registries import empty_registry, make_version
from tests.servers import chat_server


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project whose turn was decided, as the folder in which steps run."""
    folder = tmp_path / "project"
    shutil.copytree(tiny.turned(), folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COWEST_STORE", str(folder / ".cowest" / "calls.sqlite"))
    return folder


def text_with(folder: Path, **sections: Any) -> str:
    """The project's params.yaml with other sections."""
    return yaml.safe_dump({**config.load(folder / "params.yaml"), **sections}, sort_keys=False)


def started(text: str, folder: Path, **given: Any) -> bool:
    """Runs the first step, whose outputs are in `folder`."""
    folder.mkdir(exist_ok=True)
    told = RunInputs(**{"run": "run-1", **given})
    return begin(text, told, folder / "raw", folder / "params", folder / "version")


def told(text: str, folder: Path, run: str = "run-1", state: str = "SUCCEEDED") -> RunOutcome:
    """Runs the last step."""
    folder.mkdir(exist_ok=True)
    page, outcome = folder / "page.md", folder / "outcome"
    summarise(run, state, "Task turn failed." * (state == "FAILED"), text, str(page), str(outcome))
    found = io.read_document(outcome, RunOutcome)
    assert found.became in page.read_text()
    return found


@contextmanager
def webhook(*statuses: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that takes what is posted, with these statuses first."""
    posted: list[dict[str, Any]] = []
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hooks/canary-path", posted
    finally:
        server.shutdown()
        server.server_close()


def test_a_turn_that_was_decided_ends_with_a_word_and_is_told(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    decision = io.read_document(project / "reports" / "decision.json", Decision)
    values = config.load(project / "params.yaml")
    text = text_with(project, turn={**values["turn"], "webhook_env": "HOOK"})
    assert not started(text, tmp_path / "begin")
    assert f"nothing is new: turn {decision.turn[:8]} was decided" in capsys.readouterr().err
    raw = tmp_path / "begin" / "raw" / "handbook"
    assert data_digests(raw) == data_digests(project / "data" / "raw" / "handbook")
    version = io.read_document(tmp_path / "begin" / "version", DataSet)
    assert version.path == "data/raw/handbook"
    assert find_run(open_store(), "run-1") == NotedRun("run-1", decision.turn, decision.version)
    with webhook(503) as (url, posted):
        monkeypatch.setenv("HOOK", url)
        found = told(text, tmp_path / "end")
    assert (found.became, found.version, found.champion) == ("nothing new", 1, 1)
    assert found.turn == decision.turn and not found.notes
    # The first try met a server that was out of order.
    assert len(posted) == 2 and posted[0] == posted[1]
    assert posted[0]["became"] == "nothing new" and posted[0]["run"] == "run-1"
    assert posted[0]["text"] == found.line


def test_force_decides_a_turn_anew_and_other_inputs_reach_the_settings(
    project: Path, tmp_path: Path
) -> None:
    text = (project / "params.yaml").read_text()
    given = {"run": "run-2", "force": True, "budget_usd": "1234567.89"}
    assert started(text, tmp_path / "begin", **given)
    taken = config.load(tmp_path / "begin" / "params")
    assert taken["pin"]["again"] == "run-2" and taken["pin"]["budget"] == {"usd": 1234567.89}
    known = find_run(open_store(), "run-2")
    decided = io.read_document(project / "reports" / "decision.json", Decision)
    assert known is not None and known.turn != decided.turn and known.decided is None


def test_the_whole_list_of_what_is_wrong_is_said_at_once(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    on_a_cluster(tmp_path, monkeypatch)
    values = config.load(project / "params.yaml")
    down = {"provider": "openai", "model": "a", "base_url": "http://127.0.0.1:9/v1"}
    text = text_with(
        project,
        turn={"raw": "data/raw/handbook", "rev": "no-such-revision"},
        draft={**values["draft"], "temprature": 1},
        refine={**values["refine"], "strong": {**down, "key_env": None}},
        evaluate={**values["evaluate"], "strong": {**down, "model": "b", "key_env": "NO_SUCH_KEY"}},
        register={"registry": {"name": "handbook", "uri": "http://127.0.0.1:9"}},
    )
    with pytest.raises(CoWestError) as error:
        started(text, tmp_path / "begin")
    said = str(error.value)
    for part in (
        "things to mend before the turn starts",
        "draft: temprature: unknown setting",
        "no-such-revision",
        "a: http://127.0.0.1:9/v1 does not answer",
        "NO_SUCH_KEY is not set",
        "nobody answers at http://127.0.0.1:9",
        "COWEST_STORE names a file",
        # That of `pin` is a file of the project.
        "on the disk of this step's container",
    ):
        assert said.count(part) == (2 if part.startswith("on the disk") else 1), part
    found = told((project / "params.yaml").read_text(), tmp_path / "end", state="FAILED")
    assert found.became == "failed" and found.turn is None
    assert found.champion == 1


def on_a_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch, *mounts: Path) -> None:
    """Has a step believe that it runs in a container on a cluster, with these volumes."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("COWEST_LOCAL", raising=False)
    table = folder / "mounts"
    lines = []
    for number, mount in enumerate((Path("/"), *mounts)):
        # All lie on the disk of the node, as with containerd's native snapshots.
        point = str(mount).replace(" ", "\\040")
        lines.append(f"{number} 1 8:1 /somewhere {point} rw,relatime - ext4 /dev/sda1 rw\n")
    table.write_text("".join(lines))
    monkeypatch.setattr(begin_step, "MOUNTS", table)


def problems(uri: str, artifacts: Path | str) -> str:
    config = RegistryConfig(uri=uri, name="handbook", artifacts=str(artifacts))
    found = begin_step.passing_registries([PinConfig(registry=config)] * 2)
    return "; ".join(map(str, found))


def test_a_registry_on_a_containers_own_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its decision would go with the step; what is mounted stays, on whatever device it lies."""
    mounted = tmp_path / "a volume"
    mounted.mkdir()
    (tmp_path / "link").symlink_to(mounted)
    on_a_cluster(tmp_path, monkeypatch, mounted)
    on_root = Path("/no-such-folder")
    said = problems(f"sqlite:///{on_root}/mlflow.db", on_root / "files")
    assert said.count("the registry's uri is /no-such-folder/mlflow.db, on the disk of this") == 1
    assert said.count("the registry's artifacts is /no-such-folder/files") == 1
    said = problems("postgresql://host/registry", on_root)
    assert "registry's uri" not in said and "registry's artifacts" in said
    assert problems(f"sqlite:///{mounted}/new/mlflow.db", mounted / "new") == ""
    assert problems(f"sqlite:///{tmp_path}/link/mlflow.db", tmp_path / "link") == ""
    assert "artifacts" in problems("postgresql://host/registry", tmp_path / "a volume too")
    assert problems("postgresql://host/registry", "s3://bucket/files") == ""
    assert problems("https://mlflow.example", on_root) == ""
    # Nothing is known of the mounts.
    monkeypatch.setattr(begin_step, "MOUNTS", tmp_path / "not there")
    assert problems("postgresql://host/registry", on_root) == ""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_that_may_not_be_entered_breaks_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Runs:
        def writable(self) -> None:
            """The database takes rows."""

    monkeypatch.setattr(RegistryConfig, "runs", lambda _: Runs())
    (tmp_path / "closed").mkdir(mode=0o700)
    place = tmp_path / "closed" / "inner" / "files"
    registry = RegistryConfig(uri="postgresql://host/registry", artifacts=str(place), name="a")
    settings = [PinConfig(registry=registry)]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(54321)
            found = reach.registry_problems(settings, write=True)
            found += begin_step.passing_registries(settings)
            os.write(writing, "; ".join(map(str, found)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    assert f"the registry's files go to {place}, and " in said
    assert "is no folder that we may write to" in said


def test_steps_that_share_a_pod_keep_their_registry_and_store_in_files(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where `local` runs them in a notebook on a cluster."""
    on_a_cluster(tmp_path, monkeypatch)
    text = (project / "params.yaml").read_text()
    with pytest.raises(CoWestError, match="on the disk of this step's container"):
        started(text, tmp_path / "begin", force=True)
    monkeypatch.setenv("COWEST_LOCAL", "1")
    assert started(text, tmp_path / "begin", force=True)


def test_raw_data_that_are_not_there_are_said(project: Path, tmp_path: Path) -> None:
    with pytest.raises(CoWestError, match=r"^nowhere: no such file or folder in .*repository"):
        started(text_with(project, turn={"raw": "nowhere"}), tmp_path / "begin")


def test_a_turn_that_may_cost_more_than_its_budget_does_not_begin(
    project: Path, tmp_path: Path
) -> None:
    values = config.load(project / "params.yaml")
    with chat_server() as server:
        strong = {
            "provider": "openai",
            "model": "tiny",
            "base_url": server.url,
            "key_env": None,
            "price": {"prompt": 1000.0, "completion": 1000.0},
        }
        text = text_with(project, refine={**values["refine"], "strong": strong})
        with pytest.raises(
            CoWestError, match=r"may take up to \$.* pin\.budget\.usd allows \$0\.01"
        ):
            started(text, tmp_path / "begin", budget_usd="0.01")
        assert started(text, tmp_path / "begin", budget_usd="100000")
        assert server.calls == 0
    with pytest.raises(CoWestError, match="budget_usd: 'much' is not a number of US dollars"):
        started(text, tmp_path / "begin", budget_usd="much")


def test_data_come_from_a_git_repository_and_its_dvc_remote_by_revision(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, remote = tmp_path / "origin", tmp_path / "remote"
    shutil.copytree(project / "data", origin / "data")
    data = origin / "data" / "raw" / "handbook"

    def run(*command: str) -> None:
        subprocess.run(
            command, cwd=origin, check=True, env=tiny.surroundings(), capture_output=True
        )

    run("git", "init", "-q", "-b", "main")
    run("git", "config", "user.email", "a@b.c")
    run("git", "config", "user.name", "a")
    run("python", "-m", "dvc", "init", "-q")
    run("python", "-m", "dvc", "remote", "add", "-q", "-d", "there", str(remote))
    run("python", "-m", "dvc", "add", "-q", "data/raw/handbook")
    run("git", "add", "data/raw/handbook.dvc", "data/raw/.gitignore", ".dvc")
    run("git", "commit", "-q", "-m", "one")
    run("git", "tag", "v1")
    run("python", "-m", "dvc", "push", "-q")
    before = data_digests(data)
    with (data / "questions.jsonl").open("a") as file:
        file.write((data / "questions.jsonl").read_text().splitlines()[0] + "\n")
    run("git", "checkout", "-q", "-b", "later")
    run("python", "-m", "dvc", "add", "-q", "data/raw/handbook")
    run("git", "commit", "-q", "-a", "-m", "two")
    run("python", "-m", "dvc", "push", "-q")
    after = data_digests(data)
    run("git", "checkout", "-q", "main")
    shutil.rmtree(data)
    shutil.rmtree(origin / ".dvc" / "cache")

    # A step has nothing of the project but what it is given.
    (tmp_path / "step").mkdir()
    text = text_with(
        project, pin={"registry": registry(project)}, register={"registry": registry(project)}
    )
    monkeypatch.chdir(tmp_path / "step")
    for revision, digests in (("v1", before), ("later", after), ("", before)):
        started(text, tmp_path / "begin", repository=str(origin), revision=revision)
        assert data_digests(tmp_path / "begin" / "raw" / "handbook") == digests, revision
        version = io.read_document(tmp_path / "begin" / "version", DataSet)
        assert version.kept == "dvc" and version.rev and version.md5
    with pytest.raises(CoWestError, match="has no revision 'v9'"):
        started(text, tmp_path / "begin", repository=str(origin), revision="v9")
    with pytest.raises(CoWestError, match="git clone: "):
        started(text, tmp_path / "begin", repository="ext::sh -c true")


def registry(folder: Path) -> dict[str, str]:
    return {
        "name": "handbook",
        "uri": f"sqlite:///{folder}/mlflow.db",
        "artifacts": str(folder / "mlartifacts"),
    }


def test_a_webhook_that_refuses_is_a_note_and_its_address_is_shown_nowhere(
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = config.load(project / "params.yaml")
    text = text_with(project, turn={**values["turn"], "webhook_env": "HOOK"})
    note_run(open_store(), NotedRun("run-1", "t", None))
    for url, said in (
        ("", "not posted: turn.webhook_env names HOOK, which is not set"),
        ("http://127.0.0.1:9/canary-path", "the webhook at 127.0.0.1: "),
        ("http://169.254.169.254/canary-path", "link-local or metadata address"),
        ("http://user:canary-path@127.0.0.1:9/", "holds a name or password"),
        ("canary-path", "the webhook's address is not fetched from"),
    ):
        monkeypatch.setenv("HOOK", url)
        monkeypatch.setattr("cowest.net.webhook.PAUSES", (0,))
        found = told(text, tmp_path / "end")
        assert found.became == "undecided", "the run ended well, and its turn is in no log"
        assert said in " ".join(found.notes), found.notes
        everything = capsys.readouterr().err + (tmp_path / "end" / "page.md").read_text()
        assert "canary" not in everything + found.model_dump_json()
    with webhook(404) as (url, posted):
        monkeypatch.setenv("HOOK", url)
        (note,) = told(text, tmp_path / "end").notes
        assert note.endswith("it answered with status 404") and len(posted) == 1


def test_a_decision_that_came_late_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    settings = empty_registry(tmp_path)
    given: dict[str, Any] = {"promote": True, "against": None, "reason": "better", "tags": {}}
    for turn in ("aa", "bb"):
        settings.open().decide(make_version(tmp_path / turn, turn), turn=turn, **given)
    note_run(open_store(), NotedRun("run-1", "bb", None))
    text = yaml.safe_dump({"turn": {"raw": "raw"}, "register": {"registry": settings.model_dump()}})
    found = told(text, tmp_path / "end")
    assert (found.became, found.version, found.champion) == ("late", 2, 1)
    assert "judged against no champion, and the champion was version 1" in found.line
    assert "run the turn again" in found.line


def registered(folder: Path, **verdicts: bool) -> str:
    """Settings that name a registry, which has decided on turns so."""
    settings = empty_registry(folder)
    for turn, promote in verdicts.items():
        settings.open().decide(
            make_version(folder / turn, turn),
            turn=turn,
            promote=promote,
            against=None,
            reason="better",
            tags={},
        )
    sections = {"turn": {"raw": "raw"}, "register": {"registry": settings.model_dump()}}
    return yaml.safe_dump(sections)


@pytest.mark.parametrize(
    ("turn", "before", "became"),
    [
        ("aa", None, "promoted"),
        ("bb", None, "refused"),
        # It came late: the turn is open.
        ("cc", None, "failed"),
        # Another run decided it.
        ("aa", 1, "failed"),
        ("dd", None, "failed"),
    ],
)
def test_a_decision_holds_though_a_step_of_the_run_failed(
    turn: str, before: int | None, became: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    text = registered(tmp_path, aa=True, bb=False, cc=True)
    note_run(open_store(), NotedRun("run-1", turn, before))
    found = told(text, tmp_path / "end", state="FAILED")
    assert found.became == became and found.champion == 1
    if became == "failed":
        assert "Task turn failed." in found.line
    else:
        assert f"was {became}: better; a step of this run failed" in found.line
        assert "a step of this run failed: Task turn failed." in found.notes


def test_what_can_not_be_read_at_the_end_is_not_known_and_not_undecided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cowest.steps.summary.PAUSES", (0.0, 0.0))
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    text = registered(tmp_path, aa=True)
    note_run(open_store(), NotedRun("run-1", "aa", None))
    tries = 0
    whole = RegistryConfig.open

    def away(config: RegistryConfig) -> Any:
        nonlocal tries
        tries += 1
        if tries <= gone:
            raise RegistryError("nobody answers")
        return whole(config)

    monkeypatch.setattr(RegistryConfig, "open", away)
    gone = 2
    found = told(text, tmp_path / "back")
    assert (found.became, found.known, found.notes) == ("promoted", True, ())
    tries, gone = 0, 3
    found = told(text, tmp_path / "gone")
    assert (found.became, found.known, found.champion) == ("unknown", False, None)
    assert "decided nothing" not in found.line and "not told: nobody answers" in found.notes
    page = (tmp_path / "gone" / "page.md").read_text()
    assert "| champion | not known |" in page and "branch" not in page
    # The registry answers, and the store does not.
    tries, gone = 0, 0
    monkeypatch.setenv("COWEST_STORE", "mysql://host/db")
    found = told(text, tmp_path / "store")
    assert (found.became, found.champion) == ("unknown", 1)
    assert "in its pre-flight" not in (tmp_path / "store" / "page.md").read_text()
    # The store answers, and lacks the run.
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "other.sqlite"))
    found = told(text, tmp_path / "lost")
    assert (found.became, found.known) == ("unknown", False)
    assert "not told: the call store has no row of this run" in found.notes
    assert "in its pre-flight" not in (tmp_path / "lost" / "page.md").read_text()


def test_a_registry_that_hangs_does_not_take_the_time_of_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step's own limit would kill it before it told anybody."""
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    # Set first, so that it is as before at the end.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    text = registered(tmp_path, aa=True)
    note_run(open_store(), NotedRun("run-1", "aa", None))
    now, seen = 0.0, []

    def hang(_: RegistryConfig) -> Any:
        nonlocal now
        now += 100.0
        seen.append(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
        raise RegistryError("nobody answers")

    def removed(_: str) -> tuple[list[str], list[str]]:
        seen.append("removed")
        return ["a-job"], []

    monkeypatch.setattr(RegistryConfig, "open", hang)
    monkeypatch.setattr(summary_step.trainjob, "remove_of", removed)
    monkeypatch.setattr(summary_step.time, "monotonic", lambda: now)
    found = told(text, tmp_path / "end")
    assert found.became == "unknown" and seen == ["removed", "2"]
    assert "a-job" in found.notes[0]


def test_the_last_step_tells_what_it_can_where_nothing_can_be_asked(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cowest.steps.summary.PAUSES", (0.0,))
    monkeypatch.setenv("COWEST_STORE", "mysql://canary:canary@host/db")
    text = text_with(project, register={"registry": {"name": "a", "uri": "http://127.0.0.1:9"}})
    found = told(text, tmp_path / "end", state="FAILED")
    assert found.became == "failed" and len(found.notes) == 2
    assert "canary" not in found.model_dump_json()


@pytest.mark.parametrize("kind", stores.KINDS)
def test_a_run_is_found_by_its_id_in_every_store(kind: str, tmp_path: Path) -> None:
    kept = CallStore(stores.place(kind, tmp_path))
    assert find_run(kept, "a") is None
    note_run(kept, NotedRun("a", "", None))
    note_run(kept, NotedRun("a", "t", None))
    note_run(kept, NotedRun("b", "t", 3))
    assert find_run(kept, "a") == NotedRun("a", "t", None)
    assert find_run(kept, "b") == NotedRun("b", "t", 3)


def pinned(project: Path, folder: Path, run: str) -> Turn:
    """Runs the first two steps of a turn of its own, with their outputs below `folder`."""
    started((project / "params.yaml").read_text(), folder / "begin", run=run, force=True)
    out = folder / "pin"
    out.mkdir()
    steps.run(
        "pin",
        None,
        turn=str(out / "turn"),
        raw=str(folder / "begin" / "raw"),
        params=str(folder / "begin" / "params"),
        version=str(folder / "begin" / "version"),
        start=str(out / "start"),
        champion=str(out / "champion"),
        looks=str(out / "looks"),
    )
    return io.read_document(out / "turn", Turn)


def test_pin_takes_the_version_that_was_laid_out(project: Path, tmp_path: Path) -> None:
    found = pinned(project, tmp_path, "again")
    known = find_run(open_store(), "again")
    assert known is not None and found.key == known.turn and found.champion == 1
    assert found.raw == io.read_document(tmp_path / "begin" / "version", DataSet)


def test_a_step_counts_for_its_own_turn_though_another_was_pinned_later(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Set first, so that it is as before at the end: a step sets it in its own process.
    monkeypatch.setenv("COWEST_TURN", "")
    monkeypatch.delenv("COWEST_TURN")
    turns = {}
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        turns[run] = pinned(project, tmp_path / run, run).key
    drafts = list(io.read(project / "data" / "drafts.jsonl", Draft))
    io.write(tmp_path / "drafts.jsonl", [one for one in drafts if one.id == drafts[0].id])
    with chat_server() as server:
        strong = {
            "provider": "openai",
            "model": "tiny",
            "base_url": server.url,
            "key_env": None,
            "price": {"prompt": 1.0, "completion": 1.0},
        }
        refining = config.load(project / "params.yaml")["refine"] | {"strong": strong}
        steps.run(
            "refine",
            json.dumps(refining),
            turn=str(tmp_path / "a" / "pin" / "turn"),
            drafts=str(tmp_path / "drafts.jsonl"),
            refinements=str(tmp_path / "refinements.jsonl"),
        )
        assert server.calls > 0
    assert turns["a"] != turns["b"]
    assert spent(open_store(), turns["a"]).usd > 0
    assert spent(open_store(), turns["b"]).usd == 0
