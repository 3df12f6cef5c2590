"""The same pairs, byte for byte, whatever the number of shards."""

import json
from pathlib import Path
from typing import Any

import pytest

from cowest import collaboration, config, fanout, io, steps, version
from cowest.config import Sampling
from cowest.domains.handbook import PROMPTS
from cowest.errors import ContractError
from cowest.lineage import Turn
from cowest.models.scripted import ScriptedConfig
from cowest.records import PreferencePair, Query
from tests import tiny
from tests.factories import make_query

pytestmark = pytest.mark.usefixtures("own_store")

SAMPLING = Sampling(temperature=1.0, n=3, max_tokens=12)
RULES = {
    "policy": [{"match": "", "replies": ["Notes: a", "Notes: b", "Notes: c", "Notes: d"]}],
    "strong": [
        {"match": "Notes: [ab]", "replies": ["Italy", "Spain"]},
        {"match": "product 7", "failed": "it is out of order"},
        {"match": "", "replies": ["no idea"]},
    ],
}


def settings(strong: dict[str, Any], prompts: Any, max_failed: int | None) -> dict[str, Any]:
    return {
        "draft": {"max_failed": 0},
        "refine": {"strong": strong, "prompts": prompts, "max_failed": max_failed},
        "score": {"scorer": {"scorer": "contains"}, "max_failed": max_failed},
        "pair": {"prompts": prompts, "rule": {"allow_cut": True}},
    }


def written(folder: Path, values: dict[str, Any]) -> Path:
    """The turn and the settings, as files of the run."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    turn = Turn(key="t", data={}, models={}, params="p", code="c", champion=None)
    io.write_document(folder / "turn.json", turn)
    return folder


def paired(folder: Path, drafts: list[Path], values: dict[str, Any]) -> bytes:
    """Refines and scores each part of the drafts as steps do, joins them, and makes pairs."""
    turn, parts = str(folder / "turn.json"), []
    for index, part in enumerate(drafts):
        refined, scored = folder / f"refined-{index}", folder / f"scored-{index}"
        steps.run(
            "refine", json.dumps(values["refine"]), turn=turn, drafts=part, refinements=refined
        )
        steps.run(
            "score", json.dumps(values["score"]), turn=turn, refinements=refined, feedback=scored
        )
        parts.append((f"{index}/{len(drafts)}", str(scored)))
    feedback, pairs = folder / "feedback.jsonl", folder / "pairs.jsonl"
    steps.collect_feedback(parts, str(folder / "params.yaml"), str(feedback))
    steps.run("pair", json.dumps(values["pair"]), turn=turn, feedback=feedback, pairs=pairs)
    return feedback.read_bytes() + pairs.read_bytes()


@pytest.fixture(autouse=True)
def no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COWEST_TURN", "")


def test_scripted_models_make_the_same_pairs_in_1_3_16_and_32_shards(tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    io.write(queries, (make_query(number, split="train") for number in range(600)))
    strong = {"provider": "scripted", "rules": RULES["strong"]}
    values = settings(strong, "handbook", None)
    policy = ScriptedConfig(rules=RULES["policy"])
    found, empty = {}, {}
    for number in (1, 3, 16, 32):
        folder = written(tmp_path / str(number), values)
        drafts = []
        for name in fanout.shards(number):
            part = folder / f"drafts-{len(drafts)}"
            of_shard = io.queries(queries, "train", fanout.shard_of(name))
            with policy.open() as model:
                rows = collaboration.draft(of_shard, model, PROMPTS, SAMPLING)
                io.write(part, rows)
            drafts.append(part)
        empty[number] = sum(part.stat().st_size == 0 for part in drafts)
        found[number] = paired(folder, drafts, values)
    assert b"out of order" in found[1], "some rows fail"
    assert len(list(io.read(tmp_path / "1" / "pairs.jsonl", PreferencePair))) > 100
    # 600 queries are 19 blocks, so that of 32 shards some have none.
    assert empty == {1: 0, 3: 0, 16: 0, 32: 13}
    for number, content in found.items():
        assert content == found[1], f"{number} shards"


def test_a_local_model_makes_the_same_pairs_in_1_and_3_shards(tmp_path: Path) -> None:
    folder = tiny.turned()
    params = config.load(folder / "params.yaml")
    queries = tmp_path / "queries.jsonl"
    known = next(io.read(folder / "data" / "queries.jsonl", Query))
    rows = []
    for number in range(100):
        text = f"In which plant is product {number} made, and what is its core of?"
        prompt = (known.prompt[-1].model_copy(update={"content": text}),)
        rows.append(make_query(number, split="train", prompt=prompt, targets=known.targets))
    io.write(queries, rows)
    values = settings(params["refine"]["strong"], "handbook", 0)
    found = {}
    for number in (1, 3):
        here = written(tmp_path / str(number), values)
        # A store of its own: what one run has answered is no answer of the other.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COWEST_STORE", str(here / "calls.sqlite"))
            drafts = []
            for name in fanout.shards(number):
                part = here / f"drafts-{len(drafts)}"
                steps.run(
                    "draft",
                    json.dumps(params["draft"]),
                    turn=str(here / "turn.json"),
                    shard=name,
                    queries=queries,
                    policy=folder / "models" / "policy",
                    drafts=part,
                )
                drafts.append(part)
            found[number] = paired(here, drafts, values)
    assert found[1] == found[3]
    assert len(found[1]) > 10_000
    assert version.expect(folder / "models" / "policy")


def test_a_shard_passes_its_failed_rows_on_and_the_turn_is_judged(tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    io.write(queries, (make_query(number, split="train") for number in range(64)))
    strong = {"provider": "scripted", "rules": RULES["strong"]}
    values = settings(strong, "handbook", 5)
    folder = written(tmp_path / "run", values)
    with ScriptedConfig(rules=RULES["policy"]).open() as model:
        for index in range(2):
            rows = collaboration.draft(
                io.queries(queries, "train", (index, 2)), model, PROMPTS, SAMPLING
            )
            io.write(folder / f"drafts-{index}", rows)
    # Product 7 fails in the first shard, and in the second none: 3 rows of `solo`.
    paired(folder, [folder / "drafts-0", folder / "drafts-1"], values)
    values["refine"]["max_failed"] = 2
    written(folder, values)
    with pytest.raises(ContractError, match=r"refine\.max_failed allows 2"):
        paired(folder, [folder / "drafts-0", folder / "drafts-1"], values)
