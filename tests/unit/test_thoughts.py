"""A thought is no answer: not scored, not shown, not preferred, and nothing else changes."""

import time
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest import collaboration
from cowest.config import Sampling
from cowest.evaluation import answers_of
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.preferences import PairRule, pairs
from cowest.prompts import Template
from cowest.protocols import Completion, Request
from cowest.records import Draft, Feedback, Query, Refinement, grown
from cowest.scorers.contains import ContainsConfig
from cowest.scorers.judge import read_judgement
from cowest.thoughts import ThoughtFilter, without_thoughts
from tests.factories import PROMPTS, make_feedback, make_query, make_trial

HARMONY = "<|channel|>analysis<|message|>Bern?<|end|><|start|>assistant<|channel|>"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nBern? No.\n</think>\n\nOslo", "Oslo"),
        ("<THINK>Bern?</THINK> Oslo.\n", "Oslo."),
        ("<thinking>Bern?</thinking>Oslo", "Oslo"),
        ("<thought>Bern?</thought>Oslo", "Oslo"),
        ("<reasoning>Bern?</reasoning>Oslo", "Oslo"),
        ("[THINK]Bern?[/THINK]Oslo", "Oslo"),
        ("<think></think>Oslo", "Oslo"),
        # the prompt opened it
        ("Bern? No.\n</think>\nOslo", "Oslo"),
        ("Bern?[/THINK]Oslo", "Oslo"),
        # several, one within another, one after the answer
        ("<think>a</think>Oslo, <think>b</think>Norway", "Oslo, Norway"),
        ("<think>a<think>b</think>c</think>Oslo", "Oslo"),
        ("Oslo\n<think>or Bern", "Oslo"),
        # nothing else
        ("<think>Bern? No, Os", ""),
        ("<think>Bern?</think>\n ", ""),
        ("Bern?</think>", ""),
        # gpt-oss
        (HARMONY + "final<|message|>Oslo<|return|>", "Oslo"),
        (HARMONY + "final<|message|>Os", "Os"),
        (HARMONY, ""),
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", ""),
        (HARMONY + 'final <|constrain|>json<|message|>{"answer": "A"}', '{"answer": "A"}'),
        (HARMONY + "final<|message|>It ends at `<|end|>`.<|end|>", "It ends at `<|end|>`."),
        (HARMONY + "final<|message|>Say `ls`<|return|>", "Say `ls`"),
        (HARMONY + "final<|end|><|start|>assistant<|channel|>analysis<|message|>Bern", ""),
        ("analysisBern? No.assistantfinalOslo", "Oslo"),
        ("analysisThe user asks for", ""),
    ],
)
def test_thoughts_are_left_out(text: str, answer: str) -> None:
    assert without_thoughts(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "", " \n", "Oslo ", "I think <b>Oslo</b>", "1 < think > 2", "<rethink>", "[think]",
        "Models write `<think>` before they answer.", "The mark `<|channel|>` begins a channel.",
        "`<|channel|>final<|message|>` begins the answer.",
        "analysis of rock from Oslo", "<think/>",
    ],
)  # fmt: skip
def test_other_texts_stay_what_they_are(text: str) -> None:
    assert without_thoughts(text) == text


@given(st.text())
def test_a_text_without_marks_stays(text: str) -> None:
    assert without_thoughts(text.replace("<", "(").replace("[", "(")) == (
        text.replace("<", "(").replace("[", "(")
    )


class Asked:
    """A scripted model that keeps what it is asked."""

    def __init__(self, *rules: ScriptRule) -> None:
        with ScriptedConfig(rules=rules).open() as model:
            self._model = model
        self.name = "asked"
        self.messages: list[str] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.messages.append(request.messages[-1].content)
            yield from self._model.generate([request])


def rule(match: str, *replies: str) -> ScriptRule:
    return ScriptRule(match=match, replies=replies)


def turn(policy: Asked, strong: Asked, *queries: Query, n: int = 1) -> list[Feedback]:
    drafting = Sampling(temperature=1.0, n=n, max_tokens=20)
    with ContainsConfig(rule=2).open() as scorer:
        return list(
            collaboration.feedback(
                queries, policy, strong, scorer, PROMPTS, drafting, Sampling(max_tokens=20)
            )
        )


