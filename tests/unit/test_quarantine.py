"""Raw rows that can't be used keep their place: all are counted, the first are named, and as
many as may be are set aside.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from cowest import io
from cowest.config import digest
from cowest.errors import CoWestError, InputError, RecordError
from cowest.raw.intake import Intake
from cowest.records import Demonstration, Fate, Message, Query
from cowest.report import contents
from cowest.stages import run
from cowest.stages.prepare import PrepareConfig
from tests.published import INVENTED

TABLE: dict[str, Any] = {
    "domain": "table",
    "table": {"prompt": "q", "targets": "a", "splits": {"shares": {"train": 1}}},
}
BAD = [
    b'{"q": "Who?"}',
    b'{"q": ',
    b"[1]",
    b'{"q": "\0"}',
    b'{"q": "\\ud800", "a": "b"}',
    b"[" * 100_000,
    b'{"q": "Who?", "a": NaN}',
    b'{"q": "Who?", "a": "b", "m": {"n": 1, "n": 2}}',
]


def good(count: int) -> list[bytes]:
    return [
        json.dumps({"q": f"What is {number}?", "a": str(number)}).encode()
        for number in range(count)
    ]


def prepare(
    raw: Path, out: Path, **settings: Any
) -> tuple[list[Query], list[Demonstration], list[Fate]]:
    files = {port: out / "data" / f"{port}.jsonl" for port in ("queries", "corpus", "quarantine")}
    run("prepare", settings, raw=raw, **files)
    queries, corpus, fates = files.values()
    return (
        list(io.read(queries, Query)),
        list(io.read(corpus, Demonstration)),
        list(io.read(fates, Fate)),
    )


def written(folder: Path, *lines: bytes) -> Path:
    (folder / "raw").mkdir()
    (folder / "raw" / "t.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "raw"


def test_bad_rows_keep_their_place_and_the_sum_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = good(4)
    for number, bad in enumerate(BAD):
        rows.insert(2 * number, bad)
    rows[0], rows[1] = (
        rows[1],
        rows[0],
    )  # a first row without a column says that the mapping is wrong
    queries, corpus, fates = prepare(written(tmp_path, *rows), tmp_path, **TABLE, max_bad=len(BAD))
    assert len(queries) == len(corpus) == 4 and [row.source for row in queries] == [
        "t.jsonl:1",
        "t.jsonl:4",
        "t.jsonl:6",
        "t.jsonl:8",
    ]
    aside = [fate for fate in fates if fate.fate == "quarantined"]
    assert [fate.source for fate in aside] == [
        f"t.jsonl:{number}" for number in (2, 3, 5, 7, 9, 10, 11, 12)
    ]
    assert all(fate.reason and fate.raw is not None and len(fate.raw) <= 500 for fate in aside)
    assert (
        aside[1].raw == '{"q": '
        and "NUL" in (aside[3].reason or "")
        and "nested" in (aside[5].reason or "")
    )
    assert [fate.rows for fate in fates if fate.fate == "used"] == [4]
    assert (
        "12 raw rows = 4 used + 0 left out + 8 quarantined; 4 queries, 4 demonstrations"
        in capsys.readouterr().err
    )
    shown = contents.gather(tmp_path).raw
    assert isinstance(shown, contents.Raw) and (
        shown.used,
        shown.quarantined,
        len(shown.shown),
    ) == (4, 8, 8)


@pytest.mark.parametrize(
    ("max_bad", "stops"),
    [(0, True), (1, True), (2, False), (0.19, True), (0.2, False), (0.5, False)],
)
def test_more_than_may_be_stops_with_the_first_named_and_nothing_written(
    tmp_path: Path, max_bad: float, stops: bool
) -> None:
    raw = written(tmp_path, *good(8), b'{"q": "Who?"}', b'{"q": "Where?"}')
    if not stops:
        assert len(prepare(raw, tmp_path, **TABLE, max_bad=max_bad)[0]) == 8
        return
    with pytest.raises(
        RecordError, match=rf"2 of 10 raw rows don't fit, and prepare.max_bad allows {max_bad}"
    ) as error:
        prepare(raw, tmp_path, **TABLE, max_bad=max_bad)
    assert f"{raw}/t.jsonl:9: there is no column 'a'" in str(error.value)
    assert not list((tmp_path / "data").iterdir())


def test_what_will_be_asked_is_known_before(tmp_path: Path) -> None:
    raw = written(tmp_path, *good(3), b'{"q": "Who?"}')
    assert len(list(PrepareConfig.model_validate({**TABLE, "max_bad": 1}).queries(raw))) == 3


def test_the_first_five_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError) as error:
        prepare(written(tmp_path, *good(1), *[b"{}"] * 9), tmp_path, **TABLE)
    said = str(error.value)
    assert (
        "9 of 10 raw rows" in said
        and "t.jsonl:6: there is no column" in said
        and "t.jsonl:7" not in said
        and "and 4 more" in said
    )


@pytest.mark.parametrize(
    "lines",
    [
        (b"{}", *good(3)),
        (*good(3), b"\xe9"),
        (b"\x1f\x8b",),
        (b"[", b"{}", b"]"),
        (*good(1), b"x" * 17_000_000),
        (),
    ],
    ids=["no such column at all", "Latin-1", "gzip", "one document", "a line of 17 MB", "no rows"],
)
def test_a_file_that_is_none_stops_whatever_is_allowed(
    tmp_path: Path, lines: tuple[bytes, ...]
) -> None:
    with pytest.raises(CoWestError):
        prepare(written(tmp_path, *lines), tmp_path, **TABLE, max_bad=100)
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").iterdir())


def test_a_csv_row_with_too_few_fields_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "t.csv").write_text('q,a\nWho?,Ada\nWhere?\n"What\nnow?",Oslo\n')
    queries, _, fates = prepare(tmp_path / "raw", tmp_path, **TABLE, max_bad=1)
    assert [row.source for row in queries] == ["t.csv:2", "t.csv:4"]
    assert (fates[0].source, fates[0].raw) == ("t.csv:3", "Where?")


@pytest.mark.parametrize("name", INVENTED)
def test_every_domain_names_folder_and_line_and_sets_aside(tmp_path: Path, name: str) -> None:
    INVENTED[name](tmp_path / "raw")
    path = next(
        path
        for path in sorted((tmp_path / "raw").iterdir())
        if path.stem in ("train", "dev", "questions")
    )
    listed = path.read_text(encoding="utf-8").startswith("[")
    if listed:
        path.write_text(
            json.dumps([*json.loads(path.read_text(encoding="utf-8")), {"no": "such row"}]),
            encoding="utf-8",
        )
    else:
        path.write_text(path.read_text(encoding="utf-8") + '{"no": "such row"}\n', encoding="utf-8")
    with pytest.raises(RecordError, match=rf"{path}:\d+: .*missing, empty or not text"):
        prepare(tmp_path / "raw", tmp_path, domain=name)
    queries, corpus, fates = prepare(tmp_path / "raw", tmp_path, domain=name, max_bad=1)
    assert queries and corpus and fates[0].raw == '{"no": "such row"}'


def test_a_strict_intake_raises_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"t.jsonl:3: why$"):
        Intake().quarantine(tmp_path / "t.jsonl", 3, "why", {})


def test_an_id_is_the_digest_of_what_it_says(tmp_path: Path) -> None:
    prompt = (
        Message(role="system", content='a "quoted"\n\t\\ é 𝄞 \x7f\u2028'),
        Message(role="user", content="\b\x01"),
    )
    query = Query(
        group="g",
        split="train",
        prompt=prompt,
        targets=("x", "y"),
        choices=("x", "é"),
        source="s:1",
    )
    assert (
        query.id
        == digest([[message.model_dump() for message in prompt], ["x", "y"], ["x", "é"]])[:20]
    )
    assert Query.model_validate_json(query.model_dump_json()) == query
    with pytest.raises(InputError):
        list(io.read(tmp_path / "none", Query))
