"""From a person's verdict to a training row: the service, its log, harvest, a version, prepare."""

import csv
import subprocess
from pathlib import Path

import pytest

from cowest import io
from cowest.cli import main
from cowest.raw.harvested import NAME
from cowest.records import Demonstration, Query
from tests import serving

ENDPOINT, FEEDBACK = "/v1/chat/completions", "/v1/feedback"


def scaffold(folder: Path) -> None:
    """A project of a table with 40 products, by `cowest init`, under git."""
    with (folder / "pumps.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["question", "reply"])
        for number in range(80):
            what = "built" if number % 2 else "sold"
            reply = ("Oslo", "Rome", "Lima", "Kyiv", "Bonn")[number % 5]
            table.writerow(
                [
                    f"Where is pump {number // 2} {what}?",
                    f"Our people there make it in {reply}, as page {number} says.",
                ]
            )
    assert main(["init", str(folder / "pumps.csv"), "--out", str(folder / "made")]) == 0
    for words in (["init", "-q"], ["config", "user.name", "t"], ["config", "user.email", "t@t"]):
        subprocess.run(["git", *words], cwd=folder / "made", check=True)


def prepared(raw: str) -> tuple[list[Query], list[Demonstration]]:
    ports = {"queries": "q.jsonl", "corpus": "c.jsonl", "quarantine": "bad.jsonl"}
    flags = [word for port, path in ports.items() for word in (f"--{port}", path)]
    assert main(["prepare", "--raw", raw, *flags]) == 0
    return list(io.read(Path("q.jsonl"), Query)), list(io.read(Path("c.jsonl"), Demonstration))


def answered(server: serving.Running, question: str) -> str:
    """Asks the service, and returns the id of the answer."""
    status, _, reply = serving.post(server.port, serving.asking(question), ENDPOINT)
    assert status == 200
    return str(reply["id"])


@pytest.mark.slow
def test_verdicts_become_training_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scaffold(tmp_path)
    monkeypatch.chdir(tmp_path / "made")
    raw = "data/raw/pumps"
    assert main(["data", "add", raw, "--commit", "the table"]) == 0
    before, learned_before = prepared(raw)
    held = next(row for row in before if row.split == "test").prompt[0].content
    with serving.running(log={}) as server:
        verdicts = [
            ("Who made the Phoenix fan?", {"better": "Ada Corin, says ada@example.org"}),
            ("Where is the Comet pump made?", {"verdict": "good"}),
            (held, {"better": "Oslo"}),
            ("What is a valve?", {"verdict": "bad"}),
        ]
        for question, given in verdicts:
            body = {"id": answered(server, question), **given}
            assert serving.post(server.port, body, FEEDBACK)[0] == 200
    capsys.readouterr()
    assert main(["harvest"]) == 0
    assert f"next     cowest data add {raw}" in capsys.readouterr().out
    assert main(["data", "add", raw, "--commit", "harvested"]) == 0
    after, learned = prepared(raw)
    assert after[: len(before)] == before
    assert [(row.prompt[0].content, row.targets, row.split) for row in after[len(before) :]] == [
        ("Who made the Phoenix fan?", ("Ada Corin, says [EMAIL_1]",), "train"),
        ("Where is the Comet pump made?", ("It is made in Oslo , in the north",), "train"),
    ]
    new = [row.completion for row in learned[len(learned_before) :]]
    assert new == ["Ada Corin, says [EMAIL_1]"]
    # The rows meet the contract of queries, and are of a version that git knows.
    ports = {"rows": "q.jsonl", "against": raw, "valid": "v.jsonl", "page": "page.html"}
    flags = [word for port, path in ports.items() for word in (f"--{port}", path)]
    assert main(["validate@queries", *flags]) == 0
    assert list(io.read(Path("v.jsonl"), Query))[len(before) :] == after[len(before) :]
    status = subprocess.run(["git", "status", "--porcelain", raw], capture_output=True, text=True)
    assert status.stdout == ""
    kept = Path(raw, NAME).read_bytes()
    assert main(["harvest"]) == 0
    assert Path(raw, NAME).read_bytes() == kept
