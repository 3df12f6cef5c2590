"""Makes, replaces and removes a schedule on a server, by its name.

KFP can't update a recurring run, and its names need not be unique. So the new one is made disabled,
the others of its name are deleted, and the new one is enabled. If a kill interrupts that, the next
call finds the remains by their name, and mends them. Two are never enabled at once, so that no turn
starts twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cowest.config import digest
from cowest.errors import ClusterError, ConfigError
from cowest.kubeflow.cron import Cron
from cowest.kubeflow.package import Package
from cowest.kubeflow.runs import NAME, experiment_of, under_way
from cowest.kubeflow.server import Api, part, plain, text_of

PLACE = "/recurringruns"
ORPHAN = "ORPHAN"
"""Policy that deletes a schedule but not its runs; KFP knows it from 2.16 on. Before, they end with
it."""


@dataclass(frozen=True)
class Schedule:
    """A schedule, as the server describes it."""

    id: str
    name: str
    cron: str
    enabled: bool
    link: str


@dataclass(frozen=True)
class Made:
    """The outcome of setting a schedule."""

    id: str
    version: str
    """Name of the pipeline version that it runs next."""
    uploaded: bool
    """False if that version was there already."""
    changed: bool
    """False if the same schedule was there already."""
    link: str


def put(
    api: Api,
    package: Package,
    arguments: Mapping[str, Any],
    name: str,
    cron: Cron,
    service_account: str | None = None,
    now: bool = False,
) -> Made:
    """Makes or replaces the schedule of that name. Raises ClusterError and ConfigError.

    Its runs take the newest version of the pipeline; `package` becomes that version. With `now`,
    the schedule is replaced even while one of its runs is under way.
    """
    pipeline = _pipeline(api, name)
    there = schedules(api, name)
    _ours(there, pipeline, name)
    wanted: dict[str, Any] = {
        "display_name": name,
        "experiment_id": experiment_of(api, name),
        "runtime_config": {"parameters": dict(arguments)},
        "trigger": {"cron_schedule": {"cron": cron.text}},
        "max_concurrency": 1,
        "no_catchup": True,
        "mode": "DISABLE",
    }
    if service_account is not None:
        wanted["service_account"] = service_account
    # Servers give back more than they were given, so that what was wanted is compared by a mark.
    mark = f"settings {digest(wanted)[:16]}"
    wanted["description"] = f"A turn of CoWest, by schedule; {mark}"
    fit = [one for one in there if mark in str(one.get("description"))]
    keep = next((one for one in fit if _enabled(one)), fit[0] if fit else None)
    others = [one for one in there if one is not keep]
    if not now:
        _free(api, others, "replaced", name)
    pipeline, version, uploaded = _newest(api, package, name, pipeline)
    # Without a version, the controller takes the newest each time.
    wanted["pipeline_version_reference"] = {"pipeline_id": pipeline}
    changed = bool(others) or keep is None or not _enabled(keep)
    if keep is None:
        keep = _created(api, wanted)
    identity = text_of(keep, "recurring_run_id")
    for other in others:
        _delete(api, other)
    if not _enabled(keep):
        api.post(f"{PLACE}/{part(identity)}:enable")
    _alone(api, name, identity)
    link = api.link(f"recurringrun/details/{part(identity)}")
    return Made(identity, version, uploaded, changed, link)


def remove(api: Api, name: str, now: bool = False) -> int:
    """Deletes all schedules of a name; returns how many there were. Raises ClusterError.

    With `now`, deletes them even while one of their runs is under way.
    """
    there = schedules(api, name)
    if not now:
        _free(api, there, "deleted", name)
    for one in there:
        _delete(api, one)
    return len(there)


def look(api: Api, name: str) -> list[Schedule]:
    """The schedules of a name. Raises ClusterError."""
    found = []
    for one in schedules(api, name):
        identity = text_of(one, "recurring_run_id")
        trigger = (one.get("trigger") or {}).get("cron_schedule") or {}
        link = api.link(f"recurringrun/details/{part(identity)}")
        found.append(
            Schedule(identity, name, plain(trigger.get("cron"), NAME), _enabled(one), link)
        )
    return found


def names(api: Api) -> list[str]:
    """The names of all schedules in our namespace. Raises ClusterError."""
    found = api.find(PLACE, "recurringRuns", namespace=api.namespace)
    return sorted({plain(one.get("display_name"), NAME) for one in found})


def schedules(api: Api, name: str) -> list[dict[str, Any]]:
    """The schedules of a name, the oldest first. There is one, unless a kill left more."""
    found = api.named(PLACE, "recurringRuns", name)
    return sorted(
        found, key=lambda one: (str(one.get("created_at")), str(one.get("recurring_run_id")))
    )


def _pipeline(api: Api, name: str) -> str | None:
    """The id of the pipeline of a name, if there is one."""
    found = api.named("/pipelines", "pipelines", name)
    return text_of(found[0], "pipeline_id") if found else None


def _newest(api: Api, package: Package, name: str, pipeline: str | None) -> tuple[str, str, bool]:
    """Uploads a compiled pipeline as the newest version of its name, unless it is that already.

    Returns the pipeline's id, the version's name, and True if it was uploaded. Raises ClusterError.
    """
    mark = f"sha256 {package.digest}"
    words = f"A turn of CoWest, as compiled: {mark}"
    if pipeline is None:
        made = api.upload(
            "/pipelines/upload",
            package.content,
            name=name,
            display_name=name,
            description=words,
            namespace=api.namespace,
        )
        return text_of(made, "pipeline_id"), name, True
    newest = _version(api, pipeline)
    if newest is not None and mark in str(newest.get("description")):
        return pipeline, plain(newest.get("display_name"), NAME), False
    called = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{package.digest[:8]}"
    made = api.upload(
        "/pipelines/upload_version",
        package.content,
        name=called,
        display_name=called,
        description=words,
        pipelineid=pipeline,
    )
    # Their times are in seconds, and of two in one second any may be taken.
    newest = _version(api, pipeline)
    if newest is None or newest.get("pipeline_version_id") != text_of(made, "pipeline_version_id"):
        raise ClusterError(
            f"somebody uploaded another version of the pipeline {name} at the same time, and the "
            "schedule would run that one: give the command again"
        )
    return pipeline, called, True


def _version(api: Api, pipeline: str) -> dict[str, Any] | None:
    """The version that a schedule would run."""
    page = api.get(f"/pipelines/{part(pipeline)}/versions", page_size=1, sort_by="created_at desc")
    found = page.get("pipeline_versions")
    return found[0] if isinstance(found, list) and found else None


def _created(api: Api, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Makes a disabled schedule. Raises ClusterError if it would not run the newest version."""
    made = api.post(PLACE, wanted)
    reference = made.get("pipeline_version_reference") or {}
    if reference.get("pipeline_version_id"):
        _delete(api, made)
        raise ClusterError(
            f"the KFP server at {api.server.host} ties a schedule to one version of its pipeline, "
            "so that no later image would reach it: upgrade it to KFP 2.5 or later. The schedule "
            "was not changed"
        )
    return made


