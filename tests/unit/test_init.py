"""`cowest init`: a project from a sample, that says what it understood, runs, and writes over
nothing.
"""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cowest import config, io, preflight
from cowest.cli import main
from cowest.commands.data import rows_of
from cowest.commands.scaffold.guess import guess
from cowest.domains.mapping import Table
from cowest.errors import ConfigError
from cowest.prompts import Prompts
from cowest.records import Demonstration, Query
from cowest.stages.prepare import PrepareConfig
from tests import lines
from tests.scaffolds import asked, quiz, scaffold
from tests.tables import write


def prepare(
    folder: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Query], list[Demonstration]]:
    monkeypatch.chdir(folder / "made")
    given = [
        "--raw",
        params["turn"]["raw"],
        "--queries",
        "data/queries.raw.jsonl",
        "--corpus",
        "data/corpus.jsonl",
    ]
    given += ["--quarantine", "data/quarantine.jsonl"]
    assert main(["prepare", *given]) == 0
    return list(io.read(Path("data/queries.raw.jsonl"), Query)), list(
        io.read(Path("data/corpus.jsonl"), Demonstration)
    )


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_multiple_choice(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = scaffold(tmp_path, quiz(), f"My quiz{ending if ending != '.tsv' else '.csv'}")
    table = params["prepare"]["table"]
    assert table["prompt"] == "{Question}\n{choices}" and table["choices"] == [
        "option_a",
        "option_b",
        "option_c",
    ]
    assert (table["targets"], table["keyed"], table["group"], table["tags"]) == (
        "correct",
        "letter",
        "product",
        ["topic"],
    )
    assert (
        table["ideal"] == "exp"
        and params["models"]["scorer"] == {"scorer": "choice", "rule": 2}
        and params["turn"]["raw"] == "data/raw/my-quiz"
    )
    said = capsys.readouterr().out
    assert (
        "'correct': the letter of an option" in said
        and "junk: left out" in said
        and re.search(r"\d+ train, \d+ dev, \d+ test", said)
    )
    queries, corpus = prepare(tmp_path, params, monkeypatch)
    assert len(queries) == 60 and {query.split for query in queries} == {"train", "dev", "test"}
    assert queries[1].targets == ("Bonn",)
    assert len(corpus) == sum(query.split == "train" for query in queries)


def test_questions_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = scaffold(tmp_path, asked(), "qa.jsonl")
    table = params["prepare"]["table"]
    assert (table["targets"], table["id"]) == ("answers.text", "uid") and params["models"][
        "scorer"
    ] == {"scorer": "contains", "rule": 2}
    said = capsys.readouterr().out
    assert (
        "'split' has none, so its Validation are" in said
        and "35 train, 0 dev, 15 test" in said
        and "which rows belong together" in said
        and "`cowest fetch` brings the small one that is named there now" in said
    )
    queries, corpus = prepare(tmp_path, params, monkeypatch)
    assert queries[7].targets == ("Ada 7", "Ada") and len(corpus) == 35


def test_few_answers_are_labels(tmp_path: Path) -> None:
    rows = [
        {"utterance": f"I feel {number}", "label": "bad" if number % 2 else "good"}
        for number in range(40)
    ]
    params = scaffold(tmp_path, rows, "t.csv")
    assert params["models"]["scorer"] == {"scorer": "exact_match", "rule": 2}
    assert "nothing else: bad, good." in params["models"]["prompts"]["refine"]["user"]


def test_the_settings_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaffold(tmp_path, quiz(), "t.csv")
    monkeypatch.chdir(tmp_path / "made")
    settings, problems = preflight.stage_settings(Path("params.yaml"))
    assert not problems and not preflight.raw_data_problems(Path("params.yaml"))
    assert len(settings) == len(lines.STAGES) + 1, "those of `serve` are among them"
    Prompts.model_validate(config.load(Path("params.yaml"))["models"]["prompts"])


def test_the_line_is_that_of_the_repository(tmp_path: Path) -> None:
    """But for the code, which an installed package has no path for: `turn.json` has its digest."""
    params = scaffold(tmp_path, quiz(), "handbook.csv")
    assert params["turn"]["raw"] == "data/raw/handbook"
    made = yaml.safe_load((tmp_path / "made" / "dvc.yaml").read_text())["stages"]
    ours = yaml.safe_load((lines.ROOT / "dvc.yaml").read_text())["stages"]
    for entry in (stage.get("do", stage) for stage in ours.values()):
        entry["deps"].remove("src/cowest")
        entry["params"].append({"turn.json": ["code"]})
    assert made == ours


def test_git_is_kept_from_what_dvc_keeps(tmp_path: Path) -> None:
    scaffold(tmp_path, quiz(), "t.csv")
    assert (tmp_path / "made" / ".dvc" / ".gitignore").read_text().split() == [
        "/config.local",
        "/tmp",
        "/cache",
    ]


@pytest.mark.parametrize("name", ["src/cowest/commands/scaffold/gitignore.template", ".gitignore"])
def test_git_takes_nothing_that_a_killed_stage_leaves(name: str, tmp_path: Path) -> None:
    """Drafts of held-out queries among it; what says where the data are is taken."""
    shutil.copy(lines.ROOT / name, tmp_path / ".gitignore")
    left = [
        "data/.evaluate.x1/after.jsonl",
        "data/.trials.jsonl.x1",
        "data/raw/.handbook.x1/rows.csv",
        "local_outputs/trials",
    ]
    taken = [
        "data/.gitattributes",
        "data/.gitignore",
        "data/raw/.gitattributes",
        "data/raw/.gitignore",
        "data/raw/t.csv",
        "data/raw/t.csv.dvc",
    ]
    for path in (*left, *taken):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    given = ["git", "ls-files", "--others", "--exclude-standard", "data", "local_outputs"]
    found = subprocess.run(given, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert found.stdout.split() == taken


@pytest.mark.parametrize("sound", [0, 30])
def test_a_table_between_tabs_with_lines_in_quotes_gives_a_project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sound: int
) -> None:
    sample = tmp_path / "t.tsv"
    rows = ["question\tanswer", '"Where is it?\nA:\tOslo"\tA']
    rows += [f"Where is {number}?\tAnswer {number}" for number in range(sound)]
    sample.write_text("\n".join(rows) + "\n")
    assert main(["init", str(sample), "--out", str(tmp_path / "made")]) == 0
    assert "t.tsv:2: a field in quotes holds a line end and a tab" in capsys.readouterr().out
    assert rows_of(sample) is None, "a quote may have swallowed rows"


def test_a_json_list_gives_a_project(tmp_path: Path) -> None:
    sample = tmp_path / "t.json"
    sample.write_text(json.dumps(asked()))
    assert main(["init", str(sample), "--out", str(tmp_path / "made")]) == 0
    params = config.load(tmp_path / "made" / "params.yaml")
    queries = PrepareConfig.model_validate(params["prepare"]).queries(tmp_path / "made/data/raw/t")
    assert len(list(queries)) == 50


@pytest.mark.parametrize(
    ("name", "start", "remedy"),
    [
        ("q.xlsx", b"PK\x03\x04", "save its sheet as 'CSV UTF-8'"),
        ("q.xls", b"\xd0\xcf\x11\xe0", "save its sheet as 'CSV UTF-8'"),
        ("q.csv.gz", b"\x1f\x8b", "unpack it"),
        ("q.txt", b"q,a\n", "its ending says no format: name it .jsonl"),
    ],
)
def test_a_file_of_another_kind_is_told_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, start: bytes, remedy: str
) -> None:
    (tmp_path / name).write_bytes(start + bytes(60))
    assert main(["init", str(tmp_path / name), "--out", str(tmp_path / "made")]) == 1
    assert remedy in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = write(tmp_path / "t.csv", quiz())
    for name in ("params.yaml", "dvc.yaml", "data/raw/t/t.csv"):
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        assert main(["init", str(sample), "--out", str(out)]) == 1
        assert f"{out / name} exists, and init writes over nothing" in capsys.readouterr().err
        assert [path.name for path in out.rglob("*") if path.is_file()] == [Path(name).name]
    out = tmp_path / "two"
    out.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        (out / name).write_text("mine")
    assert main(["init", str(sample), "--out", str(out)]) == 1
    assert "dvc.yaml exist, and init writes over nothing" in capsys.readouterr().err
    out = tmp_path / "repository"
    out.mkdir()
    (out / ".gitignore").write_text("mine")
    assert main(["init", str(sample), "--out", str(out)]) == 0
    assert (out / ".gitignore").read_text() == "mine"
    assert "left as they are: .gitignore" in capsys.readouterr().out


