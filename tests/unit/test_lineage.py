import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cowest import config
from cowest.errors import ConfigError, InputError
from cowest.lineage import (
    NOT_ROWS,
    code_digest,
    data_digests,
    data_of,
    params_digest,
    tags_of,
    turn_of,
)
from cowest.records import DataSet, Decision
from cowest.registry.log import champion_of, fold, settled

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "prepare": {"domain": "handbook"},
    "register": {"registry": {"uri": "sqlite:///a.db", "name": "a"}},
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw" / "deep").mkdir(parents=True)
    (tmp_path / "raw" / "rows.jsonl").write_text("{}\n")
    (tmp_path / "raw" / "deep" / "more.jsonl").write_text("{}\n{}\n")
    return tmp_path / "raw"


def params(folder: Path, text: str = "prepare: {domain: handbook}\n") -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_the_same_turn_has_the_same_key_wherever_it_lies(raw: Path, tmp_path: Path) -> None:
    here = turn_of(raw, params(tmp_path))
    raw.rename(tmp_path / "elsewhere")
    there = turn_of(tmp_path / "elsewhere", params(tmp_path), champion=3)
    assert here.key == there.key
    assert (here.champion, there.champion) == (None, 3)
    assert sorted(here.data) == ["deep/more.jsonl", "rows.jsonl"]


def test_data_and_settings_make_another_turn_and_comments_do_not(raw: Path, tmp_path: Path) -> None:
    key = turn_of(raw, params(tmp_path)).key
    assert turn_of(raw, params(tmp_path, "# a remark\nprepare:\n  domain: handbook\n")).key == key
    assert turn_of(raw, params(tmp_path, "prepare: {domain: other}\n")).key != key
    (raw / ".hidden").write_text("x")
    assert turn_of(raw, params(tmp_path)).key == key
    (raw / "rows.jsonl").write_text("{} \n")
    assert turn_of(raw, params(tmp_path)).key != key


def test_the_address_of_the_registry_is_no_part_of_a_turn() -> None:
    moved = {
        "prepare": SETTINGS["prepare"],
        "register": {"registry": {"uri": "http://team", "name": "b"}},
        "registry": {"uri": "http://team"},
    }
    assert params_digest(SETTINGS) == params_digest(moved)


def asking(candidate: str, extra: str) -> dict[str, Any]:
    """Settings in which people named things as they liked."""
    strong = {"provider": "openai", "model": "m", "price": {"prompt": 1.0}, "traces": 3}
    return {
        "sft": {"prompts": {"candidates": {"price": {"user": candidate}, "batch": {"user": "b"}}}},
        "draft": {"candidates": {"n": 2}},
        "refine": {"strong": {**strong, "extra": {"registry": extra, "of": [{"python": extra}]}}},
    }


def test_names_that_people_give_are_no_settings() -> None:
    """A prompt may be called `price`, and what it says counts."""
    digest = params_digest(asking("a", "b"))
    assert params_digest(asking("b", "b")) != digest != params_digest(asking("a", "a"))
    paid = asking("a", "b")
    paid["refine"]["strong"]["price"] = None
    assert params_digest(paid) == digest


def test_settings_without_such_names_keep_their_digest() -> None:
    """Registries hold it: a turn that was decided is not made again."""
    given = asking("a", "b")
    given["sft"]["prompts"]["candidates"] = {"brief": {"user": "a"}}
    given["refine"]["strong"]["extra"] = {"top_k": 5, "thinking": {"type": "disabled"}}
    kept = {**given, "refine": {"strong": dict(given["refine"]["strong"])}}
    del kept["refine"]["strong"]["price"], kept["refine"]["strong"]["traces"]
    assert params_digest(given) == config.digest(kept)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, {1: "a", "b": 2}])
def test_what_is_no_setting_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="no setting"):
        params_digest({"draft": {"x": value}})


