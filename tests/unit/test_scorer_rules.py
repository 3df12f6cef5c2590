"""The second rule of the scorers that compare texts, and SQuAD's own."""

import re
import string
import sys
import time
from collections import Counter
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from cowest.config import parse as parse_config
from cowest.errors import ConfigError
from cowest.sametext import comparable
from cowest.scorers import AnyScorer, rules
from cowest.scorers.choice import Choice, ChoiceConfig, ChoiceReading, rule_of
from cowest.scorers.choice import parse as parse_choice
from cowest.scorers.contains import Contains, ContainsAlone, ContainsConfig
from cowest.scorers.exact_match import ExactMatch, ExactMatchConfig
from cowest.scorers.marker import after
from cowest.scorers.rules import RuleNumber
from cowest.scorers.squad import SquadEM, SquadF1
from cowest.scorers.tally import Matching, Tally
from cowest.scorers.token_f1 import TokenF1, TokenF1Config
from tests.factories import make_trial
from tests.scored import CITIES, score_of, targets_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # letters that can't be seen
        ("Bram\u00adley", "bramley"),
        ("Hol\u200blis", "hollis"),
        ("\ufeffIvel", "ivel"),
        ("Far\u2060row", "farrow"),
        ("Del\x08by", "delby"),
        ("\u202eabc\u202c", "abc"),
        ("\u2764\ufe0f b", "b"),
        # other forms of letters
        ("Gri\ufb00on", "griffon"),
        ("\uff24\uff45\uff4c\uff42\uff59\u3000\uff11\uff17", "delby 17"),
        ("\u216b", "xii"),
        ("Stra\u00dfe", "strasse"),
        ("5 \u338f", "5 kg"),
        ("H\u2082SO\u2084", "h2so4"),
        ("\uff76\uff9e", "\u30ac"),
        # a form that says something else stays
        ("10\u00b2", "10\u00b2"),
        ("7 m\u00b2", "7 m2"),
        ("3\u00bd", "3 1 2"),
        ("Brand\u2122", "brand"),
        # scripts without spaces
        ("\u5317\u4eac\u5e02", "\u5317 \u4eac \u5e02"),
        ("\u5317\u4eac 2008\u5e74", "\u5317 \u4eac 2008 \u5e74"),
        ("\u30d1\u30ea\u3067\u3059\u3002", "\u30d1 \u30ea \u3067 \u3059"),
        # a vowel sign stays with its letter
        ("\u0e01\u0e34\u0e19", "\u0e01\u0e34 \u0e19"),
        # as before
        ("The Eiffel Tower!", "eiffel tower"),
        ("-5", "-5"),
        ("C++", "c++"),
        ("Vitamin A", "vitamin a"),
        ("...", "..."),
        # nothing that can be seen is no empty answer
        ("\u200b", "\u200b"),
    ],
)
def test_comparable(text: str, words: str) -> None:
    assert comparable(text) == words


@pytest.mark.parametrize(
    ("answer", "target", "exact", "shared"),
    [
        ("Hol\u200blis", "Hollis", 1.0, 1.0),
        ("\u6771\u4eac", "\u6771\u4eac", 1.0, 1.0),
        # one of two letters that were asked for, among seven
        ("\u9996\u90fd\u306f\u6771\u4eac\u3067\u3059", "\u6771\u4eac", 0.0, 4 / 9),
        ("\u4eac\u90fd", "\u6771\u4eac", 0.0, 0.5),
    ],
)
def test_exact_match_and_token_f1(answer: str, target: str, exact: float, shared: float) -> None:
    assert score_of(ExactMatch(rule=2), answer, target).value == exact
    assert score_of(TokenF1(rule=2), answer, target).value == pytest.approx(shared)