def test_a_sample_in_its_place_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data/raw/t").mkdir(parents=True)
    before = write(Path("data/raw/t/t.csv"), quiz()).read_bytes()
    assert main(["init", "data/raw/t/t.csv"]) == 0
    assert Path("data/raw/t/t.csv").read_bytes() == before and Path("params.yaml").exists()


def test_what_cannot_be_told_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"foo": f"Say {number}.", "bar": str(number)} for number in range(30)]
    sample = write(tmp_path / "t.csv", rows)
    assert main(["init", str(sample), "--out", str(tmp_path / "made")]) == 1
    assert (
        "say it with --targets COLUMN; the columns without a role are foo, bar"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "made").exists()
    assert (
        main(
            [
                "init",
                str(sample),
                "--out",
                str(tmp_path / "made"),
                "--prompt",
                "foo",
                "--targets",
                "bar",
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "init",
                str(sample),
                "--out",
                str(tmp_path / "other"),
                "--prompt",
                "food",
                "--targets",
                "bar",
            ]
        )
        == 1
    )
    assert "there is no column 'food': is it 'foo'?" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_what_will_stop_prepare_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = quiz()
    rows[20]["correct"] = "Z"
    scaffold(tmp_path, rows, "t.csv")
    said = capsys.readouterr().out
    assert (
        "'correct' of 2% of the rows: it names no option there" in said
        and "t.csv:42: the target 'Z' is not among the 3 options" in said
    )


