"""Candidates from several prompts: what they change where they are asked for, and that nothing
changes where they are not.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cowest import collaboration, config, io, preferences, version
from cowest.aligning import rounds
from cowest.aligning.settings import DPOConfig
from cowest.config import Sampling, digest, parse
from cowest.domains import domain
from cowest.errors import ConfigError
from cowest.forecast import forecast
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.preflight import agree
from cowest.prompts import Prompts, Template
from cowest.protocols import Completion, Request
from cowest.records import Draft, Feedback, PreferencePair
from cowest.report import contents
from cowest.stages import draft, pair, sft
from tests import tiny
from tests.factories import make_feedback, make_query
from tests.lines import ROOT

OLD = Prompts(refine=Template(user="Notes: {draft}\nQ: {query}"), solo=Template(user="Q: {query}"))
NEW = OLD.model_copy(
    update={
        "candidates": {
            "made": Template(user="Where is the {group} made?"),
            "brief": Template(user="Briefly: {query}"),
        }
    }
)
WARM = Sampling(temperature=1.0, n=3, max_tokens=20)
GREEDY = Sampling(max_tokens=7)


class Watched:
    """A policy that notes what it was asked."""

    name = "watched"

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            yield Completion(f"{request.messages[-1].content} {request.sample}", self.name)


def drafts(prompts: Prompts, candidates: Sampling | None) -> tuple[list[Draft], list[Request]]:
    policy = Watched()
    queries = [make_query(text="Whose?", group="Comet pump"), make_query(text="Why?", group="fan")]
    rows = list(collaboration.draft(queries, policy, prompts, WARM, candidates))
    return rows, policy.asked


def test_each_prompt_is_asked_and_its_drafts_name_it() -> None:
    rows, asked = drafts(NEW, GREEDY)
    assert [row.candidate for row in rows] == [None, None, None, "made", "brief"] * 2
    assert [row.sample for row in rows] == [0, 1, 2, 3, 4] * 2
    assert [row.draft for row in rows[:5]] == [
        "Whose? 0",
        "Whose? 1",
        "Whose? 2",
        "Where is the Comet pump made? 0",
        "Briefly: Whose? 0",
    ]
    assert [row.draft for row in rows[8:]] == ["Where is the fan made? 0", "Briefly: Why? 0"]
    assert {request.sampling for request in asked[3:5]} == {GREEDY}
    assert {request.block for request in asked} == {0}


def test_several_drafts_of_a_prompt_are_several_samples_of_one_call() -> None:
    rows, asked = drafts(NEW, WARM.model_copy(update={"n": 2}))
    assert [row.candidate for row in rows[3:7]] == ["made", "made", "brief", "brief"]
    assert [request.sample for request in asked[:7]] == [0, 1, 2, 0, 1, 0, 1]
    assert len({request.key("m") for request in asked[:7]}) == 7


def test_without_the_setting_calls_rows_and_digests_are_what_they_were() -> None:
    before, asked_before = drafts(OLD, None)
    after, asked = drafts(NEW, None)
    assert before == after
    assert [one.key("m") for one in asked] == [one.key("m") for one in asked_before]
    assert "candidate" not in before[0].model_dump_json()
    assert drafts(OLD, GREEDY)[0] == before, "prompts without candidates ask for none"
    # As an earlier CoWest had them: versions, turns and call stores hold these.
    prompts = domain("handbook").prompts
    assert digest(prompts) == "3db801f3f38327cdaddd1f214f8c8a44ad00fa191de3f5ea654abf621df748f8"
    settings = draft.DraftConfig.model_validate({"policy": {"provider": "hf", "model": "m"}})
    assert digest(settings) == "f909c50497e22d90e503243190773216e531720ba3a9c5481300e7440217ded5"


def test_the_digest_of_a_version_is_of_what_it_serves() -> None:
    def of(prompts: Prompts) -> version.Version:
        return version.Version(base="b", adapter="a", prompts=prompts, trained="t")

    assert of(OLD).digest == of(NEW).digest
    assert of(NEW).prompts.candidates and digest(of(OLD).prompts) != digest(of(NEW).prompts)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"candidates": {"x": {"user": "{query} {draft}"}}}, "x: user has a {draft}"),
        ({"candidates": {" ": {"user": "{query}"}}}, "a prompt has an empty name"),
        ({"candidates": {"x": {"user": "Say it."}}}, "has no {query}"),
        ({"draft": {"user": "Where is {group}?"}}, "has no {group}"),
        ({"solo": {"user": "{group}"}}, "user has no {query}"),
    ],
)
def test_prompts_that_can_not_be_asked_are_refused(changed: dict[str, Any], said: str) -> None:
    values = OLD.model_dump(mode="json") | changed
    with pytest.raises(ConfigError) as raised:
        parse(Prompts, values, "sft: prompts")
    assert said in str(raised.value)


def test_a_group_is_only_put_into_prompts_of_candidates() -> None:
    template = Template(user="{group}: {query}")
    prompt = make_query(text="Is {group} in it?").prompt
    assert template.render(prompt)[-1].content == "{group}: Is {group} in it?"
    assert template.render(prompt, group="{query}")[-1].content == "{query}: Is {group} in it?"


def test_candidates_without_prompts_for_them_are_refused_before_the_turn() -> None:
    trained = parse(sft.SFTConfig, config.load(ROOT / "params.yaml")["sft"], "sft")
    drafting = parse(draft.DraftConfig, {"policy": policy(), "candidates": {}}, "draft")
    with pytest.raises(ConfigError, match=r"^params.yaml: `candidates` asks for drafts by more"):
        agree({"draft": drafting, "sft": trained}, "params.yaml")
    having = trained.model_copy(update={"prompts": NEW})
    agree({"draft": drafting, "sft": having}, "params.yaml")


def test_the_forecast_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    tiny.make_raw(tmp_path / "raw")
    params = config.load(ROOT / "params.yaml")
    strong = {"provider": "openai", "model": "big", "price": {"prompt": 1.0, "completion": 10.0}}
    params["refine"]["strong"] = strong
    before = dict(forecast(params, tmp_path / "raw"))["refine"]
    handbook = domain("handbook").prompts
    prompts = handbook.model_copy(update={"candidates": NEW.candidates}).model_dump(mode="json")
    params["sft"]["prompts"] = prompts
    params["draft"]["candidates"] = {"temperature": 0.5, "n": 2, "max_tokens": 20}
    after = dict(forecast(params, tmp_path / "raw"))["refine"]
    train = sum(query.split == "train" for query in domain("handbook").load(tmp_path / "raw"))
    assert after.calls - before.calls == train * 2 * 2
    params["sft"]["prompts"] = "handbook"
    with pytest.raises(ConfigError, match="`candidates` asks for drafts by more prompts"):
        forecast(params, tmp_path / "raw")


def scored(*rows: tuple[str, float, str | None]) -> list[Feedback]:
    found = []
    for sample, (text, score, name) in enumerate(rows):
        found.append(
            make_feedback(1, sample=sample, draft=text, score=score, solo_score=0.0, candidate=name)
        )
    return found


GROUP = scored(("guess", 0, None), ("a fact", 1, "made"), ("another fact", 0, "brief"))


def test_pairs_are_of_the_policys_own_prompt_and_say_where_their_drafts_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    io.write(tmp_path / "feedback.jsonl", GROUP)
    pair.main(
        [tmp_path / "feedback.jsonl"],
        tmp_path / "pairs.jsonl",
        pair.PairConfig(prompts=NEW),
    )
    pairs = list(io.read(tmp_path / "pairs.jsonl", PreferencePair))
    assert {one.chosen[0].content for one in pairs} == {"a fact"}
    assert {one.prompt for one in pairs} == {GROUP[0].prompt}
    assert {one.candidates for one in pairs} == {("made", None), ("made", "brief")}
    said = capsys.readouterr().err
    assert "of the chosen drafts, 0 are by the policy's own prompt, 2 by made" in said
    own = preferences.pairs(
        scored(("x", 0, None), ("y", 1, None)), preferences.PairRule(), NEW.draft
    )
    assert own[0].candidates == (None, None) and "candidates" not in own[0].model_dump_json()


def test_gains_are_compared_over_turns_without_candidates() -> None:
    own = [row for row in GROUP if row.candidate is None]
    assert preferences.spread([GROUP]) == preferences.spread([own])


def test_the_report_counts_them(tmp_path: Path) -> None:
    io.write(tmp_path / "feedback.jsonl", GROUP)
    found = contents.gains(tmp_path / "feedback.jsonl")
    assert (found.drafts, found.candidates) == (3, 2)


def policy() -> dict[str, Any]:
    return {"provider": "hf", "model": str(tiny.model()), "dtype": "float32"}


def test_the_stage_asks_them_of_a_version_and_the_loop_goes_on(tmp_path: Path) -> None:
    """On the tiny model: drafts by all prompts, which the strong model refines alike."""
    folder = tmp_path / "policy"
    folder.mkdir()
    tiny.make_adapter(folder / "adapter")
    version.write(folder, base="tiny", prompts=NEW, trained="t")
    queries = [
        make_query(number, split="train", group=f"product {number}", targets=("Oslo",))
        for number in range(3)
    ]
    io.write(tmp_path / "queries.jsonl", queries)
    settings = {"policy": policy(), "sampling": {"temperature": 0.9, "n": 2, "max_tokens": 4}}
    for name, more in (("own", {}), ("all", {"candidates": {"max_tokens": 6}})):
        draft.main(
            tmp_path / "queries.jsonl",
            folder,
            tmp_path / f"{name}.jsonl",
            parse(draft.DraftConfig, settings | more, "draft"),
        )
    own = list(io.read(tmp_path / "own.jsonl", Draft))
    rows = list(io.read(tmp_path / "all.jsonl", Draft))
    assert [row for row in rows if row.candidate is None] == own
    assert [row.candidate for row in rows] == [None, None, "made", "brief"] * 3
    assert all(b'"candidate"' not in line for line in io.lines(tmp_path / "own.jsonl"))
    strong = ScriptedConfig(rules=(ScriptRule(match="", replies=("Rome",)),))
    assert json.loads((folder / "version.json").read_text())["prompts"]["candidates"]["made"]
    with strong.open() as model:
        refined = list(
            collaboration.refine(io.groups(tmp_path / "all.jsonl", Draft), model, NEW, GREEDY)
        )
    assert [row.candidate for row in refined] == [row.candidate for row in rows]


def test_the_stage_refuses_a_version_without_prompts_for_them(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    tiny.make_adapter(folder / "adapter")
    version.write(folder, base="tiny", prompts=OLD, trained="t")
    io.write(tmp_path / "queries.jsonl", [make_query(1, split="train")])
    settings = parse(draft.DraftConfig, {"policy": policy(), "candidates": {}}, "draft")
    with pytest.raises(ConfigError, match="write them under `candidates` in the prompts of sft"):
        draft.main(tmp_path / "queries.jsonl", folder, tmp_path / "drafts.jsonl", settings)
    assert not (tmp_path / "drafts.jsonl").exists()


def test_a_later_round_asks_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    adapter = tiny.make_adapter(tmp_path / "adapter")
    rows = []
    for number in range(12):
        made = {"split": "train", "group": f"product {number}", "targets": ("Oslo",)}
        rows.append(make_feedback(number, sample=0, score=1.0, solo_score=0.0, **made))
    io.write(tmp_path / "feedback.jsonl", rows)
    helped = {"match": r"Notes: \W*[A-Ma-m]", "replies": ["Oslo"]}
    ask = {
        "strong": {
            "provider": "scripted",
            "rules": [helped, {"match": "", "replies": ["no idea"]}],
        },
        "scorer": {"scorer": "contains", "rule": 2},
        "drafting": {"temperature": 1.0, "n": 2, "max_tokens": 6},
        "candidates": {"temperature": 1.0, "n": 2, "max_tokens": 6},
        "rule": {"allow_cut": True},
    }
    training = {"learning_rate": 0.1}
    values = {"policy": {"model": str(tiny.model())}, "training": training, "rounds": 2}
    given = (2, tmp_path / "feedback.jsonl", adapter)
    found = {}
    for name in ("all", "own"):
        settings = parse(DPOConfig, {**values, "ask": ask}, "dpo")
        rounds.next_pairs(*given, NEW, settings, tmp_path / f"{name}.jsonl")
        pairs = io.read(tmp_path / f"{name}.jsonl", PreferencePair)
        found[name] = {one for pair in pairs for one in pair.candidates}
        ask = {key: value for key, value in ask.items() if key != "candidates"}
    assert found == {"all": {None, "made", "brief"}, "own": {None}}
    refused = {"align": "grpo", "rounds": 1, "ask": {**ask, "candidates": {}}}
    with pytest.raises(ConfigError, match=r"ask\.candidates: `align: grpo` drafts by"):
        parse(DPOConfig, values | refused, "dpo")