def _ours(there: list[dict[str, Any]], pipeline: str | None, name: str) -> None:
    """Raises ConfigError if a schedule of that name runs another pipeline."""
    for one in there:
        reference = one.get("pipeline_version_reference") or {}
        if reference.get("pipeline_id") != pipeline:
            raise ConfigError(
                f"there is a schedule {name} already that runs another pipeline: give another "
                "--name, or delete that schedule by hand"
            )


def _free(api: Api, there: list[dict[str, Any]], become: str, name: str) -> None:
    """Raises ClusterError if a run of some schedules is under way."""
    runs = under_way(api, {text_of(one, "recurring_run_id") for one in there})
    if runs:
        raise ClusterError(
            f"a run of the schedule {name} is under way ({runs[0].link}): wait for its end, or "
            f"give --now. With --now the schedule is {become} at once, and the run goes on beside "
            "the next one (before KFP 2.16 it is ended)"
        )


def _delete(api: Api, one: Mapping[str, Any]) -> None:
    identity = text_of(one, "recurring_run_id")
    api.delete(f"{PLACE}/{part(identity)}", propagation_policy=ORPHAN)


def _alone(api: Api, name: str, identity: str) -> None:
    """Raises ClusterError unless one schedule of the name is there, and enabled."""
    there = schedules(api, name)
    if [one.get("recurring_run_id") for one in there] != [identity] or not _enabled(there[0]):
        raise ClusterError(
            f"somebody else changed the schedule {name} at the same time: give the command again "
            "to mend it"
        )


def _enabled(one: Mapping[str, Any]) -> bool:
    return one.get("status") == "ENABLED" or one.get("mode") == "ENABLE"
