"""Which option of a multiple choice a target names: labels, letters, numbers, and like options."""

from pathlib import Path
from typing import Any

import pytest

from cowest import config
from cowest.cli import main
from cowest.domains.options import option_of
from cowest.errors import RecordError
from cowest.raw.intake import Unfit
from tests.tables import QUIZ, everything, load, quiz, write

LABELLED: dict[str, Any] = {
    "prompt": "{question}\n{choices}",
    "choices": "choices.text",
    "targets": "key",
    "keyed": "letter",
}


def labelled(labels: list[str], key: str) -> dict[str, Any]:
    choices = {"text": ["Oslo", "Rome", "Bonn"], "label": labels}
    return {"question": "Where?", "choices": choices, "key": key}


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("labels", "key", "right"),
    [
        (["C", "A", "B"], "A", "Rome"),
        (["(c)", "(a)", "(b)"], "B.", "Bonn"),
        (["A", "B", "C"], "C", "Bonn"),
        (["1", "2", "3"], "2", "Rome"),
        # Labels that say nothing of a letter: then it counts the options, as it always did.
        (["1", "2", "3"], "C", "Bonn"),
        (["x", "x", "y"], "A", "Oslo"),
    ],
)
def test_labels_beside_the_options_say_which_is_meant(
    tmp_path: Path, ending: str, labels: list[str], key: str, right: str
) -> None:
    path = write(tmp_path / f"t{ending}", [labelled(labels, key)])
    (query,) = load(path, **LABELLED, **everything())
    assert query.targets == (right,)
    assert query.prompt[0].content == "Where?\nA. Oslo\nB. Rome\nC. Bonn"


def test_labels_may_lie_in_each_option(tmp_path: Path) -> None:
    choices = [{"label": "B", "text": "Oslo"}, {"label": "A", "text": "Rome"}]
    row = {"question": "Where?", "choices": choices, "key": "A"}
    for ending in (".jsonl", ".csv", ".parquet"):
        (query,) = load(write(tmp_path / f"t{ending}", [row]), **LABELLED, **everything())
        assert (query.choices, query.targets) == (("Oslo", "Rome"), ("Rome",))


def test_labels_may_lie_in_a_column_of_their_own(tmp_path: Path) -> None:
    row = {"question": "Where?", "o": ["Oslo", "Rome"], "names": ["ii", "i"], "key": "i"}
    settings = {**LABELLED, **everything(), "choices": "o", "labels": "names", "keyed": "text"}
    for ending in (".jsonl", ".csv", ".parquet"):
        (query,) = load(write(tmp_path / f"t{ending}", [row]), **settings)
        assert query.targets == ("Rome",)
    for changed, said in (
        ({"key": "iii"}, r"not among the 2 options, labelled ii, i"),
        ({"names": ["i", "i"]}, "gives two options the same label"),
        ({"names": ["i"]}, "has 1 labels, and there are 2 options"),
    ):
        with pytest.raises(RecordError, match=said):
            load(write(tmp_path / "t.jsonl", [{**row, **changed}]), **settings)


def test_an_object_of_options_has_its_labels(tmp_path: Path) -> None:
    row = {"question": "Where?", "o": {"C": "Oslo", "A": "Rome", "B": None}, "key": "A"}
    settings = {**LABELLED, **everything(), "choices": "o"}
    for ending in (".jsonl", ".csv", ".parquet"):
        (query,) = load(write(tmp_path / f"t{ending}", [row]), **settings)
        assert (query.choices, query.targets) == (("Oslo", "Rome"), ("Rome",))


def test_letters_inside_the_options_in_another_order_are_refused(tmp_path: Path) -> None:
    settings = {**LABELLED, **everything(), "choices": "o"}
    row = {"question": "Where?", "o": ["B) Oslo", "A) Rome", "C) Bonn"], "key": "A"}
    with pytest.raises(RecordError, match=r"in another order \(b, a, c\): take the letters off"):
        load(write(tmp_path / "t.jsonl", [row]), **settings)
    sorted_row = {**row, "o": ["A) Oslo", "B) Rome", "C) Bonn"]}
    (query,) = load(write(tmp_path / "t.jsonl", [sorted_row]), **settings)
    assert query.targets == ("A) Oslo",)
    initials = {**row, "o": ["B. Ekdal", "A. Ekdal"]}
    (query,) = load(write(tmp_path / "t.jsonl", [initials]), **settings)
    assert query.targets == ("B. Ekdal",)


