"""Writes the page of the last turn again, from its files."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cowest import report
from cowest.errors import CoWestError, InputError
from cowest.io import read_document, write_text
from cowest.ledger import store
from cowest.ledger.claims import Spent, spent
from cowest.lineage import Turn
from cowest.report import contents


def main(argv: list[str]) -> int:
    """Writes the page and prints its path. The page names what is missing."""
    parser = argparse.ArgumentParser(prog="cowest report", description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reports/index.html"),
        metavar="PATH",
        help="the page (reports/index.html)",
    )
    given = parser.parse_args(argv)
    if not (Path("params.yaml").exists() or Path("turn.json").exists()):
        raise InputError(
            f"{Path.cwd()} has neither params.yaml nor turn.json: "
            "a report is written in a project's folder"
        )
    found = contents.gather(Path())
    if not found.begun:
        print(
            "note: no turn has run here, and the page says so: `cowest turn` runs one",
            file=sys.stderr,
        )
    older = store.older()
    if older is not None:
        # To open it gives it new tables, and a page is no reason to.
        print(
            f"note: {older} was written by an older CoWest, and the page has no costs: the next "
            "turn opens it",
            file=sys.stderr,
        )
        page = report.page(found)
    else:
        page = report.page(found, ledger=_ledger(), spent=_spent())
    write_text(given.out, page)
    print(given.out)
    return 0


def _ledger() -> Sequence[report.LedgerLine]:
    """The cost of each stage; nothing if no call store can be read."""
    try:
        return store.open_store().ledger(_turn() or "")
    except CoWestError:
        return []


def _spent() -> Spent | None:
    """What the turn's calls cost so far; None if the turn or the call store can't be read."""
    turn = _turn()
    try:
        return None if turn is None else spent(store.open_store(), turn)
    except CoWestError:
        return None


def _turn() -> str | None:
    """The key of the turn; None if it can't be read."""
    try:
        return read_document(Path("turn.json"), Turn).key
    except CoWestError:
        return None