@pytest.mark.parametrize(
    "answer",
    [
        "It was built in Norway, of course.",
        "norway",
        "Not Sweden but Norway",
        "Norway, not Sweden",
        "Norway rather than Sweden",
        "Sweden? No, Norway.",
        "No, it is Norway",
        "No doubt it is Norway",
        "I am not sure, but I think Norway",
        "I don't know, perhaps Norway",
        "Not only Norway",
        "It was not until Norway that it was found",
        "If I am not mistaken it is Norway",
        "Is it Norway? Yes.",
        "The answer is Norway. Norway is not in Asia.",
        "It is not Sweden. It is Norway.",
        "The Norway-based company",
        "in southern Norway",
        "No\u00adrway",
        "Norway, isn't it?",
        "Norway. No other country builds it.",
    ],
)
def test_contains_affirmed(answer: str) -> None:
    assert score_of(ContainsAlone(), answer, "Norway").value == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "surely not Norway",
        "It was not built in Norway.",
        "It wasn't Norway",
        "It isn\u2019t in Norway",
        "neither Norway nor Sweden",
        "neither Sweden nor Norway",
        "Sweden rather than Norway",
        "anywhere other than Norway",
        "It can't be Norway",
        "I don't think it is Norway",
        "It was never in Norway",
        "Norway is not right",
        "Norway is certainly wrong",
        "Norway isn't it",
        "Norway cannot be right",
        "hardly Norway",
        "Norway? No.",
        "Norway? No, Sweden.",
        "Norway, no wait, Sweden",
        "Norway, I mean Sweden",
        "There is no Norway in it",
        "nicht Norway",
        "",
        "Norwayan",
    ],
)
def test_contains_denied(answer: str) -> None:
    assert score_of(ContainsAlone(), answer, "Norway").value == 0.0


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("North Korea", "Korea", 0.0),
        ("Equatorial Guinea", "Guinea", 0.0),
        ("Papua New Guinea", "Guinea", 0.0),
        ("Guinea-Bissau", "Guinea", 0.0),
        ("Baden-Baden", "Baden", 0.0),
        ("New Guinea", "New Guinea", 1.0),
        ("Ada Lovelace", "Lovelace", 1.0),
        ("Bergen, Norway", "Norway", 1.0),
        ("Paris/Rome", "Rome", 1.0),
        ("Washington, D.C., I think", "Washington D.C.", 1.0),
        ("\u7b54\u6848\u662f\u5df4\u9ece\u3002", "\u5df4\u9ece", 1.0),
        ("\u4e0d\u662f\u5df4\u9ece", "\u5df4\u9ece", 0.0),
        ("\u6771\u4eac\u3067\u306f\u3042\u308a\u307e\u305b\u3093", "\u6771\u4eac", 0.0),
        ("\u0e1b\u0e23\u0e30\u0e40\u0e17\u0e28\u0e44\u0e17\u0e22\u0e04\u0e48\u0e30",
         "\u0e44\u0e17\u0e22", 1.0),
        ("not guilty", "guilty", 0.0),
        ("He was found not guilty", "not guilty", 1.0),
        ("No, it is not.", "no", 1.0),
        ("It costs 1,000", "1000", 1.0),
        ("It costs 3.5", "3", 0.0),
    ],
)  # fmt: skip
def test_contains_names_and_scripts(answer: str, target: str, value: float) -> None:
    assert score_of(ContainsAlone(), answer, target).value == value


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("Paris or London", "Paris", 0.0),
        ("Paris, London, New York, Rome", "Rome", 0.0),
        ("Paris, not London", "Paris", 1.0),
        ("New York", "New York", 1.0),
        ("York", "New York", 0.0),
        ("Oslo", "Paris", 0.0),
    ],
)
def test_contains_where_other_answers_are_known(answer: str, target: str, value: float) -> None:
    assert score_of(ContainsAlone(), answer, target, choices=CITIES).value == value
    assert score_of(ContainsAlone(CITIES), answer, target).value == value


