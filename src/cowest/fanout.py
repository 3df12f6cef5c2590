"""A turn in shards: several processes each do a part of the queries, and the parts are joined.

A shard is whole blocks of queries (`protocols.BLOCK`), so the joined rows are, byte for byte, those
of one process. `max_failed` holds for the turn: no shard judges it, since none sees all rows. A
shard passes its failed rows on, and whoever joins the parts judges.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cowest import io
from cowest.errors import ConfigError, InputError
from cowest.failures import Failures
from cowest.io import Shard
from cowest.profiles import MOST_SHARDS
from cowest.records import Feedback, Trial

Limits = Mapping[str, int | None]
"""`max_failed` by stage; None allows any number."""


def shards(number: int) -> list[str]:
    """The names of so many shards, in order: `0/3`, `1/3`, `2/3`. Raises ConfigError."""
    # A run that was started in KFP's own pages is judged here alone.
    if not 1 <= number <= MOST_SHARDS:
        raise ConfigError(f"{number} shards: a turn has 1 to {MOST_SHARDS}")
    return [f"{index}/{number}" for index in range(number)]


def shard_of(name: str) -> Shard:
    """The shard of a name such as `0/3`. Raises ConfigError."""
    index, _, of = name.partition("/")
    if not (index.isdecimal() and of.isdecimal() and int(index) < int(of)):
        raise ConfigError(f"{name!r} is no shard: 0/3 is the first of three")
    return int(index), int(of)


def in_order(parts: Sequence[tuple[str, str]]) -> list[Path]:
    """The files of all shards in order, from pairs of a shard's name and its file.

    Raises InputError if a shard is missing or comes twice.
    """
    found: dict[Shard, Path] = {}
    for name, file in parts:
        found[shard_of(name)] = Path(file)
    whole = [(index, len(parts)) for index in range(len(parts))]
    if not parts or sorted(found) != whole:
        names = ", ".join(name for name, _ in parts) or "none"
        raise InputError(f"the parts of a file are not whole: there are the shards {names}")
    return [found[one] for one in whole]


def join(parts: Sequence[Path], whole: Path) -> None:
    """Writes the rows of all parts into one file, byte for byte."""
    with io.replacing(whole) as temporary, temporary.open("wb") as file:
        for part in parts:
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, file)


def judge_feedback(feedback: Path, limits: Limits) -> None:
    """Raises ContractError if more rows failed in draft, refine or score than are allowed.

    The answers are in the call store, so that a run after this one asks only what failed.
    """
    failures = {stage: Failures(stage) for stage in ("draft", "refine", "score")}
    for row in io.read(feedback, Feedback):
        for one in failures.values():
            one.rows += 1
        if row.failed is not None:
            failures[_failed_in(row, row.failed)].reasons[row.failed] += 1
    for stage, one in failures.items():
        one.judge(limits[stage])


def judge_round(feedback: Path, limit: int | None) -> None:
    """Raises ContractError if more rows of a later round failed than are allowed."""
    failures = Failures("dpo.ask")
    for _ in failures.counted(io.read(feedback, Feedback)):
        pass
    failures.judge(limit)


def judge_trials(trials: Path, limit: int | None) -> None:
    """Raises ContractError if more rows of `evaluate` failed than are allowed."""
    failures = Failures("evaluate")
    for _ in failures.counted(io.read(trials, Trial)):
        pass
    failures.judge(limit)


def _failed_in(row: Feedback, failed: str) -> str:
    """The stage in which a row failed."""
    if row.draft is None:
        return "draft"
    # `collaboration` begins each reason with its step; the strong model's are solo and refine.
    return "score" if failed.startswith("score:") else "refine"
