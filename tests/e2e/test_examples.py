"""The projects of examples/, each turned as it is, but for models that are tiny or scripted."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config, io, stages
from cowest.commands import init
from cowest.records import EvalReport, PreferencePair
from tests import lines, tiny
from tests.examples import EXAMPLES, HELPS, made_tiny, replying

NAMES = ("multiple-choice", "support-archive")
TEMPLATES = {
    "dvc.yaml": "dvc.yaml",
    ".gitignore": "gitignore",
    ".dvcignore": "dvcignore",
    ".dvc/.gitignore": "dvcgitignore",
}


def questions(folder: Path) -> list[dict[str, str]]:
    (table,) = folder.glob("data/raw/*/questions.csv")
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_what_init_writes(name: str) -> None:
    folder = EXAMPLES / name
    scaffold = Path(init.__file__).parent / "scaffold"
    for path, template in TEMPLATES.items():
        written = (scaffold / f"{template}.template").read_text(encoding="utf-8")
        assert (folder / path).read_text(encoding="utf-8") == written, (
            f"{folder / path} differs from what `cowest init` writes: copy it from there"
        )
    held_out = {tuple(row.values())[-2] for row in questions(folder) if row["split"] == "test"}
    assert len(held_out) > 10, "the gate stays closed with fewer"


def choosing(folder: Path) -> list[dict[str, Any]]:
    """A strong model that is right where a draft helps, and says no option where none does."""
    rules = []
    for row in questions(folder):
        asked = re.escape(row["question"])
        rules.append({"match": rf"(?s){asked}.*{HELPS}", "replies": [row["answer"]]})
    return [*rules, {"match": "", "replies": ["no idea"]}]


@pytest.mark.minutes
@pytest.mark.parametrize("name", NAMES)
def test_an_example_turns(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    made_tiny(params, choosing(folder) if name == "multiple-choice" else replying())
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    ports = lines.paths()
    ports["pin"]["raw"] = params["turn"]["raw"]
    ports |= {
        stage: dict(lines.flags(made["cmd"])) for stage, made in lines.entries(folder).items()
    }
    with tiny.standing_in(folder):
        for stage, given in ports.items():
            stages.run(stage, config.section(params, stage), None, **given)
    pairs = list(io.read(folder / "data" / "pairs.jsonl", PreferencePair))
    assert len(pairs) >= 10
    report = io.read_document(folder / "reports" / "eval.json", EvalReport)
    assert report.groups == 12
    assert report.systems["strong"].queries == report.queries
    assert json.loads((folder / "reports" / "decision.json").read_text())["version"] == 1
