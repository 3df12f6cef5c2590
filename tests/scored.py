"""Answers and their scores."""

from hypothesis import strategies as st

from cowest.protocols import Score, Scorer
from tests.factories import make_query

CITIES = ("Paris", "London", "New York", "Rome")


def score_of(scorer: Scorer, answer: str, *targets: str, choices: tuple[str, ...] = ()) -> Score:
    """The score of an answer to a question with these targets."""
    (found,) = scorer.score([(make_query(targets=targets, choices=choices), answer)])
    return found


def targets_of(answers: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """One to four right answers, drawn from answers that are not empty."""
    return st.lists(answers.filter(str.strip), min_size=1, max_size=4).map(tuple)
