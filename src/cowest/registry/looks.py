"""The looks that earlier decisions took at held-out queries, as a registry keeps them."""

import zlib
from collections.abc import Sequence

from cowest import wear
from cowest.records import Decision
from cowest.registry.runs import Runs
from cowest.wear import Looks

TAG = "held_out"
"""The tag of a version with the digest of the held-out queries that its turn was decided on."""
FILE = "held_out.txt.gz"
"""Their ids, among the files of the turn's run."""


def earlier(log: Sequence[Decision], runs: Runs, turn: str | None) -> Looks:
    """The looks of all decided turns but one. Raises RegistryError.

    A turn that was decided twice, as one that came late, looked once. What a person did, such as a
    rollback or an approval, is no look.
    """
    names: dict[str, str | None] = {}
    for decision in log:
        if decision.kind in ("turn", "waiting") and decision.turn != turn:
            names[decision.turn] = decision.tags.get(TAG)
    sets: dict[str, list[str]] = {}
    # Turns on the same queries have kept the same ids, so that they are read once.
    for one, name in names.items():
        if name is not None and name not in sets:
            ids = ids_of(runs, one)
            if ids is not None and wear.name_of(ids) == name:
                sets[name] = ids
    return wear.looks_of(sets, names.values())


def of_last(log: Sequence[Decision], runs: Runs) -> float | None:
    """The mean number of decisions that a held-out query of the last turn has taken part in.

    None if no turn has kept the ids of its queries. Raises RegistryError.
    """
    for decision in reversed(log):
        if decision.kind in ("turn", "waiting") and TAG in decision.tags:
            ids = ids_of(runs, decision.turn)
            return None if ids is None else wear.worn(earlier(log, runs, None), ids)
    return None


def ids_of(runs: Runs, turn: str) -> list[str] | None:
    """The held-out queries that a turn was decided on; None if they are not there any more."""
    with runs.reached():
        run = runs.find(turn)
        kept = None if run is None else runs.take(run, FILE)
    if kept is None:
        return None
    try:
        return wear.unpacked(kept)
    except (OSError, EOFError, ValueError, zlib.error):
        return None
