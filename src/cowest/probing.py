"""General questions before a turn: problems that would stop it, and gates that they are few for."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from cowest.config import load
from cowest.errors import ConfigError, CoWestError
from cowest.gates import Rules
from cowest.power import ENOUGH, is_weak, told_by
from cowest.probe import Questions, questions_in
from cowest.stages.evaluate import EvaluateConfig


def probe_problems(
    params: Path, settings: Sequence[BaseModel], raw: Path | None = None
) -> list[CoWestError]:
    """Returns what would stop a turn, hours later, when it asks general questions.

    raw: the place of the raw data, if it is another than `turn.raw`.
    """
    problems: list[CoWestError] = []
    for config in settings:
        if not isinstance(config, EvaluateConfig) or config.probe is None:
            continue
        try:
            _questions(params, config, raw)
        except CoWestError as error:
            problems.append(error)
        pipeline = params.with_name("dvc.yaml")
        if pipeline.is_file() and pipeline.read_bytes().count(b"--probe ") < 2:
            problems.append(
                ConfigError(
                    f"{pipeline}: evaluate.probe asks general questions, and the commands of "
                    'evaluate and compare lack them: add `--raw "${turn.raw}" --probe '
                    "data/probe.jsonl` to that of evaluate and the file to its outs, `--probe "
                    "data/probe.jsonl` to that of compare and the file to its deps"
                )
            )
    return problems


def probe_notes(params: Path, settings: Sequence[BaseModel], raw: Path | None = None) -> list[str]:
    """Returns a line for each gate that the general questions are few for.

    raw: the place of the raw data, if it is another than `turn.raw`. Raises what reading the
    questions raises.
    """
    questions = None
    rules = Rules()
    for config in settings:
        if isinstance(config, EvaluateConfig):
            questions = _questions(params, config, raw)
        elif isinstance(config, Rules):
            rules = config
    if questions is None:
        return []
    count = len(questions.rows)
    notes = []
    for gate in rules.all_gates(choices=False, champion=True, probe=True):
        if gate.metric == "probe" and is_weak(gate, count):
            asked = f"asked {gate.bound.relation} {gate.bound.number:g}"
            notes.append(
                f"note: general questions: the gate `{gate.name}` ({asked}) can tell little: "
                f"{told_by(gate, count)}; ask {ENOUGH} or more (docs/report.md of CoWest)"
            )
    return notes


def _questions(params: Path, config: EvaluateConfig, raw: Path | None) -> Questions | None:
    """The general questions; None if none are asked, or there are no raw data.

    Raises CoWestError.
    """
    named = (load(params).get("turn") or {}).get("raw")
    if raw is None and isinstance(named, str):
        raw = Path(named)
    # Raw data that are not there are a problem of their own.
    if config.probe is None or raw is None or not raw.exists():
        return None
    return questions_in(raw, config.probe)
