"""What `validate` keeps from queries it keeps from the corpus: nothing that was set aside,
masked or held out is learned.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cowest import io
from cowest.domains import domain
from cowest.records import Demonstration, Query, Validation
from cowest.stages import prepare, validate

LONG = "What does the maintenance handbook of the northern works say about "
TOPICS = (
    "boilers",
    "pumps",
    "valves",
    "turbines",
    "filters",
    "gaskets",
    "rotors",
    "bearings",
    "pistons",
    "cables",
    "fuses",
    "relays",
)
PLAIN = [
    {
        "q": f"{LONG}{topic}?",
        "a": f"see {topic}",
        "split": "test" if at % 4 == 3 else "train",
        "why": f"of {topic} it says much",
    }
    for at, topic in enumerate(TOPICS)
]
TABLE = {"file": "t.jsonl", "prompt": "q", "targets": "a", "splits": {"column": "split"}}


def wheel(
    tmp_path: Path, rows: list[dict[str, str]], contract: dict[str, Any], **table: Any
) -> tuple[list[Query], list[Demonstration]]:
    """The queries and the corpus of a turn, by the stages' own mains."""
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    (raw / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = prepare.PrepareConfig.model_validate(
        {"domain": "table", "table": {**TABLE, "corpus": {"completion": "why"}, **table}}
    )
    prepare.main(raw, tmp_path / "q.raw", tmp_path / "c.raw", tmp_path / "aside", config)
    queries = {"kind": "queries", "near": None, **contract}
    check(tmp_path, "q", raw, queries)
    check(tmp_path, "c", tmp_path / "q", {"kind": "corpus", "queries": queries, "max_aside": 0.9})
    return list(io.read(tmp_path / "q", Query)), list(io.read(tmp_path / "c", Demonstration))


def check(tmp_path: Path, name: str, against: Path, settings: dict[str, Any]) -> None:
    config = validate.ValidateConfig.model_validate(settings)
    validate.main(
        [tmp_path / f"{name}.raw"],
        against,
        tmp_path / name,
        tmp_path / f"{name}.html",
        config,
        tmp_path / f"{name}.json",
    )


def aside(tmp_path: Path) -> dict[str, int]:
    found = io.read_document(tmp_path / "c.json", Validation)
    return {rule.name: rule.rows for rule in found.rules if rule.rows}


def test_a_fit_corpus_passes_byte_for_byte(tmp_path: Path) -> None:
    queries, corpus = wheel(tmp_path, PLAIN, {})
    assert len(queries) == 12 and len(corpus) == 9
    assert (tmp_path / "c").read_bytes() == (tmp_path / "c.raw").read_bytes()


def test_a_near_copy_of_a_held_out_question_is_not_learned_either(tmp_path: Path) -> None:
    held = next(row for row in PLAIN if row["split"] == "test")
    copy = {
        **held,
        "q": held["q"].replace("?", " ...!"),
        "split": "train",
        "why": "the answer, leaked",
    }
    queries, corpus = wheel(
        tmp_path,
        [*PLAIN, copy],
        {"near": 0.9},
        corpus={"completion": "why", "prompt": "Tell me of {a}!"},
    )
    assert copy["q"] not in {row.prompt[0].content for row in queries}
    assert "leaked" not in (tmp_path / "c").read_text() and len(corpus) == 9
    assert aside(tmp_path) == {"query": 1}


def test_what_is_refused_or_of_another_language_is_not_learned_either(tmp_path: Path) -> None:
    german = (
        "Was steht im Handbuch der nördlichen Werke über die Wartung von Kesseln und Pumpen "
        "und Ventilen?"
    )
    rows = [
        *PLAIN,
        {
            "q": "Who answers ada@example.org at the works?",
            "a": "Ada",
            "split": "train",
            "why": "Ada does",
        },
        {"q": german, "a": "viel", "split": "train", "why": "viel"},
    ]
    queries, corpus = wheel(
        tmp_path, rows, {"private": {"personal": "refuse"}, "languages": ["en"]}
    )
    assert len(queries) == 12 and len(corpus) == 9
    assert aside(tmp_path) == {"query": 2, "language": 1, "personal": 1}


def test_what_is_masked_among_queries_is_masked_in_the_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        *PLAIN,
        {
            "q": "Who answers ada@example.org?",
            "a": "Ada",
            "split": "train",
            "why": "ada@example.org is Ada, bob@example.org not",
        },
    ]
    queries, corpus = wheel(tmp_path, rows, {"private": {"personal": "mask"}})
    assert len(queries) == 13
    assert [
        (row.prompt[0].content, row.completion) for row in corpus if "[EMAIL" in row.completion
    ] == [("Who answers [EMAIL_1]?", "[EMAIL_1] is Ada, [EMAIL_2] not")]
    assert (
        "@example.org"
        not in (tmp_path / "c").read_text()
        + (tmp_path / "q").read_text()
        + (tmp_path / "c.html").read_text()
    )
    assert (
        "it holds no personal data: not met by 1 of 10 rows (a placeholder stands in its place)"
        in capsys.readouterr().err
    )


def test_a_corpus_of_its_own_is_looked_at_by_itself(tmp_path: Path) -> None:
    replies = [
        {"asked": PLAIN[3]["q"].upper(), "said": "a held-out question"},
        {"asked": f"Read this.\n{PLAIN[7]['q']}", "said": "a held-out question below a line"},
        {"asked": "Who is there?", "said": "ada@example.org"},
        {"asked": "And who else?", "said": "nobody"},
    ]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "replies.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in replies)
    )
    own = {"file": "replies.jsonl", "prompt": "asked", "completion": "said"}
    _, corpus = wheel(tmp_path, PLAIN, {"private": {"personal": "refuse"}}, corpus=own)
    assert [row.completion for row in corpus] == ["nobody"]
    assert aside(tmp_path) == {"held_out": 2, "personal": 1}


