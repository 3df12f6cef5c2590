"""Traces: of some held-out queries, what was asked and answered, for MLflow's pages.

They are written from the rows of `evaluate` through MLflow's tracing store. Nothing is called
again, and nothing is logged by itself.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cowest.config import digest
from cowest.records import Trial
from cowest.registry.runs import Runs

if TYPE_CHECKING:
    from mlflow.entities import Run, Span, TraceInfo

PREVIEW = 1000
"""Characters of question and answer in the list of traces."""


def write(runs: Runs, run: "Run", trials: Sequence[Trial]) -> None:
    """Adds one trace per row to a turn's run, at the time when the run began.

    A trace's id follows from the run and the row, and one that is there already is left alone.
    Raises the errors of MLflow (`Runs.reached` puts them into words), among them
    NotImplementedError where the server keeps no traces.
    """
    from mlflow.tracing.client import TracingClient

    client = TracingClient(runs.uri)
    found = client.search_traces(
        locations=[run.info.experiment_id], run_id=run.info.run_id, include_spans=False
    )
    known = {one.info.trace_id for one in found}
    for row in trials:
        trace = digest([run.info.run_id, row.id, row.system, row.sample])[:32]
        info = _info(run, row, trace)
        if info.trace_id in known:
            continue
        client.log_spans(run.info.experiment_id, _spans(run, row, trace))
        client.start_trace(info)


def _info(run: "Run", row: Trial, trace: str) -> "TraceInfo":
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    return TraceInfo(
        trace_id=f"tr-{trace}",
        trace_location=TraceLocation.from_experiment_id(run.info.experiment_id),
        request_time=run.info.start_time,
        state=TraceState.OK if row.failed is None else TraceState.ERROR,
        request_preview=row.prompt[-1].content[:PREVIEW],
        response_preview=(row.refinement or row.failed or "")[:PREVIEW],
        execution_duration=0,
        trace_metadata={"mlflow.sourceRun": run.info.run_id},
        tags={
            "mlflow.traceName": "draft and refine",
            "query": row.id,
            "score": _number(row.score),
            "score alone": _number(row.solo_score),
        },
    )


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _spans(run: "Run", row: Trial, trace: str) -> "list[Span]":
    """The question with its answer, and below it the three calls that it took."""
    asked = {"messages": [message.model_dump() for message in row.prompt]}
    scores = {
        "targets": row.targets,
        "score": row.score,
        "score of the strong model alone": row.solo_score,
        "score of the draft alone": row.draft_score,
        "scorer": row.scorer,
        "system": row.system,
    }
    parts: list[tuple[str, str, Any, Any, dict[str, Any]]] = [
        ("draft and refine", "CHAIN", asked, {"answer": row.refinement}, scores),
        ("draft", "CHAT_MODEL", asked, {"draft": row.draft}, {"model": row.policy}),
        (
            "refine",
            "CHAT_MODEL",
            asked | {"draft": row.draft},
            {"answer": row.refinement},
            {"model": row.strong},
        ),
        ("solo", "CHAT_MODEL", asked, {"answer": row.solo}, {"model": row.strong}),
    ]
    spans = []
    for number, (name, kind, inputs, outputs, more) in enumerate(parts, 1):
        given = {
            "mlflow.traceRequestId": f"tr-{trace}",
            "mlflow.spanType": kind,
            "mlflow.spanInputs": inputs,
            "mlflow.spanOutputs": outputs,
            **more,
        }
        parent = None if number == 1 else 1
        spans.append(_span(run, trace, name, given, number, parent))
    return spans


def _span(
    run: "Run", trace: str, name: str, given: dict[str, Any], number: int, parent: int | None
) -> "Span":
    """A span in the form in which MLflow itself writes a trace to a file."""
    from mlflow.entities import Span

    # The rows know no times, so all calls stand at the run's beginning; in their order, since
    # MLflow shows them by their time.
    moment = run.info.start_time * 1_000_000 + number
    return Span.from_dict(
        {
            "trace_id": b64encode(bytes.fromhex(trace)).decode(),
            "span_id": _id(trace, number),
            "parent_span_id": None if parent is None else _id(trace, parent),
            "name": name,
            "start_time_unix_nano": moment,
            "end_time_unix_nano": moment,
            "events": [],
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {key: json.dumps(value) for key, value in given.items()},
        }
    )


def _id(trace: str, number: int) -> str:
    return b64encode(bytes.fromhex(digest([trace, number])[:16])).decode()
