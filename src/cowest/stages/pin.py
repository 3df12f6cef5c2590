"""Pins what the turn rests on and starts from, so that it stays what it was however often the turn is started."""

from pathlib import Path

from pydantic import ValidationError

from cowest import version
from cowest.config import Config
from cowest.errors import ModelError
from cowest.io import replacing_folder, write_document
from cowest.ledger.claims import Budget, open_turn
from cowest.ledger.store import open_store
from cowest.lineage import Turn, turn_of
from cowest.ports import In, Out
from cowest.protocols import Decision
from cowest.registry.log import champion_of, is_late
from cowest.registry.mlflow import RegistryConfig


class PinConfig(Config):
    registry: RegistryConfig
    """Where the champion is."""
    budget: Budget = Budget()
    """What all paid calls of the turn together may cost."""


def main(raw: In, params: In, turn: Out, start: Out, champion: Out, config: PinConfig) -> None:
    """Writes turn.json and lays out the champion twice: as what training starts from, and as what is to be beaten.

    In the call store the turn is open from here on, with its budget: what stages spend counts for it.
    A turn that was cut short goes on with what it had pinned, unless it came too late and is to be judged again.
    """
    registry = config.registry.open()
    log = registry.log()
    now = turn_of(raw, params, champion_of(log))
    open_turn(open_store(), now.key, config.budget)
    before = _read(turn)
    if (
        before is not None
        and before.key == now.key
        and _whole(before, start, champion)
        and not _came_late(log, before)
    ):
        write_document(
            turn, before.model_copy(update={"raw": now.raw})
        )  # equal data may have got a revision since
        return
    turn.unlink(missing_ok=True)  # while the folders change, nothing is pinned
    for folder in (start, champion):
        if now.champion is None:
            with replacing_folder(folder) as temporary:
                version.write_none(temporary)
        else:
            registry.fetch(now.champion, folder)
    write_document(turn, now)


def _read(turn: Path) -> Turn | None:
    try:
        return Turn.model_validate_json(turn.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _whole(turn: Turn, *folders: Path) -> bool:
    try:
        return all((version.read(folder) is None) == (turn.champion is None) for folder in folders)
    except (ModelError, OSError):
        return False


def _came_late(log: list[Decision], turn: Turn) -> bool:
    return any(
        decision.turn == turn.key and decision.against == turn.champion and is_late(decision)
        for decision in log
    )
