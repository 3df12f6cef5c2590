"""Shows who is champion, and what was decided."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from cowest.commands import add_params
from cowest.config import enter, load, parse, section
from cowest.errors import ConfigError
from cowest.lineage import data_of
from cowest.records import DataSet, Decision
from cowest.registry.log import champion_of
from cowest.registry.mlflow import RegistryConfig

NONE = "champion  none yet, and nothing was decided: run `cowest turn`"
SHOWN = ("version", "turn", "promoted", "against", "reason", "digest", "tags")
"""Fields of a decision that programs get."""


def main(argv: list[str]) -> int:
    """Prints the end of the log. Raises ConfigError and RegistryError."""
    parser = argparse.ArgumentParser(prog="cowest status", description=__doc__)
    add_params(parser, "where the registry is said to be (register.registry)")
    parser.add_argument("--last", type=_count, default=10, metavar="N", help="decisions shown (10)")
    parser.add_argument(
        "--json", action="store_true", help="for programs: everything, as one JSON object"
    )
    given = parser.parse_args(argv)
    params = load(given.params)
    enter(given.params)
    values = section(params, "register", str(given.params))
    if "registry" not in values:
        raise ConfigError(
            f"{given.params}: register.registry is missing: it says where the registry is"
        )
    config = parse(RegistryConfig, values["registry"], f"{given.params}: register.registry")
    # To look must not make a registry, as `open` would.
    if not config.begun():
        nothing: dict[str, Any] = {"champion": None, "decisions": []}
        found = {"registry": config.uri, "name": config.name} | nothing
        print(json.dumps(found) if given.json else NONE)
        return 0
    registry = config.open()
    champion, log = registry.champion(), registry.log()
    if given.json:
        found = {
            "registry": config.runs().place,
            "name": config.name,
            "champion": champion,
            "decisions": _rows(log[-given.last :], champion),
        }
        print(json.dumps(found, indent=2))
        return 0
    print(f"registry  {config.runs().place}, {config.name}")
    print(_page(log, champion, given.last))
    return 0


def _page(log: Sequence[Decision], champion: int | None, last: int) -> str:
    """The champion and the last decisions, for a terminal."""
    lines = ["champion  none yet: run `cowest turn`"]
    if champion is not None:
        lines = [f"champion  version {champion}"]
    for one in log:
        if one.version == champion:
            lines += _rests_on(one)
    if log:
        lines += ["", *_table(log[-last:], champion_of(log))]
    return "\n".join(lines)


def _rests_on(champion: Decision) -> list[str]:
    """The data sets behind the champion, one per line."""
    lines = []
    for name, one in data_of(champion.tags).items():
        rows = f", {one.rows:,} rows" if one.rows is not None else ""
        lines.append(f"{name:<8}  {one.path}{_kept(one)}{rows}, digest {one.digest[:12]}")
    return lines


def _kept(data: DataSet) -> str:
    """Says how a data set is found again."""
    commit = (data.rev or "")[:12]
    if data.kept == "dvc":
        return f", DVC, commit {commit}"
    if data.kept == "git":
        return f", git, commit {commit}"
    # What a turn derives is made again from the raw data.
    return "" if data.kept == "derived" else ", unversioned"


def _table(log: Sequence[Decision], champion: int | None) -> list[str]:
    """The decisions, one per line, the newest last; the champion has a star."""
    lines = ["version   turn      decided   against   why"]
    for one in log:
        star = "*" if one.version == champion else " "
        against = "none" if one.against is None else str(one.against)
        decided = "promoted" if one.promoted else "refused"
        lines.append(
            f"{one.version:>5} {star}   {one.turn[:8]}  {decided:<8}  {against:<8}  {one.reason}"
        )
    return lines


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