def test_neither_the_strong_model_nor_the_scorer_sees_a_thought() -> None:
    policy = Asked(rule("", "<think>Norway?</think>\nThe ship is of Oslo."))
    strong = Asked(
        rule("Notes", "<think>Sweden? No, Norway.</think>\nNorway"),
        rule("", "Norway, I guess? No.\n</think>Sweden"),
    )
    (row,) = turn(policy, strong, make_query(targets=("Norway",)))
    assert strong.messages[1].startswith("Notes: The ship is of Oslo.\n")
    assert (row.refinement, row.solo) == ("Norway", "Sweden")
    assert (row.score, row.solo_score, row.draft_score) == (1.0, 0.0, 0.0)
    # The row keeps the draft as it was written: `pair` may want the thought.
    assert row.draft == "<think>Norway?</think>\nThe ship is of Oslo."


def test_drafts_that_differ_in_their_thoughts_alone_are_one_call() -> None:
    policy = Asked(rule("", "<think>a</think>Oslo", "<think>b</think>Oslo", "Oslo"))
    strong = Asked(rule("", "Norway"))
    assert len(turn(policy, strong, make_query(), n=8)) == 8
    assert len(strong.messages) == 2


@pytest.mark.parametrize(
    ("draft", "alone", "refined", "failed"),
    [
        ("<think>Oslo", "a", "b", "draft: nothing but a thought, and no answer after it"),
        ("Oslo", "<think>Oslo", "b", "solo: nothing but a thought, and no answer after it"),
        ("Oslo", "a", "Oslo</think>", "refine: nothing but a thought, and no answer after it"),
    ],
)
def test_nothing_but_a_thought_is_no_answer_and_no_score(
    draft: str, alone: str, refined: str, failed: str
) -> None:
    strong = Asked(rule("Notes", refined), rule("", alone))
    (row,) = turn(Asked(rule("", draft)), strong, make_query(targets=("Oslo",)))
    assert (row.failed, row.gain) == (failed, None)


def test_a_thought_that_used_up_the_limit_says_so() -> None:
    found = collaboration.answered(Completion("<think>Oslo", "m", "length"))
    assert found.text is None and "max_tokens" in (found.failed or "")
    whole = Completion("Oslo", "m", "length")
    assert collaboration.answered(whole) == whole


def test_rows_that_were_written_before_are_read_without_thoughts() -> None:
    query = make_query(targets=("Norway",))
    old = [
        grown(Draft, query, sample=0, draft="<think>Norway</think>Sweden", policy="p"),
        grown(Draft, query, sample=1, draft="<think>Norway", policy="p"),
    ]
    strong = Asked(rule("", "Norway"))
    refined = list(collaboration.refine([old], strong, PROMPTS, Sampling()))
    assert strong.messages[1].startswith("Notes: Sweden\n") and len(strong.messages) == 2
    assert [row.failed is None for row in refined] == [True, False]
    before = {"refinement": "<think>Norway?</think>Sweden", "solo": "<think>Norway"}
    rows = [grown(Refinement, old[0], strong="s", **before)]
    with ContainsConfig(rule=2).open() as scorer:
        (row,) = collaboration.score([rows], scorer)
    assert (row.score, row.solo_score, row.draft_score) == (0.0, None, 0.0)
    assert row.failed == "score: nothing but a thought, and no answer after it"


def test_pairs_leave_thoughts_out_unless_they_are_wanted() -> None:
    group = [
        make_feedback(sample=0, draft="<think>a</think>Oslo", score=1.0),
        make_feedback(sample=1, draft="<think>b</think>Bern", score=0.0),
        make_feedback(sample=2, draft="<think>b", score=0.0),
    ]
    template = Template(user="{query}")
    sides = {}
    for thoughts in ("drop", "keep"):
        (made,) = pairs(group, PairRule.model_validate({"thoughts": thoughts}), template)
        sides[thoughts] = (made.chosen[0].content, made.rejected[0].content)
    assert sides == {
        "drop": ("Oslo", "Bern"),
        "keep": ("<think>a</think>Oslo", "<think>b</think>Bern"),
    }


def test_reports_read_answers_without_thoughts() -> None:
    row = make_trial(draft="<think>a</think>b", refinement="<think>c</think>d", solo="e</think>f")
    assert [given.answer for given in answers_of(row)] == ["d", "f", "b"]


