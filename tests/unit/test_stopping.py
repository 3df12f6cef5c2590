"""Feedback until the pairs are made: the pairs of asking about all drafts, for fewer calls."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest import collaboration, io, preferences, stopping
from cowest.batched import batched
from cowest.config import Sampling, parse
from cowest.domains import domain
from cowest.errors import ConfigError
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.preferences import PairRule
from cowest.protocols import BLOCK, Completion, Request, Score
from cowest.records import NOBODY, Draft, Feedback, PreferencePair, Query, Refinement, grown
from cowest.scorers.contains import ContainsConfig
from cowest.selecting import QueryDrafts, Waves, whole
from cowest.stages import refine, score
from tests.factories import make_query

PROMPTS = domain("handbook").prompts
RULE = PairRule(per_query=2, keep="early")
SAMPLING = Sampling()


class Dice:
    """A strong model and its scorer, whose scores and failures come from a seed and the texts."""

    name = "dice"

    def __init__(self, seed: int, failing: float = 0.0) -> None:
        self._seed, self._failing = seed, failing
        self.asked: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            text = " ".join(message.content for message in request.messages)
            dice = random.Random(f"{self._seed} {text}")
            if dice.random() < self._failing:
                yield Completion(None, self.name, "failed", "down")
            else:
                yield Completion(f"worth {dice.choice([0, 0, 0.5, 1])}", self.name)

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        for _, text in answers:
            yield Score(float(text.removeprefix("worth ")) if text.startswith("worth") else 0.0)


def drafts_of(number: int, texts: Iterable[str], **fields: Any) -> list[Draft]:
    query = make_query(number, split="train")
    rows = []
    for sample, text in enumerate(texts):
        rows.append(grown(Draft, query, sample=sample, draft=text, policy="p", **fields))
    return rows


def pairs_of(rows: Iterable[Refinement], scorer: Dice, rule: PairRule) -> list[PreferencePair]:
    found: list[PreferencePair] = []
    for group in collaboration.by_query(collaboration.score(collaboration.by_query(rows), scorer)):
        found += preferences.pairs(group, rule, PROMPTS.draft)
    return found


def calls_of(rows: Iterable[Refinement]) -> int:
    return sum(collaboration.calls_of(group)[0] for group in collaboration.by_query(rows))


THOUGHTS = (
    "<think>x</think>a",
    "<think>x</think>analysisFoo bar",
    "</think>analysisHello",
    "<|channel|>final<|message|>Use <think>x</think>y",
)
"""What is left of the last three looks like a thought again."""
TEXTS = st.lists(st.sampled_from(["a", "b", "b ", "c", "d", "", "e", *THOUGHTS]), max_size=8)
RULES = st.builds(
    PairRule,
    rule=st.sampled_from(["all", "sign"]),
    per_query=st.integers(1, 4),
    keep=st.just("early"),
    thoughts=st.sampled_from(["drop", "keep"]),
)


@given(st.lists(TEXTS, min_size=1, max_size=5), RULES, st.integers(0, 9), st.sampled_from([0, 0.3]))
def test_the_pairs_are_those_of_asking_about_all_drafts(
    texts: list[list[str]], rule: PairRule, seed: int, failing: float
) -> None:
    if failing:
        # A draft that differs in spacing alone stands in for one whose call failed, and is not
        # asked about here.
        texts = [[text for text in some if text != "b "] for some in texts]
    groups = [drafts_of(number, some) for number, some in enumerate(texts) if some]
    whole, part = Dice(seed, failing), Dice(seed, failing)
    of_all = list(collaboration.refine(groups, whole, PROMPTS, SAMPLING))
    found = list(stopping.refine(groups, part, part, PROMPTS, SAMPLING, 1.0, rule))
    assert pairs_of(found, part, rule) == pairs_of(of_all, whole, rule)
    assert [(row.id, row.sample, row.draft) for row in found] == [
        (row.id, row.sample, row.draft) for row in of_all
    ]
    for row, other in zip(found, of_all, strict=True):
        assert row.strong == NOBODY or row == other
    asked = [request.messages for request in part.asked]
    assert len(asked) == len(set(asked)) == calls_of(found) <= len(whole.asked)


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_no_block_makes_more_calls_than_its_share_and_what_was_begun_is_ended(share: float) -> None:
    groups = []
    for number in range(3 * BLOCK + 5):
        groups.append(drafts_of(number, [f"{number} {n}" for n in range(number % 7 + 1)]))
    dice = Dice(1)
    of_all = pairs_of(collaboration.refine(groups, dice, PROMPTS, SAMPLING), dice, RULE)
    found = list(stopping.refine(groups, dice, dice, PROMPTS, SAMPLING, share, RULE))
    saved = 0.0
    for block in batched(collaboration.by_query(found), BLOCK):
        asked, all_of_it = zip(*map(collaboration.calls_of, block), strict=True)
        assert sum(asked) <= share * sum(all_of_it)
        saved += sum(all_of_it) * share - sum(asked)
    begun = {row.id for row in found if row.strong != NOBODY}
    made = pairs_of(found, dice, RULE)
    assert made == [pair for pair in of_all if pair.query in begun]
    assert len(made) > 0.9 * share * len(of_all), "what a query does not need, another gets"
    assert saved < 0.1 * sum(map(len, groups)) or share == 1


def test_what_a_query_does_not_need_is_there_for_those_that_wait() -> None:
    block = [QueryDrafts(make_query(n, split="train"), "abcd") for n in range(3)]
    waves = Waves(11 / whole(block), block, [list("abcd")] * 3)
    assert waves.ask_more([False] * 3)
    first, second = (n for n in range(3) if waves.chosen[n])
    (waiting,) = (n for n in range(3) if not waves.chosen[n])
    settled = [False] * 3
    settled[first] = settled[second] = True
    assert waves.ask_more(settled), "two calls each are free, and one was left: five for the third"
    assert waves.chosen[waiting] == ["a", "b"] and waves.chosen[first] == ["a", "b"]
    assert waves.ask_more(settled) and waves.ask_more(settled)
    assert waves.chosen[waiting] == list("abcd") and not waves.ask_more(settled)


def test_no_draft_is_asked_about_that_no_pair_is_made_of() -> None:
    cut = [grown(Draft, row, cut=True) for row in drafts_of(0, ["a"])]
    groups = [[*cut, *drafts_of(0, ["b", " b", ""])], drafts_of(1, ["c", "d"])]
    dice = Dice(0)
    rows = list(stopping.refine(groups, dice, dice, PROMPTS, SAMPLING, 1.0, RULE))
    assert len(dice.asked) == 3 and {row.id for row in rows if row.strong != NOBODY} == {
        groups[1][0].id
    }


def test_a_query_without_an_answer_alone_is_asked_nothing_more() -> None:
    dice = Dice(0, failing=1.0)
    rows = drafts_of(0, "abcdef")
    found = list(stopping.refine([rows], dice, dice, PROMPTS, SAMPLING, 1.0, RULE))
    assert len(dice.asked) == 3
    assert [row.failed is not None for row in found] == [True, True, False, False, False, False]


RULED = {"per_query": 2, "keep": "early"}
STRONG = ScriptedConfig(
    rules=(ScriptRule(match="fact", replies=("Italy",)), ScriptRule(match="", replies=("no",)))
)


def settings(**stop: Any) -> refine.RefineConfig:
    values = {
        "strong": STRONG.model_dump(mode="json"),
        "prompts": "handbook",
        "select": {"share": 1, "stop": {"scorer": {"scorer": "contains"}, "rule": RULED} | stop},
    }
    return parse(refine.RefineConfig, values, "refine")


def test_the_stage_makes_the_same_rows_in_any_number_of_shards_and_says_its_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Draft] = []
    for number in range(100):
        texts = [f"guess {n}" for n in range(6)]
        texts[number % 6] = "a fact"
        rows += drafts_of(number, texts)
    io.write(tmp_path / "drafts.jsonl", rows)
    found = {}
    for shards in (1, 3):
        found[shards] = b""
        for index in range(shards):
            out = tmp_path / "out.jsonl"
            refine.main([tmp_path / "drafts.jsonl"], out, settings(), (index, shards))
            found[shards] += out.read_bytes()
    assert found[1] == found[3]
    # The draft that helps makes a pair with each of the others, and two are wanted: the third call
    # about a draft, or one more than its place.
    calls = sum(1 + max(number % 6 + 1, 3) for number in range(100))
    assert f"refine: {calls} of 700 calls, as `select.stop` has it" in capsys.readouterr().err
    (tmp_path / "all.jsonl").write_bytes(found[1])
    score.main(
        [tmp_path / "all.jsonl"],
        tmp_path / "feedback.jsonl",
        score.ScoreConfig(scorer=ContainsConfig()),
    )
    pairs = 0
    for group in io.groups(tmp_path / "feedback.jsonl", Feedback):
        pairs += len(preferences.pairs(group, RULE, PROMPTS.draft))
    assert pairs == 200


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"per_query": 2}, "keep: early"),
        ({"per_query": None, "keep": "early"}, "a `per_query`"),
        ({**RULED, "rule": "best_worst"}, "compares all drafts"),
    ],
)
def test_a_rule_that_can_not_stop_is_refused(rule: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        settings(rule=rule)


@pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True)])
def test_two_words_on_drafts_that_were_cut_are_refused(ours: bool, theirs: bool) -> None:
    """Left out, `allow_cut` is that of the rule."""
    values = settings(rule={**RULED, "allow_cut": theirs}).model_dump(mode="json")
    values["select"]["allow_cut"] = theirs
    parse(refine.RefineConfig, values, "refine")
    values["select"]["allow_cut"] = ours
    with pytest.raises(ConfigError, match=r"allow_cut: with `stop`, stop\.rule\.allow_cut says"):
        parse(refine.RefineConfig, values, "refine")


def test_a_batch_is_not_waited_for() -> None:
    strong = {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1", "batch": {}}
    values = settings().model_dump(mode="json") | {"strong": strong}
    with pytest.raises(ConfigError, match="a batch takes hours"):
        parse(refine.RefineConfig, values, "refine")
