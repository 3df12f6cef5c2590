"""Later rounds as steps of a pipeline make what the stage `dpo` makes alone, byte for byte."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config, fanout, io, stages, steps, version
from cowest.config import file_digest, parse, section
from cowest.errors import ConfigError, ContractError
from cowest.lineage import Turn
from cowest.ports import config_of
from cowest.preflight import agree
from cowest.records import Feedback, PreferencePair
from cowest.stages.draft import DraftConfig
from cowest.steps import rounds
from tests import tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a turn, up to its pairs."""
    shutil.copytree(tiny.turned() / "data", tmp_path / "data")
    shutil.copytree(tiny.turned() / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    turn = Turn(key="t", data={}, models={}, params="p", code="c", champion=None)
    io.write_document(tmp_path / "turn.json", turn)
    return tmp_path


def params(number: int, **ask: Any) -> dict[str, Any]:
    """Settings of a turn in so many rounds, which are written to params.yaml."""
    values = config.load(tiny.turned() / "params.yaml")
    asked = {
        "strong": values["refine"]["strong"],
        "scorer": values["score"]["scorer"],
        "drafting": values["draft"]["sampling"],
        "refining": values["refine"]["sampling"],
        "rule": values["pair"]["rule"],
        "pairs": {"kind": "pairs", "min_pairs": 2},
    }
    values["dpo"] |= {"rounds": number, "ask": asked | ask}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    return values


def parsed(values: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for stage in stages.STAGES:
        kind = config_of(stages.main_of(stage))
        found[stage] = parse(kind, section(values, stage), stage)
    agree(found, "params.yaml")
    return found


def in_the_stage(values: dict[str, Any]) -> Path:
    """The challenger of all rounds in the stage `dpo`."""
    stages.run(
        "dpo",
        values["dpo"],
        pairs="data/pairs.jsonl",
        feedback="data/feedback.jsonl",
        policy="models/policy",
        challenger="whole",
    )
    return Path("whole")


def run(stage: str, settings: Any, **ports: Any) -> None:
    steps.run(stage, settings.model_dump_json(), turn="turn.json", **ports)


def in_steps(values: dict[str, Any], shards: int) -> tuple[Path, list[int]]:
    """The challenger of all rounds as steps, with the rows and shards of each later round."""
    known, feedback = parsed(values), "data/feedback.jsonl"
    first = rounds.settings(1, known)
    given = {"feedback": feedback, "run_id": "r"}
    before = Path("round-1")
    run("dpo", first["dpo"], pairs="data/pairs.jsonl", policy="models/policy", **given,
        challenger=before)  # fmt: skip
    found = []
    for number in range(2, values["dpo"]["rounds"] + 1):
        at = Path(f"round-{number}-files")
        at.mkdir()
        settings = rounds.settings(number, known)
        names = rounds.begin(number, feedback, str(before), shards, str(at / "queries"))
        parts = []
        for index, name in enumerate(names):
            drafts, refined, fed = (at / f"{kind}-{index}" for kind in ("drafts", "refined", "fed"))
            asked = {"queries": at / "queries", "policy": before, "drafts": drafts}
            run("draft", settings["draft"], shard=name, **asked)
            run("refine", settings["refine"], drafts=drafts, refinements=refined)
            run("score", settings["score"], refinements=refined, feedback=fed)
            parts.append((name, str(fed)))
        steps.collect_feedback(parts, "params.yaml", str(at / "feedback"), number)
        run("pair", settings["pair"], feedback=at / "feedback", pairs=at / "raw")
        valid = {"valid": at / "pairs", "page": at / "page", "findings": at / "findings"}
        run("validate@pairs", settings["validate@pairs"], rows=at / "raw",
            against=at / "queries", **valid)  # fmt: skip
        now = Path(f"round-{number}")
        run("dpo", settings["dpo"], pairs=at / "pairs", policy=before, challenger=now, **given)
        before = now
        found.append(len(list(io.read(at / "pairs", PreferencePair))))
    return before, found


def test_the_steps_of_three_rounds_make_the_challenger_of_the_stage(project: Path) -> None:
    values = params(3)
    made, rows = in_steps(values, 2)
    assert min(rows) > 20
    # Each round drafts with the policy of the one before.
    drafted = [Path(f"round-{number}-files/drafts-0").read_bytes() for number in (2, 3)]
    assert drafted[0] != drafted[1]
    for number in (1, 2):
        assert file_digest(Path(f"round-{number}/adapter")) != file_digest(made / "adapter")
    # Both shards drafted.
    assert all(Path(f"round-2-files/drafts-{index}").stat().st_size for index in range(2))
    aligned = version.expect(made).aligned
    assert aligned is not None and aligned.rows[1:] == tuple(rows)
    assert file_digest(in_the_stage(values)) == file_digest(made)


def test_a_round_that_leaves_too_few_pairs_ends_them_for_all_later_steps(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = params(3, pairs={"kind": "pairs", "min_pairs": 500})
    made, rows = in_steps(values, 2)
    said = capsys.readouterr().err
    assert said.count("dpo.ask.pairs asks for 500: round 1 is the last") == 1
    assert rows[0] > 20 and rows[1] == 0
    assert Path("round-3-files/drafts-0").read_bytes() == b"", "nothing is drafted any more"
    assert not Path("round-3-files/drafts-1").exists(), "one step finds that the rounds are over"
    assert file_digest(made) == file_digest(Path("round-1"))
    assert file_digest(in_the_stage(values)) == file_digest(made)


def test_failed_rows_of_a_round_are_judged_where_its_shards_are_joined(project: Path) -> None:
    params(2, max_failed=1)
    first = next(io.read(Path("data/feedback.jsonl"), Feedback))
    row = first.model_copy(update={"failed": "solo: it is out of order"})
    for index in range(2):
        io.write(Path(f"part-{index}"), [row])
    parts = [(name, f"part-{index}") for index, name in enumerate(fanout.shards(2))]
    with pytest.raises(ContractError, match=r"2 of 2 rows failed, and dpo\.ask\.max_failed allows"):
        steps.collect_feedback(parts, "params.yaml", "joined", 2)
    params(2, max_failed=2)
    steps.collect_feedback(parts, "params.yaml", "joined", 2)
    assert Path("joined").read_bytes() == b"".join(Path(path).read_bytes() for _, path in parts)


def test_later_rounds_draft_as_the_first_or_the_settings_are_refused(project: Path) -> None:
    values = params(2)
    candidates = {"temperature": 0.5, "n": 2, "max_tokens": 8}
    prompts = tiny.turned() / "models" / "policy" / "version.json"
    having = json.loads(prompts.read_text())["prompts"]
    having["candidates"] = {"brief": {"user": "Briefly: {query}"}}
    values["sft"]["prompts"] = having
    values["draft"]["candidates"] = candidates
    with pytest.raises(ConfigError, match=r"draft\.candidates and dpo\.ask\.candidates differ"):
        parsed(values)
    values["dpo"]["ask"]["candidates"] = candidates
    drafting = rounds.settings(2, parsed(values))["draft"]
    assert isinstance(drafting, DraftConfig)
    assert drafting == parsed(values)["draft"]
    values["dpo"]["round"] = 1
    with pytest.raises(ConfigError, match=r"only the pipeline sets dpo\.round"):
        parsed(values)
