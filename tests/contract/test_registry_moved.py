"""A registry in a file whose project was moved, copied, mounted, or lost a part on the way."""

import shutil
from pathlib import Path

import pytest

from cowest.config import file_digest
from cowest.errors import RegistryError
from cowest.protocols import Registry
from cowest.registry.runs import folder_of, relocated
from cowest.registry.tracking import MlflowTracker
from tests.registries import make_version, migrated, registry_in, serving


def decide(registry: Registry, folder: Path, turn: str) -> int:
    made = registry.decide(
        folder,
        turn=turn,
        promote=True,
        against=registry.champion(),
        reason="better",
        tags={},
        serving=serving(),
    )
    return made.version


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a champion, in a folder whose name has to be quoted in an address."""
    folder = tmp_path / "first place, 100%"
    folder.mkdir()
    shutil.copy(migrated(), folder / "mlflow.db")
    decide(registry_in(folder).open(), make_version(tmp_path / "a", "a"), "aa")
    return folder


@pytest.mark.parametrize("original", ["gone", "still there"])
def test_a_project_elsewhere_has_its_versions_and_adds_its_own(
    project: Path, tmp_path: Path, original: str
) -> None:
    moved = tmp_path / "second place"
    shutil.copytree(project, moved)
    if original == "gone":
        shutil.rmtree(project)
    before = file_digest(project)
    config = registry_in(moved)
    config.ready()
    registry = config.open()
    registry.fetch(1, tmp_path / "fetched")
    assert file_digest(tmp_path / "fetched") == file_digest(tmp_path / "a")
    assert decide(registry, make_version(tmp_path / "b", "b"), "bb") == 2
    # A run that the first project made takes a page here, too.
    page = tmp_path / "index.html"
    page.write_text("a page")
    MlflowTracker(config.runs()).attach("aa", page)
    registry.fetch(2, tmp_path / "again")
    assert file_digest(tmp_path / "again") == file_digest(tmp_path / "b")
    assert len(list(moved.rglob("adapter_model.safetensors"))) == 2
    assert len(list(moved.rglob("index.html"))) == 1
    assert file_digest(project) == before, "nothing was written to the first place"
    # And once more, with versions of both places.
    third = tmp_path / "third"
    moved.rename(third)
    registry = registry_in(third).open()
    for version, made in ((1, "a"), (2, "b")):
        registry.fetch(version, tmp_path / f"third-{made}")
        assert file_digest(tmp_path / f"third-{made}") == file_digest(tmp_path / made)


def test_a_file_that_came_without_its_versions_is_said_before_a_turn(
    project: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(project / "mlflow.db", alone)
    config = registry_in(alone)
    said = r"version 1,? .*are not in .*alone/mlartifacts/.*bring the folder along"
    with pytest.raises(RegistryError, match=said):
        config.ready()
    with pytest.raises(RegistryError, match=said):
        config.open().fetch(1, tmp_path / "fetched")
    with pytest.raises(RegistryError, match="bring the folder along"):
        decide(config.open(), make_version(tmp_path / "b", "b"), "bb")
    assert {path.name for path in alone.iterdir()} == {"mlflow.db"}


def test_a_deleted_experiment_is_said_before_a_turn(project: Path, tmp_path: Path) -> None:
    config = registry_in(project)
    client = config.runs().client
    number = client.get_experiment_by_name("handbook").experiment_id
    client.delete_experiment(number)
    said = f"was deleted.*experiments restore -x {number}"
    with pytest.raises(RegistryError, match=said):
        config.ready()
    # A registry on a server or in PostgreSQL is asked through MLflow.
    with pytest.raises(RegistryError, match=said):
        config.runs().ready()
    with pytest.raises(RegistryError, match=said):
        decide(config.open(), make_version(tmp_path / "b", "b"), "bb")
    client.restore_experiment(number)
    config.ready()
    config.runs().ready()


def test_to_look_makes_nothing(tmp_path: Path) -> None:
    config = registry_in(tmp_path)
    config.ready()
    assert not list(tmp_path.iterdir())
    (tmp_path / "mlflow.db").touch()
    config.ready()
    (tmp_path / "mlflow.db").write_text("no database, and longer than a header of one " * 9)
    with pytest.raises(RegistryError, match="can't be read: file is not a database"):
        config.ready()


def test_addresses_of_files() -> None:
    assert folder_of("file:///a/b%20c") == folder_of("/a/b c") == Path("/a/b c")
    assert folder_of("s3://bucket/a") is None
    assert relocated("/old/runs/1/x", "file:///old/runs", "file:///new%20one") == (
        "file:///new%20one/1/x"
    )
    # Neither another folder that begins alike, nor a bucket.
    assert relocated("/old/runs-2/1", "/old/runs", "/new") == "/old/runs-2/1"
    assert relocated("s3://bucket/1", "s3://bucket", "/new") == "s3://bucket/1"