def test_a_question_is_answered_without_thoughts() -> None:
    policy = Asked(rule("", "<think>a</think>Oslo"))
    strong = Asked(rule("", "<think>b</think>Norway"))
    asked = (make_query().prompt, policy, strong, PROMPTS, Sampling(), Sampling())
    drafted, refined = collaboration.answer(*asked)
    assert drafted.text == "Oslo" and refined is not None and refined.text == "Norway"
    assert strong.messages[0].startswith("Notes: Oslo\n")
    drafted, refined = collaboration.answer(asked[0], Asked(rule("", "<think>a")), *asked[2:])
    assert drafted.text is None and refined is None and "thought" in (drafted.failed or "")


def test_a_judge_may_think() -> None:
    assert read_judgement(Completion("<think>Is it 3?</think>8", "m")).value == 0.8
    assert read_judgement(Completion("<think>Is it 3?", "m", "length")).value is None


def test_what_is_asked_without_thoughts_is_asked_as_before() -> None:
    """So every stored answer is found again."""
    draft = grown(Draft, make_query(), sample=0, draft=" Oslo\n", policy="p")
    strong = Asked(rule("", "x"))
    list(collaboration.refine([[draft]], strong, PROMPTS, Sampling()))
    assert strong.messages[1] == f"Notes:  Oslo\n\nQuestion: {make_query().prompt[0].content}"


PIECES = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|end|>",
         "<|constrain|>", "final", "analysis", "assistantfinal", "<",
         "</", "<thi", "`", " ", "\n", "Oslo", "x", "["]
    ),
    max_size=12,
)  # fmt: skip


@given(PIECES, st.lists(st.integers(1, 9), max_size=40), st.booleans())
def test_a_text_in_pieces_loses_the_same_thoughts(
    parts: list[str], sizes: list[int], opened: bool
) -> None:
    whole = "".join(parts)
    unseen = ThoughtFilter(opened)
    given_texts = []
    place = 0
    for size in [*sizes, len(whole) or 1]:
        given_texts.append(unseen.push(whole[place : place + size]))
        place += size
    expected = without_thoughts(whole)
    given_texts.append(unseen.end(expected))
    shown = "".join(given_texts)
    if unseen.late:
        # Something was shown, and a mark that closes or changes the channel came after it.
        assert shown.strip() and ("</think>" in whole or "[/THINK]" in whole or "<|ch" in whole)
    elif shown != expected:
        assert shown.lstrip() == expected and whole[0].isspace()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The mark `<|channel|>` begins.", "The mark `<|channel|>` begins."),
        ("<|channel|>final <|constrain|>json<|message|>{}", "{}"),
    ],
)
def test_a_channel_comes_in_pieces_too(text: str, answer: str) -> None:
    unseen = ThoughtFilter()
    shown = "".join(map(unseen.push, text))
    assert shown + unseen.end(without_thoughts(text)) == answer and not unseen.late
    assert shown.startswith("The mark") == text.startswith("The mark")


def test_a_text_made_of_beginnings_of_channels_is_read_at_once() -> None:
    started = time.monotonic()
    for text in ("<|channel|>" + "a" * 200_000 + "<", "<|channel|>a <|constrain|>" * 20_000):
        assert without_thoughts(text) == ""
    assert without_thoughts("<|channel|>final<|message|>" * 20_000) == ""
    assert time.monotonic() - started < 5  # that it ends at all: minutes, if it looks back


def test_a_text_without_marks_is_shown_as_it_comes() -> None:
    unseen = ThoughtFilter()
    pieces = ["Os", "lo", " is", " <b", "> 1 <", " 2", " [th", "e] ", "\n", "x"]
    shown = list(map(unseen.push, pieces))
    assert shown == ["Os", "lo", " is", " <b", "> 1", " < 2", "", " [the]", "", " \nx"]


def test_what_was_shown_and_turns_out_to_be_a_thought_is_said() -> None:
    for mark in ("</think>", "[/THINK]", "<|channel|>final<|message|>"):
        unseen = ThoughtFilter()
        assert (unseen.push("Bern? No. "), unseen.push(mark + "Oslo")) == ("Bern? No.", "")
        assert unseen.late
        # A model that is known to begin with a thought is not shown before it ends.
        unseen = ThoughtFilter(opened=True)
        shown = [unseen.push("Bern? No. "), unseen.push(mark), unseen.push("Os"), unseen.push("lo")]
        rest = unseen.end("Oslo")
        assert "".join([*shown, rest]) == "Oslo" and shown[0] == "" and not unseen.late
