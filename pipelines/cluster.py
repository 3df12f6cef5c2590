"""The commands that use a Kubeflow Pipelines server: their flags and output."""

import argparse
import json
import os
import re
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from cowest.commands import add_params
from cowest.commands.acting import registry_of
from cowest.errors import ConfigError, CoWestError
from cowest.kubeflow import cron, package, runs, schedule, server, verdicts
from cowest.kubeflow.cron import Cron

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,58}[a-z0-9])?")
TIMES = 5
"""Number of next times of a schedule that are shown."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds submit, schedule, unschedule and status; each sets `run`, its function."""
    who = _server_flags()
    submitting = commands.add_parser(
        "submit", parents=[who, _run_flags()], help="start one run on a KFP server"
    )
    submitting.set_defaults(run=_submit)
    scheduling = commands.add_parser(
        "schedule",
        parents=[who, _run_flags()],
        help="have a KFP server start runs by the clock, or change when",
    )
    scheduling.add_argument(
        "--cron",
        required=True,
        metavar="FIELDS",
        help="six fields: second minute hour day month weekday, such as '0 0 2 * * *'",
    )
    scheduling.add_argument(
        "--timezone",
        default="UTC",
        metavar="ZONE",
        help="the zone of the cluster's controller (CRON_SCHEDULE_TIMEZONE there; UTC as "
        "installed), for the times that are shown: KFP takes no zone with a schedule",
    )
    _add_now(scheduling)
    scheduling.set_defaults(run=_schedule)
    ending = commands.add_parser(
        "unschedule", parents=[who], help="delete a schedule; its runs stay"
    )
    _add_name(ending, required=True)
    _add_now(ending)
    ending.set_defaults(run=_unschedule)
    looking = commands.add_parser(
        "status", parents=[who], help="the schedule and the last runs, with what became of them"
    )
    _add_name(looking, required=True)
    add_params(looking, "the settings file that says where the registry is (params.yaml)")
    looking.add_argument(
        "--last", type=_count, default=10, metavar="N", help="runs that are shown (10)"
    )
    looking.add_argument("--json", action="store_true", help="for programs: one JSON object")
    looking.set_defaults(run=_status)


def _server_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument(
        "--host",
        metavar="URL",
        help="the KFP API server (KF_PIPELINES_ENDPOINT; in a cluster, svc/ml-pipeline)",
    )
    flags.add_argument(
        "--namespace",
        metavar="NAME",
        help="the namespace of the runs, where several share the server (COWEST_KFP_NAMESPACE; in "
        "a cluster, the pod's own)",
    )
    flags.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file that holds a bearer token (or the token in COWEST_KFP_TOKEN; in a cluster, "
        "that of the service account)",
    )
    return flags


def _run_flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("file", type=Path, metavar="FILE", help="what `compile` wrote")
    flags.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the pipeline; may be given several times",
    )
    _add_name(flags, required=False)
    flags.add_argument(
        "--service-account",
        metavar="NAME",
        help="the Kubernetes service account of the steps (as KFP is installed, pipeline-runner)",
    )
    return flags


def _add_name(parser: argparse.ArgumentParser, required: bool) -> None:
    words = "the name of schedule, pipeline and experiment"
    parser.add_argument(
        "--name",
        required=required,
        metavar="NAME",
        help=words if required else f"{words} (the compiled pipeline's)",
    )


def _add_now(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--now",
        action="store_true",
        help="do it even while a run of the schedule is under way (KFP before 2.16 ends that run)",
    )


def _submit(given: argparse.Namespace) -> None:
    compiled = package.read(given.file)
    arguments = compiled.arguments(given.set)
    name = _name(given.name or compiled.name)
    with _connected(given) as api:
        run = runs.submit(api, compiled, arguments, name, given.service_account)
    print(f"run {run.name}: {run.link}")


def _schedule(given: argparse.Namespace) -> None:
    compiled = package.read(given.file)
    arguments = compiled.arguments(given.set)
    name = _name(given.name or compiled.name)
    times, zone = cron.parse(given.cron), cron.zone_of(given.timezone)
    with _connected(given) as api:
        made = schedule.put(api, compiled, arguments, name, times, given.service_account, given.now)
    version = "uploaded" if made.uploaded else "there already"
    print(f"pipeline {name}: version {made.version} ({version})")
    became = "is set" if made.changed else "was so already"
    print(f"schedule {name}: `{times.text}` {became}: {made.link}")
    print(_next(times, zone, given.timezone))


def _unschedule(given: argparse.Namespace) -> None:
    _name(given.name)
    with _connected(given) as api:
        there = schedule.remove(api, given.name, given.now)
        others = [] if there else schedule.names(api)
    if there:
        print(f"schedule {given.name} was deleted: it starts no more runs")
    else:
        known = f" (there is {', '.join(others)})" if others else ""
        print(f"there is no schedule {given.name}{known}: nothing to do")


def _status(given: argparse.Namespace) -> None:
    _name(given.name)
    with _connected(given) as api:
        there = schedule.look(api, given.name)
        last = runs.last(api, given.name, given.last)
    decided, note = _decided([run.id for run in last], given.params)
    if given.json:
        rows = [asdict(run) | {"decided": decided.get(run.id)} for run in last]
        found = {
            "name": given.name,
            "schedules": [asdict(one) for one in there],
            "runs": rows,
            "note": note,
        }
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for one in there:
        state = "on" if one.enabled else "off: give `schedule` again"
        print(f"schedule {one.name}: `{one.cron}`, {state}: {one.link}")
    if not there:
        print(f"schedule {given.name}: none")
    for run in last:
        print(_line(run))
        for reason in [*run.errors, *([decided[run.id]] if run.id in decided else [])]:
            print(f"    {reason}")
    if not last:
        print("runs: none yet")
    if note is not None:
        print(f"note: decisions are not shown: {note}")


def _decided(ids: list[str], params: Path) -> tuple[dict[str, str], str | None]:
    """Returns the decision on each run, by its id, or the reason why none is known."""
    if not ids:
        return {}, None
    try:
        return verdicts.of_runs(ids, registry_of(params)), None
    except CoWestError as error:
        return {}, str(error)


def _connected(given: argparse.Namespace) -> AbstractContextManager[server.Api]:
    found = server.find(given.host, given.namespace, given.token_file, os.environ)
    return server.connected(found)


def _next(times: Cron, zone: tzinfo, name: str) -> str:
    """The next times of a schedule, in UTC and in a zone."""
    lines = ["next times:"]
    for time in times.next_times(TIMES, zone):
        there = "" if zone is UTC else f"   {time.astimezone(zone):%Y-%m-%d %H:%M:%S} {name}"
        lines.append(f"  {time:%Y-%m-%d %H:%M:%S} UTC{there}")
    return "\n".join(lines)


def _line(run: runs.Run) -> str:
    """A run in a line."""
    took = ""
    if run.finished:
        took = f" in {_minutes(run.created, run.finished)}"
    return f"run {run.created[:16].replace('T', ' ')}  {run.state}{took}  {run.link}"


def _minutes(created: str, finished: str) -> str:
    try:
        took = datetime.fromisoformat(finished) - datetime.fromisoformat(created)
    except ValueError:
        return "?"
    return f"{took.total_seconds() / 60:.0f} min"


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ConfigError(
            f"--name {text!r}: write small letters, digits and dashes, 60 at most, as "
            "Kubernetes demands"
        )
    return text


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100:
        raise argparse.ArgumentTypeError("give a number from 1 to 100")
    return number