def test_rows_that_do_not_fit_stand_below_what_they_are_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = quiz()
    rows[20]["correct"] = rows[21]["correct"] = "Z"
    scaffold(tmp_path, rows, "t.csv")
    said = capsys.readouterr().out
    assert re.search(r"\n  - rows that don't fit.*\n    - .*'Z' is not.*\n    - .*'Z' is not", said)


def test_several_answers_in_one_cell_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"Where is {n}?", "answer": f"City {n};Town {n}"} for n in range(40)]
    scaffold(tmp_path, rows, "t.csv")
    said = "in 40 rows 'answer' holds ';', and is taken as one right answer: set `separator: ';'`"
    assert said in capsys.readouterr().out


def test_a_column_that_no_template_can_name_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaffold(tmp_path, quiz(**{"Notes {internal}": "x"}), "t.csv")
    assert "what to do with Notes {internal}: left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prompt", "{Question"], "--prompt: there is no column '{Question': is it 'Question'?"),
        (
            ["--prompt", "{Question}{"],
            "--prompt: '{Question}{' has a brace that belongs to no place",
        ),
        (
            ["--prompt", "{{Question}"],
            "--prompt: '{{Question}' has a brace that belongs to no place",
        ),
        (["--targets", "corect"], "--targets corect: there is no column 'corect': is it 'correct'"),
        (["--targets", "option_a"], "--targets option_a: it holds options"),
        (["--targets", "x.y.z"], "--targets x.y.z: init can't tell its values"),
        (["--prompt", "{Question} {correct}", "--targets", "correct"], "the prompt shows it"),
        (["--prompt", "correct"], "can't tell which column is the right answer"),
    ],
)
def test_columns_that_are_said_wrongly_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    sample = write(tmp_path / "t.jsonl", quiz(x={"y": {"z": "A"}}))
    assert main(["init", str(sample), "--out", str(tmp_path / "made"), *flags]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prompt", "{ctx} {nope} {question}"], "--prompt: there is no column 'nope'"),
        (["--prompt", "{question} {nope?}"], "--prompt: there is no column 'nope'"),
        (["--targets", "answers"], "'answers' is an object: name what is in it with a point"),
    ],
)
def test_a_wrong_name_is_said_behind_an_empty_column_and_of_an_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(40):
        answers = {"text": [f"Ada {number}"], "start": [number]}
        row = {"ctx": "c" if number else "", "question": f"Who is {number}?", "answers": answers}
        rows.append(row if number % 2 == 0 else {**row, "hint": "h"})
    sample = write(tmp_path / "t.jsonl", rows)
    target = [] if "--targets" in flags else ["--targets", "answers.text"]
    out = ["--out", str(tmp_path / "made")]
    assert main(["init", str(sample), *out, *flags, *target]) == 1
    assert said in capsys.readouterr().err
    if target:
        # A column of some rows alone may be named.
        assert main(["init", str(sample), *out, "--prompt", "{question} {hint?}", *target]) == 0