def test_the_longest_candidate_counts() -> None:
    rivers = ContainsAlone(("Blue Nile", "White Nile", "Nile"))
    assert score_of(rivers, "the Blue Nile", "Nile").value == 0.0
    assert score_of(rivers, "the Blue Nile", "Blue Nile").value == 1.0
    assert score_of(ContainsAlone(), "B. London", "B", choices=CITIES).value == 1.0


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("Answer: B, no wait, C", 2),
        ("Answer: A. Wait, no. It's D.", 3),
        ("Paris, no wait, London", 1),
        ("Answer: B, no, C", 2),
        ("Answer: B. Actually, C.", 2),
        ("Answer: B. I made a mistake: the answer is D", 3),
        ("Answer: A\n\nHmm, let me reconsider.\n\nAnswer: D", 3),
        ("Answer: A\nAnswer: B", 1),
        ("No, the answer is B", 1),
        ('{"answer_choice": "B, no wait, C"}', 2),
        ('{"answer_choice": "B"} No wait, C', 2),
        ('{"thoughts": "A. No wait.", "answer_choice": "B"}', 1),
        # words of a correction that correct nothing
        ("Answer: B. Actually, London lies on the Thames", 1),
        ("Answer: B. Travellers can't wait to see it", 1),
        ("Answer: B, wait, no, B", 1),
        ("The answer is not B. The answer is C", 2),
        # `a` is an article, and a reason may deny what it likes
        ("Answer: A. Paris is not a river.", 0),
        ("The answer is not a simple one.\nAnswer: A", 0),
        ("Answer: A because it is not a river", 0),
        ("Answer: A. Blood of type A, not A or B, was asked for", 0),
        ("The answer is not a, but b. The answer is b", 1),
        ("\uff22", 1),
        ("Lon\u200bdon", 1),
    ],
)
def test_choice_follows_corrections(answer: str, option: int) -> None:
    assert parse_choice(answer, CITIES, 2) == option


@pytest.mark.parametrize(
    "answer",
    [
        "Answer: B, no wait",
        "Answer: B. Scratch that.",
        "The answer is B. Wait, the answer is not B",
        "The answer is B. The answer is not B.",
        "The answer is b. The answer is not b, I think.",
        "The answer is A. The answer is not a.",
        "The answer is A. The answer is not (a) but Lyon.",
        "The answer is A. The answer is not option a but Lyon.",
        "The answer is B. The answer is definitely not B.",
        "The answer is B. The answer is not A, and it is not B.",
        "The answer is A or B",
        "Answer: B, no wait, A or C",
        '{"answer": "A"} {"answer": "B"}',
        "The answer is B, and the answer A: likely too",
    ],
)
def test_choice_never_guesses_after_a_correction(answer: str) -> None:
    assert isinstance(parse_choice(answer, CITIES, 2), str)


def test_choice_tells_options_apart_that_differ_in_case_or_a_sign() -> None:
    gases = ("CO", "Co", "co2")
    assert [parse_choice(said, gases, 2) for said in ("CO", "Co.", "B. Co", "CO\u2082")] == [
        0, 1, 1, 2,
    ]  # fmt: skip
    assert isinstance(parse_choice("co", gases, 2), str)
    limits = ("< 5", "> 5")
    assert score_of(Choice(2), "A", "< 5", choices=limits).value == 1.0
    assert score_of(Choice(2), "B", "< 5", choices=limits).value == 0.0


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("A", 0), ("(A)", 0), ("a.", 0), ("Answer: A", 0), ("B", 1), ("Option C", 2), ("D.", 3),
        ("A+", 0), ("(A-)", 1), ("Answer: A-", 1), ("B. A-", 1), ('{"answer": "B-"}', 3),
    ],
)  # fmt: skip
def test_a_letter_is_one_beside_options_that_only_look_like_it(answer: str, option: int) -> None:
    assert parse_choice(answer, ("A+", "A-", "B+", "B-"), 2) == option


