"""Every command of the pages is run: here, word by word, or by the test that is named for it."""

import csv
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cowest import cli
from cowest.online.log import LogConfig
from cowest.online.verdicts import KeptVerdict
from tests import lines, tiny
from tests.factories import make_interaction
from tests.pages import commands

ELSEWHERE = {
    "turn": ("tests/e2e/test_turn.py", 'cowest(project, "turn")'),
    "ask": ("tests/e2e/test_leaks.py", '["ask", '),
    "doctor": ("tests/unit/test_preflight.py", 'doctor.main(["--reach"])'),
    # The downloads that succeed are the demo's, which CI runs; a test has those that fail.
    "fetch": ("Makefile", "@cowest fetch "),
    "key": ("tests/unit/test_guard.py", '["key", "--name", "alice"'),
    "export": ("tests/contract/test_export.py", '["export", '),
    "history": ("tests/contract/test_acts.py", 'project.cowest("history")'),
    "rollback": ("tests/contract/test_acts.py", '"rollback", "--to", "3", "--why"'),
    "hold": ("tests/contract/test_acts.py", 'project.cowest("hold", "--why"'),
    "release": ("tests/contract/test_acts.py", 'project.cowest("release", "--why"'),
    "approve": ("tests/contract/test_acts.py", '"approve", "5", "--why"'),
    "data fetch": ("tests/e2e/test_sources.py", '["data", "fetch", '),
}
"""Commands that need a server, minutes or a history: the test that runs them, and its words."""
IN_A_PROJECT = (
    "cowest doctor",
    "cowest data add ~/exports/questions.csv",
    "cowest data add data/raw/name",
    "cowest harvest --dry-run",
    "cowest harvest",
    "cowest data diff HEAD data/raw/questions",
    "cowest data add data/raw/questions",
    "cowest harvest --summary",
    "cowest data diff HEAD~3 HEAD",
    "cowest data diff v1.2 data/raw/questions --html diff.html",
    "cowest turn --dry-run",
    "cowest prepare --raw data/raw/questions --queries data/queries.raw.jsonl "
    "--corpus data/corpus.raw.jsonl --quarantine data/quarantine.jsonl",
    "cowest validate@queries --rows data/queries.raw.jsonl --against data/raw/questions "
    "--valid data/queries.jsonl --page reports/queries.html --findings reports/queries.json",
    "cowest validate@corpus --rows data/corpus.raw.jsonl --against data/queries.jsonl "
    "--valid data/corpus.jsonl --page reports/corpus.html --findings reports/corpus.json",
    "cowest data diff old/queries.jsonl data/queries.jsonl",
)
AFTER_A_TURN = ("cowest status", "cowest status --json --last 5", "cowest report")
BEFORE_A_PROJECT = (
    "cowest --help",
    "cowest init questions.csv",
    "cowest init questions.csv --out quiz",
    "cowest init questions.csv --prompt question --targets reply",
)
RUN = frozenset([*IN_A_PROJECT, *AFTER_A_TURN, *BEFORE_A_PROJECT])


def run(command: str) -> None:
    """Runs a command as it stands on the page."""
    words = [str(Path(word).expanduser()) for word in shlex.split(command)]
    assert cli.main(words[1:]) == 0, command


def test_every_command_of_the_pages_is_run_by_a_test() -> None:
    shown = {command for _, command in commands()}
    for command in sorted(shown - RUN):
        name, *rest = command.removeprefix("cowest ").split()
        # The help of each command is run by tests/unit/test_docs.py.
        if name.startswith("<") or rest == ["--help"]:
            continue
        named = f"{name} {rest[0]}" if name == "data" and rest else name
        # The bare name of a command that is run with its flags stands in a sentence.
        if command == f"cowest {named}" and any(one.startswith(f"{command} ") for one in RUN):
            continue
        if " ".join(command.split()[:2]) == "cowest prepare":
            continue
        assert named in ELSEWHERE, f"no test runs `{command}`: add it here"
        place, words = ELSEWHERE[named]
        text = (lines.ROOT / place).read_text(encoding="utf-8")
        assert words in text, f"{place} does not run `{command}`"
    assert shown >= RUN, f"no page shows {sorted(RUN - shown)}"


def write_questions(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["question", "reply", "product"])
        for number in range(240):
            reply = ("Oslo", "Rome", "Lima", "Kyiv")[number % 4]
            table.writerow([f"Where is pump {number} made?", reply, f"pump {number // 2}"])


@pytest.mark.parametrize("command", BEFORE_A_PROJECT)
def test_what_is_run_before_there_is_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_questions(Path("questions.csv"))
    run(command)
    made = list(tmp_path.rglob("params.yaml"))
    assert len(made) == (0 if command == "cowest --help" else 1)


def git(*words: str) -> None:
    subprocess.run(["git", *words], check=True, capture_output=True)


@pytest.mark.slow
def test_what_is_run_in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "t")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "t@t")
    home = tmp_path / "home"
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(tmp_path)
    write_questions(Path("questions.csv"))
    write_questions(home / "exports" / "questions.csv")
    assert cli.main(["init", "questions.csv", "--out", "quiz", "--targets", "reply"]) == 0
    with tiny.standing_in(tmp_path / "quiz"):
        _own_models()
        git("init", "-q")
        raw = Path("data/raw")
        for number in range(4):
            # Each commit has another state of the data, so that `HEAD~3` has one.
            Path("note.txt").write_text(str(number))
            if number == 0:
                run("cowest data add data/raw/questions")
            git("add", "-A")
            git("commit", "-qm", str(number))
        git("tag", "v1.2")
        Path("old").mkdir()
        _log()
        for command in IN_A_PROJECT:
            if "old/queries.jsonl" in command:
                shutil.copy("data/queries.jsonl", "old/queries.jsonl")
            if command.endswith("raw/name"):
                shutil.copytree(raw / "questions", raw / "name")
            if "exports" in command:
                shutil.rmtree(raw / "questions")
                git("rm", "-q", "--cached", "data/raw/questions.dvc")
                (raw / "questions.dvc").unlink()
            run(command)
            if "data add" in command:
                git("add", "-A")
                git("commit", "--allow-empty", "-qm", command)


def _log() -> None:
    """An answer of the service, and what somebody said of it."""
    with LogConfig().open() as log:
        row = make_interaction(log.new_id(), "Who made the Comet pump?")
        log.keep(row)
        log.keep_verdict(KeptVerdict(id=row.id, better="Ada", at=row.at)).result(30)


def _own_models() -> None:
    """Puts the tiny model in place of those that `init` names."""
    path = Path("params.yaml")
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    policy = {"provider": "hf", "model": str(tiny.model()), "dtype": "float32"}
    for section in ("sft", "draft", "dpo", "evaluate", "serve"):
        params[section]["policy"] = policy
    strong = {"provider": "scripted", "rules": [{"match": "", "replies": ["Oslo"]}]}
    for section in ("refine", "evaluate", "serve"):
        params[section]["strong"] = strong
    params.pop("models", None)
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


@pytest.mark.parametrize("command", AFTER_A_TURN)
def test_what_is_run_after_a_turn(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "turned"
    shutil.copytree(tiny.turned(), folder)
    with tiny.standing_in(folder):
        run(command)