def test_numbers_that_may_count_from_0_or_1_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "correct": 1 + number % 2} for number, row in enumerate(quiz())]
    assert scaffold(tmp_path, rows, "t.csv")["prepare"]["table"]["keyed"] == "from_0"
    assert "counts the options from 0 or from 1: both would do" in capsys.readouterr().out


def test_another_delimiter_is_found(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "question;answer\n" + "".join(f"Who, {number}?;Ada {number}\n" for number in range(40))
    )
    assert main(["init", str(tmp_path / "t.csv"), "--out", str(tmp_path / "made")]) == 0
    assert config.load(tmp_path / "made" / "params.yaml")["prepare"]["table"]["delimiter"] == ";"


@pytest.mark.parametrize("count", [25, 40, 80])
@pytest.mark.parametrize("grouped", [True, False])
def test_init_draws_the_splits_that_prepare_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, grouped: bool
) -> None:
    for salt in range(4):
        rows = []
        for number in range(count):
            row = {"question": f"How deep is well {salt}-{number}?", "answer": f"{number} m"}
            # Names of groups that begin as the digests of questions do.
            rows.append({**row, **({"product": f"g{number // 3}"} if grouped else {})})
        folder = tmp_path / str(salt)
        folder.mkdir()
        params = scaffold(folder, rows, "wells.csv")
        assert ("group" in params["prepare"]["table"]) is grouped
        queries = PrepareConfig.model_validate(params["prepare"]).queries(folder / "wells.csv")
        drawn = Counter(query.split for query in queries)
        said = f"{drawn['train']} train, {drawn['dev']} dev, {drawn['test']} test"
        assert said in capsys.readouterr().out and len(drawn) == 3


def test_few_held_out_groups_are_said_with_what_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = asked(60)
    for number, row in enumerate(rows):
        row["split"] = "test" if number < 9 else "train"
    scaffold(tmp_path, rows, "t.jsonl")
    assert (
        "the split `test` has 9 groups, and the gate stays closed below 10 (`compare.min_groups`): "
        "add rows of other groups"
    ) in capsys.readouterr().out
    rows[9]["split"] = "test"
    (tmp_path / "more").mkdir()
    scaffold(tmp_path / "more", rows, "t.jsonl")
    assert "min_groups" not in capsys.readouterr().out


NAMES = [
    "question",
    "text",
    "answer",
    "answers",
    "label",
    "a",
    "b",
    "c",
    "choices",
    "split",
    "id",
    "group",
    "why",
    "topic",
    "o dd",
    "x: y #",
]
VALUES = (
    st.none()
    | st.integers()
    | st.text(max_size=8)
    | st.lists(st.text(max_size=4), max_size=3)
    | st.floats()
)
ROWS = st.lists(
    st.dictionaries(
        st.sampled_from(NAMES), VALUES | st.dictionaries(st.just("text"), VALUES), max_size=8
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(rows=ROWS)
def test_any_rows_give_a_mapping_or_a_word(rows: list[dict[str, Any]]) -> None:
    try:
        made = guess(rows)
    except ConfigError as error:
        assert "say it with --" in str(error)
        return
    table = Table.model_validate(made.table)
    assert table.columns(corpus=True) <= {"choices"} | {
        name for row in json.loads(json.dumps(rows)) for key in row for name in (key, f"{key}.text")
    }


@pytest.mark.parametrize("command", [["init"], ["data", "fetch"], ["data", "add"]])
def test_a_pipe_is_not_waited_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.csv")
    assert main([*command, "pipe.csv"]) == 1
    assert "pipe.csv is no ordinary file" in capsys.readouterr().err
