"""The decision log: fold the rows of the registry into decisions, and decisions into who is champion. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cowest.protocols import Decision


def fold(wishes: Iterable[Decision]) -> list[Decision]:
    """The log: of versions that wish to be promoted (`promoted`), those that were, oldest first.

    A wish counts if its turn was not decided before, and it was judged against the champion of the log before it. A
    version that is no longer in the log (somebody deleted it) and came after that champion is taken to have been one.
    """
    ordered = sorted(wishes, key=lambda wish: wish.version)
    present = {wish.version for wish in ordered}
    champion: int | None = None
    settled_on: dict[str, int] = {}
    log: list[Decision] = []
    for wish in ordered:
        decision = wish
        gone = (
            wish.against is not None
            and wish.against not in present
            and wish.against > (champion or 0)
        )
        if wish.turn in settled_on:
            decision = replace(
                wish,
                promoted=False,
                reason=f"its turn had been decided on version {settled_on[wish.turn]}",
            )
        elif wish.promoted and not (wish.against == champion or gone):
            decision = replace(wish, promoted=False, reason=moved(wish.against, champion))
        if decision.promoted:
            champion = decision.version
        if wish.turn not in settled_on and not is_late(decision):
            settled_on[wish.turn] = wish.version
        log.append(decision)
    return log


def champion_of(log: Sequence[Decision]) -> int | None:
    """The champion that a log makes: the last version promoted."""
    return next((decision.version for decision in reversed(log) if decision.promoted), None)


def is_late(decision: Decision) -> bool:
    """Whether it would have been promoted, had its champion not gone meanwhile: its turn is open again."""
    return not decision.promoted and decision.tags.get("promote") != "no"


def settled(log: Sequence[Decision], turn: str) -> Decision | None:
    """The decision on a turn; None when it was never decided, or only too late."""
    return next(
        (decision for decision in log if decision.turn == turn and not is_late(decision)), None
    )


def moved(against: int | None, champion: int | None) -> str:
    was = f"version {against}" if against is not None else "no champion"
    now = f"version {champion}" if champion is not None else "gone"
    return f"judged against {was}, and the champion was {now} when it was decided: run the turn again to judge it against that one"
