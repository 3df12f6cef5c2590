"""Makes the runs of docs/evidence-plan-2.md that are not there yet, then says what they show.

    python -m tests.bench.evidence.sites [--folder .evidence-2] [--jobs 1] [--only sites-140]

A run lies in a folder of its own, and one that is cut goes on at the step that was cut. To go on
elsewhere, take the folder there. The numbers of a finished run stay in docs/evidence-2/, by which
it is known everywhere. With fewer runs than planned the page says how many there are, and claims
nothing.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cowest.config import Config
from cowest.io import write_text
from tests.bench.evidence.sites import plan, report

ROOT = Path(__file__).parents[4]
KEPT = ROOT / "docs" / "evidence-2"
"""The numbers of the finished runs, a file each."""


def main() -> None:
    """Makes runs, and writes docs/evidence-2.json and its page."""
    asked = argparse.ArgumentParser(prog="python -m tests.bench.evidence.sites")
    asked.add_argument("--folder", type=Path, default=ROOT / ".evidence-2")
    asked.add_argument("--jobs", type=int, default=1, help="runs at once, of one thread and 4 GiB")
    asked.add_argument("--only", default="", help="only runs whose name begins so")
    asked.add_argument("--report", action="store_true", help="only say what the finished runs show")
    given = asked.parse_args()
    if not given.report:
        failed = make(given.folder, KEPT, given.only, given.jobs, process)
        if failed:
            raise SystemExit(f"these runs failed (log.txt in their folder): {', '.join(failed)}")
    report.write(KEPT, ROOT / "docs")


def make(
    folder: Path, kept: Path, only: str, jobs: int, run: Callable[[str, Any, Path], int]
) -> list[str]:
    """Makes the planned runs whose numbers are not in `kept`, and puts them there.

    Returns the names of the runs that failed.
    """
    wanted: dict[str, Config] = {}
    planned: dict[str, Config] = {**plan.runs(), **plan.of_handbook()}
    for name, settings in planned.items():
        if name.startswith(only) and not finished(kept / f"{name}.json", settings):
            wanted[name] = settings
            # Left by a run with other settings, it would be taken for this one's.
            finished(folder / name / "run.json", settings)

    def made(name: str) -> int:
        code = run(name, wanted[name], folder / name)
        if code == 0:
            numbers = json.loads((folder / name / "run.json").read_text(encoding="utf-8"))
            kept.mkdir(exist_ok=True)
            write_text(kept / f"{name}.json", json.dumps(numbers) + "\n")
        return code

    with ThreadPoolExecutor(jobs) as pool:
        codes = pool.map(made, wanted)
        return [name for name, code in zip(wanted, codes, strict=True) if code]


def finished(done: Path, settings: Config) -> bool:
    """True if a run's numbers are there, made by these settings. Raises SystemExit for others."""
    if not done.exists():
        return False
    made = type(settings).model_validate(json.loads(done.read_text(encoding="utf-8"))["settings"])
    if made != settings:
        raise SystemExit(f"{done} was made by other settings than the plan's: move it away")
    return True


def process(name: str, settings: Config, folder: Path) -> int:
    """One run in a process of its own, with one thread. Returns its exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    module = "tests.bench.evidence.run"
    if isinstance(settings, plan.Settings):
        module = "tests.bench.evidence.sites.run"
    words = ["-m", module, settings.model_dump_json(), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    print(f"evidence: {name} begins", file=sys.stderr, flush=True)
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    word = "failed" if done.returncode else "is done"
    print(f"evidence: {name} {word}", file=sys.stderr, flush=True)
    return done.returncode


if __name__ == "__main__":
    main()
