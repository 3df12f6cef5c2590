"""Runs of a pipeline on a server: submits one, and reads the last ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cowest.kubeflow.package import Package
from cowest.kubeflow.server import Api, equal, part, plain, text_of

UNDER_WAY = frozenset({"PENDING", "RUNNING", "CANCELING", "PAUSED"})
REASON, NAME = 300, 130
"""Characters that are shown of a step's error, and of a name."""


@dataclass(frozen=True)
class Run:
    """A run, as the server describes it."""

    id: str
    name: str
    state: str
    created: str
    """UTC, such as 2026-11-29T02:00:00Z."""
    finished: str | None
    schedule: str | None
    """Id of the recurring run that it comes from."""
    link: str
    errors: list[str] = field(default_factory=list)
    """The reason of each step that failed."""


def experiment_of(api: Api, name: str) -> str:
    """The id of an experiment, which is made where it is missing. Raises ClusterError."""
    found = api.named("/experiments", "experiments", name)
    if found:
        return text_of(found[0], "experiment_id")
    body = {"display_name": name, "description": "Turns of CoWest."}
    if api.namespace is not None:
        body["namespace"] = api.namespace
    return text_of(api.post("/experiments", body), "experiment_id")


def submit(
    api: Api,
    package: Package,
    arguments: Mapping[str, Any],
    name: str,
    service_account: str | None = None,
) -> Run:
    """Starts one run of a compiled pipeline, and sends the pipeline with it. Raises ClusterError.

    Uploads no version of the pipeline, so that a trial does not change what a schedule runs.
    """
    now = datetime.now(UTC)
    body = {
        "display_name": f"{name} {now:%Y-%m-%d %H:%M:%S}",
        "experiment_id": experiment_of(api, name),
        "pipeline_spec": package.spec,
        "runtime_config": {"parameters": dict(arguments)},
    }
    if service_account is not None:
        body["service_account"] = service_account
    return _run(api, api.post("/runs", body))


def last(api: Api, name: str, count: int) -> list[Run]:
    """The last runs of an experiment, the newest first. Raises ClusterError."""
    found = api.named("/experiments", "experiments", name)
    if not found:
        return []
    experiment = text_of(found[0], "experiment_id")
    page = api.get(
        "/runs", experiment_id=experiment, sort_by="created_at desc", page_size=count
    ).get("runs")
    runs = [_run(api, one) for one in page or [] if one.get("storage_state") != "ARCHIVED"]
    return [_with_errors(api, run) if run.state == "FAILED" else run for run in runs]


def under_way(api: Api, schedules: set[str]) -> list[Run]:
    """The runs of some schedules that have not ended. Raises ClusterError."""
    open_ones = {"operation": "IN", "key": "state", "string_values": {"values": sorted(UNDER_WAY)}}
    found: list[Run] = []
    for one in schedules:
        wanted = [equal("recurring_run_id", one), open_ones]
        for run in api.filtered("/runs", "runs", wanted, namespace=api.namespace):
            if run.get("recurring_run_id") == one and run.get("state") in UNDER_WAY:
                found.append(_run(api, run))
    return found


def _with_errors(api: Api, run: Run) -> Run:
    """Returns a failed run with its steps' reasons, which the list of runs leaves out."""
    detailed = api.get(f"/runs/{part(run.id)}")
    tasks = (detailed.get("run_details") or {}).get("task_details") or []
    reasons = []
    for task in tasks:
        said = _error(task.get("error"))
        if task.get("state") == "FAILED" and said:
            reasons.append(f"{plain(task.get('display_name') or 'a step', NAME)}: {said}")
    if not reasons and _error(detailed.get("error")):
        reasons = [_error(detailed.get("error"))]
    return Run(**{**vars(run), "errors": reasons})


def _run(api: Api, one: Mapping[str, Any]) -> Run:
    identity = text_of(one, "run_id")
    error = _error(one.get("error"))
    return Run(
        id=identity,
        name=plain(one.get("display_name") or identity, NAME),
        state=plain(one.get("state") or "PENDING", NAME),
        created=plain(one.get("created_at") or "", NAME),
        finished=_moment(one.get("finished_at")),
        schedule=one.get("recurring_run_id") or None,
        link=api.link(f"runs/details/{part(identity)}"),
        errors=[error] if error else [],
    )


def _moment(text: Any) -> str | None:
    """A time that the server gave; 1970 stands for none."""
    return text if isinstance(text, str) and text and not text.startswith("1970-") else None


def _error(error: Any) -> str:
    """The words of an error, cut, on one line."""
    text = error.get("message") if isinstance(error, dict) else None
    return plain(text, REASON) if isinstance(text, str) else ""
