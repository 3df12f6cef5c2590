"""What the commands about the registry promise, on every kind of registry, with their files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import cli, version
from cowest.config import file_digest
from cowest.errors import RegistryError
from cowest.protocols import Registry
from cowest.registry import acts
from cowest.registry.looks import TAG
from cowest.registry.mlflow import RegistryConfig
from cowest.registry.runs import Runs
from tests import stores
from tests.registries import alias, empty_registry, make_version


@pytest.fixture(params=stores.KINDS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> RegistryConfig:
    return empty_registry(tmp_path, request.param)


@pytest.fixture
def registry(config: RegistryConfig) -> Registry:
    return config.open()


def turned(registry: Registry, folder: Path, name: str, **more: Any) -> int:
    """A turn that passes, judged against today's champion; its adapter is its name."""
    given = {"promote": True, "against": registry.champion(), "reason": "better", "tags": {}}
    made = registry.decide(make_version(folder / name, name), turn=name, **(given | more))
    return made.version


def adapter(registry: Registry, folder: Path) -> str:
    """What the champion's adapter holds, fetched as `serve` and `pin` do it."""
    champion = registry.champion()
    assert champion is not None
    registry.fetch(champion, folder / "champion")
    return (folder / "champion" / "adapter" / "adapter_model.safetensors").read_text()


def test_a_rollback_is_served_from_the_files_that_are_there(
    registry: Registry, config: RegistryConfig, tmp_path: Path
) -> None:
    turned(registry, tmp_path, "aa")
    turned(registry, tmp_path, "bb", tags={"base": "b@1"})
    files = sorted((tmp_path / "mlartifacts").rglob("*"))
    entry = acts.rollback(registry.log(), None, "worse")
    made = registry.enter(entry)
    assert (made.version, made.promoted, made.kind, made.of, made.against) == (
        3,
        True,
        "rollback",
        1,
        2,
    )
    assert (registry.champion(), alias(config)) == (3, 3)
    assert adapter(registry, tmp_path) == "aa"
    assert made.digest == file_digest(tmp_path / "champion")
    assert sorted((tmp_path / "mlartifacts").rglob("*")) == files, "nothing was uploaded"
    assert registry.enter(entry) == made, "done twice, it finds what it did"
    assert len(registry.log()) == 3
    # What was rolled back stays away, and what is new comes in.
    again = registry.decide(
        tmp_path / "bb", turn="b2", promote=True, against=3, reason="better", tags={}
    )
    assert (again.verdict, registry.champion()) == ("refused", 3)
    assert turned(registry, tmp_path, "cc") == registry.champion() == 5


def test_files_that_are_gone_or_changed_promote_nothing(registry: Registry, tmp_path: Path) -> None:
    turned(registry, tmp_path, "aa")
    turned(registry, tmp_path, "bb")
    entry = acts.rollback(registry.log(), None, "worse")
    stored = [
        path
        for path in (tmp_path / "mlartifacts").rglob("adapter_model.safetensors")
        if path.read_text() == "aa"
    ]
    stored[0].write_text("something else")
    with pytest.raises(RegistryError, match="not those that were registered"):
        registry.enter(entry)
    shutil.rmtree(tmp_path / "mlartifacts")
    with pytest.raises(RegistryError, match=r"are not in|No such"):
        registry.enter(entry)
    assert (len(registry.log()), registry.champion()) == (2, 2)


def test_approval_and_hold(registry: Registry, config: RegistryConfig, tmp_path: Path) -> None:
    hold = registry.enter(acts.hold(registry.log(), "not yet"))
    assert (hold.verdict, hold.kind, registry.champion()) == ("noted", "hold", None)
    first = turned(registry, tmp_path, "aa")
    assert (registry.log()[-1].verdict, registry.champion()) == ("waiting", None)
    registry.enter(acts.release(registry.log(), "now"))
    made = registry.enter(acts.approval(registry.log(), first, "read it"))
    assert (made.kind, made.of, registry.champion()) == ("approval", first, made.version)
    assert alias(config) == made.version
    second = turned(registry, tmp_path, "bb", waits=True)
    assert (registry.log()[-1].verdict, registry.champion()) == ("waiting", made.version)
    again = registry.decide(
        tmp_path / "bb", turn="bb", promote=True, against=made.version, reason="so", tags={}
    )
    assert again.version == second, "its turn is decided"
    late = acts.approval(registry.log(), second, "read it")
    turned(registry, tmp_path, "cc")
    assert registry.enter(late).verdict == "late"
    assert adapter(registry, tmp_path) == "cc"


