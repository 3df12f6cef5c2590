"""Splits, keys and explanations of published data sets."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from cowest.domains import domain, published
from cowest.domains.drafts import DraftFormat
from cowest.domains.medmcqa import explanation
from cowest.errors import InputError, RecordError
from cowest.raw import tables
from cowest.raw.files import Bad
from cowest.raw.intake import Intake
from cowest.records import Query
from cowest.sametext import keywords
from cowest.scorers.marker import after
from tests.published import INVENTED, write_rows


def rows_of(folder: Path, *names: str) -> Path:
    for name in names:
        write_rows(folder / name, [{"text": name}])
    return folder


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train.jsonl", "dev.jsonl", "notes.json"), ["dev", "train"]),
        (("train.json", "valid.json", "test.json"), ["test", "dev", "train"]),
        (("dev.jsonl", "answers.jsonl"), [None]),
        (("utterances.jsonl",), [None]),
        (("train.jsonl", "val.jsonl"), ["dev", "train"]),
        (("training.jsonl", "Test.jsonl"), ["test", "train"]),
        (("train-00000-of-00002.json", "train-00001-of-00002.json"), [None, None]),
        (("train-1-of-2.jsonl", "train-2-of-2.jsonl"), [None, None]),
        (("train-1-of-1.jsonl", "test-0-of-1.jsonl"), ["test", "train"]),
    ],
)
def test_splits_are_as_published_where_there_are_two(
    names: tuple[str, ...], splits: list[str | None], tmp_path: Path
) -> None:
    assert list(published.files(rows_of(tmp_path, *names)).values()) == splits


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no data set here"),
        (("a.json", "b.json"), "no data set here"),
        (("dev.json", "valid.json", "train.json"), "two files"),
        (("test.json", "test-00000-of-00001.json", "train.json"), "two files"),
        (("test-0-of-1.json", "test-0-of-1.jsonl", "train.json"), "two files"),
        (("train-00000-of-00003.json",), "not all parts.*, or rename it, as `train.json`, to"),
        (("Rows-00001-of-00002.json",), "not all parts.*, or rename it, as `Rows.json`, to use"),
        (("train-0-of-2.json", "train-2-of-2.json"), "not all parts.* another set$"),
        (("train.json", "test-0-of-3.json", "test-2-of-3.json"), "not all parts"),
        (("train.json", "test-0-of-2.json", "test-1-of-3.json"), "not all parts"),
        (("train.json", "test-1-of-2.json", "test-01-of-2.json"), "not all parts"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(
    names: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        published.files(rows_of(tmp_path, *names))


def test_a_table_that_is_not_read_is_named(tmp_path: Path) -> None:
    INVENTED["medmcqa"](tmp_path)
    write_rows(tmp_path / "heldout.jsonl", [{"text": "of another name"}])
    intake = Intake(0)
    assert list(domain("medmcqa").load(tmp_path, intake))
    assert intake.unread == ["heldout.jsonl"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Which gland makes hormones of the comet?", "hormones of comet: gland makes"),
        ("All are true about enamel rods of teeth except", "False about enamel rods of teeth is"),
        ("GNAS-1 gene mutation", "gnas 1 GENE mutation:"),
    ],
)
def test_near_copies_have_one_key(one: str, other: str) -> None:
    assert keywords(one) == keywords(other)


def test_few_words_are_told_apart_by_more() -> None:
    assert keywords("Which is true?", "red blue") != keywords("Which is true?", "green blue")


def test_a_row_that_shares_a_text_with_a_held_out_one_is_left_out_and_counted(
    tmp_path: Path,
) -> None:
    INVENTED["ifqa"](tmp_path)
    intake = Intake(0)
    queries = [row for row in domain("ifqa").rows(tmp_path, intake) if isinstance(row, Query)]
    assert len(queries) == len(json.loads((tmp_path / "train.json").read_text())) + 30 - 3
    rows = len(queries) + 3
    assert intake.told() == (
        f"{rows} raw rows = {len(queries)} used + 3 left out (2: of train, shares a text with "
        "another split; "
        "1: the same question with the same answers was there before) + 0 quarantined"
    )


@pytest.mark.parametrize("name", ["test", "dev"])
def test_a_held_out_row_that_was_published_three_times_counts_three_times(
    name: str, tmp_path: Path
) -> None:
    INVENTED["ifqa"](tmp_path)
    rows = json.loads((tmp_path / "dev.json").read_text())
    (tmp_path / "dev.json").unlink()
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps([*rows, rows[0], rows[0], rows[7]]))
    intake = Intake(0)
    queries = [query for query in domain("ifqa").load(tmp_path, intake) if query.split == name]
    assert len(queries) == len({query.id for query in queries}) == len(rows) + 3
    first, second, third = (query for query in queries if query.prompt == queries[0].prompt)
    assert set(first.targets) == set(second.targets) == set(third.targets)
    assert first.group == second.group == third.group
    assert intake.left_out["the same question with the same answers was there before"] == 1


def test_near_copies_of_one_file_are_of_one_split_whatever_their_order(tmp_path: Path) -> None:
    INVENTED["medmcqa"](tmp_path)
    queries = {query.prompt: query for query in domain("medmcqa").load(tmp_path)}
    groups = {query.group for query in queries.values()}
    assert len(groups) == 120 and len(queries) == 140
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert all(
        queries[query.prompt].split == query.split for query in domain("medmcqa").load(tmp_path)
    )


def test_the_passage_is_shown_where_it_is_asked_for(tmp_path: Path) -> None:
    INVENTED["ifqa"](tmp_path)
    shown, alone = (
        next(domain({"domain": "ifqa", "passage": passage}).load(tmp_path))
        for passage in (True, False)
    )
    assert (
        "opened in 1800" in shown.prompt[-1].content
        and "opened in 1800" not in alone.prompt[-1].content
    )
    assert shown.targets == alone.targets == ("1802", "in 1802")


def test_each_format_says_what_it_should(tmp_path: Path) -> None:
    INVENTED["ifqa"](tmp_path)
    said = {
        form: next(domain({"domain": "ifqa", "draft": form}).load(tmp_path)).ideal or ""
        for form in get_args(DraftFormat)
    }
    assert (
        said["direct"] == "1802"
        and said["chain_of_thought"] == f"{said['knowledge']}\n\nAnswer: 1802"
    )
    assert "opened in 1800" in said["knowledge"] and "1802" not in said["knowledge"]


def test_three_classes_are_five_with_the_degrees_of_caution_as_one(tmp_path: Path) -> None:
    INVENTED["prosocial"](tmp_path)
    five, three = (
        list(domain({"domain": "prosocial", "classes": classes}).load(tmp_path))
        for classes in (5, 3)
    )
    became = {(one.targets[0], other.targets[0]) for one, other in zip(five, three, strict=True)}
    caution = {
        (f"{degree}needs caution", "needs caution") for degree in ("", "possibly ", "probably ")
    }
    assert became == {("casual", "casual"), ("needs intervention", "needs intervention"), *caution}


def test_dialogues_that_no_row_names_are_not_one_group(tmp_path: Path) -> None:
    rows = [
        {"context": f"I took cake {word} of mine.", "safety_label": "__casual__"}
        for word in ("comet", "bramley", "corin")
    ]
    groups = []
    for named in ({}, {"dialogue_id": None}, {"dialogue_id": 0}):
        write_rows(tmp_path / "rows.json", [{**row, **named} for row in rows])
        found = domain({"domain": "prosocial", "draft": "direct"}).load(tmp_path)
        groups.append([row.group for row in found])
    assert groups[0] == groups[1]
    assert [len(set(names)) for names in groups] == [3, 3, 1]


@pytest.mark.parametrize(
    ("cop", "said"),
    [
        (0, "this copy count from 0"),
        (5, "1 to 4"),
        ("2", "1 to 4"),
        (True, "1 to 4"),
        (None, "1 to 4"),
    ],
)
def test_an_option_that_is_none_is_refused(cop: Any, said: str, tmp_path: Path) -> None:
    INVENTED["medmcqa"](tmp_path)
    row = json.loads((tmp_path / "dev.jsonl").read_text().splitlines()[0])
    write_rows(
        tmp_path / "one.jsonl",
        [row, {**row, "cop": cop, "question": "Another gland of another kind?"}],
    )
    with pytest.raises(RecordError, match=rf"one.jsonl:2: cop: .*{said}"):
        list(domain("medmcqa").load(tmp_path / "one.jsonl"))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "Ans. b. Gland(Ref: Atlas 9/e p1) It lies behind the canal vein.",
            "(Ref: Atlas 9/e p1) It lies behind the canal vein",
        ),
        ("Answer- B. GlandIt lies behind the canal vein.", "It lies behind the canal vein"),
        ("Ans. BIt lies behind the canal vein", "It lies behind the canal vein"),
        ("Answer is 'b' i.e., Gland. It lies behind the canal.", "It lies behind the canal"),
        (
            "It lies behind the canal vein; option C lies before it.",
            "It lies behind the canal vein; option C lies before it",
        ),
        ("Ans. D. All", None),
        ("Answer- C", None),
        ("", None),
        (None, None),
        (7, None),
        ("It lies behind the canal vein, so the answer is B.", None),
    ],
)
def test_an_explanation_is_what_is_left_without_its_verdict(text: Any, left: str | None) -> None:
    assert explanation(text, "Gland") == left


@pytest.mark.parametrize("verdict", ["Ans", "Ans is", "Ans: option"])
def test_a_long_gap_in_an_explanation_takes_no_hours(verdict: str) -> None:
    """A pattern that tries every part of it would take 10^11 steps here."""
    gap = f"{verdict}{' ' * 500_000}"
    assert explanation(f"{gap}of what is told here, in a few words", "Gland") is not None
    assert explanation(f"It is told in a few words. {gap}xyz", "Gland") is not None


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("Because.\nAnswer: 1962", "1962"),
        ("Answer: 3\nAnswer: **4**\nor so", "4"),
        ("1962", "1962"),
        ("Answer:", ""),
    ],
)
def test_the_last_announced_answer_is_scored(said: str, answer: str) -> None:
    assert after(said, "Answer:") == answer and after(said, None) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[\n {"a": "x"},\n {"a": }\n]', "raw.json:3: not JSON"),
        ('[\n {"a": "x"}\n {"a": "y"}\n]', "raw.json:3: not JSON"),
        ('[\n {"a": "x"}', "raw.json:2: not JSON"),
        ('[\n {"a": "x"},\n 7\n]', "raw.json:3: a number"),
        ("[]", "has no rows"),
    ],
)
def test_a_broken_list_is_named_by_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "raw.json"
    path.write_text(text)
    with pytest.raises((RecordError, InputError), match=said):
        list(tables.sound(path, tables.raw_rows(path, {"a"})))


def test_a_key_twice_in_a_list_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    items = ['{"a": "x"}', '{"a": "y", "m": [{"n": 1, "n": 2}]}', '{"a": "z"}']
    path.write_text(f"[{{}},\n{', '.join(items)}]")
    (_, empty), *found = tables.raw_rows(path, {"a"})
    assert isinstance(empty, Bad)
    said = "'n' stands twice in an object, and one value would be lost"
    assert found == [(2, {"a": "x"}), (2, Bad(said, items[1])), (2, {"a": "z"})]


def test_a_list_gives_its_items_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "raw.json"
    path.write_text('\n[\n {"a": "x",\n  "b": 1}, {"a": "y"},\n\n {"a": "z"}]\n')
    rows = tables.sound(path, tables.raw_rows(path, {"a"}))
    assert [where for where, _ in rows] == [3, 4, 6]


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_a_hub_s_parquet_in_parts_gives_the_same_queries(tmp_path: Path) -> None:
    """MedMCQA as on the hub: Parquet in parts, `cop` from 0, and -1 where the answer is not
    published.
    """
    INVENTED["medmcqa"](tmp_path / "raw")
    rows = [
        json.loads(line) for line in (tmp_path / "raw" / "dev.jsonl").read_text().splitlines()[:120]
    ]
    for name, part in (("train.jsonl", rows[:80]), ("dev.jsonl", rows[80:])):
        write_rows(tmp_path / "published" / name, part)
    hub = [{**row, "cop": row["cop"] - 1} for row in rows]
    parts = {
        "train-00000-of-00002": hub[:50],
        "train-00001-of-00002": hub[50:80],
        "validation-00000-of-00001": hub[80:],
    }
    parts["test-00000-of-00001"] = [
        {**row, "cop": -1, "question": f"Unlabelled question {number} of test?"}
        for number, row in enumerate(hub[:5])
    ]
    for name, part in parts.items():
        parquet(tmp_path / "hub" / f"{name}.parquet", part)
    published_as = {
        query.id: (query.split, query.targets, query.ideal)
        for query in domain("medmcqa").load(tmp_path / "published")
    }
    intake = Intake(0)
    found = [
        row
        for row in domain({"domain": "medmcqa", "first": 0}).rows(tmp_path / "hub", intake)
        if isinstance(row, Query)
    ]
    assert {
        query.id: (query.split, query.targets, query.ideal) for query in found
    } == published_as and len(found) == 120
    assert intake.left_out == {"of test, without an answer as published": 5}
    assert found[0].source == "validation-00000-of-00001.parquet:1"
    with pytest.raises(
        RecordError, match=r"hub/validation-00000-of-00001.parquet:1: cop: .*set prepare.first"
    ):
        list(domain("medmcqa").load(tmp_path / "hub"))


@pytest.mark.parametrize("name", ["ifqa", "prosocial"])
def test_parquet_gives_what_json_gives(name: str, tmp_path: Path) -> None:
    INVENTED[name](tmp_path / "raw")
    for path in (tmp_path / "raw").iterdir():
        parquet(
            tmp_path / "hub" / f"{path.stem}.parquet",
            [row for _, row in tables.sound(path, tables.raw_rows(path, set()))],
        )
    found = [
        [(query.id, query.split, query.ideal) for query in domain(name).load(tmp_path / folder)]
        for folder in ("raw", "hub")
    ]
    assert found[0] == found[1]
