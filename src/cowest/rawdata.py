"""Finds what is wrong with a turn's raw data before the turn, without reading all of its rows."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cowest.config import load, parse, section
from cowest.errors import ConfigError, ContractError, CoWestError, InputError
from cowest.raw import vcs
from cowest.raw.intake import Intake
from cowest.stages.prepare import PrepareConfig

SHELL = frozenset('"$`\\\n')
"""Characters that a shell interprets even in double quotes."""
UNQUOTED = r"--(?:raw|against) +(\$\{(?:turn\.raw|item\.against)\})"
"""The raw data in a command of dvc.yaml, without quotes."""


def raw_data_problems(params: Path) -> list[CoWestError]:
    """Returns what is wrong with the raw data that the settings name."""
    turn = load(params).get("turn")
    if not isinstance(turn, dict) or not isinstance(turn.get("raw"), str):
        return [
            ConfigError(
                f"{params}: turn.raw is missing: set it to the path of the raw data, "
                "such as data/raw/questions.csv"
            )
        ]
    raw, path = turn["raw"], Path(turn["raw"])
    problems = _shell_problems(raw, params)
    try:
        vcs.top(path.parent)
    except InputError as error:
        problems.append(error)
    problems += _missing_data(turn, raw, path, params)
    # What lies there may be another version than the one that a turn lays out.
    if not problems and not turn.get("rev"):
        problems += _first_rows(params, path)
    return problems


def _shell_problems(raw: str, params: Path) -> list[CoWestError]:
    """Returns the problems of `raw` in a shell, which runs the commands of dvc.yaml."""
    if set(raw) & SHELL:
        letters = " ".join(sorted(set(raw) & SHELL))
        return [
            ConfigError(
                f"{params}: turn.raw {raw!r}: a shell runs the commands of dvc.yaml, and "
                f"interprets {letters!r} even in quotes: give the data another name"
            )
        ]
    pipeline = params.with_name("dvc.yaml")
    if shlex.quote(raw) == raw or not pipeline.is_file():
        return []
    commands = re.findall(UNQUOTED, pipeline.read_text(encoding="utf-8", errors="replace"))
    if not commands:
        return []
    quoted = " and ".join(f'"{place}"' for place in commands)
    return [
        ConfigError(
            f"{pipeline}: turn.raw {raw!r} needs quotes in a shell, and the commands there give it "
            f"without: write {quoted}"
        )
    ]


def _missing_data(turn: Mapping[str, Any], raw: str, path: Path, params: Path) -> list[CoWestError]:
    """Returns what is wrong with the place of the raw data."""
    broken = _broken_link(path)
    if broken is not None:
        return [
            InputError(
                f"{broken} is a link to a file that is not there, as DVC's links are after a "
                f"project was moved: run `dvc checkout --relink --force {shlex.quote(raw)}.dvc`"
            )
        ]
    if not path.exists():
        if turn.get("rev"):
            how = "`cowest turn` fetches the version that turn.rev names"
            return [InputError(f"{raw}: the raw data are not here yet: {how}")]
        if path.with_name(f"{path.name}.dvc").is_file():
            how = f"run `dvc pull {raw}.dvc`, which fetches the version that git names"
            return [InputError(f"{raw}: the raw data are not here yet: {how}")]
    is_empty = path.is_dir() and not any(part.is_file() for part in path.rglob("*"))
    if is_empty or not path.exists():
        return [
            InputError(
                f"{raw}: there are no raw data: put them there, "
                f"or set turn.raw in {params} to their path"
            )
        ]
    return []


def _first_rows(params: Path, raw: Path) -> list[CoWestError]:
    """Returns what would stop `prepare` at the files that its settings name, or at a first row."""
    try:
        config = parse(PrepareConfig, section(load(params), "prepare"), f"{params}: prepare")
    except ConfigError:
        # That is said by who looks at the settings.
        return []
    intake = Intake(config.max_bad or None)
    try:
        next(config.source.rows(raw, intake), None)
    except ContractError as error:
        # Too few rows are left where many don't fit.
        return [_reason(intake) or error]
    except CoWestError as error:
        return [error]
    return []


def _reason(intake: Intake) -> CoWestError | None:
    try:
        intake.judge()
    except CoWestError as error:
        return error
    return None


def _broken_link(path: Path) -> Path | None:
    """The first file of the raw data that is a link to nothing."""
    for part in (path, *sorted(path.rglob("*"))):
        if part.is_symlink() and not part.exists():
            return part
    return None
