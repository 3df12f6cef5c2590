"""Runs the plan, as many runs at once as there are cores, and writes docs/evidence.json and its
plots.

python -m tests.bench.evidence [--folder .evidence] [--jobs 2] [--only result]
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.evidence import plan, report

ROOT = Path(__file__).parents[3]


def main() -> None:
    """Makes the runs that are not there yet, then what is said of them."""
    asked = argparse.ArgumentParser(prog="python -m tests.bench.evidence", description=__doc__)
    asked.add_argument(
        "--folder",
        type=Path,
        default=ROOT / ".evidence",
        help="where runs are kept: one that is cut goes on where it was",
    )
    asked.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="runs at once, one thread and 4 GiB each",
    )
    asked.add_argument("--only", default="", help="only runs whose name begins so")
    asked.add_argument("--report", action="store_true", help="only say what the finished runs show")
    asked.add_argument(
        "--recount", action="store_true", help="only count again what docs keep of the runs"
    )
    asked.add_argument(
        "--add", type=Path, metavar="FOLDER", help="only add a folder's finished runs to docs"
    )
    given = asked.parse_args()
    if given.recount or given.add:
        report.recount(ROOT / "docs", given.add)
        return
    if not given.report:
        wanted = {
            name: settings for name, settings in plan.runs().items() if name.startswith(given.only)
        }
        with ThreadPoolExecutor(given.jobs) as pool:
            failed = [
                name
                for name, code in zip(
                    wanted,
                    pool.map(lambda one: run(*one, given.folder), wanted.items()),
                    strict=True,
                )
                if code
            ]
        if failed:
            raise SystemExit(
                f"these runs failed (their log is in their folder): {', '.join(failed)}"
            )
    report.write(given.folder, ROOT / "docs")


def run(name: str, settings: plan.Settings, folder: Path) -> int:
    """One run in a process of its own, with one thread: two such are quicker than one with two."""
    done = folder / name / "run.json"
    if done.exists():
        if plan.Settings.model_validate(json.loads(done.read_text())["settings"]) == settings:
            return 0
        for made in (
            done,
            folder / name / "trials.jsonl",
        ):  # more is asked of it: what it has stays, and its answers are known
            made.unlink(missing_ok=True)
    (folder / name).mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "tests.bench.evidence.run",
        settings.model_dump_json(),
        str(folder / name),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with (folder / name / "log.txt").open("a") as log:
        print(f"evidence: {name} begins", file=sys.stderr, flush=True)
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
        print(f"evidence: {name} {'failed' if code else 'is done'}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    main()