@pytest.mark.parametrize("answer", ["A", "(A)", "a", "Answer: A", "B", "b."])
def test_a_letter_that_is_an_option_itself_stays_ambiguous(answer: str) -> None:
    for groups in (("O", "A", "B", "AB"), ("o.", "(A)", "b", "AB")):
        said = parse_choice(answer, groups, 2)
        assert isinstance(said, str) and said.startswith("names "), groups


ANSWERS = st.text(max_size=60) | st.sampled_from(
    ["A", "the a", "-5", "no", "not a", "\u6771\u4eac", "Answer: B, no wait, C", "\u200b"]
)
TARGETS = targets_of(ANSWERS)


@given(answer=ANSWERS, targets=TARGETS)
def test_a_target_scores_1_and_exact_is_never_above_the_others(
    answer: str, targets: tuple[str, ...]
) -> None:
    scorers = (ExactMatch(rule=2), ContainsAlone(), TokenF1(rule=2))
    exact, *others = (score_of(scorer, answer, *targets).value or 0 for scorer in scorers)
    assert all(exact <= other <= 1 for other in others)
    for target in targets:
        assert all(score_of(scorer, target, *targets).value == 1 for scorer in scorers)


@pytest.mark.parametrize("rule", rules.RULES)
@pytest.mark.parametrize(
    ("value", "option"),
    [("null", None), ('"None"', 0), ("None", 0), ("[" * 20_000, None), ("1e5", 3), ("tru", None)],
    ids=["null", "quoted", "a word", "brackets", "a number", "no JSON"],
)
def test_an_unquoted_value_chooses_what_it_says(
    value: str, option: int | None, rule: RuleNumber
) -> None:
    said = parse_choice(f'{{"answer": {value}}}', ("None", "[", "100000.0", "1e5"), rule)
    if value == "1e5" and rule != 3:
        # As rules 1 and 2 always read it: as Python writes the number.
        option = 2
    assert said == ("names no option" if option is None else option)


@pytest.mark.parametrize("number", ["0.50", "10.00", "-0.10", "007"])
def test_rule_3_takes_a_number_as_it_is_written(number: str) -> None:
    choices = ("0.50", "10.00", "-0.10", "007", "0.5", "10", "7")
    assert parse_choice(f'{{"answer": {number}}}', choices, 3) == choices.index(number)


@pytest.mark.parametrize(
    "answer",
    [
        "\n" * 4_000,
        "The answer is B. " * 400,
        "answer " * 800,
        "Hmm, so. " * 400,
        "Actually, it is a river.\n\n" * 400,
        "Actually, the answer is a river.\n" * 1_000,
        "The answer is B. " * 2_000,
        "The answer is not B. " * 1_000,
        "Hmm. " * 2_000,
        "no, " * 10_000,
        "Italy " * 5_000,
        "." * 12_000 + "x",
    ],
    ids=[
        *("newlines", "announced", "answer", "hmm", "actually", "corrected", "announced long"),
        *("denied", "hmm long", "no", "a name", "dots"),
    ],
)
def test_a_model_that_says_one_thing_until_its_limit_is_read_at_once(answer: str) -> None:
    began = time.process_time()
    parse_choice(answer, CITIES, 2)
    score_of(ContainsAlone(), answer, "Italy")
    # Read again from each place on, each of them took from 2 to 8 s.
    assert time.process_time() - began < 1.0


