"""What a registry promises, on MLflow with a real SQLite file and with a real PostgreSQL server."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy

from cowest import version
from cowest.config import file_digest
from cowest.errors import RegistryError
from cowest.protocols import Registry
from cowest.registry import runs
from cowest.registry.log import champion_of, settled
from cowest.registry.mlflow import ALIAS, MlflowRegistry, RegistryConfig
from cowest.registry.runs import Runs
from tests import stores
from tests.registries import alias, empty_registry, make_version, migrated

Make = Callable[[str], Path]


@pytest.fixture(params=stores.KINDS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> RegistryConfig:
    return empty_registry(tmp_path, request.param)


@pytest.fixture
def registry(config: RegistryConfig) -> Registry:
    return config.open()


@pytest.fixture
def folder(tmp_path: Path) -> Make:
    return lambda weights: make_version(tmp_path / "versions" / weights, weights)


def test_an_empty_registry_has_no_champion(registry: Registry) -> None:
    assert registry.log() == []
    assert registry.champion() is None


def test_the_first_promotion_makes_the_champion(
    registry: Registry, config: RegistryConfig, folder: Make
) -> None:
    made = registry.decide(
        folder("a"),
        turn="aa",
        promote=True,
        against=None,
        reason="no gate applied",
        tags={"base": "base@1", "data/x": "1"},
    )
    assert (made.version, made.promoted, made.against, made.reason) == (
        1,
        True,
        None,
        "no gate applied",
    )
    assert made.tags["base"] == "base@1"
    assert made.tags["data/x"] == "1"
    assert registry.champion() == 1
    assert alias(config) == 1
    assert registry.log() == [made]


def test_a_refusal_is_recorded_and_the_champion_stays(
    registry: Registry, config: RegistryConfig, folder: Make
) -> None:
    registry.decide(folder("a"), turn="aa", promote=True, against=None, reason="better", tags={})
    refused = registry.decide(
        folder("b"), turn="bb", promote=False, against=1, reason="quality: worse by 0.1", tags={}
    )
    assert (refused.version, refused.promoted, refused.reason) == (
        2,
        False,
        "quality: worse by 0.1",
    )
    assert registry.champion() == 1
    assert alias(config) == 1
    assert settled(registry.log(), "bb") == refused


def test_a_promotion_judged_against_a_former_champion_comes_too_late(
    registry: Registry, folder: Make
) -> None:
    for turn in ("aa", "bb"):
        registry.decide(
            folder(turn),
            turn=turn,
            promote=True,
            against=registry.champion(),
            reason="better",
            tags={},
        )
    late = registry.decide(
        folder("c"), turn="cc", promote=True, against=1, reason="better", tags={}
    )
    assert not late.promoted
    assert "version 1" in late.reason
    assert "version 2" in late.reason
    assert registry.champion() == 2
    assert late.verdict == "late"
    assert settled(registry.log(), "cc") is None, (
        "the turn is open: it was never judged against the champion"
    )
    again = registry.decide(
        folder("c"), turn="cc", promote=True, against=2, reason="better", tags={}
    )
    assert (again.version, again.promoted) == (4, True)


def test_a_promotion_that_another_process_overtook_does_not_count(
    registry: Registry, config: RegistryConfig, folder: Make
) -> None:
    assert isinstance(registry, MlflowRegistry)
    registry.decide(folder("a"), turn="aa", promote=True, against=None, reason="better", tags={})
    # Both looked before either wrote: the log then holds two promotions against nobody.
    run = registry.upload(folder("b"), "bb")
    registry.append(
        run,
        {
            "turn": "bb",
            "promote": "yes",
            "against": "None",
            "reason": "better",
            "digest": file_digest(folder("b")),
        },
    )
    assert [decision.promoted for decision in registry.log()] == [True, False]
    assert registry.champion() == 1
    assert alias(config) == 1


def test_a_turn_is_decided_once(registry: Registry, config: RegistryConfig, folder: Make) -> None:
    first = registry.decide(
        folder("a"), turn="aa", promote=True, against=None, reason="better", tags={}
    )
    second = config.open().decide(
        folder("other"), turn="aa", promote=False, against=1, reason="worse", tags={}
    )
    assert second == first
    assert len(registry.log()) == 1


def test_the_alias_is_mended(registry: Registry, config: RegistryConfig, folder: Make) -> None:
    for turn, promote in (("aa", True), ("bb", False)):
        registry.decide(
            folder(turn),
            turn=turn,
            promote=promote,
            against=registry.champion(),
            reason="so",
            tags={},
        )
    config.runs().client.set_registered_model_alias(config.name, ALIAS, "2")
    assert registry.champion() == 1
    assert alias(config) == 1
    config.runs().client.delete_registered_model_alias(config.name, ALIAS)
    assert registry.champion() == 1
    assert alias(config) == 1


def test_who_may_not_write_finds_the_champion_all_the_same(
    registry: Registry,
    config: RegistryConfig,
    folder: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for turn, against in (("aa", None), ("bb", 1)):
        registry.decide(
            folder(turn), turn=turn, promote=True, against=against, reason="better", tags={}
        )
    # A turn was killed between its version and the alias.
    config.runs().client.set_registered_model_alias(config.name, ALIAS, "1")

    def refuse(*_: object) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr("mlflow.MlflowClient.set_registered_model_alias", refuse)
    monkeypatch.setattr("time.sleep", lambda _: None)
    reader = config.open()
    assert [reader.champion(), reader.champion()] == [2, 2]
    assert capsys.readouterr().err.count("Permission denied") == 1
    with pytest.raises(RegistryError, match="Permission denied"):
        reader.decide(folder("cc"), turn="cc", promote=True, against=2, reason="so", tags={})


def test_a_version_comes_back_whole(registry: Registry, folder: Make, tmp_path: Path) -> None:
    registry.decide(folder("a"), turn="aa", promote=True, against=None, reason="better", tags={})
    out = tmp_path / "models" / "champion"
    out.mkdir(parents=True)
    (out / "left over").write_text("")
    registry.fetch(1, out)
    assert file_digest(out) == file_digest(folder("a"))
    assert not (out / "left over").exists()
    assert sorted(path.name for path in out.iterdir()) == ["adapter", "version.json"]
    assert [path.name for path in out.parent.iterdir()] == ["champion"]


def test_a_changed_version_is_refused_and_what_was_there_stays(
    registry: Registry, folder: Make, tmp_path: Path
) -> None:
    registry.decide(folder("a"), turn="aa", promote=True, against=None, reason="better", tags={})
    registry.fetch(1, tmp_path / "champion")
    (stored,) = (tmp_path / "mlartifacts").rglob("adapter_model.safetensors")
    stored.write_text("something else")
    with pytest.raises(RegistryError, match="not those that were registered"):
        registry.fetch(1, tmp_path / "champion")
    assert file_digest(tmp_path / "champion") == file_digest(folder("a"))
    with pytest.raises(RegistryError, match="no version 7"):
        registry.fetch(7, tmp_path / "champion")


def test_a_version_that_somebody_deleted_leaves_the_champion_in_place(
    registry: Registry, config: RegistryConfig, folder: Make
) -> None:
    for turn in ("aa", "bb", "cc"):
        registry.decide(
            folder(turn),
            turn=turn,
            promote=True,
            against=registry.champion(),
            reason="better",
            tags={},
        )
    config.runs().client.delete_model_version(config.name, "2")
    assert registry.champion() == 3


def test_deleting_the_champion_brings_back_the_one_before_and_nobody_who_came_too_late(
    registry: Registry, config: RegistryConfig, folder: Make
) -> None:
    for turn, against in (("aa", None), ("bb", 1), ("cc", 1)):
        registry.decide(
            folder(turn), turn=turn, promote=True, against=against, reason="better", tags={}
        )
    config.runs().client.delete_model_version(config.name, "2")
    assert registry.champion() == 1
    assert alias(config) == 1


def test_a_version_registered_by_hand_is_no_decision(
    registry: Registry, config: RegistryConfig, folder: Make
) -> None:
    registry.decide(folder("a"), turn="aa", promote=True, against=None, reason="better", tags={})
    config.runs().client.create_model_version(
        config.name, "/nowhere", tags={"note": "mine"}, await_creation_for=0
    )
    assert [decision.version for decision in registry.log()] == [1]


DECIDE = """
import sys, pathlib, time
from cowest import environment; environment.settle()
from cowest.registry.mlflow import RegistryConfig
uri, artifacts, folder, turn, gate = sys.argv[1:]
registry = RegistryConfig(uri=uri, name="handbook", artifacts=artifacts).open()
(pathlib.Path(gate) / turn).touch()
while len(list(pathlib.Path(gate).iterdir())) < 2: time.sleep(0.005)
for number in range(3):
    champion = registry.champion()
    judged = dict(turn=f"{turn}{number}", promote=True, against=champion, reason="better", tags={})
    registry.decide(pathlib.Path(folder), **judged)
