"""Show who is champion, and why, in ten lines."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from cowest.commands.acting import cut, moment, parser_of, registry_of
from cowest.commands.history import named
from cowest.errors import RegistryError
from cowest.lineage import data_of
from cowest.records import DataSet, Decision
from cowest.registry.log import champion_of, find, held, waiting
from cowest.registry.looks import of_last
from cowest.registry.mlflow import RegistryConfig

NONE = "champion  none yet, and nothing was decided: run `cowest turn`"
WIDTH = 100
"""Characters of a line."""
SHOWN = ("version", "turn", "promoted", "against", "reason", "digest", "tags")
"""Fields of a decision that programs get."""


def main(argv: list[str]) -> int:
    """Prints the champion and what is going on. Raises ConfigError and RegistryError."""
    parser = parser_of("status", f"{__doc__}\n\nEvery decision: `cowest history`.")
    parser.add_argument(
        "--last", type=_count, default=10, metavar="N", help="decisions shown by --json (10)"
    )
    parser.add_argument(
        "--json", action="store_true", help="for programs: everything, as one JSON object"
    )
    given = parser.parse_args(argv)
    config = registry_of(given.params)
    # To look must not make a registry, as `open` would.
    if not config.begun():
        nothing: dict[str, Any] = {"champion": None, "decisions": []}
        found = {"registry": config.uri, "name": config.name} | nothing
        print(json.dumps(found) if given.json else NONE)
        return 0
    registry = config.open()
    registry.champion()
    log = registry.log()
    worn, unknown = _wear(log, config)
    if given.json:
        champion, hold = champion_of(log), held(log)
        found = {
            "registry": registry.place,
            "name": config.name,
            "champion": champion,
            "held": None if hold is None else hold.version,
            "waiting": [one.version for one in waiting(log)],
            "wear": worn,
            "decisions": _rows(log[-given.last :], champion),
        }
        print(json.dumps(found, indent=2))
        return 0
    print(f"registry  {registry.place}, {config.name}")
    print(_page(log))
    if worn is not None:
        print(_worn(worn))
    if unknown is not None:
        print(f"held out  not known: {unknown}")
    return 0


def _wear(
    log: Sequence[Decision], config: RegistryConfig
) -> tuple[float | None, RegistryError | None]:
    """The wear of the held-out queries of the last turn, or the reason why it is not known."""
    # It is in the files of the turns, which may be out of reach where the log is not: who is
    # champion must be told all the same.
    try:
        return of_last(log, config.runs()), None
    except RegistryError as error:
        return None, error


def _worn(wear: float) -> str:
    """The wear of the held-out queries of the last turn, in a line."""
    times = f"{wear:.1f}".removesuffix(".0")
    decisions = "decision rests" if times == "1" else "decisions rest"
    return f"held out  {times} {decisions} on each query on average: `cowest data --help`"


def _page(log: Sequence[Decision]) -> str:
    """The champion and what is going on, for a terminal."""
    champion = find(log, champion_of(log))
    lines = ["champion  none yet: run `cowest turn`"]
    if champion is not None:
        lines = [_champion(champion), f"why       {champion.reason}", *_rests_on(champion)]
    hold = held(log)
    if hold is not None:
        command = '`cowest release --why "..."`'
        lines.append(
            f"held      promotions, by version {hold.version} until {command}: {hold.reason}"
        )
    waits = waiting(log)
    if waits:
        last, others = waits[-1], len(waits) - 1
        more = f", and {others} more" if others else ""
        command = f'`cowest approve {last.version} --why "..."`'
        lines.append(f"waiting   version {last.version}{more}, for {command}")
    if log:
        lines.append(_last(log))
    return "\n".join(cut_line(line) for line in lines)


def cut_line(line: str) -> str:
    """A line of the page, with the spaces of its column kept."""
    return line[:10] + cut(line[10:], WIDTH - 10)


def _champion(champion: Decision) -> str:
    """The champion, since when, and by what."""
    by = f" by {champion.by}" if champion.by else ""
    since = f" since {moment(champion.at)}" if champion.at else ""
    said = f"champion  version {champion.version}{since}, promoted{by}"
    if champion.kind == "rollback":
        said = (
            f"champion  version {champion.version}{since}, a rollback{by} from version "
            f"{champion.against} to {champion.of}"
        )
    elif champion.kind == "approval":
        said = f"champion  version {champion.version}{since}, version {champion.of} as approved{by}"
    return said


def _last(log: Sequence[Decision]) -> str:
    last = log[-1]
    counted = f"{len(log)} decisions" if len(log) > 1 else "1 decision"
    return (
        f"last      version {last.version}, {named(last)} ({counted}: `cowest history`): "
        f"{last.reason}"
    )


def _rests_on(champion: Decision) -> list[str]:
    """The data sets behind the champion: one per line, and those made of them on a line together.

    What a turn derives is made again from the raw data, so that its rows are enough.
    """
    lines, derived = [], []
    for name, one in data_of(champion.tags).items():
        rows = "" if one.rows is None else f"{one.rows:,} rows"
        if one.kept == "derived":
            derived.append(f"{name} {rows}".rstrip())
        else:
            said = [f"{one.path}{_kept(one)}", rows, f"digest {one.digest[:12]}"]
            lines.append(f"{name:<8}  {', '.join(part for part in said if part)}")
    if derived:
        lines.append(f"derived   {', '.join(derived)}")
    return lines


def _kept(data: DataSet) -> str:
    """Says how a data set is found again."""
    commit = (data.rev or "")[:12]
    if data.kept == "dvc":
        return f", DVC, commit {commit}"
    if data.kept == "git":
        return f", git, commit {commit}"
    return ", unversioned"


def _rows(log: Sequence[Decision], champion: int | None) -> list[dict[str, Any]]:
    """The decisions for programs."""
    rows = []
    for one in log:
        row = {name: getattr(one, name) for name in SHOWN}
        rows.append(row | {"champion": one.version == champion})
    return rows


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("one at least")
    return number
