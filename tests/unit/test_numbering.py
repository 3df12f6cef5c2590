"""A question's number is no part of it, and a number that it asks about is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest.expectations import near
from cowest.expectations.numbering import unnumbered

ASKED = "Which mill on the Orla ground rye in winter?"


@pytest.mark.parametrize(
    "form",
    [
        "Question 8: {}",
        "QUESTION 8 - {}",
        "Question #8. {}",
        "Question no. 8: {}",
        "**Question 8:** {}",
        "Question 8 of 30 (3 points): {}",
        "Question 8\n{}",
        "Q8. {}",
        "Q. 8) {}",
        "Q-12: {}",
        "Q12a: {}",
        "q 7b) {}",
        "Q12a:\n{}",
        "{} (Q12a)",
        "8) {}",
        "8.2) {}",
        "c) {}",
        "iv) {}",
        "Frage 8: {}",
        "Pregunta 8. {}",
        "Вопрос № 8: {}",
        "第8题：{}",  # noqa: RUF001
        "{} (3 points)",
        "{} (1 point)",
        "{} [4 marks]",
        "{} (0.5 pts)",
        "{} - 4 marks",
        "{} 4 pts",
        "{} (Question 8)",
        "[4 marks] {}",
        "Q8: {} (max. 3 Punkte)",
    ],
)
def test_a_number_before_or_after_a_question_counts_for_nothing(form: str) -> None:
    found = unnumbered(form.format(ASKED))
    assert (found.text.strip(), found.number) == (ASKED, "")


@pytest.mark.parametrize(
    ("form", "number"),
    [
        ("8. {}", "8"),
        ("(8) {}", "8"),
        ("[8] {}", "8"),
        ("#8 {}", "8"),
        ("8\t{}", "8"),
        ("Q3. {}", "3"),
        ("Problem 8: {}", "8"),
        ("Exercise 2.1 - {}", "2.1"),
        ("{} [8]", "8"),
        ("{} #8", "8"),
        ("{} 8", "8"),
        ("Q1a. {}", "1a"),
        ("Problem 8b: {}", "8b"),
    ],
)
def test_a_number_that_may_be_asked_about_is_kept_beside_the_question(
    form: str, number: str
) -> None:
    found = unnumbered(form.format(ASKED))
    assert (found.text.strip(), found.number) == (ASKED, number)


@pytest.mark.parametrize(
    "text",
    [
        "Which mill is number 8?",
        "What is 12 + 7 in base 8?",
        "3) + 4 = what?",
        "Level 8: who guards the gate?",
        "12 angry men sat where?",
        "3.5 litres of rye weigh what?",
        "10:30 is whose turn?",
        "Q3 earnings of the mill?",
        "How many points is a try worth in 7s?",
        "What did the mill earn? (2019)",
        "Question 8:",
        "Why? (2 points)",
        "Which one?\nA. 8\nB. 9",
        "",
    ],
)
def test_a_number_inside_a_question_stays(text: str) -> None:
    assert unnumbered(text) == (text, "")


def test_a_number_with_a_letter_is_read_on_a_later_line_too() -> None:
    found = unnumbered(f"Of the mills:\nQ12a: {ASKED}\nQ1b: {ASKED}")
    assert found == (f"Of the mills:\n{ASKED}\n{ASKED}", "1b")


@given(st.text(st.sampled_from("Q8.():#[] \n?points-questionb")))
def test_any_text_has_a_question_without_its_number(text: str) -> None:
    found = unnumbered(text)
    assert len(found.text) <= len(text)


def alike(one: str, other: str) -> bool:
    index = near.Index(0.9)
    index.add([0], [one])
    known = near.Known(None)
    known.add([("there", one)])
    (sketch,) = near.sketches([other])
    found = index.nearest(sketch)[1] is not None
    assert (known.nearest(other)[1] is not None) == found
    return found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (f"Question 8: {ASKED}", ASKED, True),
        (ASKED, f"{ASKED} [4 marks]", True),
        (f"Question 8: {ASKED}", f"Question 9: {ASKED}", True),
        (f"8. {ASKED}", ASKED, True),
        (ASKED, f"8. {ASKED}", True),
        (f"8. {ASKED}", f"8) {ASKED}", True),
        (f"8. {ASKED}", f"9. {ASKED}", False),
        (f"Q3: {ASKED}", f"Q4: {ASKED}", False),
        (f"Problem 3: {ASKED}", f"Problem 4: {ASKED}", False),
        ("What is 21+2, in full?", "What is 21+3, in full?", False),
        ("Who ran the mill at lock 8?", "Who ran the mill at lock 9?", False),
        ("Question 8: what is 21+2?", "Question 8: what is 21+3?", False),
    ],
)
def test_copies_are_found_by_what_they_ask(one: str, other: str, same: bool) -> None:
    assert alike(one, other) is same
