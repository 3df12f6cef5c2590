"""Rounds as steps of the real graph: what comes of them is what the stage makes of the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cowest import config, io, stages, version
from cowest.config import file_digest
from cowest.records import Draft, PreferencePair
from tests import tiny

pytestmark = pytest.mark.minutes


def test_a_later_round_in_two_shards_makes_the_challenger_of_the_stage(tmp_path: Path) -> None:
    project = _with_rounds(tmp_path / "project", rounds=2, min_pairs=2)
    run, _ = _local(project, shards=2)
    shards = sorted(run.glob("for-loop-*/draft-2/drafts"))
    assert len(shards) == 2 and all(path.stat().st_size for path in shards)
    with tiny.standing_in(project):
        stages.run(
            "dpo",
            config.load(project / "params.yaml")["dpo"],
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


def test_rounds_that_leave_too_few_pairs_end_and_the_challenger_so_far_is_judged(
    tmp_path: Path,
) -> None:
    project = _with_rounds(tmp_path / "project", rounds=3, min_pairs=10**6)
    run, said = _local(project, shards=2)
    assert "round 1 is the last" in said
    first = file_digest(run / "dpo" / "challenger")
    for number in (2, 3):
        assert file_digest(run / f"dpo-{number}" / "challenger") == first
    # The second round asked in both shards before it knew; the third begins with no query, in one.
    drafted = {number: _drafts(run, number) for number in (1, 2, 3)}
    assert len(drafted[1]) == len(drafted[2]) == 2 and min(drafted[2]) > 0
    assert drafted[3] == [0]
    aligned = version.expect(run / "dpo-3" / "challenger").aligned
    assert aligned is not None and len(aligned.rows) == 1


def _with_rounds(folder: Path, rounds: int, min_pairs: int) -> Path:
    """A project of tiny models whose policy is aligned in so many rounds."""
    project = tiny.copy_project(folder)
    params = config.load(project / "params.yaml")
    ask = {
        "strong": params["refine"]["strong"],
        "scorer": params["score"]["scorer"],
        "drafting": params["draft"]["sampling"],
        "refining": params["refine"]["sampling"],
        "rule": params["pair"]["rule"],
        "pairs": {"kind": "pairs", "min_pairs": min_pairs},
    }
    params["dpo"] |= {"rounds": rounds, "ask": ask}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    return project


def _local(project: Path, shards: int) -> tuple[Path, str]:
    """Runs the project's pipeline, which promotes. Returns its folder and what it said."""
    command = ["-m", "cowest_pipelines", "local", "--root", "steps", "--shards", str(shards)]
    done = subprocess.run(
        [sys.executable, *command],
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
    return run, done.stdout


def _drafts(run: Path, number: int) -> list[int]:
    """The number of drafts that each shard made in a round."""
    name = "draft" if number == 1 else f"draft-{number}"
    files = sorted(run.glob(f"for-loop-*/{name}/drafts"))
    return [len(list(io.read(path, Draft))) for path in files]
