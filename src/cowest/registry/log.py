"""The decision log: versions fold into decisions, and decisions into who is champion. Pure.

A rollback and an approval are promotions to this fold, and a waiting version, a hold and a release
are refusals: so a process whose code knows nothing of them finds the same champion.
"""

from collections.abc import Iterable, Sequence

from cowest.config import digest
from cowest.records import Decision

AFTER_LATE = {
    "turn": "run the turn again to judge it against that one",
    "rollback": "see `cowest status`, and roll back again if that one is no better",
    "approval": "a turn with new data or another setting has to bring the like of it",
}
"""The advice for what came late, by its kind."""


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
    return one.model_copy(
        update={"verdict": "late", "reason": moved(one.against, champion, one.kind)}
    )


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


def held(log: Iterable[Decision]) -> Decision | None:
    """The hold on promotions that lasts; None if there is none."""
    found = None
    for decision in log:
        if decision.verdict == "noted":
            found = decision if decision.kind == "hold" else None
    return found


def waiting(log: Sequence[Decision]) -> list[Decision]:
    """The versions that wait for approval and can have it, oldest first.

    One that was judged against a champion with other files than today's is judged no longer, and
    what was rolled back meanwhile is not brought back by an approval.
    """
    found = []
    for decision in log:
        if decision.verdict != "waiting" or settled(log, approval_of(decision)) is not None:
            continue
        if still_judged(log, decision) and rolled_back(log, contents(decision)) is None:
            found.append(decision)
    return found


def still_judged(log: Sequence[Decision], decision: Decision) -> bool:
    """True if today's champion is what a decision was judged against, by number or by files."""
    champion = champion_of(log)
    if decision.against == champion:
        return True
    return None not in (decision.against, champion) and _same_files(
        find(log, decision.against), find(log, champion)
    )


def approval_of(waiting: Decision) -> str:
    """The turn of the approval of a waiting version."""
    return digest(["approval", waiting.version])


def find(log: Iterable[Decision], version: int | None) -> Decision | None:
    """The line of a version; None if there is none."""
    for decision in log:
        if decision.version == version:
            return decision
    return None


def contents(decision: Decision) -> list[str]:
    """The digests that name what a version is: that of its files, and that of its answers."""
    found = (decision.digest, decision.tags.get("answers"))
    return [one for one in found if one is not None]


def rolled_back(log: Iterable[Decision], found: Iterable[str]) -> Decision | None:
    """The rollback that removed one of these contents, if nobody has brought it back since."""
    removed: dict[str, Decision] = {}
    for decision in log:
        if not decision.promoted:
            continue
        for content in contents(decision):
            removed.pop(content, None)
        if decision.kind == "rollback":
            for content in decision.tags.get("removed", "").split():
                removed[content] = decision
    for content in found:
        if content in removed:
            return removed[content]
    return None


def before(log: Sequence[Decision], version: int) -> Decision | None:
    """The champion that came before a champion, and held other files.

    The one before a rollback is the one before the version that it brought back: so rollbacks one
    after another go further back, and not to and fro. None if there was none, or it was deleted.
    """
    first = one = find(log, version)
    # Each step goes to an older version, but a log whose tags were changed by hand may name
    # versions in a circle.
    for _ in log:
        if one is None:
            return None
        if one.kind == "rollback":
            one = find(log, one.of)
            continue
        one = find(log, one.against)
        if not _same_files(one, first):
            return one
    return None


def _same_files(one: Decision | None, other: Decision | None) -> bool:
    return one is not None and other is not None and one.digest == other.digest


def moved(against: int | None, champion: int | None, kind: str = "turn") -> str:
    """The reason of a late decision, with what to do about it."""
    was = "no champion" if against is None else f"version {against}"
    now = "gone" if champion is None else f"version {champion}"
    todo = AFTER_LATE.get(kind, AFTER_LATE["turn"])
    return f"judged against {was}, and the champion was {now} when it was decided: {todo}"
