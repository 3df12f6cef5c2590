"""The last step of a run reports its outcome, also when other steps failed.

It can't take the output of another step, since any step may have failed. It knows only the run's
id: with that it finds the turn in the call store, and asks the registry for the decision.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from cowest import environment
from cowest.config import load, parse, section
from cowest.distributed import trainjob
from cowest.errors import CoWestError
from cowest.io import write_document, write_text
from cowest.ledger.claims import is_known, spent
from cowest.ledger.runs import NotedRun, find_run
from cowest.ledger.store import open_store
from cowest.lineage import TurnConfig
from cowest.net import webhook
from cowest.records import Decision, Record
from cowest.registry.log import champion_of, settled
from cowest.report.description import as_text
from cowest.stages.register import RegisterConfig

T = TypeVar("T")
Became = Literal["promoted", "refused", "waiting", "late", "nothing new", "failed", "undecided"]


class RunOutcome(Record):
    """The record of what became of a run."""

    run: str
    became: Became
    """`promoted`, `refused`, `waiting`: the turn was decided so. `late`: another version had become
    champion by then, and the turn is open. `nothing new`: it had been decided before. `failed`: a
    step failed. `undecided`: the run ended well and decided nothing, as where neither branch of the
    gate was taken."""
    turn: str | None = None
    """Key of the turn; None if the run ended before its turn was known."""
    version: int | None = None
    """The registry's number for the challenger."""
    champion: int | None = None
    reason: str = ""
    spent: str = ""
    """The cost of the turn's calls so far, in words."""
    notes: tuple[str, ...] = ()
    """Reasons why parts of this record are missing."""

    @property
    def line(self) -> str:
        """The outcome in one line."""
        of = f"turn {self.turn[:8]}" if self.turn else "the turn"
        said = {
            "promoted": f"{of}: version {self.version} was promoted",
            "refused": f"{of}: version {self.version} was refused",
            "waiting": f"{of}: version {self.version} passed, and waits for `cowest approve`",
            "late": f"{of}: version {self.version} came late",
            "nothing new": f"nothing is new: {of} was decided before on version {self.version}",
            "failed": f"{of} failed",
            "undecided": f"{of} ended and decided nothing",
        }[self.became]
        return f"{said}: {self.reason}" if self.reason else said


def summarise(run: str, state: str, error: str, text: str, page: str, outcome: str) -> None:
    """Writes what became of a run as a page and as an RunOutcome, and posts it to the webhook.

    state: SUCCEEDED, FAILED or CANCELLED, with KFP's `error`. text: params.yaml as it was when the
    pipeline was compiled. Errors that a person can mend are noted in the record, not raised.
    """
    environment.settle()
    params = Path(outcome).with_name("params.yaml")
    write_text(params, text)
    found = _outcome(run, state, error, params)
    told = _told(params, found)
    write_document(Path(outcome), told)
    write_text(Path(page), _markdown(told))
    print(told.line, *told.notes, sep="\n", file=sys.stderr)


def _outcome(run: str, state: str, error: str, params: Path) -> RunOutcome:
    notes: list[str] = []
    known = _or_note(notes, lambda: find_run(open_store(), run))
    turn = known.turn if known is not None and known.turn else None
    log = _or_note(notes, lambda: _log(params)) or []
    decided = None if turn is None else settled(log, turn) or _late(log, turn)
    champion = champion_of(log)
    became, reason = _became(state, error, known, decided)
    removed, left = _or_note(notes, lambda: trainjob.remove_of(run)) or ([], [])
    if removed:
        notes.append(f"trainings that were left on the cluster were removed: {', '.join(removed)}")
    notes += left
    cost = None
    if turn is not None:
        cost = _or_note(notes, lambda: _cost(turn))
    return RunOutcome(
        run=run,
        became=became,
        turn=turn,
        version=None if decided is None else decided.version,
        champion=champion,
        reason=reason,
        spent=cost or "",
        notes=tuple(notes),
    )


def _became(
    state: str, error: str, known: NotedRun | None, decided: Decision | None
) -> tuple[Became, str]:
    if state != "SUCCEEDED":
        ended = " ".join(error.split()) or state.lower()
        return "failed", f"{ended}: the log of the step that failed says why; answers are kept"
    if decided is None:
        return "undecided", "neither branch of its gate was taken"
    if known is not None and known.decided is not None:
        return "nothing new", f"{decided.verdict}: {decided.reason}"
    if decided.verdict in ("waiting", "late"):
        return decided.verdict, decided.reason
    return ("promoted" if decided.promoted else "refused"), decided.reason


def _late(log: list[Decision], turn: str) -> Decision | None:
    """The last decision on a turn that came late; None if there is none."""
    for decision in reversed(log):
        if (decision.turn, decision.verdict) == (turn, "late"):
            return decision
    return None


def _log(params: Path) -> list[Decision]:
    settings = section(load(params), "register")
    return parse(RegisterConfig, settings, "params.yaml: register").registry.open().log()


def _cost(turn: str) -> str:
    store = open_store()
    return str(spent(store, turn)) if is_known(store, turn) else ""


def _or_note(notes: list[str], read: Callable[[], T]) -> T | None:
    """Returns what is read; None if it can't be, which a note then says."""
    try:
        return read()
    except CoWestError as error:
        notes.append(f"not told: {error}")
        return None


def _told(params: Path, found: RunOutcome) -> RunOutcome:
    """Posts the outcome where the settings name a webhook; a failure becomes a note."""
    notes = list(found.notes)

    def post() -> None:
        named = parse(TurnConfig, section(load(params), "turn"), "params.yaml: turn").webhook_env
        if named is None:
            return
        url = os.environ.get(named, "").strip()
        if not url:
            notes.append(f"not posted: turn.webhook_env names {named}, which is not set")
            return
        body: dict[str, Any] = found.model_dump(mode="json")
        # Chat services show the field `text`.
        webhook.post(url, {"text": found.line, **body})

    _or_note(notes, post)
    return found.model_copy(update={"notes": tuple(notes)})


def _markdown(found: RunOutcome) -> str:
    champion = "none" if found.champion is None else f"version {found.champion}"
    rows = {
        "run": found.run,
        "turn": found.turn or "not known: the run ended in its pre-flight",
        "outcome": found.became,
        "champion": champion,
        "reason": found.reason,
        "calls": found.spent,
    }
    lines = [f"## {as_text(found.line)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {as_text(value)} |" for name, value in rows.items() if value]
    lines += ["", *(f"- {as_text(note)}" for note in found.notes)]
    return "\n".join(lines) + "\n"
