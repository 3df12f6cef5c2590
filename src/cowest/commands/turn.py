"""One turn of the wheel: pin, dvc repro, register, report.

A turn that was decided before says so and ends.
"""

import argparse
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from cowest import forecast, stages
from cowest.amend import amend
from cowest.commands import add_params, interruptible, settings_help, shown
from cowest.commands.reproduce import reproduce
from cowest.config import enter, load, parse, section
from cowest.errors import ConfigError, ContractError, CoWestError, InputError, StoreError
from cowest.io import read_document, replacing, write_text
from cowest.ledger import store
from cowest.ledger.claims import spent
from cowest.lineage import Turn, TurnConfig, data_digests, turn_of
from cowest.preflight import missing_keys, preflight, raise_all, stage_settings
from cowest.probing import probe_notes
from cowest.raw import snapshots
from cowest.reach import registry_problems
from cowest.records import DataSet, Decision, Estimate, EvalReport
from cowest.registry.acts import fate
from cowest.registry.log import champion_of, contents, rolled_back, settled
from cowest.registry.mlflow import RegistryConfig
from cowest.report import words
from cowest.stages.pin import PinConfig
from cowest.stages.register import RegisterConfig

PARAMS, PIPELINE = Path("params.yaml"), Path("dvc.yaml")
TURN, START, CHAMPION = Path("turn.json"), Path("models/start"), Path("models/champion")
POLICY, CHALLENGER = Path("models/policy"), Path("models/challenger")
QUERIES, CORPUS = Path("data/queries.jsonl"), Path("data/corpus.jsonl")
PAIRS, REPORT = Path("data/pairs.jsonl"), Path("reports/eval.json")
TRIALS, LOOKS = Path("data/trials.jsonl"), Path("looks.json")
DECISION, PAGE = Path("reports/decision.json"), Path("reports/index.html")
LOCK = Path(".cowest/turn.lock")
FORCED = Path(".cowest/forced")
"""A note that a model's files changed, and not every stage has run since."""


