"""The lines that are added to the decision log: a turn's, and those of a person's acts. Pure.

An act says what it does, why, and which version's files it enters again. It refuses what would
leave the log without sense; the fold (`registry.log`) has the last word on who is champion.
"""

import getpass
import os
from collections.abc import Sequence

from cowest.config import digest
from cowest.errors import RegistryError
from cowest.protocols import Act, Entry
from cowest.records import Decision
from cowest.registry.log import (
    AFTER_LATE,
    approval_of,
    before,
    champion_of,
    contents,
    find,
    held,
    moved,
    rolled_back,
    settled,
    still_judged,
    waiting,
)

LENGTH = 5000
"""The most characters of a reason that a person gives; MLflow's tables and pages bear it."""
OF_AN_ACT = frozenset({"kind", "of", "by", "removed", "gates", "cost"})
"""The tags that belong to one line alone. The others say what a version rests on, and an act that
enters its files again has them too."""


def told(entry: Entry, log: Sequence[Decision]) -> dict[str, str]:
    """The tags that say whether an entry is promoted, and why, after the log as it is now.

    Raises RegistryError for an approval if promotions are held: they may be since it was begun.
    """
    champion = champion_of(log)
    plain = {} if entry.kind == "turn" else {"kind": entry.kind}
    late = champion != entry.against
    if not entry.promote and not (late and _against_what_went(entry, log)):
        return plain | {"promote": "no", "reason": entry.reason}
    if late:
        reason = moved(entry.against, champion, entry.kind)
        return plain | {"promote": "late", "reason": reason}
    if entry.kind == "approval":
        _expect_not_held(log)
    if entry.kind == "turn":
        kept_back, waits = _kept_back(entry, log), _waits(entry, log)
        if kept_back is not None:
            return {"promote": "no", "reason": kept_back}
        if waits is not None:
            return {"promote": "no", "reason": waits, "kind": "waiting"}
    return plain | {"promote": "yes", "reason": entry.reason}


def _against_what_went(entry: Entry, log: Sequence[Decision]) -> bool:
    """True for a turn whose champion was rolled back: what that refused may be the better one of
    today's, and is judged again."""
    judged = find(log, entry.against)
    if entry.kind != "turn" or judged is None:
        return False
    return rolled_back(log, contents(judged)) is not None


def _kept_back(entry: Entry, log: Sequence[Decision]) -> str | None:
    """The reason why a turn does not promote what it found: it was rolled back."""
    rollback = rolled_back(log, entry.contents)
    if rollback is None:
        return None
    return (
        f"the turn made again what was rolled back: version {rollback.version} removed version "
        f"{rollback.against} ({rollback.reason}). To bring it back: "
        f'`cowest rollback --to {rollback.against} --why "..."`'
    )


def _waits(entry: Entry, log: Sequence[Decision]) -> str | None:
    """The reason why a turn that passed waits; None if it does not."""
    hold = held(log)
    if hold is not None:
        return f"waits: promotions are held ({hold.reason}); {entry.reason}"
    if entry.waits:
        return f"waits for approval; {entry.reason}"
    return None


def rollback(log: Sequence[Decision], to: int | None, why: str) -> Entry:
    """Enters the files of an earlier champion again; without `to`, those of the one before.

    Raises RegistryError if there is nothing to go back to.
    """
    champion = find(log, champion_of(log))
    if champion is None:
        raise RegistryError("there is no champion, so nothing can be rolled back")
    target = before(log, champion.version) if to is None else _named(log, to)
    if target is None:
        raise RegistryError(
            f"no champion before version {champion.version} is in the registry: name the version "
            "to go back to with --to (`cowest history` shows them)"
        )
    if target.digest == champion.digest:
        raise RegistryError(
            f"version {target.version} is what the champion, version {champion.version}, holds: "
            "there is nothing to go back to"
        )
    if not target.promoted:
        raise RegistryError(_never_champion(log, target))
    return _act(
        target,
        kind="rollback",
        turn=digest(["rollback", target.version, champion.version]),
        against=champion.version,
        promote=True,
        reason=_said(why),
        tags={"removed": " ".join(contents(champion))},
    )


def approval(log: Sequence[Decision], version: int, why: str) -> Entry:
    """Promotes a version that waits.

    Raises RegistryError if it does not, if promotions are held, or if its like was rolled back.
    If the champion that it was judged against is gone, the approval is entered as late.
    """
    target = _named(log, version)
    if target.verdict != "waiting":
        raise RegistryError(
            f"version {version} does not wait for approval: it was {target.verdict}"
            f"{_what(target)} ({target.reason})"
        )
    _expect_not_held(log)
    champion = champion_of(log)
    turn = approval_of(target)
    before = settled(log, turn)
    if before is not None and before.version != champion:
        raise RegistryError(
            f"version {version} was approved as version {before.version}, which is champion no "
            f'longer: `cowest rollback --to {before.version} --why "..."` brings it back'
        )
    removed = rolled_back(log, contents(target))
    if before is None and removed is not None:
        raise RegistryError(f"version {version} {_removed(removed)}")
    # After a rollback the champion has another number and the files that it was judged against.
    against = champion if still_judged(log, target) else target.against
    return _act(
        target, kind="approval", turn=turn, against=against, promote=True, reason=_said(why)
    )


