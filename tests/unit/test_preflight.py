"""Before a turn: all that is wrong is said at once, before anything is spent."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import preflight
from cowest.commands import doctor
from cowest.errors import ConfigError, CoWestError, ModelError

DEMO = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The demo's settings on a small model folder, in a project of its own."""
    model = tmp_path / "tiny"
    model.mkdir()
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    (model / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COWEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    params: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    params["turn"]["raw"] = "raw"
    for section in (params["models"], *params.values()):
        section.update(
            {
                role: {"provider": "hf", "model": "tiny"}
                for role in ("policy", "strong")
                if role in section
            }
        )
    return params


def write(params: dict[str, Any]) -> Path:
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return Path("params.yaml")


def test_a_project_that_is_whole_passes(
    project: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    preflight.preflight(write(project))
    doctor.main([])
    said = capsys.readouterr().out
    assert "ok       settings and raw data" in said
    assert "ok       model tiny" in said


def test_what_is_drafted_on_judges_nobody(project: dict[str, Any]) -> None:
    project["evaluate"]["split"] = "train"
    with pytest.raises(ConfigError, match=r"evaluate\.split and draft\.split are both train"):
        preflight.preflight(write(project))
    project["draft"]["split"] = "dev"
    preflight.preflight(write(project))


def test_the_corpus_has_the_contract_of_the_queries(project: dict[str, Any]) -> None:
    project["validate"]["queries"] = {
        **project["validate"]["queries"],
        "private": {"personal": "mask"},
    }
    with pytest.raises(
        ConfigError, match=r"validate\.corpus\.queries is not validate\.queries.*\*contract"
    ):
        preflight.preflight(write(project))


def test_one_problem_is_raised_as_it_is(project: dict[str, Any]) -> None:
    project["score"]["scorrer"] = 1
    with pytest.raises(ConfigError, match=r"params\.yaml: score: scorrer: unknown setting"):
        preflight.preflight(write(project))


def test_all_problems_are_said_at_once(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTHER_KEY", raising=False)
    project["dpo"]["beta"] = "high"
    project["evalute"] = {}
    project["turn"]["raw"] = "elsewhere"
    project["sft"]["policy"] = {"provider": "hf", "model": "smollm2-135m-instruct"}
    project["refine"]["strong"] = {"provider": "openai", "model": "big", "key_env": "OTHER_KEY"}
    (Path("tiny") / "modeling.py").write_text("")
    with pytest.raises(CoWestError) as error:
        preflight.preflight(write(project))
    said = str(error.value)
    for part in (
        "dpo: beta",
        "unknown section 'evalute'",
        "elsewhere: no raw data",
        "cowest fetch smollm2",
        "OTHER_KEY",
        "modeling.py: code",
    ):
        assert part in said
    assert said.startswith("6 things to mend")


def test_a_hostile_model_is_refused(project: dict[str, Any]) -> None:
    (Path("tiny") / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="may be a pickle"):
        preflight.preflight(write(project))


def test_an_empty_raw_folder_is_no_data(project: dict[str, Any]) -> None:
    (Path("raw") / "rows.jsonl").unlink()
    with pytest.raises(CoWestError, match="raw: no raw data there"):
        preflight.preflight(write(project))


def test_raw_data_that_can_be_brought_are_no_mystery(project: dict[str, Any]) -> None:
    shutil.rmtree("raw")
    Path("raw.dvc").write_text("outs: []")
    with pytest.raises(CoWestError, match=r"`dvc pull raw\.dvc` brings"):
        preflight.preflight(write(project))
    project["turn"]["rev"] = "v1"
    with pytest.raises(CoWestError, match=r"`cowest turn` brings what turn\.rev names"):
        preflight.preflight(write(project))


def test_the_doctor_says_what_is_missing_and_never_a_key(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    project["refine"]["strong"] = {"provider": "openai", "model": "big", "key_env": "SOME_KEY"}
    project["sft"]["policy"] = {"provider": "hf", "model": "gemma3-270m"}
    write(project)
    assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert "ok       key of big                 SOME_KEY" in said
    assert "sk-secret" not in said
    assert "MISSING  model gemma3-270m" in said
    assert "cowest fetch gemma3-270m" in said


def test_the_doctor_outside_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.main([]) == 1
    assert "params.yaml: no such file" in capsys.readouterr().out