def test_only_code_that_rows_depend_on_counts(tmp_path: Path) -> None:
    for name in (
        "collaboration.py",
        "stages/draft.py",
        "cli.py",
        "commands/turn.py",
        "__pycache__/x.pyc",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("pass")
    before = code_digest(tmp_path)
    for name in ("cli.py", "commands/turn.py", "__pycache__/x.pyc"):
        (tmp_path / name).write_text("changed")
    assert code_digest(tmp_path) == before
    (tmp_path / "stages/draft.py").write_text("changed")
    assert code_digest(tmp_path) != before


def test_dvc_and_the_turn_key_leave_out_the_same_code() -> None:
    lines = (ROOT / ".dvcignore").read_text().splitlines()
    ignored = [line for line in lines if line.startswith("src/")]
    assert ignored == [f"src/cowest/{name.rstrip('/')}" for name in NOT_ROWS]
    others = {line for line in lines if not line.startswith(("src/", "#"))}
    assert others == {"__pycache__", "*.egg-info"}, "no code is left out by another spelling"
    for name in NOT_ROWS:
        part = ROOT / "src" / "cowest" / name
        assert part.exists(), f"{name} is gone"
        # A name without the slash would leave out every file that begins like the folder.
        assert part.is_dir() == name.endswith("/")


def test_the_page_on_the_architecture_has_the_layers_of_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(one for one in settings["contracts"] if one["type"] == "layers")
    layers = [layer.replace("cowest.", "") for layer in contract["layers"]]
    page = (ROOT / "docs" / "architecture.md").read_text()
    written = re.search(r"^- \*\*Imports go down only\*\*: (.+?) \(`pyproject", page, re.MULTILINE)
    assert written is not None
    assert written[1].split(" -> ") == layers
    named = [name for layer in layers for name in layer.split(" | ")]
    package = [part for part in (ROOT / "src" / "cowest").iterdir() if part.stem[0] != "_"]
    modules = [part.stem for part in package if part.suffix == ".py"]
    folders = [part.name for part in package if (part / "__init__.py").exists()]
    assert sorted(named) == sorted(modules + folders), "each has one layer"


def test_raw_data_that_are_missing_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        data_digests(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no files"):
        data_digests(tmp_path / "empty")


def test_a_linked_folder_among_the_data_is_refused_since_no_digest_knows_its_files(
    tmp_path: Path,
) -> None:
    raw, other = tmp_path / "raw", tmp_path / "other"
    raw.mkdir()
    other.mkdir()
    (raw / "q.csv").write_text("q,a\n")
    (raw / ".linked").symlink_to(other)
    (raw / "file.csv").symlink_to(raw / "q.csv")
    assert set(data_digests(raw)) == {"q.csv", "file.csv"}
    (raw / "linked").symlink_to(other)
    with pytest.raises(InputError, match=r"raw/linked is a link to a folder.*put the files"):
        data_digests(raw)


def test_tags_say_which_data_a_version_rests_on() -> None:
    raw = DataSet(path="data/raw/a", digest="d" * 64, kept="dvc", rev="r" * 40, md5="m.dir")
    pairs = DataSet(path="data/pairs.jsonl", digest="e" * 64, kept="derived", rows=3)
    tags = tags_of({"raw": raw, "pairs": pairs})
    assert data_of(tags | {"base": "x"}) == {"raw": raw, "pairs": pairs}
    assert data_of(tags | {"dataset/raw": "changed by hand"}) == {"pairs": pairs}
    assert data_of({}) == {}


def wish(version: int, promote: bool, against: int | None, turn: str | None = None) -> Decision:
    return Decision(
        version=version,
        turn=turn or f"t{version}",
        verdict="promoted" if promote else "refused",
        against=against,
        reason="so",
        digest="d",
    )


def test_the_log_makes_one_champion_after_another() -> None:
    log = fold([wish(3, True, 1), wish(1, True, None), wish(2, False, 1)])
    assert [(one.version, one.promoted) for one in log] == [(1, True), (2, False), (3, True)]
    assert champion_of(log) == 3
    assert champion_of(log[:2]) == 1
    assert champion_of([]) is None


def test_of_two_promotions_against_one_champion_the_first_counts() -> None:
    log = fold([wish(1, True, None), wish(2, True, 1), wish(3, True, 1)])
    assert [one.promoted for one in log] == [True, True, False]
    assert "version 2" in log[2].reason
    assert log[2].verdict == "late"
    assert settled(log, "t3") is None


def test_a_turn_that_two_processes_decided_was_decided_by_the_first() -> None:
    log = fold([wish(1, False, None, "t"), wish(2, True, None, "t"), wish(3, True, None)])
    assert [one.verdict for one in log] == ["refused", "refused", "promoted"]
    first = settled(log, "t")
    assert first is not None
    assert first.version == 1


def test_deleted_versions_do_not_unseat_the_champion() -> None:
    assert champion_of(fold([wish(1, True, None), wish(3, True, 2)])) == 3
    assert champion_of(fold([wish(3, True, 2)])) == 3
    assert champion_of(fold([wish(1, True, None), wish(3, True, 2), wish(4, True, 2)])) == 3
    assert champion_of(fold([wish(2, True, 1), wish(3, True, 1)])) == 2