def test_the_second_of_two_equal_queries_is_not_learned_again(tmp_path: Path) -> None:
    _, corpus = wheel(tmp_path, [*PLAIN, {**PLAIN[0], "why": "another reason"}], {})
    assert len(corpus) == 9 and aside(tmp_path) == {"query": 1}


def test_tags_and_groups_are_masked_and_stay_apart(tmp_path: Path) -> None:
    rows = [
        {**row, "who": f"{'ab'[at % 2]}@example.org", "split": "train"}
        for at, row in enumerate(PLAIN[:4])
    ]
    rows += [{**row, "who": "none", "split": "test"} for row in PLAIN[4:6]]
    queries, _ = wheel(tmp_path, rows, {"private": {"personal": "mask"}}, group="who", tags=["who"])
    assert len({row.group for row in queries}) == 3
    tags = Counter(row.tags[0] for row in queries)
    assert sorted(tags.values()) == [2, 2, 2] and tags["who: none"] == 2
    assert all(re.fullmatch("who: (none|email [0-9a-f]{16})", tag) for tag in tags)
    assert "@example.org" not in (tmp_path / "q").read_text()


def test_a_corpus_needs_the_contract_of_the_queries() -> None:
    with pytest.raises(ValueError, match="queries"):
        validate.ValidateConfig.model_validate({"kind": "corpus"})


def test_the_table_named_as_the_corpus_is_no_file_of_its_own(tmp_path: Path) -> None:
    own = {"file": "t.jsonl", "prompt": "Tell me of {a}!", "completion": "why"}
    _, corpus = wheel(tmp_path, PLAIN, {}, corpus=own)
    assert len(corpus) == 9 and all(row.of_query for row in corpus)


def test_a_held_out_question_is_known_without_its_options_and_template(tmp_path: Path) -> None:
    rows = [{**row, "one": row["a"], "two": f"no {row['a']}"} for row in PLAIN]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "replies.jsonl").write_text(
        json.dumps({"asked": PLAIN[3]["q"], "said": "x"})
        + '\n{"asked": "Who?", "said": "nobody"}\n'
    )
    own = {"file": "replies.jsonl", "prompt": "asked", "completion": "said"}
    prompt = (
        "A very long instruction that stands before every question of the table, and says "
        "what to do.\n{q}\n{choices}"
    )
    _, corpus = wheel(
        tmp_path, rows, {}, corpus=own, prompt=prompt, choices=["one", "two"], keyed="text"
    )
    assert [row.completion for row in corpus] == ["nobody"]


def test_a_stem_with_other_options_is_another_question(tmp_path: Path) -> None:
    stem = "Which of these northern pumps needs oil?"
    rows = [{**row, "one": row["a"], "two": "none of these"} for row in PLAIN]
    of = {"q": stem, "two": "none of these"}
    long = "the {} pump beside the old gate of the northern works"
    for name, split in (("red", "test"), ("blue", "train"), ("green", "train")):
        option = long.format(name)
        rows.append({**of, "a": option, "one": option, "split": split, "why": f"of {name}"})
    rows[-1]["why"] = f"not {long.format('red')}"
    prompt = "{q}\n{choices}"
    _, corpus = wheel(tmp_path, rows, {}, prompt=prompt, choices=["one", "two"], keyed="text")
    assert [row.completion for row in corpus][9:] == ["of blue"]
    assert aside(tmp_path) == {"held_out": 1}


def test_severities_of_the_queries_hold_for_the_corpus_and_its_own_go_first(tmp_path: Path) -> None:
    rows = [
        *PLAIN,
        {"q": "Who answers at the works?", "a": "Ada", "split": "train", "why": "ada@example.org"},
    ]
    _, corpus = wheel(tmp_path, rows, {"severity": {"personal": "aside"}})
    assert len(corpus) == 9 and aside(tmp_path) == {"personal": 1}
    suite = {
        "kind": "corpus",
        "queries": {"kind": "queries", "severity": {"personal": "aside"}},
        "severity": {"personal": "note"},
    }
    rules = validate.ValidateConfig.model_validate(suite).suite.rules()
    assert {rule.name: rule.severity for rule in rules}["personal"] == "note"


def test_masks_hide_no_copy_of_a_benchmark_or_of_what_is_held_out(tmp_path: Path) -> None:
    asked = (
        "Who at the northern works is to be written to about broken boilers, ada@example.org "
        "or the foreman?"
    )
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "bench.jsonl").write_text(json.dumps({"text": asked}) + "\n")
    rows = [*PLAIN, {"q": asked, "a": "Ada", "split": "train", "why": "leaked"}]
    mask = {"private": {"personal": "mask"}}
    queries, corpus = wheel(
        tmp_path, rows, {**mask, "contamination": ["bench.jsonl"]}, file="t.jsonl"
    )
    assert len(queries) == 12 and len(corpus) == 9
    rows[-1:] = [{**rows[-1], "q": asked.replace("?", " ...")}, {**rows[-1], "split": "test"}]
    queries, corpus = wheel(tmp_path, rows, {**mask, "near": 0.9}, file="t.jsonl")
    assert len(queries) == 13 and len(corpus) == 9 and "leaked" not in (tmp_path / "c").read_text()


def test_rows_of_a_list_on_one_line_are_told_apart(tmp_path: Path) -> None:
    from tests import published

    published.ifqa(tmp_path / "raw")
    for path in (tmp_path / "raw").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text())))
    rows = list(domain({"domain": "ifqa"}).load(tmp_path / "raw"))
    assert len({row.source for row in rows}) == len(rows) > 2
    assert rows[0].source.endswith(":1") and rows[1].source.endswith(":1.2")