"""


def test_two_processes_that_decide_at_once_leave_one_champion(
    config: RegistryConfig, folder: Make, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    source = str(Path(version.__file__).parents[1])
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                DECIDE,
                config.uri,
                config.artifacts,
                str(folder(turn)),
                turn,
                str(gate),
            ],
            env=os.environ | {"PYTHONPATH": source},
        )
        for turn in ("aa", "bb")
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    registry = config.open()
    log = registry.log()
    assert [decision.version for decision in log] == [1, 2, 3, 4, 5, 6]
    champion = None
    for decision in log:
        assert decision.promoted == (decision.against == champion)
        champion = decision.version if decision.promoted else champion
    assert champion is not None
    assert champion == registry.champion() == champion_of(log)
    assert alias(config) == champion


def test_nothing_is_left_in_the_working_folder(
    folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    shutil.copy(migrated(), "mlflow.db")
    registry = RegistryConfig(name="handbook").open()
    monkeypatch.chdir(tmp_path)
    registry.decide(folder("a"), turn="aa", promote=True, against=None, reason="better", tags={})
    assert {path.name for path in project.iterdir()} == {"mlflow.db", "mlartifacts"}
    assert not (tmp_path / "mlruns").exists()


def test_another_place_for_files_takes_none_while_the_versions_are_elsewhere(
    registry: Registry, config: RegistryConfig, folder: Make, tmp_path: Path
) -> None:
    registry.decide(folder("a"), turn="aa", promote=True, against=None, reason="better", tags={})
    copy = config.model_copy(update={"artifacts": str(tmp_path / "copy" / "artifacts")}).open()
    with pytest.raises(RegistryError, match=r"bring the folder along|to that place"):
        copy.decide(folder("b"), turn="bb", promote=True, against=1, reason="better", tags={})


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///"])
def test_a_registry_out_of_reach_is_one_line(uri: str) -> None:
    with pytest.raises(RegistryError) as raised:
        RegistryConfig(uri=uri, name="handbook").open()
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_database_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("my notes, not a database")
    with pytest.raises(RegistryError, match="not an SQLite file"):
        RegistryConfig(uri=f"sqlite:///{path}", name="handbook").open()
    assert path.read_text() == "my notes, not a database"


def test_a_folder_in_the_place_of_the_file_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.mkdir()
    config = RegistryConfig(uri=f"sqlite:///{path}", name="handbook")
    began = time.monotonic()
    for look in (config.open, config.ready):
        with pytest.raises(RegistryError, match=r"mlflow.db is a folder, where .* SQLite file"):
            look()
    assert time.monotonic() - began < 10, "SQLAlchemy would try for minutes"


def test_the_password_of_an_address_is_never_said() -> None:
    with pytest.raises(RegistryError) as raised:
        Runs("http://me:secret@127.0.0.1:9", "handbook", "mlartifacts")
    assert "secret" not in str(raised.value)


def test_a_server_that_wants_a_name_and_a_password_is_reached() -> None:
    """It refuses the probe, which brings none; that it answers is enough."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((urlsplit(self.path).path, "Authorization" in self.headers))
            self.send_error(401)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(RegistryError, match=r"the registry at http://me@.*401"):
            Runs(f"http://me:s3cret@127.0.0.1:{server.server_port}/path", "handbook", "any")
        server.shutdown()
    assert asked[0] == ("/path/health", False)
    assert asked[1][1], "MLflow says who we are"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:9", "127.0.0.1", "127.0.0.1:port", "s3cret@127.0.0.1:9", "[::1", "x/s3cret@y"],
)
@pytest.mark.parametrize("password", ["s3cret", "s3/cret", "a@s3cret", "s3cret?x", "%s3cret"])
def test_no_answer_is_one_line_without_the_password(host: str, password: str) -> None:
    with pytest.raises(RegistryError, match="nobody answers at https://me@") as raised:
        Runs(f"https://me:{password}@{host}", "handbook", "any")
    said = str(raised.value)
    assert not any(part in said for part in ("s3cret", "s3", "cret")) and "\n" not in said


