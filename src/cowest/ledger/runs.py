"""Runs of a pipeline, each with the turn that it works on.

A run is known by the id that the cluster gave it. Whoever knows only that id, as the step that
reports at the end does, finds its turn here.
"""

import time
from dataclasses import dataclass

from cowest.ledger.database import Db
from cowest.ledger.store import CallStore

NOTE = (
    "INSERT INTO runs (run, turn, at, decided) VALUES (?,?,?,?) ON CONFLICT (run) "
    "DO UPDATE SET turn = excluded.turn, at = excluded.at, decided = excluded.decided"
)


@dataclass(frozen=True, slots=True)
class NotedRun:
    """A run of a pipeline."""

    run: str
    turn: str
    """Key of its turn."""
    decided: int | None
    """Version on which the turn had been decided before this run; None if it was open."""


def note_run(store: CallStore, run: NotedRun) -> None:
    """Writes down the turn of a run. Raises StoreError if the store can't be written."""

    def write(db: Db) -> None:
        db.execute(NOTE, (run.run, run.turn, time.time(), run.decided))

    store.write(write)


def find_run(store: CallStore, run: str) -> NotedRun | None:
    """Returns a run by its id; None if it was never written down."""
    found = store.fetch("SELECT run, turn, decided FROM runs WHERE run = ?", (run,))
    return NotedRun(*found[0]) if found else None
