"""Lists and objects that a program wrote into one text of a cell, and what only looks like one."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest import config
from cowest.cli import main
from cowest.domains.mapping import Table
from cowest.domains.table import Source
from cowest.domains.written import DEPTH, value_of
from cowest.errors import RecordError
from cowest.raw.intake import Intake
from cowest.records import Query
from tests.tables import everything, write

VALUES = st.recursive(
    st.text() | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def load(path: Path, intake: Intake | None = None, **settings: Any) -> list[Query]:
    table = Table.model_validate({"prompt": "q", **everything(), **settings})
    return list(Source(table).load(path, intake))


@given(st.lists(VALUES, max_size=4))
def test_what_python_and_json_write_is_read_back(entries: list[Any]) -> None:
    for text in (repr(entries), json.dumps(entries), json.dumps(entries, ensure_ascii=False)):
        # `{}` may be a set; and no table's cell is as deep as these lists may be.
        if "{}" not in text and text.count("[") + text.count("{") <= DEPTH:
            assert value_of(text) == entries


@pytest.mark.parametrize("digits", ["1", "1.", "1e"])
def test_a_long_number_that_is_none_takes_no_hours(digits: str) -> None:
    """A pattern that tries every part of it would take 10^11 steps here."""
    assert value_of(f"[{digits}{'1' * 500_000}a]") is None


@given(st.text(st.sampled_from("[](){}'\",:\\ax1.-en \n=dtypcu")))
def test_any_text_is_a_value_or_none(text: str) -> None:
    assert isinstance(value_of("[" + text + "]"), list | dict | None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['Skerry' 'the isle of Skerry']", ["Skerry", "the isle of Skerry"]),
        ("['Skerry'\n 'Holm']", ["Skerry", "Holm"]),
        ("[1 2]", [1, 2]),
        (
            "{'text': array(['Skerry'],\n dtype=object), 'answer_start': array([515])}",
            {"text": ["Skerry"], "answer_start": [515]},
        ),
        ('c("Skerry", "Holm")', ["Skerry", "Holm"]),
        ("('Skerry',)", ["Skerry"]),
        ("{'Skerry', 'Holm'}", ["Skerry", "Holm"]),
        ("['it\\'s', \"it's\"]", ["it's", "it's"]),
        ('["\\ud83d\\ude00"]', ["\U0001f600"]),
    ],
)
def test_other_programs_lists(text: str, value: Any) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("[laughs]", "[Skerry, Holm]", "(1, 2)", "{1, 2}", "[1-2]", "['a''b']", "['a'] or ['b']"),
        *("('a')", "['a", "[1,,2]", "it is ['a']", "[" * 500 + "]" * 500, "", "]", "{'a': 1, 'b'}"),
    ],
)
def test_what_only_looks_like_a_list_is_none(text: str) -> None:
    assert value_of(text) is None


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_text_of_a_list_is_a_list_of_right_answers_and_said(tmp_path: Path, ending: str) -> None:
    rows = [
        {"q": f"Which isle is lamp {n} on?", "a": str([f"Isle {n}", f"isle no. {n}"])}
        for n in range(3)
    ]
    path = write(tmp_path / f"lamps{ending}", rows)
    intake = Intake()
    found = load(path, intake, targets="a")
    assert [query.targets for query in found] == [(f"Isle {n}", f"isle no. {n}") for n in range(3)]
    ((said, count),) = intake.notes.items()
    assert count == 3 and "`lists: text` if not" in said
    as_it_is = Intake()
    kept = load(path, as_it_is, targets="a", lists="text")
    assert kept[0].targets == ("['Isle 0', 'isle no. 0']",) and not as_it_is.notes


def test_numbers_in_brackets_may_be_an_interval_and_stay_a_text_that_is_said(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "t.csv", [{"q": "Where is f > 0?", "a": "[0, 1]"}])
    intake = Intake()
    assert load(path, intake, targets="a")[0].targets == ("[0, 1]",)
    assert "is taken as one text" in next(iter(intake.notes))
    assert load(path, targets="a", lists="read")[0].targets == ("0", "1")


def test_an_object_that_csv_made_a_text_of_is_looked_into(tmp_path: Path) -> None:
    answers = "{'text': array(['Holm', 'the Holm'], dtype=object), 'start': array([3])}"
    choices = json.dumps({"text": ["Holm", "Skerry"], "label": ["B", "A"]})
    row = {"q": "Which?", "answers": answers, "choices": choices, "key": "A"}
    path = write(tmp_path / "t.csv", [row])
    assert load(path, targets="answers.text")[0].targets == ("Holm", "the Holm")
    (query,) = load(
        path, prompt="{q}\n{choices}", choices="choices.text", targets="key", keyed="letter"
    )
    assert query.targets == ("Skerry",)
    intake = Intake()
    assert load(path, intake, targets="answers")[0].targets == (answers,)
    assert "name `answers.PART`" in next(iter(intake.notes))


def test_options_may_be_the_text_of_a_list_and_may_look_like_lists(tmp_path: Path) -> None:
    settings = {"prompt": "{q}\n{choices}", "choices": "o", "targets": "a"}
    path = write(tmp_path / "t.csv", [{"q": "How many?", "o": "[3, 4]", "a": "4"}])
    assert load(path, **settings)[0].choices == ("3", "4")
    python = write(tmp_path / "p.jsonl", [{"q": "Prints?", "o": ["['x']", "['y']"], "a": "['y']"}])
    assert load(python, **settings)[0].targets == ("['y']",)
    several = write(
        tmp_path / "s.csv", [{"q": "Which?", "o": "['x', 'y', 'z']", "a": "['A', 'C']"}]
    )
    assert load(several, **settings, keyed="letter")[0].targets == ("x", "z")
    with pytest.raises(RecordError, match="has 1 options"):
        load(several, **settings, lists="text")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4.2e-07", "an exponent"),
        ("4.2E+17", "an exponent"),
        ("2031-05-01 00:00:00", "at midnight"),
        ("2031-05-01T00:00:00Z", "at midnight"),
        ("0.699999988079071", "32 bits"),
        ("-12.300000190734863", "32 bits"),
        ("0.7", None),
        ("0.12345678901234567", None),
        ("2031-05-01", None),
        ("2031-05-01 06:30:00", None),
        ("1E5", None),
        ("0.3330078125", None),
        ("+", None),
        ("", None),
        ("1" * 400 + "." + "1" * 20, None),
    ],
)
def test_a_number_or_day_that_a_program_wrote_is_said(
    tmp_path: Path, text: str, said: str | None
) -> None:
    for ending in (".csv", ".jsonl", ".parquet"):
        path = write(tmp_path / f"t{ending}", [{"q": "How much?", "a": text, "b": "x"}])
        intake = Intake()
        load(path, intake, targets=["a", "b"])
        assert len(intake.notes) == (said is not None)
        assert all((said or "") in note for note in intake.notes)


def test_a_number_of_json_may_be_widened_too(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"q": "How much?", "a": 0.699999988079071}\n')
    intake = Intake()
    assert load(tmp_path / "t.jsonl", intake, targets="a")[0].targets == ("0.699999988079071",)
    assert "round it" in next(iter(intake.notes))


def test_init_reads_the_lists_of_a_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "isles.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answers"])
        writer.writerows([f"Which isle is lamp {n} on?", [f"Isle {n}", "Isle"]] for n in range(40))
    assert main(["init", str(tmp_path / "isles.csv"), "--out", str(tmp_path / "made")]) == 0
    assert "'answers': texts of lists, read as lists" in capsys.readouterr().out
    table = config.load(tmp_path / "made" / "params.yaml")["prepare"]["table"]
    assert table["lists"] == "read"