def main(argv: list[str]) -> int:
    """0: decided, promoted or not.

    Raises CoWestError for what stops the turn; what was made before stays whole.
    """
    parser = argparse.ArgumentParser(
        prog="cowest turn",
        description=__doc__,
        epilog=settings_help.settings(TurnConfig, "turn"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_params(parser, "the project's params.yaml; the turn runs in its folder")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting in params.yaml first, for good, as in dpo.beta=0.2",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="run every stage again, even if the turn was decided; its decision stays",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what the calls of the turn will cost at most, by stage; nothing is called",
    )
    given = parser.parse_args(argv)
    _enter(given.params)
    with interruptible(), _alone() as lock:
        if given.dry_run:
            _foresee(given.set)
        else:
            go_through(given.set, given.force, lock)
    return 0


def _foresee(assignments: list[str]) -> None:
    """Prints what the turn will cost at most. That needs neither keys nor extras.

    Settings are changed in a copy of params.yaml. A version of the data that they name is fetched
    beside it, and so is a file of calls that reading would change. Raises StoreError for a database
    that it would.
    """
    # What is wrong with the file itself is said of the file, not of its copy.
    load(PARAMS)
    older = store.older()
    if older is not None and "://" in older:
        raise StoreError(
            f"{older} was written by an older CoWest, which refuses it once this one has read it: "
            "update all that share it and run `cowest turn`, or name a copy of it in COWEST_STORE"
        )
    with (
        tempfile.TemporaryDirectory(prefix="cowest-") as folder,
        nullcontext() if older is None else store.aside(Path(folder)),
    ):
        copy = Path(folder) / PARAMS
        shutil.copyfile(PARAMS, copy)
        notes = []
        for assignment in assignments:
            note = amend(copy, assignment)
            if note is not None:
                notes.append(note.replace(str(copy), f"with {PARAMS}", 1))
        params = load(copy)
        raw, version = _fetched(params, Path(folder))
        foreseen = _foreseen(params, copy, raw, version)
        notes += missing_keys(copy) + forecast.repeated(params, raw)
        settings, _ = stage_settings(copy)
        notes += probe_notes(copy, settings, raw)
    print("\n".join([*notes, foreseen]))


def go_through(assignments: list[str], force: bool, lock: int) -> None:
    """Runs a turn whose lock is held, from its pin to its decision and page. Raises CoWestError."""
    started = time.monotonic()
    with _amended(assignments) as notes:
        params = _read_settings()
        settings = preflight(PARAMS)
        notes += probe_notes(PARAMS, settings)
    for note in notes:
        print(note)
    registering = parse(RegisterConfig, section(params, "register"), f"{PARAMS}: register")
    registry = registering.registry.open()
    # Mends the alias too, if the turn before was cut short at its very end.
    champion = registry.champion()
    turn = turn_of(_raw(params), PARAMS, champion)
    # What stages and `register` take counts for this turn, whoever else uses the store.
    os.environ["COWEST_TURN"] = turn.key
    log = registry.log()
    decided = settled(log, turn.key)
    if decided is None or force:
        # Tried by writing, since the decision is written when all has been paid for.
        raise_all(registry_problems([registering], write=True))
        _run_stages(params, turn, force, lock)
    elif _finished(turn):
        print(shown(nothing_new(decided, log)))
        return
    elif not _at_hand(turn):
        print(
            f"{shown(nothing_new(decided, log))}; it ran elsewhere: "
            "`cowest turn --force` makes its files here"
        )
        return
    _close(params, turn, registering.registry)
    print(_took(time.monotonic() - started, turn.key))


def _run_stages(params: dict[str, Any], turn: Turn, force: bool, lock: int) -> None:
    """Pins the turn and runs every stage up to the comparison."""
    raw = _raw(params)
    if turn.raw is not None and turn.raw.kept == "unversioned":
        print(
            f"data: no commit holds {raw}, so no revision will name what this turn rests on: "
            f"`cowest data add {raw}` makes a version"
        )
    # Looked at before `pin` writes the turn.json of this turn over that of the last, and noted,
    # since the next start finds that one if this one is cut short.
    if _models_changed(turn):
        write_text(FORCED, f"{turn.key}\n")
    stages.run(
        "pin",
        section(params, "pin"),
        raw=raw,
        params=PARAMS,
        turn=TURN,
        start=START,
        champion=CHAMPION,
        looks=LOOKS,
    )
    since = read_document(TURN, Turn).since
    if since is not None:
        print(words.changes(since))
    reproduce(force or FORCED.exists(), lock)
    FORCED.unlink(missing_ok=True)


@contextmanager
def _alone() -> Iterator[int]:
    """Holds the lock of the project, and gives its file.

    Raises CoWestError if another turn has it.
    """
    # The kernel releases this lock when the process and the DVC that it gave the file to have
    # ended, however they end. So a turn that was killed leaves nothing behind that stops the next
    # one, and what still runs for it does stop it.
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CoWestError(
                f"another turn runs in {Path.cwd()}, or a stage of one that was killed: wait for "
                "it, or end it; two would write the same files"
            ) from None
        yield lock.fileno()


def _fetched(params: dict[str, Any], folder: Path) -> tuple[Path, DataSet | None]:
    """The raw data of a turn that is only foreseen, and their version if the settings name one.

    A version that is named comes into `folder`, unless it lies at its place, where all stays as it
    is. Raises InputError.
    """
    named = parse(TurnConfig, section(params, "turn"), f"{PARAMS}: turn")
    if named.rev is None:
        snapshots.pointer_here(named.raw)
        return named.raw, None
    found = snapshots.find(named.path or named.raw, named.rev)
    place, where = folder / named.raw.name, "laid out nowhere"
    # As when it is laid out: a whole data set is compared with its pointer.
    whole = found.pointer if found.pointer and found.pointer.tracked == found.path else None
    if whole and named.raw.exists() and snapshots.matches(named.raw, whole):
        place, where = named.raw, f"in {named.raw}"
    else:
        found.fetch(place)
    version = found.named(place)
    print(f"data: {version.path} at {named.rev} ({(version.rev or '')[:12]}), {where}")
    return place, version


def _foreseen(params: dict[str, Any], where: Path, raw: Path, version: DataSet | None) -> str:
    """The most that the turn with the settings in `where` will cost, and its cost so far."""
    budget = parse(PinConfig, section(params, "pin"), f"{PARAMS}: pin").budget
    key = turn_of(raw, where, version=version).key
    before = replace(spent(store.open_store(), key), budget=budget)
    costs = forecast.table(forecast.forecast(params, raw), budget)
    return f"{costs}\nof turn {key[:8]}, {before}"


@contextmanager
def _amended(assignments: list[str]) -> Iterator[list[str]]:
    """Changes settings in params.yaml, and takes them back if the body ends by any error.

    Gives what changed in words.
    """
    before = PARAMS.read_bytes()
    notes = []
    try:
        for assignment in assignments:
            note = amend(PARAMS, assignment)
            if note is not None:
                notes.append(note)
        yield notes
    except BaseException as error:
        if not assignments or before == PARAMS.read_bytes():
            raise
        with replacing(PARAMS.resolve()) as temporary:
            temporary.write_bytes(before)
        if isinstance(error, CoWestError):
            raise type(error)(f"{error}. {PARAMS} was left as it was") from None
        raise


def _read_settings() -> dict[str, Any]:
    """Reads params.yaml and lays out the raw data that it names."""
    params = load(PARAMS)
    _lay_out(params)
    return params


def _raw(params: dict[str, Any]) -> Path:
    return parse(TurnConfig, section(params, "turn"), f"{PARAMS}: turn").raw


def _lay_out(params: dict[str, Any]) -> None:
    """Lays out the raw data of the revision that the settings name, if they name one.

    Raises InputError if the data are not here and DVC could bring them.
    """
    named = parse(TurnConfig, section(params, "turn"), f"{PARAMS}: turn")
    if named.rev is None:
        snapshots.pointer_here(named.raw)
        return
    found = snapshots.lay_out(named.raw, named.rev, named.path)
    commit = (found.rev or "")[:12]
    print(f"data: {found.path} at {named.rev} ({commit}), in {named.raw}")


def _enter(params: Path) -> None:
    """Goes to the project's folder, from which dvc.yaml names all files."""
    if params.name != PARAMS.name:
        raise ConfigError(
            f"--params {params}: dvc.yaml reads {PARAMS}: name one, in a project's folder"
        )
    enter(params)
    if not PIPELINE.exists():
        raise InputError(f"{Path.cwd()} has no {PIPELINE}: a turn runs in a project's folder")


def _models_changed(turn: Turn) -> bool:
    """True if a local model has other files than in the last turn here."""
    # DVC compares the model's name in the settings, and the name may be the same.
    try:
        last = read_document(TURN, Turn).models
    except CoWestError:
        return False
    return any(turn.models.get(name, known) != known for name, known in last.items())


def _finished(turn: Turn) -> bool:
    """True if the turn's decision and page are here."""
    if not (DECISION.exists() and PAGE.exists()):
        return False
    # An older page is of the turn before: this one was cut short before it wrote its own.
    if PAGE.stat().st_mtime < DECISION.stat().st_mtime:
        return False
    try:
        return read_document(DECISION, Decision).turn == turn.key
    except CoWestError:
        return False


def _at_hand(turn: Turn) -> bool:
    """True if all files of this turn are here, and only its end has to be written down."""
    needed = (TURN, REPORT, POLICY, CHALLENGER, QUERIES, CORPUS, PAIRS)
    if not all(path.exists() for path in needed):
        return False
    try:
        return read_document(TURN, Turn).key == turn.key
    except CoWestError:
        return False


def nothing_new(decided: Decision, log: Sequence[Decision]) -> str:
    how = "promoted"
    removed = rolled_back(log, contents(decided))
    if decided.promoted and removed is not None:
        how = f"promoted, and rolled back by version {removed.version} ({removed.reason})"
    if decided.verdict == "waiting":
        how = f"left waiting ({decided.reason}); {fate(log, decided)}"
    elif not decided.promoted:
        how = f"refused ({decided.reason})"
    report = f"; report: {PAGE}" if PAGE.exists() else ""
    return (
        f"nothing is new: turn {decided.turn[:8]} was decided on version {decided.version}: "
        f"{how}; {_who(champion_of(log))}{report}"
    )


def _to_approve(waiting: Decision) -> str:
    return f'`cowest approve {waiting.version} --why "..."` promotes it'


def _who(champion: int | None) -> str:
    return f"version {champion} is champion" if champion is not None else "there is no champion"


def _close(params: dict[str, Any], turn: Turn, registry: RegistryConfig) -> None:
    """Has the turn decided, prints the decision, and writes the page."""
    from cowest.commands import report
    from cowest.steps import page

    if data_digests(_raw(params)) != turn.data:
        raise ContractError(
            f"{_raw(params)} was changed while the turn ran, so nothing was decided: "
            "run `cowest turn` again for what lies there"
        )
    paths: dict[str, Any] = {
        "turn": TURN,
        "params": PARAMS,
        "report": REPORT,
        "policy": POLICY,
        "challenger": CHALLENGER,
        "queries": QUERIES,
        "corpus": CORPUS,
        "pairs": PAIRS,
        "trials": TRIALS if TRIALS.exists() else None,
        "decision": DECISION,
        "looks": LOOKS if LOOKS.exists() else None,
    }
    stages.run("register", section(params, "register"), **paths)
    outcome, judged = read_document(DECISION, Decision), read_document(REPORT, EvalReport)
    print(f"\n{table(judged)}\n")
    verdict = {"promoted": "was promoted", "waiting": "passed"}.get(outcome.verdict, "was refused")
    reason = shown(outcome.reason)
    print(f"turn {outcome.turn[:8]}: version {outcome.version} {verdict}: {reason}")
    if outcome.verdict == "waiting":
        print(_to_approve(outcome))
    print(_who(outcome.champion))
    print("report: ", end="", flush=True)
    report.main(["--out", str(PAGE)])
    page.keep(PAGE, turn.key, registry)


def _took(seconds: float, turn: str) -> str:
    """Says how long this run took, and how much memory the largest stage of the turn held."""
    ledger = store.open_store().ledger(turn)
    largest = max(ledger, key=attrgetter("peak_memory"))
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"took {minutes}:{rest:02d}; the largest stage, {largest.stage}, "
        f"held {largest.peak_memory / 2**30:.1f} GiB"
    )


def table(report: EvalReport) -> str:
    """Returns the systems with scores and intervals, and what alignment did, for a terminal."""
    rows = [(words.NAMES.get(name, name), estimate) for name, estimate in report.systems.items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'system':<{width}}  score  95 % interval   queries"]
    for name, estimate in rows:
        interval = _interval(estimate, ".3f")
        lines.append(f"{name:<{width}}  {estimate.mean:5.3f}  {interval:<15} {estimate.queries:>6}")
    change = report.comparisons.get("after_minus_before")
    if change is not None:
        interval = _interval(change, "+.3f")
        lines.append(f"\nalignment changed the collaboration by {change.mean:+.3f} ({interval})")
    return "\n".join(lines)


def _interval(estimate: Estimate, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return "-"
    return f"{estimate.low:{form}} to {estimate.high:{form}}"
