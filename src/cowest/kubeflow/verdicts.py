"""Finds what was decided on the turns of runs, from the call store and the registry."""

from collections.abc import Sequence

from cowest.errors import StoreError
from cowest.ledger.runs import NotedRun, find_run
from cowest.ledger.store import begun, older, open_store
from cowest.records import Decision
from cowest.registry.log import settled
from cowest.registry.mlflow import RegistryConfig


def of_runs(runs: Sequence[str], config: RegistryConfig) -> dict[str, str]:
    """One line per run whose turn the store knows, by its id. Only reads.

    Raises ConfigError, StoreError and RegistryError for what can't be read.
    """
    if not begun():
        raise StoreError(
            "the call store of the runs is not on this machine: set COWEST_STORE to its address"
        )
    before = older()
    if before is not None:
        raise StoreError(
            f"{before} was written by an older CoWest, and `status` does not change it: the next "
            "turn brings it up to date"
        )
    store = open_store()
    known = [(run, find_run(store, run)) for run in runs]
    log = config.open().log() if config.begun() else []
    found = {}
    for run, one in known:
        if one is not None and one.turn:
            found[run] = _said(one, settled(log, one.turn))
    return found


def _said(run: NotedRun, decided: Decision | None) -> str:
    turn = f"turn {run.turn[:8]}"
    if decided is None:
        return f"{turn} is not decided"
    if run.decided is not None:
        return f"nothing was new: {turn} was decided before, on version {decided.version}"
    return f"{turn}: version {decided.version} {decided.verdict}: {decided.reason}"
