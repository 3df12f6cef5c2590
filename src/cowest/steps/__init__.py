"""A turn as steps of a pipeline, each in a container of its own that sees only its inputs.

begin.py     takes the run's settings, lays the data out, and finds what is wrong before it is spent
rounds.py    gives the stages their settings in later rounds of alignment, and begins each
asking.py    holds a profile against what the steps ask: which of them need a key
page.py      writes the turn's page from the files of its steps
summary.py   tells at the end what became of the run, whatever became of it

`run` runs a stage as a step. Components call these functions, and hold no logic of their own.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cowest import environment, fanout, stages
from cowest.aligning.settings import DPOConfig
from cowest.config import load, parse, section
from cowest.errors import InputError
from cowest.io import read_document
from cowest.lineage import Turn
from cowest.records import EvalReport

IN_SHARDS = ("draft", "refine", "score", "evaluate")
"""Stages that run in shards, one step per shard."""
AS_LAID_OUT = {
    "pin": ("raw",),
    "prepare": ("raw",),
    "validate@queries": ("against",),
    "evaluate": ("raw",),
}
"""Ports that take the raw data, by stage. A step is given the folder that holds only them."""
Parts = Sequence[tuple[str, str]]
"""The name and the file of each shard."""


def run(
    stage: str,
    config: str | None,
    turn: str | None = None,
    shard: str | None = None,
    run_id: str = "",
    **ports: Any,
) -> None:
    """Runs a stage as a step of the turn that the file `turn` names.

    config: the settings of the stage as JSON; None reads its section of the port `params`. `turn`
    is the port of that name too, where the stage has one. Everything that the stage starts on the
    cluster is labelled with `run_id`. Raises what `stages.run` raises.
    """
    # As a parameter of KFP's own kind, null would not compile, and 4 would arrive as 4.0.
    settings: dict[str, Any]
    if config is None:
        settings = dict(section(load(Path(ports["params"])), stage))
    else:
        settings = json.loads(config)
    if turn is not None and stage != "pin":
        # Else the calls would count for the turn that any run on this store pinned last.
        os.environ["COWEST_TURN"] = read_document(Path(turn), Turn).key
    if run_id:
        os.environ["COWEST_RUN"] = run_id
    if stage in IN_SHARDS:
        # A shard sees a part of the rows; who joins them judges (`collect_feedback`).
        settings["max_failed"] = None
    if stage in ("pin", "register"):
        ports["turn"] = turn
    for name in AS_LAID_OUT.get(stage, ()):
        ports[name] = _inside(ports[name])
    stages.run(stage, settings, None if shard is None else fanout.shard_of(shard), **ports)


def _inside(folder: str) -> str:
    """Returns the only file or folder in a folder: raw data keep their name, which says their
    format."""
    found = [one for one in Path(folder).iterdir() if not one.name.startswith(".")]
    if len(found) != 1:
        raise InputError(
            f"{folder} should hold the raw data alone, and holds {len(found)} files or folders"
        )
    return str(found[0])


def collect_feedback(parts: Parts, params: str, feedback: str, number: int = 1) -> None:
    """Joins the feedback of all shards, and judges `max_failed` of the stages that made it.

    Of a later round of alignment, by its `number`, it is `dpo.ask.max_failed`. Raises InputError if
    a shard is missing, and ContractError if too many rows failed.
    """
    environment.settle()
    fanout.join(fanout.in_order(parts), Path(feedback))
    settings = load(Path(params))
    if number > 1:
        asked = parse(DPOConfig, section(settings, "dpo"), "params.yaml: dpo").asking()
        fanout.judge_round(Path(feedback), asked.max_failed)
        return
    limits = {stage: _max_failed(settings, stage) for stage in ("draft", "refine", "score")}
    fanout.judge_feedback(Path(feedback), limits)


def collect_trials(
    trials: tuple[Parts, str], agreement: tuple[Parts, str], probe: tuple[Parts, str], params: str
) -> None:
    """Joins what `evaluate` wrote in shards, and judges its `max_failed`.

    Each of the three is its parts and the file of the whole. Raises InputError and ContractError.
    """
    environment.settle()
    for parts, whole in (trials, agreement, probe):
        fanout.join(fanout.in_order(parts), Path(whole))
    fanout.judge_trials(Path(trials[1]), _max_failed(load(Path(params)), "evaluate"))


def numbers_in(metrics: str) -> dict[str, float]:
    """The numbers of the file that `compare` writes for terminals; true and false are 1 and 0."""
    found: dict[str, float] = json.loads(Path(metrics).read_text(encoding="utf-8"))
    return {name: float(value) for name, value in found.items()}


def passed(report: str) -> bool:
    """True if no gate of a report failed."""
    return read_document(Path(report), EvalReport).passed


def _max_failed(settings: dict[str, Any], stage: str) -> int | None:
    # The default of all four stages; null in the file allows any number.
    found: int | None = section(settings, stage).get("max_failed", 0)
    return found