@pytest.mark.parametrize("own_column", [True, False])
def test_init_finds_the_labels(tmp_path: Path, own_column: bool) -> None:
    rows = []
    for number in range(30):
        row = labelled(["C", "A", "B"], "CAB"[number % 3])
        if own_column:
            row["labels"] = row["choices"]["label"]
            row["choices"] = row["choices"]["text"]
        rows.append({**row, "question": f"Where is lock {number}?", "answer": row.pop("key")})
    sample = write(tmp_path / "locks.jsonl", rows)
    assert main(["init", str(sample), "--out", str(tmp_path / "made")]) == 0
    table = config.load(tmp_path / "made" / "params.yaml")["prepare"]["table"]
    del table["file"], table["splits"]
    found = load(sample, **table, **everything())
    assert [query.targets[0] for query in found[:3]] == ["Oslo", "Rome", "Bonn"]
    assert table.get("labels") == ("labels" if own_column else None)


def test_a_letter_that_is_none_of_the_labels_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [labelled(["D", "E", "F"], "A")])
    with pytest.raises(RecordError, match="'A' is not among the 3 options, named by its letter"):
        load(path, **LABELLED, **everything())


@pytest.mark.parametrize(
    ("keyed", "labels", "right"),
    [
        ("from_1", ["2", "1", "3"], "Rome"),
        ("from_0", ["0", "1", "2"], "Rome"),
        # These labels count from 1, and the setting says that targets count from 0.
        ("from_0", ["1", "2", "3"], "Rome"),
    ],
)
def test_numbers_as_labels_hold_where_they_count_as_keyed_does(
    tmp_path: Path, keyed: str, labels: list[str], right: str
) -> None:
    path = write(tmp_path / "t.jsonl", [labelled(labels, "1")])
    (query,) = load(path, **{**LABELLED, "keyed": keyed}, **everything())
    assert query.targets == (right,)


def test_options_that_differ_in_case_alone_are_two(tmp_path: Path) -> None:
    gases = quiz(a="CO", b="Co", c="N2", answer="Co")
    by_text = {**QUIZ, "keyed": "text"}
    for ending in (".jsonl", ".csv", ".parquet"):
        (query,) = load(write(tmp_path / f"t{ending}", [gases]), **by_text, **everything())
        assert (query.choices, query.targets) == (("CO", "Co", "N2"), ("B",))
    lettered = write(tmp_path / "t.jsonl", [{**gases, "answer": "A"}])
    assert load(lettered, **QUIZ, **everything())[0].targets == ("A",)
    unclear = write(tmp_path / "t.jsonl", [{**gases, "answer": "co"}])
    with pytest.raises(RecordError, match="may be any of 2 options that differ in case alone"):
        load(unclear, **by_text, **everything())


@pytest.mark.parametrize(
    ("options", "target"),
    [(("A", "a", "B", "b"), "a"), (("CO", "Co", "b."), "Co"), (("A", "a"), "A")],
)
def test_an_option_that_only_another_ones_letter_could_name_is_refused(
    tmp_path: Path, options: tuple[str, ...], target: str
) -> None:
    row = {"question": "Which?", "o": options, "answer": target}
    settings: dict[str, Any] = {
        "prompt": "{question}\n{choices}", "choices": "o", "targets": "answer",
    }  # fmt: skip
    with pytest.raises(RecordError, match=r"its letter [AB] reads like the option .*: rewrite"):
        load(write(tmp_path / "t.jsonl", [row]), **settings, **everything())


def test_more_like_options_than_letters_are_an_error_and_no_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["x < 0", *(f"option {number}" for number in range(28)), "x > 0"]
    with pytest.raises(Unfit, match="only the first 26 have letters"):
        option_of("x > 0", tuple(options), "text", ())
    rows = [{"question": f"Which, {n}?", "choices": options, "answer": "x > 0"} for n in range(9)]
    sample = write(tmp_path / "t.jsonl", rows)
    assert main(["init", str(sample), "--out", str(tmp_path / "made")]) == 0
    assert "9 of 9 raw rows don't fit" in capsys.readouterr().out
