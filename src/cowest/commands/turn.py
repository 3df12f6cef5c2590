"""One turn of the wheel: pin, dvc repro, register, report. A turn that was decided before ends with a word."""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cowest import forecast, stages
from cowest.amend import amend
from cowest.config import load, parse, section
from cowest.errors import ConfigError, ContractError, CoWestError, InputError
from cowest.io import read_document, write_text
from cowest.ledger.claims import spent
from cowest.ledger.store import open_store
from cowest.lineage import Turn, TurnConfig, data_digests, turn_of
from cowest.online.live import ServeConfig
from cowest.preflight import preflight
from cowest.protocols import Decision
from cowest.raw import snapshots
from cowest.records import Estimate, EvalReport, Outcome
from cowest.registry.log import settled
from cowest.registry.mlflow import RegistryConfig
from cowest.report.words import NAMES
from cowest.stages.pin import PinConfig
from cowest.stages.register import RegisterConfig

PARAMS, PIPELINE = Path("params.yaml"), Path("dvc.yaml")
TURN, START, CHAMPION = Path("turn.json"), Path("models/start"), Path("models/champion")
POLICY, CHALLENGER = Path("models/policy"), Path("models/challenger")
QUERIES, CORPUS, PAIRS = (
    Path("data/queries.jsonl"),
    Path("data/corpus.jsonl"),
    Path("data/pairs.jsonl"),
)
REPORT, DECISION, PAGE = (
    Path("reports/eval.json"),
    Path("reports/decision.json"),
    Path("reports/index.html"),
)
LOCK = Path(".cowest/turn.lock")
PATIENCE = 40
"""Seconds that stages have to stop, once we are interrupted: calls that may be paid for are waited for."""


