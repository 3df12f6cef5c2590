"""Feedback for fewer calls: what is asked first, never more than the share, the same in shards."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest import collaboration, config, io, preferences, version
from cowest.config import Sampling, digest, parse
from cowest.domains import domain
from cowest.errors import ConfigError
from cowest.forecast import forecast
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.preferences import PairRule
from cowest.records import NOBODY, Draft, Feedback, Refinement, grown
from cowest.report import contents
from cowest.scorers.contains import ContainsConfig
from cowest.selecting import QueryDrafts, Select, whole
from cowest.stages import refine, score, validate
from tests import tiny
from tests.factories import make_query
from tests.lines import ROOT

PROMPTS = domain("handbook").prompts
STRONG = ScriptedConfig(
    rules=(ScriptRule(match="fact", replies=("Italy",)), ScriptRule(match="", replies=("no",)))
)


def drafted(number: int, *drafts: str) -> QueryDrafts:
    return QueryDrafts(make_query(number, split="train"), drafts)


def drafts_of(number: int, *texts: str) -> list[Draft]:
    query = make_query(number, split="train")
    return [
        grown(Draft, query, sample=sample, draft=text, policy="p")
        for sample, text in enumerate(texts)
    ]


def many(queries: int) -> list[Draft]:
    """Drafts of so many queries, one to five different ones each."""
    rows: list[Draft] = []
    for number in range(queries):
        count = number * 7 % 5 + 1
        texts = [f"a fact {number}", *(f"guess {n}" for n in range(count - 1))]
        rows += drafts_of(number, *texts, texts[0])
    return rows


def test_three_drafts_come_first_and_what_can_make_no_pair_never() -> None:
    block = [
        drafted(0, "a", "b"),
        drafted(1, "a", "b", "c", "d"),
        drafted(2, "a"),
        drafted(3, "a", "b", "c"),
        drafted(4),
    ]
    assert whole(block) == 3 + 5 + 2 + 4 + 1

    def chosen(calls: int) -> list[int]:
        found = Select(share=(calls + 0.01) / 15).choice(block)
        return [number for number, texts in enumerate(found) if texts]

    assert [chosen(calls) for calls in (2, 3, 4, 7, 9, 12)] == [
        [],
        [0],
        [3],
        [0, 3],
        [1, 3],
        [0, 1, 3],
    ]
    assert Select(share=1).choice(block)[1:4] == [["a", "b", "c", "d"], [], ["a", "b", "c"]]


def test_drafts_that_say_the_same_are_one_call() -> None:
    block = [drafted(0, "It is made in Oslo.", "it is made in Oslo", "It is made in Rome.")]
    assert Select(share=1).choice(block) == [["It is made in Oslo.", "It is made in Rome."]]
    assert Select(share=1).choice([drafted(0, "The yes!", "yes")]) == [[]]


def test_a_draft_that_no_pair_is_made_of_is_not_asked_about(tmp_path: Path) -> None:
    """Cut at its limit, or empty; a text that came whole once is of use."""
    rows = drafts_of(0, "a fact", "guess", "another one", "", "guess")
    cut = [grown(Draft, row, cut=row.sample in (1, 2)) for row in rows]

    def asked(**more: Any) -> list[str]:
        refined(cut, tmp_path, "out", 1, select={"share": 1, **more})
        found = io.read(tmp_path / "out.jsonl", Refinement)
        return sorted({row.draft or "" for row in found if row.strong != NOBODY})

    assert asked() == ["a fact", "guess"]
    assert asked(allow_cut=True) == ["a fact", "another one", "guess"]
    block = [QueryDrafts(rows[0], ["a", "b", "c"], frozenset("bc"))]
    assert Select(share=1).choice(block) == [[]], "one draft makes no pair"
    assert "allow_cut" not in Select().model_dump()


TEXTS = st.lists(st.sampled_from("abcdefgh"), max_size=6, unique=True)


@given(st.lists(TEXTS, min_size=1, max_size=32), st.floats(0.01, 1))
def test_no_more_is_asked_than_the_share_and_than_was_foreseen(
    texts: list[list[str]], share: float
) -> None:
    """The forecast takes every query for one with six drafts."""
    select = Select(share=share)
    block = [drafted(number, *some) for number, some in enumerate(texts)]
    longest = [drafted(number, *"abcdef") for number in range(len(texts))]
    chosen = sum(1 + len(some) for some in select.choice(block) if some)
    foreseen = sum(1 + len(some) for some in select.most(longest) if some)
    assert chosen <= share * whole(block)
    assert chosen <= foreseen <= share * whole(longest) + 1


def refined(rows: list[Draft], folder: Path, name: str, shards: int, **more: Any) -> bytes:
    """The refinements of drafts in so many shards, joined."""
    io.write(folder / "drafts.jsonl", rows)
    values = {"strong": STRONG.model_dump(mode="json"), "prompts": "handbook", **more}
    settings = parse(refine.RefineConfig, values, "refine")
    found = b""
    for index in range(shards):
        out = folder / f"{name}.jsonl"
        refine.main([folder / "drafts.jsonl"], out, settings, (index, shards))
        found += out.read_bytes()
    return found


def test_any_number_of_shards_chooses_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = many(200)
    one = refined(rows, tmp_path, "one", 1, select={"share": 0.4})
    said = capsys.readouterr().err
    for shards in (3, 16):
        assert refined(rows, tmp_path, f"{shards}", shards, select={"share": 0.4}) == one
    assert one != refined(rows, tmp_path, "all", 1)
    found = [Refinement.model_validate_json(line) for line in one.splitlines()]
    calls, of = 0, 0
    for group in collaboration.by_query(found):
        asked, all_of_it = collaboration.calls_of(group)
        calls, of = calls + asked, of + all_of_it
    assert of == sum(number * 7 % 5 + 2 for number in range(200)) and 0.35 * of < calls < 0.4 * of
    assert f"refine: {calls} of {of} calls, as `select.share: 0.4` has it; " in said


def test_rows_say_that_nobody_was_asked_and_make_no_pair(tmp_path: Path) -> None:
    """A draft that only repeats another's words otherwise is not asked about in an asked query."""
    rows = [
        *drafts_of(0, "a fact", "A fact!", "guess", "another"),
        *drafts_of(1, "alone", "alone"),
        *drafts_of(2, "a fact", "guess"),
    ]
    refined(rows, tmp_path, "some", 1, select={"share": 0.5})
    scoring = score.ScoreConfig(scorer=ContainsConfig())
    score.main([tmp_path / "some.jsonl"], tmp_path / "feedback.jsonl", scoring)
    found = list(io.read(tmp_path / "feedback.jsonl", Feedback))
    assert [row.strong != NOBODY for row in found] == [1, 0, 1, 1, 0, 0, 0, 0]
    assert [row.gain for row in found] == [1, None, 0, 0, None, None, None, None]
    assert all(row.failed is None and row.draft_score == 0 for row in found)
    pairs = []
    for group in io.groups(tmp_path / "feedback.jsonl", Feedback):
        pairs += preferences.pairs(group, PairRule(), PROMPTS.draft)
    assert {pair.rejected[0].content for pair in pairs} == {"guess", "another"}
    gains = contents.gains(tmp_path / "feedback.jsonl")
    assert (gains.calls, gains.whole, gains.unasked, gains.passed_over) == (4, 10, 5, 2)
    assert (gains.drafts, gains.failed) == (3, 0)


