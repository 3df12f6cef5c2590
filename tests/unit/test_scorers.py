"""What counts as the same answer, and how much of one; what a judge may say."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from cowest.config import Sampling, parse
from cowest.errors import ConfigError
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.prompts import JudgeTemplate
from cowest.protocols import BLOCK, Completion, Request, Score
from cowest.records import Query
from cowest.sametext import normalise
from cowest.scorers import AnyScorer
from cowest.scorers.choice import Choice, ChoiceConfig
from cowest.scorers.choice import parse as parse_choice
from cowest.scorers.contains import Contains, ContainsConfig
from cowest.scorers.exact_match import ExactMatch, ExactMatchConfig
from cowest.scorers.judge import Judge, JudgeConfig, read_judgement
from cowest.scorers.token_f1 import TokenF1, TokenF1Config
from tests.factories import make_query
from tests.scored import CITIES, score_of, targets_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  The   Eiffel Tower!\n", "eiffel tower"),
        ("**Paris**", "paris"),
        ("__needs_caution__", "needs caution"),
        ("don't", "dont"),
        ("well-known/loved", "well known loved"),
        ("U.S.A.", "usa"),
        ("“An apple”", "apple"),
        ("a 'cat'", "cat"),
        # one letter is an answer
        ("K", "k"),
        ("C", "c"),
        ("A", "a"),
        ("a", "a"),
        ("the", "the"),
        ("Vitamin A", "vitamin a"),
        ("It is A.", "it is a"),
        ("A is right", "a is right"),
        ("A or B", "a or b"),
        ("(a)", "a"),
        # what a number or a symbol says is not punctuation
        ("3.5", "3.5"),
        ("1,000", "1000"),
        ("1,2", "1 2"),
        ("3.", "3"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("10-20", "10 20"),
        ("50 %", "50"),
        ("C++", "c++"),
        ("C#", "c#"),
        ("Na+", "na+"),
        ("1+2", "1 2"),
        # nothing but punctuation is kept, so that two such texts differ
        ("+", "+"),
        ("...", "..."),
        ("", ""),
        (" \n", ""),
        ("É", "é"),
        ("E\u0301", "é"),
        ("हिन्दी।", "हिन्दी"),
    ],
)
def test_normalise(text: str, words: str) -> None:
    assert normalise(text) == words


@pytest.mark.parametrize(
    ("answer", "targets", "value"),
    [
        ("The Paris.", ("paris",), 1.0),
        ("rome", ("Paris", "Rome"), 1.0),
        ("Paris, France", ("Paris",), 0.0),
        ("K", ("K",), 1.0),
        ("C", ("K",), 0.0),
        ("C++", ("C",), 0.0),
        ("3.5", ("35",), 0.0),
        ("-5", ("5",), 0.0),
        ("-", ("+",), 0.0),
        ("", ("Paris",), 0.0),
    ],
)
def test_exact_match(answer: str, targets: tuple[str, ...], value: float) -> None:
    assert score_of(ExactMatch(), answer, *targets).value == value


@pytest.mark.parametrize(
    ("answer", "targets", "value"),
    [
        ("It is built in Italy, of course.", ("Italy",), 1.0),
        ("It is built in Italian towns.", ("Ital",), 0.0),
        ("the NEW   york bridge", ("New York",), 1.0),
        ("york new", ("New York",), 0.0),
        ("The symbol is K.", ("K",), 1.0),
        ("Kalium", ("K",), 0.0),
        ("A cat", ("A",), 0.0),
        ("The answer is A.", ("a",), 1.0),
        ("It costs 3.5", ("3",), 0.0),
        ("It is -5", ("5",), 0.0),
        ("It is 5.", ("5",), 1.0),
        ("", ("Italy",), 0.0),
        ("Rome or Oslo", ("Paris", "Oslo"), 1.0),
    ],
)
def test_contains(answer: str, targets: tuple[str, ...], value: float) -> None:
    assert score_of(Contains(), answer, *targets).value == value


@pytest.mark.parametrize(
    ("answer", "targets", "value"),
    [
        ("Paris", ("Paris",), 1.0),
        ("Paris France", ("Paris",), 2 / 3),
        ("the red car", ("red car park",), 0.8),
        ("red red", ("red",), 2 / 3),
        ("Oslo", ("Paris", "Oslo Norway"), 2 / 3),
        ("Oslo", ("Paris",), 0.0),
        ("", ("Paris",), 0.0),
        ("A", ("A",), 1.0),
    ],
)
def test_token_f1(answer: str, targets: tuple[str, ...], value: float) -> None:
    assert score_of(TokenF1(), answer, *targets).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        ("B.", 1),
        ("B)", 1),
        ("**B**", 1),
        ("[b]:", 1),
        ("Option B", 1),
        ("London", 1),
        ("london.", 1),
        ("B. London", 1),
        ("(B) London", 1),
        ("**B) London**", 1),
        ("B: the London", 1),
        ("The answer is B.", 1),
        ("Answer: B", 1),
        ("Thames... The final answer is: (B) London.", 1),
        ("answer = B", 1),
        ("It rains.\nThe answer is B because it rains.", 1),
        ("The answer is **C**, as said.", 2),
        ("The answer is New York", 2),
        ("B. London\n\nLondon lies on the Thames.", 1),
        ("Answer: B\nAnswer: B", 1),
        ("Answer choice: B", 1),
        # an answer in JSON, whole or broken; what is around it is not read
        ('{"thoughts": "The answer is A.", "answer_choice": "B"}', 1),
        ('{"answer": "B. London"}', 1),
        ('"answer_choice": "London"', 1),
        ('{"thoughts": "It is "Rome"" "answer_choice": "D" }', 3),
        ('{"answer_choice": B}', 1),
        ('{"Answer": "C. New\\u0020York"}', 2),
        ('{"answer_choice": "B. Londn, on the Thames"}', 1),
        ('{"answer_choice": "B. It lies on the Thames. Not like Plan B."}', 1),
    ],
)
def test_choice_reads(answer: str, option: int) -> None:
    assert parse_choice(answer, CITIES) == option


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "E",
        "I think so",
        "A city",
        "It is London or Rome",
        "B. Paris",
        "A or B",
        "The answer is not B",
        "The answer is a secret",
        "Answer: A\nAnswer: B",
        "A. Paris\nB. London",
        "London is nice",
        "Both",
        "AB",
        "The answer is B. Paris",
        "maybe B",
        "none of A-D",
        "The answer is A or B",
        "Answer: A, B",
        "Answer: N/A",
        "Answer: A/E",
        "The answer is B. None of the above",
        "Answer: B. London and C. New York",
        '{"answer_choice": "B/C"}',
        '{"answer_choice": ""}',
        '{"answer_choice": "B. London, C. New York"}',
        '{"answer_choice": "N/A"}',
        '{"answer_choice": "B. London. C. New York."}',
        '{"answer_choice": "B. Paris"}',
        '{"answer_choice": "None of the above"}',
        '{"thoughts": "The answer is B.", "answer_choice": "',
        '{"answer_choice": "B',
        '{"answer": "A"} {"answer": "B"}',
        '{"answer_choice": ["A", "B"]}',
    ],
)
def test_choice_never_guesses(answer: str) -> None:
    found = score_of(Choice(), answer, "London", choices=CITIES)
    assert found.value == 0.0 and (found.explanation or "").startswith("unparseable: ")


def test_choice_scores() -> None:
    assert score_of(Choice(), "B", "London", choices=CITIES) == Score(1.0, "chose B")
    assert score_of(Choice(), "Rome", "London", choices=CITIES) == Score(0.0, "chose D")
    assert score_of(Choice(), "Rome", "London", "D", choices=CITIES).value == 1.0


def test_choice_where_the_data_has_an_option_twice() -> None:
    twice = ("Paris", "London", "Paris", "None of these")
    assert [
        score_of(Choice(), said, "Paris", choices=twice).value for said in ("A. Paris", "C", "B")
    ] == [1, 1, 0]
    assert (
        score_of(Choice(), "Paris", "Paris", choices=twice).explanation
        == "unparseable: names A and C"
    )
    assert (
        score_of(Choice(), "The answer is D. None of them", "None of these", choices=twice).value
        == 1
    )


def test_choice_of_letters_takes_no_letter_for_another() -> None:
    elements = ("K", "C", "Na", "Fe")
    assert (
        score_of(Choice(), "C", "C", choices=elements).explanation == "unparseable: names B and C"
    )
    assert score_of(Choice(), "K", "K", choices=elements).value == 1.0
    assert score_of(Choice(), "B", "C", choices=elements).value == 1.0
    assert score_of(Choice(), "C. Na", "Na", choices=elements).value == 1.0


def test_choice_without_choices_fails_and_is_no_zero() -> None:
    for query_choices in ((), ("Paris", "Rome")):
        found = score_of(Choice(), "London", "London", choices=query_choices)
        assert found.value is None and "is one of its" in (found.failed or "")


ANSWERS = st.text(max_size=60) | st.sampled_from(
    ["A", "the a", "-5", "3.5", "C++", "K", "...", "the answer is b"]
)
TARGETS = targets_of(ANSWERS)


@given(answer=ANSWERS, targets=TARGETS)
def test_scores_lie_between_0_and_1_and_a_target_scores_1(
    answer: str, targets: tuple[str, ...]
) -> None:
    for scorer in (ExactMatch(), Contains(), TokenF1()):
        value = score_of(scorer, answer, *targets).value
        assert value is not None and 0 <= value <= 1
        assert all(score_of(scorer, target, *targets).value == 1 for target in targets)


@given(answer=ANSWERS, targets=TARGETS)
def test_exact_is_never_above_f1_and_contains(answer: str, targets: tuple[str, ...]) -> None:
    exact, contains, shared = (
        score_of(scorer, answer, *targets).value or 0
        for scorer in (ExactMatch(), Contains(), TokenF1())
    )
    assert exact <= contains and exact <= shared


@given(answer=ANSWERS, right=st.integers(0, 3))
def test_choice_lies_between_0_and_1_and_the_target_scores_1(answer: str, right: int) -> None:
    assert score_of(Choice(), answer, CITIES[right], choices=CITIES).value in (0, 1)
    for said in (CITIES[right], "ABCD"[right], f"The answer is {'ABCD'[right]}. {CITIES[right]}"):
        assert score_of(Choice(), said, CITIES[right], choices=CITIES).value == 1


@pytest.mark.parametrize("text", ["0", "7", "10", " 10\n"])
def test_a_judgement_is_an_integer(text: str) -> None:
    assert read_judgement(Completion(text, "m")).value == int(text) / 10


@pytest.mark.parametrize(
    "text", ["", "11", "-1", "7/10", "7.5", "seven", "Score: 7", "07", "\u0667", "7 8", "7."]
)
def test_anything_else_fails_and_is_no_zero(text: str) -> None:
    found = read_judgement(Completion(text, "m"))
    assert found.value is None and "is no integer from 0 to 10" in (found.failed or "")


def test_a_judge_that_failed_or_was_cut_off_is_no_zero() -> None:
    assert read_judgement(Completion(None, "m", "failed", "HTTP 500")) == Score(
        None, failed="judge: HTTP 500"
    )
    assert read_judgement(Completion("1", "m", "length")).value is None


def judge(*rules: ScriptRule) -> JudgeConfig:
    return JudgeConfig(model=ScriptedConfig(rules=rules))


def test_a_judge_sees_question_target_and_answer_and_nothing_in_them_is_a_place() -> None:
    (message,) = JudgeTemplate(user="{query}|{target}|{answer}").render(
        make_query().prompt, ("Italy", "{answer}"), "{target} {query}"
    )
    assert (
        message.content == "In which country is product 0 built?|Italy or {answer}|{target} {query}"
    )


def test_a_judge_scores_in_order() -> None:
    config = judge(
        ScriptRule(match="Answer to grade:\nItaly", replies=("10",)),
        ScriptRule(match="grade:\nboom", failed="down"),
        ScriptRule(replies=("3",)),
    )
    with config.open() as scorer:
        scores = list(
            scorer.score([(make_query(), answer) for answer in ("Italy", "France", "boom")])
        )
    assert [score.value for score in scores] == [1.0, 0.3, None] and scores[
        2
    ].failed == "judge: down"


def test_judges_that_ask_otherwise_have_other_names() -> None:
    rule = ScriptRule(replies=("3",))
    configs = [
        judge(rule),
        judge(ScriptRule(replies=("4",))),
        JudgeConfig(model=ScriptedConfig(rules=(rule,)), sampling=Sampling(max_tokens=9)),
    ]
    names = []
    for config in configs:
        with config.open() as scorer:
            names.append(scorer.name)
    assert len(set(names)) == 3


class Listening:
    """A model that notes what it is asked, and gives 5."""

    name = "listening"

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(self, requests: Iterator[Request]) -> Iterator[Completion]:
        for request in requests:
            self.asked.append(request)
            yield Completion("5", self.name)


def test_a_judge_is_lazy_and_its_blocks_are_of_queries() -> None:
    model = Listening()
    answers = ((make_query(number // 2), f"answer {number}") for number in range(4 * BLOCK))
    scores = Judge(model, JudgeTemplate(), Sampling()).score(answers)
    next(scores)
    assert len(model.asked) == 1
    assert len(list(scores)) == 4 * BLOCK - 1
    assert [request.block for request in model.asked] == [0] * (2 * BLOCK) + [1] * (2 * BLOCK)


@pytest.mark.parametrize(
    "config",
    [
        ExactMatchConfig(),
        ContainsConfig(),
        TokenF1Config(),
        ChoiceConfig(),
        judge(ScriptRule(replies=("5",))),
    ],
)
def test_scorers_are_lazy_named_and_made_from_plain_data(config: AnyScorer) -> None:
    assert TypeAdapter(AnyScorer).validate_python(config.model_dump(mode="json")) == config
    read = 0

    def answers() -> Iterator[tuple[Query, str]]:
        nonlocal read
        for number in range(5):
            read += 1
            yield make_query(number, targets=("Rome",), choices=CITIES), "Rome"

    with config.open() as scorer:
        scores = scorer.score(answers())
        assert read == 0 and scorer.name.startswith(config.scorer)
        next(scores)
        assert read == 1
        assert len(list(scores)) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": {"user": "{query} {answer}"}}, "prompt.user: has no {target}"),
        ({"sampling": {"n": 2, "temperature": 1}}, "sampling: n: an answer is judged once"),
    ],
)
def test_judge_settings_refused(settings: dict[str, object], said: str) -> None:
    rules = [{"match": "", "replies": ["5"]}]
    with pytest.raises(ConfigError, match=said):
        parse(
            JudgeConfig,
            {"scorer": "judge", "model": {"provider": "scripted", "rules": rules}, **settings},
            "test",
        )