OPEN = """
import sys, time
from cowest import environment; environment.settle()
from cowest.registry.mlflow import RegistryConfig
import mlflow
uri, artifacts, start = sys.argv[1:]
while time.time() < float(start): pass
registry = RegistryConfig(uri=uri, name="handbook", artifacts=artifacts).open()
print(len(registry.log()))
"""


def test_two_processes_that_make_a_database_into_a_registry_at_once(tmp_path: Path) -> None:
    place = stores.server().database()
    environment = os.environ | {"PYTHONPATH": str(Path(version.__file__).parents[1])}
    command = [sys.executable, "-c", OPEN, place, str(tmp_path), str(time.time() + 6)]
    several = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [(process.communicate(timeout=300)[0], process.returncode) for process in several] == [
        ("0\n", 0)
    ] * 2


def test_who_makes_the_tables_too_long_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    place = stores.server().database()
    monkeypatch.setattr(runs, "PATIENCE", 1)
    engine = sqlalchemy.create_engine(place.replace("postgresql://", runs.POSTGRES))
    with (
        engine.begin() as other,
        pytest.raises(RegistryError, match="for 1 s another process has") as raised,
    ):
        other.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({runs.LOCK})"))
        Runs(place, "handbook", "any")
    engine.dispose()
    assert "canary" not in str(raised.value)


