"""The fold of the decision log from before rollbacks, holds and approvals, unchanged.

Processes with this code read the logs of today and must find the same champion.
"""

from collections.abc import Iterable, Sequence

from cowest.records import Decision


def fold(registered: Iterable[Decision]) -> list[Decision]:
    """The log, oldest first, of versions in any order whose verdicts are those they were given.

    A promotion is granted if its turn has no earlier decision but late ones, and it was judged
    against the version that was champion at that point of the log. If that version was deleted
    since and is newer than the champion we see, we assume it was champion. A promotion that is not
    granted is late if its turn is open, and refused if its turn was decided.
    """
    ordered = sorted(registered, key=lambda one: one.version)
    present = {one.version for one in ordered}
    champion: int | None = None
    settled_on: dict[str, int] = {}
    log: list[Decision] = []
    for one in ordered:
        decision = _granted(one, champion, present, settled_on.get(one.turn))
        if decision.verdict == "promoted":
            champion = decision.version
        # A late decision leaves its turn open: the turn was never judged against the champion.
        if decision.verdict != "late":
            settled_on.setdefault(decision.turn, decision.version)
        log.append(decision)
    return log


def _granted(
    one: Decision, champion: int | None, present: set[int], earlier: int | None
) -> Decision:
    """The decision as it counts after those before it; `earlier` is the one on the same turn."""
    if earlier is not None:
        reason = f"its turn had been decided on version {earlier}"
        return one.model_copy(update={"verdict": "refused", "reason": reason})
    if one.verdict != "promoted" or one.against == champion:
        return one
    if one.against is not None and one.against not in present and one.against > (champion or 0):
        return one
    # Two turns looked at the log before either wrote to it: MLflow has no compare-and-set, so the
    # second of the two is found here, and by every reader alike.
    return one.model_copy(update={"verdict": "late", "reason": moved(one.against, champion)})


def champion_of(log: Sequence[Decision]) -> int | None:
    """The champion that a log makes: the last version promoted."""
    for decision in reversed(log):
        if decision.verdict == "promoted":
            return decision.version
    return None


def settled(log: Sequence[Decision], turn: str) -> Decision | None:
    """The decision on a turn; None if the turn was never decided, or only late."""
    for decision in log:
        if decision.turn == turn and decision.verdict != "late":
            return decision
    return None


def moved(against: int | None, champion: int | None) -> str:
    """The reason of a late decision."""
    was = "no champion" if against is None else f"version {against}"
    now = "gone" if champion is None else f"version {champion}"
    return (
        f"judged against {was}, and the champion was {now} when it was decided: "
        "run the turn again to judge it against that one"
    )