def calls_to_read(answer: str, rule: RuleNumber) -> int:
    """Counts the calls, of Python's own functions too, in which a choice is read."""
    calls = 0

    def counted(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        parse_choice(answer, CITIES, rule)
    finally:
        sys.setprofile(before)
    return calls


FIELDS = r"Actually, \"answer\": \"a river\". "


@pytest.mark.parametrize("rule", [2, 3])
@pytest.mark.parametrize(
    "said",
    [
        "Actually, the answer is a river.\n",
        "Actually, the answer is a river. ",
        "The answer is B, and C. So ",
        "The answer is not B. ",
        FIELDS,
    ],
)
def test_twice_the_text_is_twice_the_work(said: str, rule: RuleNumber) -> None:
    once, twice = said * 150, said * 300
    if said == FIELDS:
        once, twice = f'{{"answer": "{once}"}}', f'{{"answer": "{twice}"}}'
    calls_to_read(once, rule)
    assert calls_to_read(twice, rule) < 2.5 * calls_to_read(once, rule)


def test_an_answer_that_is_read_again_is_the_same() -> None:
    reading = ChoiceReading(CITIES, 2)
    for said in ("The answer is B.", "So:\nB", '{"answer": "B"}', "A. Actually, the answer is B."):
        assert [reading.parse(said) for _ in range(3)] == [1, 1, 1]


def test_a_long_text_is_an_option_where_all_but_the_option_is_no_letter() -> None:
    for said in ("!" * 900 + "London", "the " * 900 + "London", "London" + " *" * 900):
        assert parse_choice(f"The answer is {said}", CITIES, 2) == 1
    words = " ".join(["a long option"] * 90)
    assert parse_choice(f"Answer: {words}.", (words, words[:-1]), 2) == 0


@given(answer=ANSWERS)
def test_choice_never_breaks(answer: str) -> None:
    assert score_of(Choice(2), answer, "London", choices=CITIES).value in (0, 1)


# The functions of SQuAD's evaluate-v2.0.py, in its own words.


def official_words(text: str) -> list[str]:
    lowered = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", lowered).split()


def official_f1(gold: str, predicted: str) -> float:
    gold_toks, pred_toks = official_words(gold), official_words(predicted)
    common = Counter(gold_toks) & Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision, recall = num_same / len(pred_toks), num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


WORDS = st.text(alphabet="aAnthe bc.,-'5+\u2019\u00e9\n", max_size=20)


@given(answer=WORDS, targets=st.lists(WORDS.filter(str.strip), min_size=1, max_size=3))
def test_squad_is_the_official_script(answer: str, targets: list[str]) -> None:
    exact = max(int(official_words(one) == official_words(answer)) for one in targets)
    shared = max(official_f1(one, answer) for one in targets)
    assert score_of(SquadEM(), answer, *targets).value == exact
    assert score_of(SquadF1(), answer, *targets).value == pytest.approx(shared)


@pytest.mark.parametrize(
    ("answer", "target", "exact", "shared"),
    [
        ("The well-known bridge", "wellknown bridge", 1.0, 1.0),
        ("-5", "5", 1.0, 1.0),
        ("in May 1960", "May 1960", 0.0, 0.8),
        ("don\u2019t", "dont", 0.0, 0.0),
    ],
)
def test_squad(answer: str, target: str, exact: float, shared: float) -> None:
    assert score_of(SquadEM(), answer, target).value == exact
    assert score_of(SquadF1(), answer, target).value == pytest.approx(shared)
    said = f"I think so.\nAnswer: {answer}\n"
    assert score_of(SquadEM("Answer:"), said, target).value == exact


@pytest.mark.parametrize("kind", [ContainsConfig, ExactMatchConfig, TokenF1Config, ChoiceConfig])
def test_old_settings_keep_their_rule_and_are_told_once(
    kind: type[ChoiceConfig], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "SAID", set())
    name = kind.model_fields["scorer"].default
    for _ in range(2):
        with kind().open() as scorer:
            assert scorer.name == name
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{{scorer: {name}, rule: 2}}" in said
    with kind(rule=2).open() as scorer:
        assert scorer.name == f"{name}:2"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("answer", "before", "now"),
    [
        ("**Answer**: B", "names no option", 1),
        ("**Answer**: B. London", "names no option", 1),
        ("It is clear.\n__Answer__ is C, of course", "names no option", 2),
        ("**Answer**: A\n**Answer**: B", "names no option", 1),
        ("*Answer*: B, no wait, C", 2, 2),
        ("**Answer:** B", 1, 1),
        ("**Final Answer**\nB", 1, 1),
        ("The answer is B", 1, 1),
        ("My answer B is a guess.\nAnswer: C", 2, 2),
        ("**Answer**: none of them", "names no option", "names no option"),
    ],
)
def test_rule_3_of_choice_reads_markdown(answer: str, before: int | str, now: int | str) -> None:
    assert parse_choice(answer, CITIES, 2) == before
    assert parse_choice(answer, CITIES, 3) == now