def main(argv: list[str]) -> int:
    """0: decided, promoted or not. Raises CoWestError for what stops the turn; what was made before stays whole."""
    parser = argparse.ArgumentParser(prog="cowest turn", description=__doc__)
    parser.add_argument(
        "--params",
        type=Path,
        default=PARAMS,
        help="the project's params.yaml; the turn runs in its folder",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting in params.yaml first, as in dpo.beta=0.2",
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
    with _alone():
        return _turn(given)


def _turn(given: argparse.Namespace) -> int:
    started = time.monotonic()
    params, foreseen = _settings(given.set, given.dry_run)
    if given.dry_run:
        print(foreseen)
        return 0
    raw = _raw(params)
    registry_config = parse(
        RegisterConfig, section(params, "register"), f"{PARAMS}: register"
    ).registry
    registry = registry_config.open()
    champion = registry.champion()  # mends the alias, if a turn was cut short at its very end
    turn = turn_of(raw, PARAMS, champion)
    decided = settled(registry.log(), turn.key)
    if decided is None or given.force:
        if turn.raw is not None and turn.raw.kept == "unversioned":
            print(
                f"data: no commit holds {raw}, so no revision will name what this turn rests on: `cowest data add {raw}` makes a version"
            )
        os.environ["COWEST_TURN"] = (
            turn.key
        )  # what its stages spend counts for it, whoever else uses the store
        forced = given.force or _models_changed(turn)
        stages.run(
            "pin",
            section(params, "pin"),
            raw=raw,
            params=PARAMS,
            turn=TURN,
            start=START,
            champion=CHAMPION,
        )
        _reproduce(forced)
    elif _finished(turn):
        print(_nothing_new(decided, champion))
        return 0
    elif not _at_hand(turn):
        print(
            _nothing_new(decided, champion)
            + "; it ran elsewhere: `cowest turn --force` makes its files here"
        )
        return 0
    _close(params, turn, registry_config)
    print(_took(time.monotonic() - started))
    return 0


@contextmanager
def _alone() -> Iterator[None]:
    """One turn at a time in a project: two would pin and write the same files. The kernel lets go of the lock with the process."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CoWestError(
                f"another turn runs in {Path.cwd()}: wait for it, or end it; two would write the same files"
            ) from None
        yield


def _foreseen(params: dict[str, Any]) -> str:
    raw = _raw(params)
    budget = parse(PinConfig, section(params, "pin"), f"{PARAMS}: pin").budget
    store, key = open_store(), turn_of(raw, PARAMS).key
    before = store.read(lambda db: spent(db, key))
    return f"{forecast.table(forecast.forecast(params, raw), budget)}\nof turn {key[:8]}, {replace(before, budget=budget)}"


def _settings(assignments: list[str], dry_run: bool) -> tuple[dict[str, Any], str]:
    """params.yaml with these changes, checked whole, so that a slip in the last stage is not found after the first has run for
    an hour; with what a dry run says, which needs neither keys nor extras. What does not hold is taken back."""
    before = PARAMS.read_text(encoding="utf-8")
    try:
        said = [note for assignment in assignments if (note := amend(PARAMS, assignment))]
        params = load(PARAMS)
        _lay_out(params)
        if "serve" in params:
            parse(ServeConfig, params["serve"], f"{PARAMS}: serve")
        foreseen = _foreseen(params) if dry_run else ""
        if not dry_run:
            preflight(PARAMS)
    except CoWestError as error:
        if assignments and before != PARAMS.read_text(encoding="utf-8"):
            write_text(PARAMS, before)
            raise type(error)(f"{error}. {PARAMS} was left as it was") from None
        raise
    for note in said:
        print(note)
    return params, foreseen


def _raw(params: dict[str, Any]) -> Path:
    return parse(TurnConfig, section(params, "turn"), f"{PARAMS}: turn").raw


def _lay_out(params: dict[str, Any]) -> None:
    """The raw data of the revision that is named, where one is. Raises InputError for data that are not here and could be had."""
    named = parse(TurnConfig, section(params, "turn"), f"{PARAMS}: turn")
    if named.rev is None:
        snapshots.pointer_here(named.raw)
    else:
        found = snapshots.lay_out(named.raw, named.rev, named.path)
        print(f"data: {found.path} at {named.rev} ({(found.rev or '')[:12]}), in {named.raw}")


def _enter(params: Path) -> None:
    if params.name != PARAMS.name:
        raise ConfigError(
            f"--params {params}: dvc.yaml reads {PARAMS}: name one, in a project's folder"
        )
    if not params.exists():
        raise ConfigError(
            f"{params}: no such file: run in the project's folder, or name its params.yaml with --params"
        )
    os.chdir(params.absolute().parent)
    if not PIPELINE.exists():
        raise InputError(f"{Path.cwd()} has no {PIPELINE}: a turn runs in a project's folder")


def _models_changed(turn: Turn) -> bool:
    """Whether a local model has other files than the last turn here had: DVC knows its name, which may be the same."""
    try:
        last = read_document(TURN, Turn).models
    except CoWestError:
        return False
    return any(turn.models.get(name, known) != known for name, known in last.items())


def _finished(turn: Turn) -> bool:
    """Whether the turn's decision and its page are here."""
    if not (DECISION.exists() and PAGE.exists()) or PAGE.stat().st_mtime < DECISION.stat().st_mtime:
        return False
    try:
        return read_document(DECISION, Outcome).turn == turn.key
    except CoWestError:
        return False


def _at_hand(turn: Turn) -> bool:
    """Whether the files are this turn's, and all that is left to do is to write down how it ended."""
    if not all(
        path.exists() for path in (TURN, REPORT, POLICY, CHALLENGER, QUERIES, CORPUS, PAIRS)
    ):
        return False
    try:
        return read_document(TURN, Turn).key == turn.key
    except CoWestError:
        return False


def _nothing_new(decided: Decision, champion: int | None) -> str:
    how = "promoted" if decided.promoted else f"refused ({decided.reason})"
    report = f"; report: {PAGE}" if PAGE.exists() else ""
    return f"nothing is new: turn {decided.turn[:8]} was decided on version {decided.version}: {how}; {_who(champion)}{report}"


def _who(champion: int | None) -> str:
    return f"version {champion} is champion" if champion is not None else "there is no champion"


def _reproduce(force: bool) -> None:
    """`dvc repro`, on this terminal. Raises CoWestError that names the stage that failed."""
    code = _dvc("repro", *(["--force"] if force else []))
    if code:
        stage = _first_unfinished()
        raise CoWestError(
            f"{f'stage {stage} failed' if stage else 'dvc repro failed'}, for the reason above; "
            "what was made before it is whole, and every answer is kept: mend it and run `cowest turn` again to go on"
        )


def _command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """DVC of this environment; the stages that it starts find their `cowest` there too."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    }
    return [sys.executable, "-m", "dvc", *arguments], environment


def _dvc(*arguments: str) -> int:
    command, environment = _command(*arguments)
    sys.stdout.flush()
    # A process group of its own, so that an interruption reaches DVC and its stage once, from us, however we are ended.
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603
    with _passing_on(process.pid) as ended:
        while True:
            try:
                code = process.wait(timeout=1)
                break
            except subprocess.TimeoutExpired:
                if ended and time.monotonic() - ended[0] > PATIENCE:
                    os.killpg(process.pid, signal.SIGKILL)
    if ended:
        raise KeyboardInterrupt
    return code


@contextmanager
def _passing_on(group: int) -> Iterator[list[float]]:
    """Hands the signals that end us to a group of processes; gives the moments at which they came."""
    ended: list[float] = []

    def end(number: int, _: object) -> None:
        ended.append(time.monotonic())
        with suppress(ProcessLookupError):
            os.killpg(group, number)

    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]
    kept = {number: signal.signal(number, end) for number in numbers}
    try:
        yield ended
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _first_unfinished() -> str | None:
    command, environment = _command("status", "--json")
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        changed = json.loads(asked.stdout)
    except ValueError:
        return None
    return next((stage for stage in stages.STAGES if stage in changed), None)


def _close(params: dict[str, Any], turn: Turn, registry: RegistryConfig) -> None:
    from cowest.commands import report
    from cowest.registry.tracking import MlflowTracker

    if data_digests(_raw(params)) != turn.data:
        raise ContractError(
            f"{_raw(params)} was changed while the turn ran, so nothing was decided: run `cowest turn` again for what lies there"
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
        "decision": DECISION,
    }
    stages.run("register", section(params, "register"), **paths)
    outcome, judged = read_document(DECISION, Outcome), read_document(REPORT, EvalReport)
    print(f"\n{table(judged)}\n")
    print(
        f"turn {outcome.turn[:8]}: version {outcome.version} was {'promoted' if outcome.promoted else 'refused'}: {outcome.reason}"
    )
    print(_who(outcome.champion))
    print("report: ", end="", flush=True)
    report.main(["--out", str(PAGE)])
    MlflowTracker(registry.runs()).attach(turn.key, PAGE)


def _took(seconds: float) -> str:
    """What this run and its largest stage took."""
    largest = max(open_store().ledger(), key=lambda account: account.peak_memory)
    minutes, rest = divmod(round(seconds), 60)
    return f"took {minutes}:{rest:02d}; the largest stage, {largest.stage}, held {largest.peak_memory / 2**30:.1f} GiB"


def table(report: EvalReport) -> str:
    """The systems with their scores and intervals, and what alignment did, for a terminal."""
    rows = [(NAMES.get(name, name), estimate) for name, estimate in report.systems.items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'system':<{width}}  score  95 % interval   queries"]
    lines += [
        f"{name:<{width}}  {estimate.mean:5.3f}  {_interval(estimate, '.3f'):<15} {estimate.queries:>6}"
        for name, estimate in rows
    ]
    if (change := report.comparisons.get("after_minus_before")) is not None:
        lines.append(
            f"\nalignment changed the collaboration by {change.mean:+.3f} ({_interval(change, '+.3f')})"
        )
    return "\n".join(lines)


def _interval(estimate: Estimate, form: str) -> str:
    if estimate.low is None or estimate.high is None:
        return "-"
    return f"{estimate.low:{form}} to {estimate.high:{form}}"