class Project:
    """A folder with a registry and settings that name it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        config = empty_registry(folder)
        self.registry = config.open()
        params = {"register": {"registry": config.model_dump()}}
        (folder / "params.yaml").write_text(yaml.safe_dump(params))

    def cowest(self, *words: str, code: int = 0) -> str:
        """What a command says, on both streams."""
        self._capsys.readouterr()
        assert cli.main([*words, "--params", str(self.folder / "params.yaml")]) == code
        said = self._capsys.readouterr()
        return said.out + said.err


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    return Project(tmp_path, capsys)


def test_the_commands_say_what_they_did(project: Project) -> None:
    said = project.cowest("rollback", "--why", "so", code=1)
    assert "there is no champion" in said
    tags = {"gates": '[{"name":"after over before"}]', "cost": '{"usd":12.3,"tokens":5}'}
    turned(project.registry, project.folder, "aa")
    turned(project.registry, project.folder, "bb", tags=tags)
    assert "version 3 is champion: it has the files of version 1" in project.cowest(
        "rollback", "--why", "worse on invoices since Monday"
    )
    status = project.cowest("status")
    assert "a rollback by" in status
    assert "worse on invoices since Monday" in status
    assert "held by version 4" in project.cowest("hold", "--why", "invoices move")
    waits = turned(project.registry, project.folder, "cc")
    status = project.cowest("status")
    line = 'held      promotions, by version 4 until `cowest release --why "..."`: invoices move'
    assert line in status
    assert f"waiting   version {waits}" in status
    assert "`cowest release" in project.cowest("approve", "5", "--why", "so", code=1)
    assert f"version {waits} waits" in project.cowest("release", "--why", "moved")
    assert "version 7 is champion: version 5 was approved" in project.cowest(
        "approve", "5", "--why", "read 20 answers"
    )
    assert "version 8 is champion" in project.cowest("rollback", "--to", "3", "--why", "so")
    table = project.cowest("history").splitlines()
    assert [line.split()[3] for line in table[1:]] == [
        "promoted",
        "promoted",
        "rollback",
        "hold",
        "waiting",
        "release",
        "approval",
        "rollback",
    ]
    assert max(len(line) for line in table) <= 100
    assert "$12.30" in table[2]
    assert "7 > 8" in table[8]
    rows = [json.loads(line) for line in project.cowest("history", "--jsonl").splitlines()]
    assert [row["champion_after"] for row in rows] == [1, 2, 3, 3, 3, 3, 7, 8]
    assert rows[1]["gates"] == [{"name": "after over before"}]
    assert rows[1]["cost"] == {"usd": 12.3, "tokens": 5}
    assert rows[2]["of"] == 1
    assert rows[2]["by"] == acts.who()
    assert rows[2]["cost"] is None
    last = project.cowest("history", "--jsonl", "--limit", "1").splitlines()
    assert [json.loads(line)["version"] for line in last] == [8]


def test_status_has_ten_lines_however_much_is_going_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cowest.commands.status.of_last", lambda *_: 3.5)
    data = {"path": "data/x", "digest": "d" * 64, "kept": "git", "rev": "a" * 40, "rows": 3}
    tags = {"dataset/raw": json.dumps(data)}
    for name in ("queries", "corpus", "pairs"):
        tags[f"dataset/{name}"] = json.dumps(data | {"kept": "derived", "rows": 1_000_000})
    turned(project.registry, project.folder, "aa", tags=tags, reason="better " * 50)
    project.cowest("hold", "--why", "held " * 50)
    turned(project.registry, project.folder, "bb")
    turned(project.registry, project.folder, "cc")
    lines = project.cowest("status").splitlines()
    assert len(lines) <= 10
    assert max(len(line) for line in lines[1:]) <= 100
    assert "raw       data/x, git, commit aaaaaaaaaaaa, 3 rows, digest dddddddddddd" in lines
    derived = "queries 1,000,000 rows, corpus 1,000,000 rows, pairs 1,000,000 rows"
    assert f"derived   {derived}" in lines
    worn = "held out  3.5 decisions rest on each query on average: `cowest data --help`"
    assert lines[-1] == worn


def test_a_rollback_that_fails_at_its_end_says_that_it_counts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done again, it would go back once more."""
    for name in ("aa", "bb", "cc"):
        turned(project.registry, project.folder, name)

    def failing(*_: object) -> None:
        raise RegistryError("the alias can't be set")

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.MlflowClient.set_registered_model_alias", failing)
        said = project.cowest("rollback", "--why", "so", code=1)
    assert "the alias can't be set; it was entered all the same, as version 4" in said
    assert adapter(project.registry, project.folder) == "bb"


def test_status_is_told_where_the_files_of_turns_are_out_of_reach(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned(project.registry, project.folder, "aa", tags={TAG: "d"})

    def unreachable(*_: object) -> None:
        raise OSError("no credentials for s3://bucket")

    monkeypatch.setattr(Runs, "take", unreachable)
    status = project.cowest("status")
    assert "champion  version 1" in status
    assert "held out  not known: " in status
    assert "no credentials for s3://bucket" in status
    assert json.loads(project.cowest("status", "--json"))["wear"] is None


def test_to_act_makes_no_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = {"uri": f"sqlite:///{tmp_path}/none.db", "name": "handbook"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"register": {"registry": registry}}))
    where = ["--params", str(tmp_path / "params.yaml")]
    for words in (["rollback"], ["approve", "1"], ["hold"], ["release"]):
        assert cli.main([*words, "--why", "so", *where]) == 1
        assert "no registry" in capsys.readouterr().err
    assert cli.main(["history", *where]) == 0
    assert "nothing was decided" in capsys.readouterr().out
    assert not (tmp_path / "none.db").exists()


def test_a_version_of_the_registry_says_whose_answers_it_gives(
    registry: Registry, tmp_path: Path
) -> None:
    turned(registry, tmp_path, "aa")
    answers = version.expect(tmp_path / "aa").digest
    assert registry.log()[0].tags["answers"] == answers
