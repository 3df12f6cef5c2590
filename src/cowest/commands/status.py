"""Who is champion, and what was decided."""

import argparse
import json
import os
from pathlib import Path

from cowest.config import load, parse, section
from cowest.errors import ConfigError
from cowest.lineage import data_of
from cowest.protocols import Decision
from cowest.registry.log import champion_of
from cowest.registry.mlflow import RegistryConfig

NONE = "champion  none yet, and nothing was decided: run `cowest turn`"


def main(argv: list[str]) -> int:
    """Prints the log's end. Raises ConfigError and RegistryError."""
    parser = argparse.ArgumentParser(prog="cowest status", description=__doc__)
    parser.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        help="where the registry is said to be (register.registry)",
    )
    parser.add_argument("--last", type=_count, default=10, metavar="N", help="decisions shown (10)")
    parser.add_argument(
        "--json", action="store_true", help="for programs: everything, as one JSON object"
    )
    given = parser.parse_args(argv)
    params = load(given.params)
    os.chdir(
        given.params.absolute().parent
    )  # a registry in a file lies beside the settings that name it
    values = section(params, "register", str(given.params))
    if "registry" not in values:
        raise ConfigError(
            f"{given.params}: register.registry is missing: it says where the registry is"
        )
    config = parse(RegistryConfig, values["registry"], f"{given.params}: register.registry")
    if not config.begun():
        print(
            json.dumps(
                {"registry": config.uri, "name": config.name, "champion": None, "decisions": []}
            )
            if given.json
            else NONE
        )
        return 0
    registry = config.open()
    champion, log = registry.champion(), registry.log()
    if given.json:
        rows = [
            {**_fields(decision), "champion": decision.version == champion}
            for decision in log[-given.last :]
        ]
        print(
            json.dumps(
                {
                    "registry": config.runs().place,
                    "name": config.name,
                    "champion": champion,
                    "decisions": rows,
                },
                indent=2,
            )
        )
        return 0
    print(f"registry  {config.runs().place}, {config.name}")
    print(
        f"champion  {f'version {champion}' if champion is not None else 'none yet: run `cowest turn`'}"
    )
    for line in rests_on(next((one for one in log if one.version == champion), None)):
        print(line)
    if log:
        print()
        print(table(log[-given.last :], champion_of(log)))
    return 0


def rests_on(champion: Decision | None) -> list[str]:
    """The data sets behind the champion, a line each."""
    lines = []
    for name, one in (data_of(champion.tags) if champion else {}).items():
        where = {
            "dvc": f", DVC, commit {(one.rev or '')[:12]}",
            "git": f", git, commit {(one.rev or '')[:12]}",
            "derived": "",
        }
        rows = f", {one.rows:,} rows" if one.rows is not None else ""
        lines.append(
            f"{name:<8}  {one.path}{where.get(one.kept, ', unversioned')}{rows}, digest {one.digest[:12]}"
        )
    return lines


def table(log: list[Decision], champion: int | None) -> str:
    """Decisions, the newest last; the champion has a star."""
    lines = ["version   turn      decided   against   why"]
    for one in log:
        star = "*" if one.version == champion else " "
        against = "none" if one.against is None else str(one.against)
        decided = "promoted" if one.promoted else "refused"
        lines.append(
            f"{one.version:>5} {star}   {one.turn[:8]}  {decided:<8}  {against:<8}  {one.reason}"
        )
    return "\n".join(lines)


def _fields(decision: Decision) -> dict[str, object]:
    return {
        name: getattr(decision, name)
        for name in ("version", "turn", "promoted", "against", "reason", "digest", "tags")
    }


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("one at least")
    return number
