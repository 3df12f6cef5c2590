"""Rounds as steps of the real graph: what comes of them is what the stage makes of the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cowest import config, io, stages, version
from cowest.config import file_digest
from cowest.records import PreferencePair
from tests import tiny

pytestmark = pytest.mark.minutes


def test_a_later_round_in_two_shards_makes_the_challenger_of_the_stage(tmp_path: Path) -> None:
    project = tiny.copy_project(tmp_path / "project")
    params = config.load(project / "params.yaml")
    ask = {
        "strong": params["refine"]["strong"],
        "scorer": params["score"]["scorer"],
        "drafting": params["draft"]["sampling"],
        "refining": params["refine"]["sampling"],
        "rule": params["pair"]["rule"],
        "pairs": {"kind": "pairs", "min_pairs": 2},
    }
    params["dpo"] |= {"rounds": 2, "ask": ask}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    done = subprocess.run(
        [sys.executable, "-m", "cowest_pipelines", "local", "--root", "steps", "--shards", "2"],
        cwd=project,
        env=tiny.surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "version 1 was promoted" in done.stdout.splitlines()[-1]
    (run,) = (project / "steps").glob("flywheel-*")
    shards = sorted(run.glob("for-loop-*/draft-2/drafts"))
    assert len(shards) == 2 and all(path.stat().st_size for path in shards)
    with tiny.standing_in(project):
        stages.run(
            "dpo",
            params["dpo"],
            pairs=run / "validate-4" / "valid",
            feedback=run / "validate-3" / "valid",
            policy=run / "sft" / "policy",
            challenger="whole",
        )
    made = run / "dpo-2" / "challenger"
    aligned = version.expect(made).aligned
    again = len(list(io.read(run / "validate-5" / "valid", PreferencePair)))
    assert aligned is not None and aligned.rows[1] == again > 20
    assert file_digest(project / "whole") == file_digest(made)
    assert file_digest(run / "dpo" / "challenger") != file_digest(made)