@pytest.mark.parametrize(
    ("answer", "before", "now"),
    [
        ("I think so.\nAnswer:\nParis", "", "Paris"),
        ("Answer: \n\n **Paris**\nAs is known.", "", "Paris"),
        ("**Answer**: Paris", "**Answer**: Paris", "Paris"),
        ("Answer: Rome\n**Answer**: Paris", "Rome", "Paris"),
        ("**Answer:** Paris\nAs is known.", "Paris", "Paris"),
        ("Answer:", "", ""),
        ("Paris", "Paris", "Paris"),
    ],
)
def test_rule_3_of_a_marker_reads_markdown_and_the_next_line(
    answer: str, before: str, now: str
) -> None:
    assert [after(answer, "Answer:", rule) for rule in rules.RULES] == [before, before, now]
    for kind in (ExactMatchConfig, TokenF1Config):
        with kind(marker="Answer:", rule=3).open() as scorer:
            assert score_of(scorer, answer, "Paris").value == (now == "Paris")


@pytest.mark.parametrize("marker", ["", " ", "\n\t"])
@pytest.mark.parametrize("scorer", ["exact_match", "token_f1", "squad_em", "squad_f1"])
def test_a_blank_marker_is_refused(scorer: str, marker: str) -> None:
    with pytest.raises(ValidationError, match="it is blank"):
        TypeAdapter(AnyScorer).validate_python({"scorer": scorer, "marker": marker})


def test_contains_has_no_third_rule() -> None:
    with pytest.raises(ConfigError, match="rule"):
        parse_config(ContainsConfig, {"rule": 3}, "test")


def test_names_tell_rules_markers_and_candidates_apart() -> None:
    names = [
        Contains().name, ContainsAlone().name, ContainsAlone(("a", "b")).name,
        ContainsAlone(("a",)).name, SquadEM().name, SquadEM("A:").name, TokenF1("A:", 2).name,
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    names = ["choice", "choice:2", "choice:3", "contains"]
    assert [rule_of(name) for name in names] == [1, 2, 3, None]


def test_candidates_need_the_rule_that_looks_at_them() -> None:
    with pytest.raises(ConfigError, match="set `rule: 2`"):
        parse_config(ContainsConfig, {"candidates": ["Italy"]}, "test")


def test_reports_count_by_the_rule_of_their_rows() -> None:
    said = "Answer: B, no wait, C"
    tally = Tally()
    asked = {"refinement": said, "targets": ("New York",), "choices": CITIES}
    rows = [[make_trial(scorer=name, **asked)] for name in ("choice", "choice:2")]
    assert len(list(tally.watch(rows))) == 2
    assert (tally.choices()["after"].right, tally.choices()["after"].wrong) == (1, 1)

    def exact(scorer: str, answer: str, target: str) -> float:
        matching = Matching()
        row = make_trial(scorer=scorer, refinement=answer, targets=(target,))
        assert list(matching.watch([[row]])) == [[row]]
        return matching.matches()["after"].exact_match

    assert exact("squad_f1 after A:", "A: C++", "c") == 1.0
    assert exact("token_f1 after A:", "A: C++", "c") == 0.0
    assert exact("token_f1:2", "Hol\u200blis", "Hollis") == 1.0
    assert exact("exact_match", "Hol\u200blis", "Hollis") == 0.0
    assert exact("token_f1:3 after A:", "**A**: Hollis", "Hollis") == 1.0
