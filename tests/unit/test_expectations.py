"""The parts of the suites that need no Great Expectations: narrow columns, near copies, what is
private, and what documents say.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest import cli, detectors
from cowest.detectors import Detection, Finding
from cowest.expectations import AnySuite, columns, near
from cowest.expectations.private import Private
from cowest.expectations.rules import MOST_REMARKS, Remarks, commonest
from cowest.sametext import unpunctuated
from tests import private_texts

ROOT = Path(__file__).parents[2]
SUITES = get_args(get_args(AnySuite)[0])
KEYS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(columns.SPLITS)), max_size=40)


@given(KEYS)
def test_repetitions_are_counted_in_order(rows: list[tuple[int, str]]) -> None:
    seen: Counter[int] = Counter()
    expected = []
    for key, _ in rows:
        expected.append(seen[key])
        seen[key] += 1
    assert columns.nth(numpy.array([key for key, _ in rows], dtype="uint64")).tolist() == expected


@given(KEYS)
def test_splits_of_a_key_are_counted(rows: list[tuple[int, str]]) -> None:
    numbers = numpy.array([columns.SPLITS.index(split) for _, split in rows], dtype="int8")
    found = columns.splits_of(numpy.array([key for key, _ in rows], dtype="uint64"), numbers)
    assert found.tolist() == [
        len({split for other, split in rows if other == key}) for key, _ in rows
    ]


def test_a_similarity_is_about_the_jaccard_index_of_runs() -> None:
    one, other = (
        unpunctuated("The harbour was rebuilt in stone after the great flood."),
        unpunctuated("The harbour was rebuilt in stone after a great flood!"),
    )
    runs = [
        {text[at : at + near.RUN] for at in range(len(text) - near.RUN + 1)}
        for text in (one, other)
    ]
    index = near.Index(near.LEAST)
    index.add([7], [one])
    exact = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
    (sketch,) = near.sketches([other])
    alike, number = index.nearest(sketch, lambda _: True)
    assert number == 7
    assert alike == pytest.approx(exact, abs=4 * 0.045)
    assert index.nearest(sketch, lambda number: number != 7) == (0.0, None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("who built engine 1", "who built engine 11"),
        ("in 1362 it burnt down", "in 1363 it burnt down"),
        ("What is 3 * 4?", "What is 3 + 4?"),
        ("2+2?", "2-2?"),
        ("???", "What is x < y?"),
    ],
)
def test_other_figures_make_another_text(one: str, other: str) -> None:
    one, other = unpunctuated(one), unpunctuated(other)
    index = near.Index(near.LEAST)
    index.add([0], [one])
    assert index.nearest(near.sketches([other])[0], lambda _: True) == (0.0, None)
    assert index.nearest(near.sketches([one])[0], lambda _: True) == (1.0, 0)


def test_an_index_misses_next_to_nothing_at_its_threshold() -> None:
    """Texts of 100 words of which some differ: at 0.9 alike and more, all are found."""
    generator = numpy.random.default_rng(0)
    vocabulary = ["".join(generator.choice(list("abcdefghij"), 6)) for _ in range(2000)]
    texts = [list(generator.choice(vocabulary, 100)) for _ in range(200)]
    index = near.Index(0.8)
    index.add(range(200), [" ".join(text) for text in texts])
    copies = [" ".join([*text[:-3], "other", "words", "here"]) for text in texts]
    assert [index.nearest(sketch, lambda _: True)[1] for sketch in near.sketches(copies)] == list(
        range(200)
    )


def test_texts_looked_at_together_say_what_each_says() -> None:
    """Most rows are looked at once, all their texts in one; whatever is in one of them must be
    seen.
    """
    config = Detection(
        detect=("email", "phone", "card", "iban", "national_id", "secret"),
        regions=("US", "GB", "DE", "FR"),
    )
    lines = [
        line.strip().replace("<", "").replace(">", "")
        for text in private_texts.POSITIVES.values()
        for line in text.splitlines()
    ]
    lines = [line for line in lines if line]
    around = ["Which number is it?", "42", "+49", "12 34", "key", "A."]
    for line in lines:
        each = [detectors.find(text, config) for text in [*around, line, *around]]
        assert Private(detection=config).found([*around, line, *around]) == each


def test_a_number_that_another_text_of_its_row_names_is_found() -> None:
    texts = ["What is Ann Lee's SSN?", "219099998"]
    (prompt, (found,)) = Private(detection=Detection(detect=("national_id",))).found(texts)
    assert (prompt, found) == ([], Finding("national_id", 0, 9))
    assert Private(personal=None).found(texts) == [[], []]


def test_help_is_of_the_rows_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["validate@pairs", "--help"])
    said = capsys.readouterr().out
    assert "min_pairs: Pairs that must be left" in said and "private.personal" in said
    assert "languages" not in said


def test_the_share_of_the_commonest() -> None:
    assert commonest([]) is None
    assert commonest([1, 1, 2, 1]) == 0.75


def test_remarks_are_few() -> None:
    remarks = Remarks()
    for row in range(MOST_REMARKS + 5):
        remarks.say(row, "a")
    remarks.say(3, "b")
    assert len(remarks) == MOST_REMARKS
    assert remarks[3] == "a, b"


WHOLE: dict[str, dict[str, Any]] = {
    "queries": {
        "languages": ["en"],
        "contamination": ["a.jsonl"],
        "policy": {"provider": "hf", "model": "m"},
        "max_tokens": 9,
        "splits": ["train", "dev", "test"],
    },
    "corpus": {"queries": {"kind": "queries", "languages": ["en"]}},
    "feedback": {},
    "pairs": {},
}


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.__name__)
def test_every_rule_and_setting_is_in_the_documents_with_its_severity(suite: Any) -> None:
    kind = get_args(suite.model_fields["kind"].annotation)[0]
    text = (ROOT / "docs/your-data.md").read_text().partition("## Contracts")[2]
    section = re.split(r"\n### ", text)
    told = next(part for part in section if part.lower().startswith(kind))
    rows = {
        match[1]: match[2]
        for match in re.finditer(r"^\| `(\w+)` \|.*\| (\w+) \|$", told, re.MULTILINE)
    }
    rules = {
        rule.name: rule.severity
        for rule in suite.model_validate({"kind": kind, **WHOLE[kind]}).rules()
    }
    assert rows == rules
    assert not [
        name for name in suite.model_fields if f"`{name}`" not in text and f"{name}:" not in text
    ]
