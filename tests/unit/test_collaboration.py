"""The algorithm, over scripted models: rows in are rows out, nothing is asked twice, failures
never become scores.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator

import pytest

from cowest import collaboration
from cowest.config import Sampling
from cowest.errors import ThoughtShownError
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.protocols import BLOCK, Completion, Request, Score, Served
from cowest.records import Draft, Feedback, Query, Refinement, grown
from cowest.scorers.contains import ContainsConfig as Contains
from tests.factories import PROMPTS, make_query

GREEDY, WARM = Sampling(max_tokens=20), Sampling(temperature=1.0, n=3, max_tokens=20)


class Watched:
    """A model that notes what it was asked."""

    def __init__(self, *rules: ScriptRule) -> None:
        with ScriptedConfig(rules=rules).open() as model:
            self._model = model
        self.name = "watched"
        self.asked: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            yield from self._model.generate([request])


def run(
    queries: list[Query], policy: Watched, strong: Watched, drafting: Sampling = GREEDY
) -> list[Feedback]:
    with Contains().open() as scorer:
        return list(
            collaboration.feedback(queries, policy, strong, scorer, PROMPTS, drafting, GREEDY)
        )


def say(match: str, *replies: str) -> ScriptRule:
    return ScriptRule(match=match, replies=replies)


def test_gain_is_what_the_draft_added() -> None:
    strong = Watched(
        say("Notes: made in Oslo", "Norway"), say("Notes: ", "France"), say("", "Sweden")
    )
    helped, hurt = (
        make_query(text="helped", targets=("Norway",)),
        make_query(text="hurt", targets=("Sweden",)),
    )
    policy = Watched(say("helped", "made in Oslo"), say("", "made in Paris"))
    rows = run([helped, hurt], policy, strong)
    assert [(row.score, row.solo_score, row.draft_score, row.gain) for row in rows] == [
        (1, 0, 0, 1),
        (0, 1, 0, -1),
    ]
    assert rows[0].refinement == "Norway" and rows[0].solo == "Sweden"


def test_solo_is_asked_once_a_query_and_equal_drafts_are_one_call() -> None:
    strong = Watched(say("", "yes"))
    rows = run(
        [make_query(text="one"), make_query(text="two")], Watched(say("", "the same")), strong, WARM
    )
    assert len(rows) == 6
    assert len(strong.asked) == 4  # a solo and a refinement for each


def test_rows_of_a_query_are_adjacent_and_in_order() -> None:
    queries = [make_query(text=f"question {number}") for number in range(40)]
    policy = Watched(say(r"question (\d+)", "a {1}", "b {1}", "c {1}"))
    rows = run(queries, policy, Watched(say(r"Question: question (\d+)", "re {1}")), WARM)
    assert [(row.id, row.sample) for row in rows] == [
        (query.id, sample) for query in queries for sample in range(3)
    ]
    for row in rows:  # each with the refinement of its own draft
        assert row.refinement == f"re {row.prompt[0].content.split()[-1]}"


def test_requests_carry_the_block_of_their_query() -> None:
    strong = Watched(say("", "yes"))
    run(
        [make_query(text=f"{number}") for number in range(BLOCK + 1)],
        Watched(say("", "no")),
        strong,
    )
    assert [request.block for request in strong.asked] == [0] * 2 * BLOCK + [1] * 2


@pytest.mark.parametrize(
    ("policy", "strong", "reason"),
    [
        (ScriptRule(failed="no power"), say("", "yes"), "draft: no power"),
        (say("", "a draft"), ScriptRule(match="Notes", failed="no power"), "refine: no power"),
        (say("", "a draft"), ScriptRule(match="^Question", failed="no power"), "solo: no power"),
    ],
)
def test_a_failed_call_fails_its_row_and_is_no_score(
    policy: ScriptRule, strong: ScriptRule, reason: str
) -> None:
    rows = run([make_query(text="x")], Watched(policy), Watched(strong, say("", "yes")))
    assert [(row.failed, row.gain) for row in rows] == [(reason, None)]


def test_a_failed_row_shifts_no_neighbour() -> None:
    policy = Watched(ScriptRule(match="bad", failed="no power"), say(r"(\d)", "draft {1}"))
    strong = Watched(say(r"Notes: draft (\d)", "{1}"), say("", "alone"))
    rows = run(
        [make_query(text=text) for text in ("1", "bad", "2", "bad too", "3")], policy, strong
    )
    assert [row.refinement for row in rows] == ["1", None, "2", None, "3"]


def test_all_of_a_query_failed_loses_no_row() -> None:
    rows = run(
        [make_query(text="x"), make_query(text="y")],
        Watched(ScriptRule(failed="a")),
        Watched(ScriptRule(failed="b")),
        WARM,
    )
    assert [row.failed for row in rows] == ["draft: a"] * 6


def test_what_a_draft_says_is_never_a_template() -> None:
    strong = Watched(say("", "yes"))
    run([make_query(text="secret")], Watched(say("", "{query} {draft}")), strong)
    assert strong.asked[1].messages[-1].content == "Notes: {query} {draft}\nQuestion: secret"


def test_it_is_lazy() -> None:
    read = 0

    def endless() -> Iterator[Query]:
        nonlocal read
        while True:
            read += 1
            yield make_query(text=f"{read}")

    with Contains().open() as scorer:
        rows = collaboration.feedback(
            endless(), Watched(say("", "a")), Watched(say("", "b")), scorer, PROMPTS, GREEDY, GREEDY
        )  # type: ignore[arg-type]
        for _ in range(5):
            next(rows)
    assert read < 10


def test_an_answer_is_what_the_three_steps_make() -> None:
    policy, strong = (
        Watched(say("", "made in Oslo")),
        Watched(say("Notes: made in Oslo", "Norway"), say("", "Sweden")),
    )
    query = make_query(text="x")
    (row,) = run([query], policy, strong)
    drafted, refined = collaboration.answer(query.prompt, policy, strong, PROMPTS, GREEDY, GREEDY)
    assert (drafted.text, refined and refined.text) == (row.draft, row.refinement)


def test_a_grown_row_has_all_that_the_row_before_it_had() -> None:
    query = make_query(tags=("a", "b"), ideal="made in Oslo", choices=("Norway", "Italy"))
    grew = grown(Draft, query, sample=1, draft="a draft", policy="p")
    assert grew == Draft(**query.model_dump(), sample=1, draft="a draft", policy="p")
    assert grown(Draft, grew, failed="no power", draft=None) == Draft(
        **query.model_dump(), sample=1, draft=None, policy="p", failed="no power"
    )


def test_answers_find_their_questions_however_far_a_model_reads_ahead() -> None:
    """A scorer that reads everything before it answers, and queries that ask it nothing."""

    class Patient:
        name = "patient"

        def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
            for _, text in list(answers):
                yield Score(float(text))

    groups = []
    for number, text in enumerate([None, "1", None, None, "2", None]):
        failed = None if text else "draft: no power"
        row = grown(Draft, make_query(number), sample=0, draft=text, policy="p", failed=failed)
        groups.append([grown(Refinement, row, refinement=None, solo=None, strong="s")])
    rows = list(collaboration.score(groups, Patient()))
    assert [row.id for row in rows] == [group[0].id for group in groups]
    assert [row.draft_score for row in rows] == [None, 1.0, None, None, 2.0, None]


def test_a_draft_that_is_null_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="needs its reason"):
        Draft(**make_query().model_dump(), sample=0, draft=None, policy="p")


async def streamed(script: ScriptedConfig, request: Request) -> list[str | Completion]:
    async with script.open_async() as model:
        served = Served("1", until=time.monotonic() + 10)
        pieces = [piece async for piece in collaboration.stream_answer(model, request, served)]
        assert pieces[-1] == await collaboration.whole_answer(model, request, served)
    return pieces


@pytest.mark.parametrize(
    "reply",
    [
        "made in Oslo",
        "<think> Bern ? No. </think> made in Oslo",
        "made <think> where ? </think> in Oslo",
        "<|channel|>analysis<|message|>Bern?<|end|> <|channel|>final<|message|>made in Oslo",
        "<think> Bern ?",
    ],
)
def test_an_answer_in_pieces_is_the_answer(reply: str) -> None:
    script = ScriptedConfig(rules=(say("", reply),))
    prompt = make_query().prompt
    request = collaboration.ask_draft(prompt, PROMPTS, GREEDY)
    *texts, last = asyncio.run(streamed(script, request))
    with script.open() as model:
        whole, _ = collaboration.answer(prompt, model, model, PROMPTS, GREEDY, GREEDY)
    assert last == whole
    assert "".join(map(str, texts)) == (whole.text or "")


def test_a_thought_that_was_shown_ends_the_stream() -> None:
    script = ScriptedConfig(rules=(say("", "Bern ? No. </think> Oslo"),))
    request = collaboration.ask_solo(make_query().prompt, PROMPTS, GREEDY)
    with pytest.raises(ThoughtShownError):
        asyncio.run(streamed(script, request))
