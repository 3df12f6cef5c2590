"""Two versions of a data set: what is counted, held against a slow count of the same; what is
shown; and nothing of a row as HTML.
"""

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest import cli, io
from cowest.raw.difference import Difference, compare
from cowest.records import Demonstration, Message, Query
from cowest.report import difference as words

NAMES = ("one", "two")


def query(prompt: str, target: str = "Oslo", split: str = "train", **more: object) -> Query:
    fields = {"group": prompt, "source": "rows.jsonl:1", **more}
    return Query(
        prompt=(Message(role="user", content=prompt),), targets=(target,), split=split, **fields
    )  # type: ignore[arg-type]


def between(first: list[Query], second: list[Query]) -> Difference:
    return compare(lambda: iter(first), lambda: iter(second), NAMES)


def test_rows_are_added_removed_changed_or_the_same() -> None:
    first = [query("a"), query("b"), query("c"), query("d"), query("e", source="rows.jsonl:9")]
    second = [
        query("e", source="other.jsonl:1"),
        query("b", "Bergen"),
        query("c", split="test"),
        query("d", tags=("x",)),
        query("f"),
    ]
    found = between(first, second)
    assert (found.same, found.added, found.removed, found.changed) == (1, 1, 1, 3), (
        "where a row stands is no change"
    )
    assert (found.other_targets, found.other_split) == (1, 1)
    assert [row.prompt[0].content for _, row in found.examples["added"] if row] == ["f"]
    assert [row.prompt[0].content for row, _ in found.examples["removed"] if row] == ["a"]
    pairs = [words.changes(before, after) for before, after in found.examples["changed"]]
    assert pairs == [
        [("targets", "Oslo", "Bergen")],
        [("split", "train", "test")],
        [("tags", "none", "x")],
    ]


ROWS = st.lists(
    st.builds(
        query,
        st.sampled_from("abcd"),
        st.sampled_from(("Oslo", "Bergen")),
        st.sampled_from(("train", "test")),
        tags=st.sampled_from(((), ("x",))),
    )
)


@pytest.mark.slow
@given(ROWS, ROWS)
def test_it_counts_as_a_slow_count_does(first: list[Query], second: list[Query]) -> None:
    found = between(first, second)

    def common(key: object) -> int:
        return (Counter(map(key, first)) & Counter(map(key, second))).total()  # type: ignore[arg-type]

    prompts = common(lambda row: row.prompt)
    assert found.same == common(lambda row: row.model_dump_json())
    assert found.changed == prompts - found.same
    assert found.other_targets == prompts - common(lambda row: (row.prompt, row.targets))
    assert found.other_split == prompts - common(lambda row: (row.prompt, row.split))
    assert (found.added, found.removed) == (len(second) - prompts, len(first) - prompts)
    assert found.same + found.changed + found.removed == len(first)
    assert found.same + found.changed + found.added == len(second)
    words.text(found)
    words.page(found)


def test_distributions_stand_side_by_side() -> None:
    choices = ("Norway", "Italy")
    first = [
        query(f"q{number}", "Norway", choices=choices, ideal="x" * number) for number in range(4)
    ]
    second = [
        query(
            f"q{number}", choices[number % 2], choices=choices, split="test" if number else "train"
        )
        for number in range(4)
    ]
    found = between(first, second)
    by_name = {one.name: one for one in found.distributions}
    assert {part.value: part.counts for part in by_name["target"].shares} == {
        "A": (4, 2),
        "B": (0, 2),
    }, "the class of a choice is its letter"
    assert by_name["target"].moved == 0.5
    assert {part.value: part.counts for part in by_name["split"].shares} == {
        "train": (4, 1),
        "test": (0, 3),
    }
    assert found.lengths["ideal"] == ((0, 0, 1, 3, 3), None)
    assert found.histograms["ideal"] == (("0", (1, 0)), ("1", (1, 0)), ("2 to 3", (2, 0)))
    said = words.text(found)
    assert "train" in said and "4 (100 %)" in said.replace("\N{NO-BREAK SPACE}", " ")


def test_many_values_are_counted_and_not_held() -> None:
    found = between([query(str(number), f"answer {number}") for number in range(2100)], [])
    target = next(one for one in found.distributions if one.name == "target")
    assert (target.more, target.values, target.moved) == (True, (2000, 0), None)
    assert found.removed == 2100


@pytest.mark.slow
def test_rows_are_not_held() -> None:
    def rows() -> Iterator[Query]:
        return (query(f"{number} " + "long " * 400, ideal="x" * 2000) for number in range(3000))

    tracemalloc.start()
    try:
        compare(rows, rows, NAMES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000, "two versions of 12 MB each"


def test_the_page_shows_rows_as_text() -> None:
    nasty = "</style><script>alert(1)</script><img src=x onerror=alert(1)>"
    found = between([query("a")], [query("a", nasty, tags=(nasty,), group=nasty), query(nasty)])
    page = words.page(found)
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert "http://" not in page and "https://" not in page
    assert "\x1b" not in words.text(between([], [query("a\x1b[31m\nb")]))


def test_the_command_reads_files_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    io.write(Path("one.jsonl"), [query("a"), query("b")])
    io.write(Path("two.jsonl"), [query("a"), query("c")])
    assert cli.main(["data", "diff", "one.jsonl", "two.jsonl", "--html", "page.html"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("one.jsonl  ->  two.jsonl")
    assert "added            1" in said
    assert "1 added, 1 removed, 0 changed; 1 are the same" in Path("page.html").read_text()
    for name, answer in (("x", "Oslo"), ("y", "Bergen")):
        Path(name).mkdir()
        Path(name, "t.csv").write_text(
            f"question,answer\nwhere?,{answer}\nwho?,Ada\n,nothing asked\n"
        )
    Path("params.yaml").write_text(
        "prepare: {domain: table, table: {file: t.csv, prompt: question, targets: answer, splits: "
        "{shares: {train: 1}}}}\n"
    )
    assert cli.main(["data", "diff", "x", "y"]) == 0
    out, err = capsys.readouterr()
    assert "other right answers: 1" in out
    assert "targets: Oslo  ->  Bergen" in out
    assert err.count("1 quarantined") == 2
    assert cli.main(["data", "diff", "nowhere", "y"]) == 1
    assert "turn" in capsys.readouterr().err


def test_demonstrations_are_counted() -> None:
    def shown(*texts: str) -> list[Query | Demonstration]:
        return [
            Demonstration(prompt=(Message(role="user", content="q"),), completion=text, source="s")
            for text in texts
        ]

    found = compare(lambda: shown("a", "b"), lambda: shown("b", "c", "d"), NAMES)
    assert (found.demonstrations, found.other_demonstrations, found.rows) == (
        (2, 3),
        (1, 2),
        (0, 0),
    )
    assert "demonstrations" in words.text(found)


def test_the_place_of_a_row_moves_no_terminal() -> None:
    found = between([], [query("a", source="rows\x1b[2J\x07.jsonl:1\n" + "x" * 500)])
    (line,) = [line for line in words.text(found).splitlines() if "jsonl" in line]
    assert line.isprintable() and "rows [2J" in line and len(line) < 250
