"""The difference between what a turn rests on and what the champion rests on.

It is told before money is spent, and on the page of the turn.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

from cowest.records import Changes, Decision
from cowest.registry.tracking import MlflowTracker, nameable, recorded

DATA = "data/"
"""Tags of a decision that begin with this hold the digest of a raw file."""
MOST_FILES = 50
"""Raw files whose digests become tags of a decision."""


def data_tags(data: Mapping[str, str]) -> dict[str, str]:
    """The digests of raw files as tags of a decision: the first MOST_FILES."""
    return {nameable(DATA + name): value for name, value in islice(data.items(), MOST_FILES)}


def since_champion(
    log: Sequence[Decision],
    champion: int | None,
    tracker: MlflowTracker,
    *,
    data: Mapping[str, str],
    code: str,
    settings: dict[str, Any],
) -> Changes | None:
    """Says what differs from what the champion rests on; None if there is no champion.

    data: digests of the raw files by name. settings: those that rows depend on. Raises
    RegistryError.
    """
    decision = _origin(log, champion)
    if champion is None or decision is None or "code" not in decision.tags:
        return None
    then = tracker.settings(decision.turn)
    return Changes(
        version=champion,
        data=_files(decision.tags, data),
        settings=None if then is None else _settings(then, recorded(settings)),
        code=decision.tags["code"] != code,
    )


def _origin(log: Sequence[Decision], version: int | None) -> Decision | None:
    """The decision on the turn that made a version: a rollback or an approval names another."""
    by_version = {decision.version: decision for decision in log}
    decision = by_version.get(version or 0)
    # Tags that were changed by hand may name versions in a circle.
    for _ in log:
        of = decision.tags.get("of", "") if decision is not None else ""
        if not of.isdecimal():
            break
        decision = by_version.get(int(of))
    return decision


def _files(
    then: Mapping[str, str], data: Mapping[str, str]
) -> dict[str, Literal["added", "removed", "changed"]]:
    """The raw files that differ. Past MOST_FILES they have no tags, so nothing is said of them."""
    before = {name: value for name, value in then.items() if name.startswith(DATA)}
    now = {nameable(DATA + name): value for name, value in data.items()}
    # Beyond the last of as many tags as there may be, a file may have lain there without one.
    last = max(map(PurePosixPath, before)) if len(before) == MOST_FILES else None
    found: dict[str, Literal["added", "removed", "changed"]] = {}
    for name in sorted({*before, *data_tags(data)}):
        told = name.removeprefix(DATA)
        if name not in before:
            if last is None or PurePosixPath(name) < last:
                found[told] = "added"
        elif name not in now:
            found[told] = "removed"
        elif before[name] != now[name]:
            found[told] = "changed"
    return found


def _settings(
    then: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    found = {}
    for path in sorted({*then, *now}):
        if then.get(path) != now.get(path):
            found[path] = (then.get(path), now.get(path))
    return found
