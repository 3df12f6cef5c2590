"""The last step of a run reports its outcome, also when other steps failed.

It can't take the output of another step, since any step may have failed. It knows only the run's
id: with that it finds the turn in the call store, and asks the registry for the decision.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from cowest import environment
from cowest.config import load, parse, section
from cowest.distributed import trainjob
from cowest.errors import ConfigError, CoWestError
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
Became = Literal[
    "promoted", "refused", "waiting", "late", "nothing new", "failed", "undecided", "unknown"
]
PAUSES = (1.0, 3.0, 9.0)
"""Seconds before each further try to read the call store or the registry."""
PATIENCE = 60.0
"""Seconds after the first try after which none begins: one that hangs may take minutes."""


class RunOutcome(Record):
    """The record of what became of a run."""

    run: str
    became: Became
    """`promoted`, `refused`, `waiting`: the turn was decided so, though a step of this run
    failed. `late`: another version had become champion by then, and the turn is open. `nothing
    new`: it had been decided before. `failed`: a step failed, before the turn was decided as far as
    is known. `undecided`: the run ended well and decided nothing, as where neither branch of the
    gate was taken. `unknown`: the run ended well, and what it decided could not be read."""
    turn: str | None = None
    """Key of the turn; None if the run ended before its turn was known, or if that is not known."""
    version: int | None = None
    """The registry's number for the challenger."""
    champion: int | None = None
    known: bool = True
    """False if the call store or the registry could not be read, or the run ended well and the call
    store has no row of it: `turn`, `version` and `champion` then say nothing where they are
    None."""
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
            "unknown": f"{of} ended, and what it decided is not known",
        }[self.became]
        return f"{said}: {self.reason}" if self.reason else said


def summarise(run: str, state: str, error: str, text: str, page: str, outcome: str) -> None:
    """Writes what became of a run as a page and as an RunOutcome, and posts it to the webhook.

    state: SUCCEEDED, FAILED or CANCELLED, with KFP's `error`. text: params.yaml as it was when the
    pipeline was compiled. Errors that a person can mend are noted in the record, not raised.
    """
    environment.settle()
    # MLflow tries a server that is down for minutes, and a step that runs out of time tells nobody.
    # Whoever reads the registry here tries again.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    params = Path(outcome).with_name("params.yaml")
    write_text(params, text)
    found = _outcome(run, state, error, params)
    told = _told(params, found)
    write_document(Path(outcome), told)
    write_text(Path(page), _markdown(told))
    print(told.line, *told.notes, sep="\n", file=sys.stderr)


def _outcome(run: str, state: str, error: str, params: Path) -> RunOutcome:
    notes: list[str] = []
    # First, since what trains on costs something, and what is told below may take minutes to read.
    removed, left = _or_note(notes, lambda: trainjob.remove_of(run)) or ([], [])
    if removed:
        notes.append(f"trainings that were left on the cluster were removed: {', '.join(removed)}")
    notes += left
    # A list, since a run that was never written down is another thing than a store out of reach.
    found = _or_note(notes, lambda: _patiently(lambda: [find_run(open_store(), run)]))
    log = _or_note(notes, lambda: _patiently(lambda: _log(params)))
    known = None if found is None else found[0]
    turn = known.turn if known is not None and known.turn else None
    decided = None if turn is None or log is None else settled(log, turn) or _late(log, turn)
    became: Became
    is_lost = state == "SUCCEEDED" and found == [None]
    if is_lost:
        notes.append("not told: the call store has no row of this run")
    if state == "SUCCEEDED" and (known is None or log is None):
        became, reason = "unknown", "the call store or the registry does not say"
    else:
        became, reason = _became(state, error, known, decided)
    if state != "SUCCEEDED" and became != "failed":
        notes.append(f"a step of this run failed: {_words(state, error)}")
    cost = None
    if turn is not None:
        cost = _or_note(notes, lambda: _cost(turn))
    return RunOutcome(
        run=run,
        became=became,
        turn=turn,
        version=None if decided is None else decided.version,
        champion=None if log is None else champion_of(log),
        known=found is not None and log is not None and not is_lost,
        reason=reason,
        spent=cost or "",
        notes=tuple(notes),
    )


def _became(
    state: str, error: str, known: NotedRun | None, decided: Decision | None
) -> tuple[Became, str]:
    was_decided = known is not None and known.decided is not None
    if state != "SUCCEEDED":
        # What the registry was told holds, by this run or by another of the same open turn.
        if decided is not None and not was_decided and decided.verdict != "late":
            return _verdict(decided), f"{decided.reason}; a step of this run failed"
        said = "the log of the step that failed says why; answers are kept"
        return "failed", f"{_words(state, error)}: {said}"
    if decided is None:
        return "undecided", "neither branch of its gate was taken"
    if was_decided:
        return "nothing new", f"{decided.verdict}: {decided.reason}"
    return _verdict(decided), decided.reason


def _verdict(decided: Decision) -> Became:
    if decided.verdict in ("waiting", "late"):
        return decided.verdict
    return "promoted" if decided.promoted else "refused"


def _words(state: str, error: str) -> str:
    return " ".join(error.split()) or state.lower()


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


def _patiently(read: Callable[[], T]) -> T:
    """Returns what is read. Tries again for some seconds, as long as a server may need to return;
    what was decided is told once."""
    until = time.monotonic() + PATIENCE
    for pause in PAUSES:
        try:
            return read()
        except ConfigError:
            raise
        except CoWestError:
            if time.monotonic() + pause > until:
                raise
            time.sleep(pause)
    return read()


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
    ended = "the run ended in its pre-flight" if found.known else "it could not be read"
    champion = f"version {found.champion}"
    if found.champion is None:
        champion = "none" if found.known else "not known"
    rows = {
        "run": found.run,
        "turn": found.turn or f"not known: {ended}",
        "outcome": found.became,
        "champion": champion,
        "reason": found.reason,
        "calls": found.spent,
    }
    lines = [f"## {as_text(found.line)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {as_text(value)} |" for name, value in rows.items() if value]
    lines += ["", *(f"- {as_text(note)}" for note in found.notes)]
    return "\n".join(lines) + "\n"
