"""The challenger enters the registry with its decision, and the turn the tracker. A refused promotion is a result."""

import json
import re
from pathlib import Path
from typing import Any

from cowest import version
from cowest.config import Config, digest, file_digest, load
from cowest.errors import ContractError, InputError
from cowest.io import lines, read_document, write_document
from cowest.lineage import Turn, params_digest, settings_of, tags_of
from cowest.ports import In, Out
from cowest.protocols import Decision
from cowest.records import DataSet, EvalReport, Outcome
from cowest.registry.log import champion_of
from cowest.registry.mlflow import RegistryConfig
from cowest.registry.tracking import MlflowTracker, numbers

UNNAMEABLE = re.compile(r"[^\w. :/-]")
"""What MLflow takes in no name of a metric or a tag."""


METRICS = {
    "queries",
    "groups",
    "systems",
    "comparisons",
    "gap_closed",
    "transitions",
    "choices",
    "passed",
}
"""What of the report becomes metrics; the whole report is kept beside them."""


class RegisterConfig(Config):
    registry: RegistryConfig
    """Where the decision goes."""


def main(
    turn: In,
    params: In,
    report: In,
    policy: In,
    challenger: In,
    queries: In,
    corpus: In,
    pairs: In,
    decision: Out,
    config: RegisterConfig,
) -> None:
    """Promotes the challenger if no gate failed, judged against the champion that was pinned; writes what became of it.

    Done twice, it finds what it did the first time. Raises RegistryError; ContractError when the settings are not the turn's.
    """
    pinned, judged = read_document(turn, Turn), read_document(report, EvalReport)
    settings = load(params)
    if params_digest(settings, str(params)) != pinned.params:
        raise ContractError(
            f"{params} was changed since {turn} was pinned: run `cowest turn`, which pins it again"
        )
    kept = version.expect(challenger)
    runs = config.registry.runs()
    digests = {
        UNNAMEABLE.sub("_", f"data/{name}"): value for name, value in list(pinned.data.items())[:50]
    }
    data = _data(pinned, {"queries": queries, "corpus": corpus, "pairs": pairs})
    rests_on = (
        {
            "base": kept.base,
            "params": pinned.params,
            "code": pinned.code,
            "report": file_digest(report),
        }
        | digests
        | tags_of(data)
    )
    # The tracker first: a turn that is decided is done, and nobody comes back to it.
    MlflowTracker(runs).record(
        pinned.key,
        params={
            name: section for name, section in settings_of(settings).items() if name != "models"
        },
        metrics={
            UNNAMEABLE.sub("_", name): value
            for name, value in numbers(judged.model_dump(include=METRICS)).items()
        },
        curves=[*_curves(policy), *_curves(challenger)],
        tags=rests_on,
        data=data,
        files=[report, turn],
    )
    registry = config.registry.open()
    made = registry.decide(
        challenger,
        turn=pinned.key,
        promote=judged.passed,
        against=pinned.champion,
        reason=_reason(judged),
        tags=rests_on,
    )
    write_document(decision, _outcome(made, champion_of(registry.log())))


def _data(pinned: Turn, made: dict[str, Path]) -> dict[str, DataSet]:
    """The data sets of the turn: what came in, and what was made of it, whose names are the same wherever the files lie."""
    raw = pinned.raw or DataSet(path="raw", digest=digest(pinned.data), kept="unversioned")
    return {"raw": raw} | {
        name: DataSet(
            path=f"data/{name}.jsonl",
            digest=file_digest(path),
            kept="derived",
            rows=sum(1 for _ in lines(path)),
        )
        for name, path in made.items()
    }


def _outcome(made: Decision, champion: int | None) -> Outcome:
    return Outcome(
        turn=made.turn,
        version=made.version,
        promoted=made.promoted,
        against=made.against,
        champion=champion,
        reason=made.reason,
    )


def _reason(report: EvalReport) -> str:
    """Why: the gates that failed, or those that passed."""
    failed = [f"{gate.name}: {gate.reason}" for gate in report.gates if gate.passed is False]
    passed = [f"{gate.name}: {gate.reason}" for gate in report.gates if gate.passed]
    return "; ".join(failed or passed) or "no gate applied"


def _curves(folder: Path) -> list[dict[str, float]]:
    """What training logged, each value named by its stage, as in sft/loss; nothing where nothing was trained."""
    path = folder / "curves.jsonl"
    if not path.exists():
        return []
    rows: list[dict[str, float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row: dict[str, Any] = json.loads(line)
            step, stage = row.pop("step"), row.pop("stage")
            rows.append(
                {"step": step}
                | {
                    UNNAMEABLE.sub("_", f"{stage}/{name}"): float(value)
                    for name, value in row.items()
                    if value is not None
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}:{number} is not a step of a curve: train again") from None
    return rows
