"""An image of the service holds settings that are true there, and nothing that it should not."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest.config import parse
from cowest.errors import ConfigError, RegistryError
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.online import live
from cowest.online.live import ServeConfig
from cowest.online.packed import lacking, pack
from tests import tiny
from tests.registries import make_version

SCRIPTED = {"provider": "scripted", "rules": [{"match": "", "replies": ["x"]}]}
HOSTED = {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
KEY = {"name": "alice", "sha256": "a" * 64}


def serve(**more: Any) -> dict[str, Any]:
    """The section `serve` of a project."""
    registry = {"uri": "postgresql://db.example/mlflow", "name": "handbook"}
    return {"registry": registry, "policy": SCRIPTED, "strong": SCRIPTED, **more}


def packed(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the section `serve` of params.yaml in the folder."""
    pack(given, folder)
    found: dict[str, Any] = yaml.safe_load((folder / "params.yaml").read_text())
    assert list(found) == ["serve"]
    return found["serve"]  # type: ignore[no-any-return]


def test_the_log_and_files_of_own_terms_have_places_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("terms.txt").write_text("Phoenix\n")
    Path("terms.txt").chmod(0o600)
    filtered = {**HOSTED, "egress": {"on_found": "mask", "terms_file": "terms.txt"}}
    given = serve(strong=filtered, log={"detection": {"terms_file": "terms.txt"}})
    found = packed(tmp_path / "image", given)
    assert found["log"]["folder"] == "/data/log"
    kept = [found["strong"]["egress"]["terms_file"], found["log"]["detection"]["terms_file"]]
    assert kept == ["terms/strong.txt", "terms/log.txt"]
    assert [(tmp_path / "image" / name).read_text() for name in kept] == ["Phoenix\n"] * 2
    # The container is somebody else's than the files.
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "image").rglob("*")}
    assert modes == {0o644, 0o755}
    assert given["strong"]["egress"]["terms_file"] == "terms.txt", "the project's stay"
    assert [path.suffix for path in (tmp_path / "image" / "wheels").iterdir()] == [".whl"]
    Path("terms.txt").unlink()
    with pytest.raises(ConfigError, match=r"terms\.txt can't be read"):
        pack(given, tmp_path / "again")


def test_a_log_that_has_a_place_keeps_it(tmp_path: Path) -> None:
    assert packed(tmp_path / "image", serve(log={"folder": "/logs"}))["log"]["folder"] == "/logs"


def test_a_password_is_not_handed_on(tmp_path: Path) -> None:
    registry = {"uri": "postgresql://me:s3cr3t@db.example/mlflow", "name": "handbook"}
    with pytest.raises(ConfigError, match=r"serve\.registry\.uri holds a password") as said:
        pack(serve(registry=registry), tmp_path / "image")
    assert "s3cr3t" not in str(said.value) and not (tmp_path / "image").exists()


def test_what_an_image_needs_beside_it_is_said() -> None:
    def said(**more: Any) -> str:
        return " ".join(lacking(parse(ServeConfig, serve(**more), "serve")))

    assert said(keys=[KEY]) == ""
    assert "serve.keys has no key" in said()
    assert "is a file of this machine" in said(keys=[KEY], registry={"name": "handbook"})
    local = {"provider": "hf", "model": "folder"}
    assert "the policy model folder stays outside" in said(keys=[KEY], policy=local)
    baked = {"number": 3, "folder": "version"}
    assert said(keys=[KEY], registry={"name": "handbook"}, policy=local, baked=baked) == ""


def test_a_device_that_the_image_has_no_torch_for_is_said() -> None:
    local = {"provider": "hf", "model": "folder", "device": "cuda:1"}
    baked = {"number": 3, "folder": "version"}
    config = parse(ServeConfig, serve(keys=[KEY], policy=local, baked=baked), "serve")
    (said,) = lacking(config)
    assert "runs on cuda:1" in said and "--build-arg TORCH_FIND_LINKS= " in said


def test_terms_that_everybody_with_the_image_can_read_are_said() -> None:
    filtered = {**HOSTED, "egress": {"on_found": "mask", "terms_file": "terms/strong.txt"}}
    log = {"detection": {"terms_file": "terms/log.txt"}}
    said = lacking(parse(ServeConfig, serve(keys=[KEY], strong=filtered, log=log), "serve"))
    assert [one.partition(" is a part of the image")[0] for one in said] == [
        "serve.strong.egress.terms_file",
        "serve.log.detection.terms_file",
    ]


def test_a_base_that_a_server_holds_is_baked_in_since_adapters_are_checked_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(config: ServeConfig, folder: Path, number: int | None) -> int:
        folder.mkdir()
        return 3

    monkeypatch.setattr(live, "fetch", fetch)
    base = HFConfig(model=str(tiny.model()))
    hosted = {**HOSTED, "adapters_of": {"provider": "hf", "model": base.model}}
    config = pack(serve(keys=[KEY], policy=hosted), tmp_path / "image", bake=True)
    assert isinstance(config.policy, OpenAIConfig) and config.policy.adapters_of is not None
    carried = config.policy.adapters_of
    assert carried.model.startswith("models/")
    monkeypatch.chdir(tmp_path / "image")
    assert carried.base_name(carried.folder()) == base.base_name(base.folder())
    (said,) = lacking(config)
    assert "the server of the policy model (http://127.0.0.1:1/v1) reads the adapter" in said
    assert "TMPDIR" in said
    bare = lacking(parse(ServeConfig, serve(keys=[KEY], policy=hosted), "serve"))
    assert f"the policy model {base.model} stays outside" in bare[0]


def test_a_baked_version_is_champion_with_no_registry(tmp_path: Path) -> None:
    make_version(tmp_path / "version")
    baked = {"number": 3, "folder": str(tmp_path / "version")}
    config = parse(ServeConfig, serve(baked=baked), "serve")
    assert live.fetch(config, tmp_path / "fetched") == 3
    assert live.fetch(config, tmp_path / "again", 3) == 3
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "fetched" / weights).read_text() == "weights"
    with pytest.raises(RegistryError, match="holds only version 3, not 4"):
        live.fetch(config, tmp_path / "other", 4)
    (tmp_path / "version" / weights).write_text("others")
    with pytest.raises(RegistryError, match=r"serve\.baked: .*was changed or cut short"):
        live.opened(config)
