"""Feedback becomes pairs: a tie is none, a failure is none, and the rules mean what they say."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cowest import io
from cowest.domains import domain
from cowest.preferences import Agreement, PairRule, pairs
from cowest.prompts import Template
from cowest.records import Feedback, PreferencePair, grown
from cowest.stages import pair
from tests.factories import make_feedback

TEMPLATE = Template(user="Q: {query}")
ALL = PairRule(per_query=None)


def rows(*scores: float, solo: float = 0.0) -> list[Feedback]:
    return [
        make_feedback(sample=n, draft=f"draft {n}", score=score, solo_score=solo)
        for n, score in enumerate(scores)
    ]


def texts(found: list[PreferencePair]) -> set[tuple[str, str]]:
    return {(pair.chosen[0].content, pair.rejected[0].content) for pair in found}


def test_every_two_drafts_of_which_one_helped_more() -> None:
    assert texts(pairs(rows(1.0, 0.0, 0.5), ALL, TEMPLATE)) == {
        ("draft 0", "draft 1"),
        ("draft 0", "draft 2"),
        ("draft 2", "draft 1"),
    }


def test_best_against_worst() -> None:
    assert texts(pairs(rows(0.5, 1.0, 0.0), PairRule(rule="best_worst"), TEMPLATE)) == {
        ("draft 1", "draft 2")
    }


def test_the_papers_sign_rule() -> None:
    found = pairs(
        rows(1.0, 0.8, 0.5, 0.0, solo=0.5), PairRule(rule="sign", per_query=None), TEMPLATE
    )
    assert texts(found) == {(f"draft {good}", f"draft {bad}") for good in (0, 1) for bad in (2, 3)}


def test_whether_the_drafts_own_scores_would_have_done() -> None:
    scores = [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 1.0)]
    found = Agreement()
    for query in range(2):
        found.add(
            [
                make_feedback(query, sample=n, draft=f"{n}", score=s, draft_score=own)
                for n, (s, own) in enumerate(scores)
            ]
        )
    found.add(
        [
            make_feedback(2, sample=n, draft="the same", score=float(n), draft_score=0.0)
            for n in range(2)
        ]
    )
    assert (found.compared, found.told) == (20, 12)
    assert (found.same, found.other, found.alone) == (4, 2, 6)


def test_own_scores_that_decide_what_feedback_decides_would_have_done() -> None:
    agreeing = Agreement()
    agreeing.add(
        [
            make_feedback(sample=n, draft=f"{n}", score=score, draft_score=score)
            for n, score in enumerate((1.0, 1.0, 0.0, 0.0))
        ]
    )
    assert (agreeing.told, agreeing.same, agreeing.alone) == (4, 4, 0)
    assert "would have taught the same" in (agreeing.says() or "")
    # All that feedback decides, and as much again that it does not.
    deciding = Agreement()
    deciding.add(
        [
            make_feedback(sample=n, draft=f"{n}", score=score, draft_score=own)
            for n, (score, own) in enumerate(((1.0, 1.0), (0.0, 0.5), (0.0, 0.25), (0.0, 0.0)))
        ]
    )
    assert (deciding.told, deciding.same, deciding.alone) == (3, 3, 3)
    assert "100% of what feedback decides, and 50% of all" in (deciding.says() or "")


def test_the_stage_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 1.0)]
    group = [
        make_feedback(1, sample=n, draft=f"{n}", score=score, draft_score=own)
        for n, (score, own) in enumerate(scores)
    ]
    config = pair.PairConfig(rule=ALL, prompts=domain("handbook").prompts)
    io.write(tmp_path / "feedback.jsonl", group)
    pair.main([tmp_path / "feedback.jsonl"], tmp_path / "pairs.jsonl", config)
    assert len(list(io.read(tmp_path / "pairs.jsonl", PreferencePair))) == 6
    told = (
        "pair: feedback decides 6 of 10 comparisons of two drafts. The drafts' own scores, which "
        "cost no call, decide 2 of these the same way, 1 the other way and tie in 3; they also "
        "decide 3 in which feedback ties. So they would teach something else: 33% of what "
        "feedback decides, and 33% of all that they decide is that\n"
    )
    assert capsys.readouterr().err.endswith(told)
    io.write(tmp_path / "feedback.jsonl", group[:2])
    pair.main([tmp_path / "feedback.jsonl"], tmp_path / "pairs.jsonl", config)
    assert "comparisons" not in capsys.readouterr().err, "nothing was decided"


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6),
    st.sampled_from(["all", "best_worst", "sign"]),
)
def test_a_chosen_draft_always_scored_higher(scores: list[float], rule: str) -> None:
    for made in pairs(rows(*scores), PairRule(rule=rule, per_query=None), TEMPLATE):  # type: ignore[arg-type]
        assert scores[made.samples[0]] > scores[made.samples[1]]
        assert made.margin == scores[made.samples[0]] - scores[made.samples[1]]


TENTHS = [(at, at + 1) for at in range(10)]


@pytest.mark.parametrize(("low", "high"), TENTHS)
def test_a_difference_of_tenths_reaches_a_margin_of_a_tenth(low: int, high: int) -> None:
    """As binary numbers some of them are less, and 0.3 - 0.2 is one."""
    rule = PairRule(min_margin=0.1, per_query=None)
    group = rows(low / 10, high / 10)
    assert texts(pairs(group, rule, TEMPLATE)) == {("draft 1", "draft 0")}
    (said,) = pairs(rows(high / 10, solo=low / 10), rule, TEMPLATE, "kto")
    assert said.chosen
    found = Agreement()
    found.add([grown(Feedback, row, draft_score=row.score) for row in group], rule)
    assert (found.told, found.same) == (1, 1)


@pytest.mark.parametrize(("low", "high"), TENTHS)
def test_a_right_answer_alone_is_told_by_the_margin(low: int, high: int) -> None:
    """A draft that changed nothing is left out where less than the margin is left to gain."""
    rule = PairRule(min_margin=1 - low / 10, per_query=None)
    assert len(pairs(rows(low / 10, solo=low / 10), rule, TEMPLATE, "kto")) == 1
    assert pairs(rows(high / 10, solo=high / 10), rule, TEMPLATE, "kto") == []


@pytest.mark.parametrize("rule", ["all", "best_worst", "sign"])
def test_a_tie_is_no_pair(rule: str) -> None:
    assert pairs(rows(1.0, 1.0, 1.0), PairRule(rule=rule), TEMPLATE) == []  # type: ignore[arg-type]


def test_failed_rows_and_empty_drafts_are_left_out() -> None:
    broken = make_feedback(sample=1, draft=None, score=None, failed="draft: no power")
    empty = make_feedback(sample=2, draft="  ", score=0.0)
    assert pairs([*rows(1.0), broken, empty], ALL, TEMPLATE) == []


def test_a_draft_that_was_cut_teaches_nothing() -> None:
    """It would be learnt as if it had ended there."""
    cut = [row.model_copy(update={"cut": True}) for row in rows(1.0)]
    assert pairs([*cut, *rows(0.0, 0.5)[1:]], ALL, TEMPLATE) == []


def test_drafts_that_say_the_same_are_one() -> None:
    same = make_feedback(sample=2, draft=" draft\n 0", score=1.0)
    assert len(pairs([*rows(1.0, 0.0), same], ALL, TEMPLATE)) == 1


def test_drafts_that_differ_in_case_are_two_each_with_its_own_score() -> None:
    """Carbon monoxide is not cobalt."""
    group = [
        make_feedback(sample=0, draft="Mg", score=0.0),
        make_feedback(sample=1, draft="mg", score=1.0),
    ]
    assert texts(pairs(group, ALL, TEMPLATE)) == {("mg", "Mg")}
    found = Agreement()
    found.add(group)
    assert found.told == 1


def test_a_query_gives_no_more_than_it_may_and_always_the_same() -> None:
    group = rows(1.0, 0.9, 0.8, 0.2, 0.1, 0.0)
    few = pairs(group, PairRule(per_query=3), TEMPLATE)
    assert len(few) == 3 and few == pairs(group[::-1], PairRule(per_query=3), TEMPLATE)


def test_the_prompt_is_what_the_policy_saw() -> None:
    (made,) = pairs(rows(1.0, 0.0), ALL, TEMPLATE)
    assert made.prompt[-1].content.startswith("Q: ")


def test_kto_takes_each_draft_alone_and_leaves_out_what_says_nothing() -> None:
    helped = rows(1.0, 0.0, 0.5, solo=0.5)
    found = pairs(helped, PairRule(per_query=1), TEMPLATE, "kto")
    assert {pair.chosen[0].content: pair.margin for pair in found if pair.chosen} == {
        "draft 0": 0.5
    }
    assert {pair.rejected[0].content: pair.margin for pair in found if pair.rejected} == {
        "draft 1": -0.5,
        "draft 2": 0.0,
    }
    assert all(len(pair.chosen) + len(pair.rejected) == 1 for pair in found)
    # Where the strong model is right alone no draft can help, and one that changes nothing is fine.
    right_alone = pairs(rows(1.0, 0.0, solo=1.0), ALL, TEMPLATE, "kto")
    assert [pair.rejected[0].content for pair in right_alone] == ["draft 1"]


def test_self_compares_the_drafts_own_scores() -> None:
    own = [
        make_feedback(sample=n, draft=f"draft {n}", score=score, draft_score=1 - score)
        for n, score in enumerate((1.0, 0.0))
    ]
    (found,) = pairs(own, ALL, TEMPLATE, "self")
    assert (found.chosen[0].content, found.strong) == ("draft 1", "nobody")
    unasked = [
        make_feedback(
            sample=n,
            draft=f"draft {n}",
            refinement=None,
            solo=None,
            strong="nobody",
            score=None,
            solo_score=None,
            draft_score=score,
        )
        for n, score in enumerate((1.0, 0.0))
    ]
    assert texts(pairs(unasked, ALL, TEMPLATE, "self")) == {("draft 0", "draft 1")}
    assert pairs(unasked, ALL, TEMPLATE) == pairs(unasked, ALL, TEMPLATE, "kto") == []
    assert pairs(own, ALL, TEMPLATE, "grpo") == []


def test_self_has_no_gain_for_the_papers_rule() -> None:
    with pytest.raises(ValidationError, match="`sign` compares with the strong model alone"):
        pair.PairConfig(prompts="handbook", align="self", rule=PairRule(rule="sign"))
