"""A table of your own: columns become queries and a corpus, whatever the format, and nothing
held out is learned.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cowest.domains.mapping import Corpus, Splits, Table
from cowest.domains.table import Source, file_of
from cowest.errors import ConfigError, ContractError, InputError, RecordError
from cowest.prompts import Prompts
from cowest.raw.intake import Intake
from cowest.scorers.choice import ChoiceConfig
from cowest.stages import run
from cowest.stages.prepare import PrepareConfig
from tests.lines import ROOT
from tests.tables import QUIZ, everything, load, quiz, write

PLAIN = {"prompt": "question", "targets": "answer"}


def rows(count: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What is {number} and {number}?",
            "answer": str(2 * number),
            "topic": f"t{number % 5}",
        }
        for number in range(count)
    ]


def learn(raw: Path, **settings: Any) -> list[tuple[str, str]]:
    return [
        (row.prompt[0].content, row.completion)
        for row in Source(Table.model_validate(settings)).corpus(raw)
    ]


def test_the_formats_give_the_same_queries(tmp_path: Path) -> None:
    found = [
        load(write(tmp_path / f"table{ending}", rows()), **PLAIN)
        for ending in (".jsonl", ".csv", ".parquet")
    ]
    assert len(found[0]) == 40
    for others in found[1:]:
        assert [(row.id, row.group, row.split) for row in others] == [
            (row.id, row.group, row.split) for row in found[0]
        ]
    assert (
        found[0][3].source == "table.jsonl:4"
        and found[1][3].source == "table.csv:5"
        and found[2][3].source == "table.parquet:4"
    )


def test_a_brace_that_belongs_to_no_place_stands_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "table.jsonl", rows())
    (first, *_) = load(path, **{**PLAIN, "prompt": "{question} Say {} if unknown"})
    assert first.prompt[-1].content == "What is 0 and 0? Say {} if unknown"


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        ("Oslo|OSLO City", "|"),
        ("Oslo;Town of Oslo", ";"),
        ("Tom &amp; Jerry", None),
        ("|x|", None),
        ("It was made in Oslo by hand; nobody knows when it broke.", None),
        ("Oslo", None),
    ],
)
def test_a_mark_between_answers_is_noted(tmp_path: Path, answer: str, mark: str | None) -> None:
    path = write(tmp_path / "t.csv", [{"question": "Where?", "answer": answer}])
    for separator in (None, "/"):
        intake = Intake()
        table = Table.model_validate({**PLAIN, **everything(), "separator": separator})
        assert [query.targets for query in Source(table).load(path, intake)] == [(answer,)]
        said = [note for note in intake.notes if f"'answer' holds {mark!r}" in note]
        assert len(said) == len(intake.notes) == (mark is not None and separator is None)


def test_a_json_file_is_one_list_of_rows_or_one_row_a_line(tmp_path: Path) -> None:
    rows = [{"q": f"Which lock {number}?", "a": "Tarn"} for number in range(3)]
    path = tmp_path / "t.json"
    for text in (json.dumps(rows), json.dumps(rows, indent=2), "\n".join(map(json.dumps, rows))):
        path.write_text(text)
        found = load(path, prompt="q", targets="a", **everything())
        assert [query.source for query in found] == ["t.json:1", "t.json:2", "t.json:3"]
    path.write_text(json.dumps([rows[0], 7]))
    with pytest.raises(RecordError, match=r"t.json:2: a number, not an object: give a list of obj"):
        load(path, prompt="q", targets="a", **everything())
    path.write_text(json.dumps({"rows": rows}, indent=2))
    with pytest.raises(RecordError, match=r"t.json:1: not JSON, one object a line .* as one list"):
        load(path, prompt="q", targets="a", **everything())


def test_a_json_file_beside_a_table_is_no_table(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [quiz()])
    (tmp_path / "schema.json").write_text("{}")
    assert file_of(tmp_path, None) == path
    path.unlink()
    assert file_of(tmp_path, None) == tmp_path / "schema.json"


def test_newlines_in_quotes_keep_the_rows_and_their_places(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(
        b'question,answer\r\n"one\r\n""two""\r\n\r\nthree",1\r\n\r\nlast,2\r\n'
    )
    found = load(tmp_path, **PLAIN, **everything())
    assert [row.prompt[0].content for row in found] == ['one\n"two"\n\nthree', "last"]
    assert [row.source for row in found] == ["t.csv:2", "t.csv:7"]


def test_a_lone_quote_between_tabs_swallows_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('question\tanswer\n"Alpha is\tone\nb\ttwo\nsize 5"\tthree\n"d"\tfour\n')
    with pytest.raises(RecordError, match=r"t.tsv:2: .* set `quotes: none` in prepare.table"):
        load(path, **PLAIN, **everything())
    found = load(path, **PLAIN, **everything(), quotes="none")
    assert [row.targets[0] for row in found] == ["one", "two", "three", "four"]
    assert [row.prompt[0].content for row in found] == ['"Alpha is', "b", 'size 5"', '"d"']
    found = load(path, **PLAIN, **everything(), quotes="read")
    assert [row.targets[0] for row in found] == ["three", "four"]
    # A field with one of the two is no sign of it.
    path.write_text('question\tanswer\n"two\nlines"\t"a\ttab"\n')
    assert len(load(path, **PLAIN, **everything())) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '"Who" is?,Ada',
            r"not CSV \(.*expected after.*\): in a quoted field a quote is written twi",
        ),
        ("Who\ris?,Ada", r"not CSV \(new-line.*\): a carriage return stands in a field without"),
        ('"Who is?,Ada', r"not CSV \(unexpected end of data\): a quote is not closed"),
    ],
)
def test_what_is_no_csv_is_said_with_its_own_cause(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(f"question,answer\n{text}\n".encode())
    with pytest.raises(RecordError, match=f"t.csv:2: {said}"):
        load(tmp_path / "t.csv", **PLAIN)


def test_line_ends_and_the_mark_of_an_editor_change_no_row(tmp_path: Path) -> None:
    for ending in (".csv", ".jsonl"):
        path = write(tmp_path / f"t{ending}", rows(5))
        before = load(path, **PLAIN, **everything())
        path.write_bytes(
            b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        )
        assert load(path, **PLAIN, **everything()) == before


def test_a_group_stays_in_one_split_and_where_it_was(tmp_path: Path) -> None:
    found = load(write(tmp_path / "t.jsonl", rows(400)), **PLAIN)
    shares = Counter(row.split for row in found)
    assert shares["train"] > shares["test"] > shares["dev"] > 10
    fewer = load(write(tmp_path / "t.jsonl", rows(400)[::-1][:300]), **PLAIN)
    where = {row.id: row.split for row in found}
    assert all(where[row.id] == row.split for row in fewer)
    other = load(write(tmp_path / "t.jsonl", rows(400)), **PLAIN, splits={"seed": 1})
    assert [row.split for row in other] != [row.split for row in found]
    groups = load(
        tmp_path / "t.jsonl", **PLAIN, group="topic", splits={"shares": {"train": 0.5, "test": 0.5}}
    )
    assert len({(row.group, row.split) for row in groups}) == 5


def test_a_split_column_says_the_split(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        [
            {"question": f"q{n}", "answer": "a", "set": said}
            for n, said in enumerate(("Train", "validation", "x"))
        ],
    )
    with pytest.raises(
        RecordError,
        match=r"t.jsonl:3: column 'set' says the split 'x', which is none of train, .*leave_out",
    ):
        load(path, **PLAIN, splits={"column": "set"})
    assert [
        row.split for row in load(path, **PLAIN, splits={"column": "set", "leave_out": ["x"]})
    ] == ["train", "dev"]
    named = load(
        path,
        **PLAIN,
        splits={"column": "set", "values": {"train": ["train"], "test": ["validation", "X"]}},
    )
    assert [row.split for row in named] == ["train", "test", "test"]


@pytest.mark.parametrize(
    ("keyed", "answer", "right"),
    [
        ("letter", "B", "Rome"),
        ("letter", "(c)", "Bonn"),
        ("from_0", 0, "Oslo"),
        ("from_1", "3", "Bonn"),
        ("text", " rome ", "Rome"),
        ("from_1", 2.0, "Rome"),
        ("from_1", "2.0", "Rome"),
    ],
)
def test_a_target_names_its_option(tmp_path: Path, keyed: str, answer: Any, right: str) -> None:
    path = write(tmp_path / "t.jsonl", [quiz(answer=answer)])
    (query,) = load(path, **{**QUIZ, "keyed": keyed}, **everything())
    assert query.targets == (right,)
    assert query.prompt[0].content == "Where?\nA. Oslo\nB. Rome\nC. Bonn"


@pytest.mark.parametrize(
    ("keyed", "answer"),
    [("letter", "D"), ("from_0", 3), ("from_1", 0), ("text", "Paris"), ("from_1", 2**70)],
)
def test_a_target_that_is_no_option_is_named(tmp_path: Path, keyed: str, answer: Any) -> None:
    path = write(tmp_path / "t.jsonl", [quiz(), quiz(answer=answer)])
    with pytest.raises(RecordError, match=r"t.jsonl:\d: the target .* is not among the 3 options"):
        load(path, **{**QUIZ, "keyed": keyed}, **everything())


def test_options_that_the_scorer_cannot_tell_by_text_are_told_by_letter(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [quiz(a="x > 1", b="x < 1")])
    (query,) = load(path, **QUIZ, **everything())
    with ChoiceConfig().open() as scorer:
        assert [score.value for score in scorer.score([(query, "A"), (query, "B")])] == [0.0, 1.0]


def test_options_and_targets_may_be_lists(tmp_path: Path) -> None:
    nested = {"question": "Where?", "choices": {"text": ["Oslo", "Rome"]}, "answer": "Rome"}
    settings = {
        "prompt": "{question}\n{choices}",
        "choices": "choices.text",
        "targets": "answer",
        **everything(),
    }
    (query,) = load(write(tmp_path / "t.jsonl", [nested]), **settings)
    assert (query.choices, query.targets) == (("Oslo", "Rome"), ("Rome",))
    (query,) = load(write(tmp_path / "t.parquet", [nested]), **settings)
    assert query.choices == ("Oslo", "Rome")
    (query,) = load(
        write(tmp_path / "t.csv", [{"question": "q", "answer": "Oslo | Kristiania"}]),
        **PLAIN,
        separator="|",
        **everything(),
    )
    assert query.targets == ("Oslo", "Kristiania")


def test_the_prompt_must_show_the_options(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"does not show the option 'Oslo': put \{choices\} into"):
        load(write(tmp_path / "t.jsonl", [quiz()]), **{**QUIZ, "prompt": "question"})


def test_templates(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        [{"q": "Why?", "note": None, "a": "{q}"}, {"q": "Who?", "note": "See {q}.", "a": "b"}],
    )
    found = load(path, prompt="{{{q}}} {note?}|", targets="a", **everything())
    assert [row.prompt[0].content for row in found] == ["{Why?} |", "{Who?} See {q}.|"], (
        "what a row says is never a template"
    )
    with pytest.raises(RecordError, match="'note' is empty"):
        load(path, prompt="{q} {note}", targets="a", **everything())


def test_the_corpus_is_of_training_rows_alone(tmp_path: Path) -> None:
    found = [
        {**row, "why": f"Twice {number}." if number % 3 else ""}
        for number, row in enumerate(rows(60))
    ]
    path = write(tmp_path / "t.csv", found)
    trained = [row for row in load(path, **PLAIN) if row.split == "train"]
    assert learn(path, **PLAIN) == [(row.prompt[0].content, row.targets[0]) for row in trained]
    said = learn(path, **PLAIN, corpus={"completion": "why", "prompt": "Explain: {question}"})
    assert 0 < len(said) < len(trained) and all(
        prompt.startswith("Explain: What") and why.startswith("Twice") for prompt, why in said
    )
    assert learn(path, **PLAIN, ideal="why")[0][1] in ("Twice 1.", "0", "Twice 2.")


def test_the_corpus_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "asked.csv", rows())
    write(tmp_path / "replies.jsonl", [{"topic": "sums", "reply": "Sums are easy."}])
    given = {
        "file": "asked.csv",
        **PLAIN,
        "corpus": {"file": "replies.jsonl", "prompt": "{topic}?", "completion": "reply"},
    }
    assert learn(tmp_path, **given) == [("sums?", "Sums are easy.")]
    assert len(load(tmp_path, **given)) == 40


def test_ids_ideals_and_tags(tmp_path: Path) -> None:
    found = [{**row, "id": number, "why": "Add."} for number, row in enumerate(rows(4))]
    path = write(tmp_path / "t.parquet", found)
    query = load(path, **PLAIN, id="id", ideal="why", tags=["topic"], **everything())[1]
    assert (query.ideal, query.tags) == ("Add.", ("topic: t1",))
    assert learn(path, **PLAIN, id="id", **everything())
    with pytest.raises(RecordError, match=r"t.parquet:3: id '1' comes twice"):
        load(write(path, [*found[:2], {**found[2], "id": 1}]), **PLAIN, id="id", **everything())
    with pytest.raises(
        InputError, match="no row has anything under 'whye': is the column named so"
    ):
        load(write(tmp_path / "t.jsonl", found), **PLAIN, ideal="whye", **everything())


def test_a_split_column_without_training_rows_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"question": "q", "answer": "a", "set": "test"}])
    with pytest.raises(InputError, match=r"no row is of train.*`values`.*prepare.table.splits"):
        learn(path, **PLAIN, splits={"column": "set"})
    path = write(
        tmp_path / "t.jsonl", [{"question": "q", "answer": "a", "set": "train", "why": ""}]
    )
    with pytest.raises(InputError, match="no training row has a completion"):
        learn(path, **PLAIN, splits={"column": "set"}, corpus={"completion": "why"})


def test_a_split_with_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"no row falls into \w+.* too few values of 'topic'"):
        load(write(tmp_path / "t.jsonl", rows(2)), **PLAIN, group="topic")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "q"}, "targets"),
        ({**PLAIN, "keyed": "letter"}, "with `choices` alone: name the columns"),
        ({**PLAIN, "labels": "names"}, "labels: names has a meaning with `choices` alone"),
        ({**QUIZ, "labels": "names", "keyed": "from_1"}, "leave one of them out"),
        ({**PLAIN, "splits": {"shares": {"train": 0.5}}}, "1 together"),
        ({**PLAIN, "splits": {"column": "s", "seed": 3}}, "have no use"),
        ({**PLAIN, "splits": {"values": {"train": ["a"], "test": ["A"]}}}, "named twice"),
        ({**PLAIN, "file": "../other.csv"}, "not inside the raw data"),
        ({**PLAIN, "file": ".h/q.csv"}, "is hidden, so that no turn would know its version"),
        ({**PLAIN, "corpus": {"file": "__pycache__/q.csv", "completion": "a"}}, "is hidden"),
        (
            {**PLAIN, "corpus": {"file": "/etc/passwd", "completion": "a"}},
            "not inside the raw data",
        ),
        ({**PLAIN, "delimiter": ",,"}, "delimiter"),
        ({**PLAIN, "question": "q"}, "question"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Table.model_validate(settings)


def test_the_stage_takes_a_table_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="neither goes without the other"):
        PrepareConfig.model_validate({"domain": "table"})
    with pytest.raises(ValidationError, match="neither goes without the other"):
        PrepareConfig.model_validate({"domain": "handbook", "table": PLAIN})
    write(tmp_path / "t.csv", rows())
    ports = {
        "raw": tmp_path,
        **{
            port: tmp_path / "out" / f"{port}.jsonl" for port in ("queries", "corpus", "quarantine")
        },
    }
    run("prepare", {"domain": "table", "table": PLAIN}, **ports)
    assert len(ports["queries"].read_text().splitlines()) == 40
    with pytest.raises(ConfigError, match=r"table.targets: Field required"):
        run("prepare", {"domain": "table", "table": {"prompt": "question"}}, **ports)


def test_the_examples_of_the_page_are_settings() -> None:
    blocks = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "your-data.md").read_text(), re.DOTALL
    )
    found = [yaml.safe_load(block) for block in blocks]
    tables = [
        PrepareConfig.model_validate(block["prepare"]) for block in found if "prepare" in block
    ]
    prompts: dict[str, Any] = {}
    for block in found:
        if "models" in block:
            # A later example leaves out what an earlier one has.
            prompts |= block["models"]["prompts"]
            Prompts.model_validate(prompts)
    assert len(tables) == 3 and set(prompts) >= {"draft", "refine", "solo", "candidates"}


def test_the_page_names_every_setting() -> None:
    page = (ROOT / "docs" / "your-data.md").read_text()
    missing = [
        name
        for kind in (Table, Corpus, Splits)
        for name in kind.model_fields
        if f"`{name}`" not in page and f"{name}:" not in page
    ]
    assert not missing
