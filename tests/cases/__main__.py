"""The published kinds of wrong input, each run through CoWest: `python -m tests.cases FOLDER`.

FOLDER holds the inputs (its README says what is right for each). One line a case: its kind, what
is right, and what came out. Ends with 1 where a case is not right.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

ROOMS = ("models", "endpoints", "tables", "texts", "projects")
"""One module each: `cases_<room>.py`, whose `cases(folder)` yields an `Outcome` a case."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cases", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of cases")
    parser.add_argument("--only", choices=ROOMS, action="append", help="run these rooms alone")
    args = parser.parse_args(arguments)
    wrong = 0
    print("| | kind | right | came out | s |\n|---|---|---|---|---|")
    for room in args.only or ROOMS:
        module = importlib.import_module(f"tests.cases.cases_{room}")
        began = time.monotonic()
        for outcome in module.cases(args.folder):
            took, began = time.monotonic() - began, time.monotonic()
            mark = "ok" if outcome.holds else "WRONG"
            said = " ".join(outcome.said.split()).replace("|", "\\|")[:300]
            print(
                f"| {mark} | {outcome.kind} | {outcome.right} | {said} | {took:.1f} |", flush=True
            )
            wrong += not outcome.holds
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
