"""`validate` behind the real Great Expectations: what stops the turn, what is set aside, and what a person is shown."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cowest import expectations, io
from cowest.config import digest
from cowest.errors import ContractError, RecordError
from cowest.expectations import Rule
from cowest.records import Message, PreferencePair, Query
from cowest.stages.validate import ValidateConfig, main
from tests.factories import make_query

QUERIES = ValidateConfig(kind="queries")
PAIRS = ValidateConfig(kind="pairs", min_pairs=2)


def make_pair(number: int = 0, **fields: Any) -> PreferencePair:
    texts = {"chosen": f"It is built in Milan, {number}.", "rejected": f"It is Italian, {number}.", **fields}
    sides = {side: (Message(role="assistant", content=texts.pop(side)),) for side in ("chosen", "rejected")}
    values = {
        "query": f"q{number}", "split": "train", "prompt": (Message(role="user", content="Where?"),), "margin": 1.0,
        "policy": "p", "strong": "s", "scorer": "exact_match", "samples": (0, 1), **sides, **texts,
    }  # fmt: skip
    return PreferencePair(**{"id": digest([values["query"], *map(str, sides.values())])[:20], **values})


def run(tmp_path: Path, rows: list[Any], config: ValidateConfig) -> tuple[list[str], str]:
    io.write(tmp_path / "rows.jsonl", rows)
    main(tmp_path / "rows.jsonl", tmp_path / "valid.jsonl", tmp_path / "page.html", config)
    return (tmp_path / "valid.jsonl").read_text().splitlines(), (tmp_path / "page.html").read_text()


def refused(tmp_path: Path, rows: list[Any], config: ValidateConfig) -> str:
    (tmp_path / "valid.jsonl").write_text("as it was\n")
    with pytest.raises(ContractError) as error:
        run(tmp_path, rows, config)
    assert (tmp_path / "valid.jsonl").read_text() == "as it was\n"
    assert str(tmp_path / "page.html") in str(error.value)
    assert "fails the turn" in (tmp_path / "page.html").read_text()
    return str(error.value)


def test_fit_queries_pass_byte_for_byte(tmp_path: Path) -> None:
    rows = [make_query(0, split="train"), make_query(1, targets=("Österreich",))]
    valid, page = run(tmp_path, rows, QUERIES)
    assert (tmp_path / "valid.jsonl").read_bytes() == (tmp_path / "rows.jsonl").read_bytes()
    assert len(valid) == 2
    assert "fit to be used" in page


def test_what_is_set_aside_is_left_out_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = make_query(2, prompt=(Message(role="user", content="x" * 101),), source="raw.jsonl:7 <b>")
    rows = [make_query(0, split="train"), make_query(1), make_query(1), long]
    valid, page = run(tmp_path, rows, ValidateConfig(kind="queries", max_chars=100))
    assert valid == [row.model_dump_json() for row in rows[:2]]
    assert "4 rows in = 2 out + 2 set aside" in capsys.readouterr().err
    assert "rows.jsonl:3" in page
    assert "rows.jsonl:4 (raw.jsonl:7 &lt;b&gt;)" in page
    assert not re.search(r"<b>|<script|https?://|src=|xxxxx", page)


def test_an_empty_split_stops_the_turn(tmp_path: Path) -> None:
    assert "split 'train' is not empty: there are none" in refused(tmp_path, [make_query(0)], QUERIES)
    assert "split 'test' is not empty" in refused(tmp_path, [], QUERIES)


def test_a_split_emptied_by_what_is_set_aside_stops_the_turn(tmp_path: Path) -> None:
    rows = [make_query(0, split="train", prompt=(Message(role="user", content="x" * 101),)), make_query(1)]
    assert "split 'train' is not empty" in refused(tmp_path, rows, ValidateConfig(kind="queries", max_chars=100))


def test_a_group_in_two_splits_stops_the_turn(tmp_path: Path) -> None:
    said = refused(tmp_path, [make_query(0, split="train", group="a"), make_query(1, group="a"), make_query(2)], QUERIES)
    assert "no group is in two splits: 2 of 3 rows don't" in said
    assert "rows.jsonl:1 (questions.jsonl:1)" in said


def test_a_question_in_two_splits_stops_the_turn_whatever_its_spacing(tmp_path: Path) -> None:
    again = make_query(1, prompt=(Message(role="user", content="in WHICH  country is product 0 built?"),), targets=("France",))
    assert "no question is in two splits" in refused(tmp_path, [make_query(0, split="train"), again], QUERIES)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(make_query(0).model_dump_json() + "\n{\n")
    with pytest.raises(RecordError, match=r"rows\.jsonl:2 is not a Query"):
        main(tmp_path / "rows.jsonl", tmp_path / "valid.jsonl", tmp_path / "page.html", QUERIES)


def test_no_pairs_stop_the_turn_with_what_to_do(tmp_path: Path) -> None:
    assert "draw more samples a query" in refused(tmp_path, [], PAIRS)
    assert "2 pairs or more are left: there are 1" in refused(tmp_path, [make_pair(0)], PAIRS)


def test_a_held_out_query_among_pairs_stops_the_turn(tmp_path: Path) -> None:
    assert "pairs come from the split 'train' alone" in refused(tmp_path, [make_pair(0), make_pair(1), make_pair(2, split="test")], PAIRS)


@pytest.mark.parametrize(
    "unfit",
    [
        make_pair(0),
        make_pair(3, chosen="Milan.", rejected=" milan. "),
        make_pair(3, margin=0.0),
        make_pair(3, margin=-1.0),
        make_pair(3, rejected=" "),
        make_pair(3, chosen="x" * 200),
        make_pair(3, chosen="x" * 50, rejected="x"),
        make_pair(3, query="q0"),
    ],
    ids=["repeated", "same", "no margin", "negative margin", "empty", "long", "length ratio", "second of its query"],
)
def test_an_unfit_pair_is_set_aside(tmp_path: Path, unfit: PreferencePair) -> None:
    fit = [make_pair(0), make_pair(1), make_pair(2)]
    config = ValidateConfig(kind="pairs", max_chars=100, max_length_ratio=10, max_pairs_per_query=1)
    valid, page = run(tmp_path, [*fit, unfit], config)
    assert valid == [row.model_dump_json() for row in fit]
    assert "rows.jsonl:4 (query q" in page


def test_an_error_of_the_engine_is_not_taken_for_the_datas(tmp_path: Path) -> None:
    frame = expectations.query_frame([make_query(0)])
    rule = Rule("it is there", "", "critical", "ExpectColumnValuesToBeBetween", {"column": "nowhere", "min_value": 1})
    with pytest.raises(RuntimeError, match="could not judge that it is there"):
        expectations.judge(frame, [rule])


def test_the_frame_holds_no_texts() -> None:
    rows = [make_query(0), make_query(1, targets=("Norway",))]
    assert isinstance(rows[0], Query)
    frame = expectations.query_frame(rows)
    assert set(frame.select_dtypes(exclude="number").columns) == {"split"}


def test_settings_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_pairs: no setting of queries"):
        ValidateConfig(kind="queries", min_pairs=3)