def fate(log: Sequence[Decision], decision: Decision) -> str:
    """Says what to do with a version that was left waiting, or what became of it."""
    made = settled(log, approval_of(decision))
    if made is not None:
        return f"it was approved as version {made.version}"
    if decision in waiting(log):
        return f'it waits: `cowest approve {decision.version} --why "..."` promotes it'
    removed = rolled_back(log, contents(decision))
    if removed is not None:
        return f"it {_removed(removed)}"
    return (
        f"it can be approved no longer, since another champion has come than that which it was "
        f"judged against: {AFTER_LATE['approval']}"
    )


def _removed(rollback: Decision) -> str:
    """What to say of a version whose content was rolled back."""
    return (
        f"holds what was rolled back by version {rollback.version} ({rollback.reason}): "
        f'`cowest rollback --to {rollback.against} --why "..."` brings it back'
    )


def _expect_not_held(log: Sequence[Decision]) -> None:
    hold = held(log)
    if hold is not None:
        raise RegistryError(
            f"promotions are held by version {hold.version} ({hold.reason}): "
            '`cowest release --why "..."` first'
        )


def hold(log: Sequence[Decision], why: str) -> Entry:
    """Holds promotions until they are released. Raises RegistryError if they are held."""
    lasting = held(log)
    if lasting is not None:
        raise RegistryError(
            f"promotions are held already, by version {lasting.version}: {lasting.reason}"
        )
    # Two that hold at once have one key, and the log takes the first.
    last = max((one.version for one in log), default=0)
    champion = find(log, champion_of(log))
    return _act(
        champion,
        kind="hold",
        turn=digest(["hold", last]),
        against=champion_of(log),
        promote=False,
        reason=_said(why),
    )


def release(log: Sequence[Decision], why: str) -> Entry:
    """Ends the hold. Raises RegistryError if there is none."""
    lasting = held(log)
    if lasting is None:
        raise RegistryError("promotions are not held, so there is nothing to release")
    champion = find(log, champion_of(log))
    return _act(
        lasting if champion is None else champion,
        kind="release",
        turn=digest(["release", lasting.version]),
        against=champion_of(log),
        promote=False,
        reason=_said(why),
    )


def who() -> str:
    """The name of the user of this process, or his number where he has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container a user may have no entry in /etc/passwd.
        return str(os.getuid())


def _act(
    target: Decision | None,
    *,
    kind: Act,
    turn: str,
    against: int | None,
    promote: bool,
    reason: str,
    tags: dict[str, str] | None = None,
) -> Entry:
    """An act with what its files rest on, and who does it."""
    given: dict[str, str] = {}
    if target is not None:
        rests_on = target.tags.keys() - OF_AN_ACT - {"promote"}
        given = {name: value for name, value in target.tags.items() if name in rests_on}
        given["of"] = str(target.version)
    given |= {"by": who()} | (tags or {})
    of = None if target is None else target.version
    return Entry(
        turn=turn, kind=kind, of=of, against=against, promote=promote, reason=reason, tags=given
    )


def _named(log: Sequence[Decision], version: int) -> Decision:
    found = find(log, version)
    if found is None:
        raise RegistryError(
            f"the registry has no version {version}: `cowest history` shows those that it has"
        )
    return found


def _never_champion(log: Sequence[Decision], target: Decision) -> str:
    """Says what to do with a version that was never champion."""
    said = f"version {target.version} was never champion"
    if target.verdict == "waiting":
        return f"{said}: {fate(log, target)}"
    return (
        f"{said}: it was {target.verdict}{_what(target)} ({target.reason}), and only what was "
        "champion can be gone back to"
    )


def _what(decision: Decision) -> str:
    """Names the act, where a line is no turn's."""
    return "" if decision.kind in ("turn", "waiting") else f" as a {decision.kind}"


def _said(why: str) -> str:
    """A reason on one line. Raises RegistryError if it says nothing."""
    reason = " ".join(why.split())
    if not reason:
        raise RegistryError("--why is empty: say in a sentence why, for whoever reads the history")
    if len(reason) > LENGTH:
        raise RegistryError(f"--why is longer than {LENGTH} characters: say it in a sentence")
    return reason
