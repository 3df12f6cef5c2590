"""What this machine has and lacks for a turn, and how to get it. 0: all that is needed is there; 1: something is missing."""

import argparse
from pathlib import Path

from cowest import checks

MARKS = {True: "ok", False: "MISSING", None: "-"}


def main(argv: list[str]) -> int:
    """Prints a line a check. Keys are said to be there or not; their values are never shown."""
    parser = argparse.ArgumentParser(prog="cowest doctor", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the settings file (params.yaml)")
    params = parser.parse_args(argv).params
    missing = 0
    for check in checks.machine(params):
        missing += check.fit is False
        mend = f"  -> {check.mend}" if check.mend and check.fit is not True else ""
        print(f"{MARKS[check.fit]:<8} {check.name:<26} {check.found}{mend}", flush=True)
    print(f"\n{missing} of what a turn needs is missing" if missing else "\nall that a turn needs is there")
    return 1 if missing else 0
