"""Pins what the turn rests on and starts from.

It then stays the same, however often the turn is started.
"""

from pathlib import Path

from pydantic import ValidationError

from cowest import version as versions
from cowest.config import Config, file_digest, load
from cowest.errors import ModelError
from cowest.io import read_document, replacing_folder, write_document
from cowest.ledger.claims import Budget, open_turn
from cowest.ledger.store import open_store
from cowest.lineage import Turn, is_another, settings_of, turn_of
from cowest.ports import In, Out
from cowest.records import DataSet, Decision
from cowest.registry.log import champion_of, settled
from cowest.registry.looks import earlier
from cowest.registry.mlflow import RegistryConfig
from cowest.registry.since import since_champion
from cowest.registry.tracking import MlflowTracker


class PinConfig(Config):
    registry: RegistryConfig
    """The registry that holds the champion."""
    budget: Budget = Budget()
    """Limit on the cost of all paid calls of the turn together."""
    again: str | None = None
    """Any text that was not here before makes another turn of equal data and settings: a turn that
    was decided is never decided again. A run of the Kubeflow pipeline with `force` sets its id."""


def main(
    raw: In,
    params: In,
    turn: Out,
    start: Out,
    champion: Out,
    config: PinConfig,
    looks: Out | None = None,
    version: In | None = None,
) -> None:
    """Writes turn.json, and lays out the champion twice: to start training from, and to be beaten.

    From here on the turn is open in the call store, with its budget, and the calls of its stages
    count for it. A turn that was cut short goes on with what it had pinned, unless its decision was
    late: then it is judged again, against the champion of now. The looks of other decisions are
    counted anew until the turn is decided. `version` is a DataSet, where another laid `raw` out.
    """
    config.registry.ready()
    registry = config.registry.open()
    log = registry.log()
    now = turn_of(raw, params, champion_of(log), _laid_out(version))
    open_turn(open_store(), now.key, config.budget)
    before = _read(turn)
    if (
        before is not None
        and before.key == now.key
        and _whole(before, start, champion)
        and not _came_late(log, before)
        and not is_another(before, log)
    ):
        # Equal data may have been committed since, and then have a revision.
        write_document(turn, before.model_copy(update={"raw": now.raw}))
        # Other turns may have been decided meanwhile. Once this one is, its looks stay.
        if looks is not None and (settled(log, now.key) is None or not looks.exists()):
            write_document(looks, earlier(log, config.registry.runs(), now.key))
        return
    # While the folders change, nothing is pinned: if we are cut short here, the next start does
    # not take half a folder for the champion.
    turn.unlink(missing_ok=True)
    for folder in (start, champion):
        if now.champion is None:
            with replacing_folder(folder) as temporary:
                versions.write_none(temporary)
        else:
            registry.fetch(now.champion, folder)
    found = versions.read(champion)
    if found is not None:
        beaten = {"champion_files": file_digest(champion), "champion_digest": found.digest}
        since = since_champion(
            log,
            now.champion,
            MlflowTracker(config.registry.runs()),
            data=now.data,
            code=now.code,
            settings=settings_of(load(params)),
        )
        now = now.model_copy(update={**beaten, "since": since})
    if looks is not None:
        write_document(looks, earlier(log, config.registry.runs(), now.key))
    write_document(turn, now)


def _laid_out(version: Path | None) -> DataSet | None:
    return None if version is None else read_document(version, DataSet)


def _read(turn: Path) -> Turn | None:
    try:
        return Turn.model_validate_json(turn.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _whole(turn: Turn, *folders: Path) -> bool:
    """True if each folder holds the champion, or says that there is none, as the turn has it.

    A turn that was pinned before its champion's digest was recorded is pinned again.
    """
    for folder in folders:
        try:
            found = versions.read(folder)
        except (ModelError, OSError):
            return False
        if turn.champion is None:
            if found is not None:
                return False
        elif found is None or file_digest(folder) != turn.champion_files:
            return False
    return True


def _came_late(log: list[Decision], turn: Turn) -> bool:
    """True if the turn, as it is pinned, was decided after the champion had changed."""
    for decision in log:
        same = (decision.turn, decision.against) == (turn.key, turn.champion)
        if same and decision.verdict == "late":
            return True
    return False