def test_the_contract_of_feedback_takes_such_rows(tmp_path: Path) -> None:
    refined(many(40), tmp_path, "some", 1, select={"share": 0.5})
    scoring = score.ScoreConfig(scorer=ContainsConfig())
    score.main([tmp_path / "some.jsonl"], tmp_path / "feedback.jsonl", scoring)
    version.write_none(tmp_path / "champion")
    judging = parse(validate.ValidateConfig, {"kind": "feedback"}, "validate")
    validate.main(
        [tmp_path / "feedback.jsonl"],
        tmp_path / "champion",
        tmp_path / "valid.jsonl",
        tmp_path / "page.html",
        judging,
    )
    assert (tmp_path / "valid.jsonl").read_bytes() == (tmp_path / "feedback.jsonl").read_bytes()
    assert "drafts that no strong model was asked about" in (tmp_path / "page.html").read_text()


def test_the_forecast_is_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    tiny.make_raw(tmp_path / "raw")
    params = config.load(ROOT / "params.yaml")
    params["refine"]["strong"] = {"provider": "openai", "model": "big"}
    before = dict(forecast(params, tmp_path / "raw"))["refine"]
    params["refine"]["select"] = {"share": 0.25}
    after = dict(forecast(params, tmp_path / "raw"))["refine"]
    assert 0.2 * before.calls < after.calls <= 0.25 * before.calls + 2
    assert 0.2 * before.tokens < after.tokens < 0.35 * before.tokens


def test_without_it_nothing_changes_and_only_pairs_are_chosen_for() -> None:
    values = {"strong": STRONG.model_dump(mode="json"), "prompts": "handbook"}
    plain = parse(refine.RefineConfig, values, "refine")
    assert "select" not in json.dumps(plain.model_dump(mode="json"))
    assert digest(plain) == "602b082abafa366bc5897d834972e17fe76d8c190f19e95f5bccccad884c6444"
    for align in ("kto", "self", "grpo"):
        with pytest.raises(ConfigError, match=f"select: it saves calls .* `align: {align}`"):
            parse(refine.RefineConfig, {**values, "align": align, "select": {}}, "refine")


def test_a_query_that_is_not_asked_is_not_asked_alone() -> None:
    asked: list[str] = []

    class Watched:
        name = "watched"

        def generate(self, requests: Any) -> Any:
            with STRONG.open() as model:
                for request in requests:
                    asked.append(request.messages[-1].content)
                    yield from model.generate([request])

    groups = [drafts_of(0, "a", "b", "c"), drafts_of(1, "a"), drafts_of(2, "a", "b")]
    choice = Select(share=0.5).choice
    found = list(collaboration.refine(groups, Watched(), PROMPTS, Sampling(), choice))
    assert len(asked) == 4 and len(found) == 6
    assert {row.strong == NOBODY for row in found[3:]} == {True}
