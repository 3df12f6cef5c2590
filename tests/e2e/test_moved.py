"""A project whose data have a space in their name and whose stages' files are links of DVC turns,
and goes on in another place.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import lines, tiny

pytestmark = pytest.mark.minutes


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=tiny.surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_turn_in_one_place_and_the_next_in_another(tmp_path: Path) -> None:
    first = tiny.copy_project(tmp_path / "first place")
    raw = first / "data" / "raw" / "Bob's handbook"
    (first / "data" / "raw" / "handbook").rename(raw)
    params = yaml.safe_load((first / "params.yaml").read_text())
    params["turn"]["raw"] = "data/raw/Bob's handbook"
    (first / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    # The code is this environment's, and no part of the project.
    pipeline = (lines.ROOT / "dvc.yaml").read_text().replace(", src/cowest]", "]")
    (first / "dvc.yaml").write_text(pipeline)
    run(first, "git", "init", "-q")
    run(first, sys.executable, "-m", "dvc", "init", "-q")
    run(first, sys.executable, "-m", "dvc", "config", "cache.type", "symlink")
    assert "version 1 was promoted" in run(first, "cowest", "turn")
    weights = Path("models", "challenger", "adapter", "adapter_model.safetensors")
    assert (first / weights).is_symlink()

    second = tmp_path / "second place"
    first.rename(second)
    here = tmp_path / "here"
    here.mkdir()
    where = ("--params", str(second / "params.yaml"))
    assert json.loads(run(here, "cowest", "status", "--json", *where))["champion"] == 1
    assert (
        json.loads(run(here, "cowest", "ask", "--json", "Where is it made?", *where))["version"]
        == 1
    )
    # Links of DVC are absolute, too: it lays its files out anew.
    assert not (second / weights).exists()
    run(second, sys.executable, "-m", "dvc", "checkout", "--relink", "--force")
    assert run(here, "cowest", "turn", *where).startswith("nothing is new")
    said = run(here, "cowest", "turn", "--set", "dpo.beta=0.2", *where)
    assert "version 2 was" in said
    decisions = json.loads(run(here, "cowest", "status", "--json", *where))["decisions"]
    assert [one["against"] for one in decisions] == [None, 1]
    assert not first.exists()
    assert not list(here.iterdir())