def test_the_lock_of_who_makes_the_tables_ends_with_its_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pooler may give the session to another then."""
    place = stores.server().database()
    engine = sqlalchemy.create_engine(place.replace("postgresql://", runs.POSTGRES))
    held: list[int] = []

    def count(**_: object) -> None:
        locks = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"
        held.append(len(stores.server().sql(locks, database=place.rpartition("/")[2])))
        raise OSError("it makes no tables")

    monkeypatch.setattr(sqlalchemy, "create_engine", lambda *_, **__: engine)
    monkeypatch.setattr("mlflow.tracking.MlflowClient", count)
    with pytest.raises(RegistryError, match="makes no tables"):
        Runs(place, "handbook", "any")
    with pytest.raises(OSError, match="makes no tables"):
        count()
    assert held == [1, 0], "the connection lives on, in its pool"
    engine.dispose()


def test_a_database_out_of_reach_is_one_line_without_its_password(tmp_path: Path) -> None:
    server = stores.server()
    for uri in (
        server.url("nowhere"),
        server.url("postgres", word="canary-is-wrong"),
        "postgresql://me:canary@127.0.0.1:9/db",
    ):
        with pytest.raises(RegistryError) as raised:
            RegistryConfig(uri=uri, name="handbook", artifacts=str(tmp_path)).open()
        assert "\n" not in str(raised.value) and "canary" not in str(raised.value)
