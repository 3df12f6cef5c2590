"""The first step of a run: its settings, its data, and all that is wrong, before anything is spent.

If the turn was decided before, it says so and the run ends.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cowest import environment, forecast, preflight, probing, reach
from cowest.amend import amend
from cowest.config import load, parse, section
from cowest.errors import ConfigError, CoWestError, InputError, RegistryError, StoreError
from cowest.io import write_document, write_text
from cowest.ledger.runs import NotedRun, note_run
from cowest.ledger.store import open_store
from cowest.lineage import Turn, TurnConfig, turn_of
from cowest.passwords import passwords
from cowest.raw import snapshots, vcs
from cowest.records import DataSet
from cowest.registry.log import settled
from cowest.registry.mlflow import RegistryConfig
from cowest.registry.runs import SQLITE, folder_of, location_of
from cowest.stages.pin import PinConfig

MOUNTS = Path("/proc/self/mountinfo")
"""Linux' list of what is mounted in this container."""
OF_A_STEP = ("validate", "train", "track", "report")
"""Extras that the image of a turn's steps must have."""


@dataclass(frozen=True, slots=True)
class RunInputs:
    """The inputs of a run; an empty text leaves the settings as they are."""

    run: str
    """Id that the cluster gave the run."""
    repository: str = ""
    """Address of the git repository of the data; empty: the folder in which the step runs."""
    revision: str = ""
    """Revision of the data, in place of `turn.rev`."""
    budget_usd: str = ""
    """US dollars, in place of `pin.budget.usd`."""
    force: bool = False
    """Decides the turn anew: the run's id becomes a part of its key."""


def begin(text: str, given: RunInputs, raw: Path, params: Path, version: Path) -> bool:
    """Prepares a run, and returns True if its turn is open.

    text: params.yaml as it was when the pipeline was compiled. Writes `params`, the settings of
    this run; `raw`, a folder that holds the raw data under their own name; `version`, a DataSet.
    Raises one CoWestError with everything that would stop the turn later.
    """
    environment.settle()
    _write_settings(text, given, params)
    settings, problems = preflight.stage_settings(params)
    values = load(params)
    laid_out = None
    try:
        laid_out = _lay_out(values, given, raw)
    except CoWestError as error:
        problems.append(error)
    if laid_out is not None:
        problems += probing.probe_problems(params, settings, laid_out[0])
    problems += preflight.problems_of(settings, OF_A_STEP)
    problems += reach.problems(settings, write=True)
    problems += _store_problems(given.run)
    if _has_own_container():
        problems += passing_registries(settings)
    if laid_out is not None and not problems:
        problems += _too_dear(values, laid_out[0])
    preflight.raise_all(problems)
    assert laid_out is not None
    place, found = laid_out
    for note in probing.probe_notes(params, settings, place):
        print(note, flush=True)
    write_document(version, found)
    return _is_open(given.run, turn_of(place, params, version=found), values)


def _write_settings(text: str, given: RunInputs, params: Path) -> None:
    """Writes the params.yaml of this run. Raises ConfigError for inputs that can't be set."""
    write_text(params, text)
    if given.revision:
        amend(params, f"turn.rev={json.dumps(given.revision)}")
    if given.budget_usd:
        try:
            usd = float(given.budget_usd)
        except ValueError:
            raise ConfigError(
                f"budget_usd: {given.budget_usd!r} is not a number of US dollars: write 20 or 12.50"
            ) from None
        pinned = section(load(params), "pin", str(params))
        if isinstance(pinned.get("budget"), dict):
            amend(params, f"pin.budget.usd={usd!r}")
        else:
            amend(params, f"pin.budget={{usd: {usd!r}}}")
    if given.force:
        amend(params, f"pin.again={json.dumps(given.run)}")


def _lay_out(values: dict[str, Any], given: RunInputs, raw: Path) -> tuple[Path, DataSet]:
    """Puts the data set version into the folder `raw`; returns its place and its record.

    Raises InputError, ConfigError.
    """
    named = parse(TurnConfig, section(values, "turn"), "params.yaml: turn")
    # A step that is tried again finds what its first try left.
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    place = raw.absolute() / named.raw.name
    if not given.repository:
        return place, _bring(named, named.rev, place)
    if passwords(given.repository):
        raise ConfigError(
            "repository: the address holds a password, and many can read a run's inputs: leave "
            "it out, and give git a header by a secret of the profile (docs/kubeflow.md)"
        )
    with tempfile.TemporaryDirectory(prefix="cowest-") as folder:
        clone = Path(folder) / "repository"
        commit = vcs.clone(given.repository, named.rev, clone)
        # DVC and git are asked in the project's folder.
        with contextlib.chdir(clone):
            return place, _bring(named, commit, place)


def _bring(named: TurnConfig, rev: str | None, place: Path) -> DataSet:
    """Puts the data of the project in the working folder to `place`, verified."""
    if rev is not None:
        found = snapshots.find(named.path or named.raw, rev)
        found.fetch(place)
        return found.named(place)
    snapshots.pointer_here(named.raw)
    if not named.raw.exists():
        raise InputError(
            f"{named.raw}: no such file or folder in {Path.cwd()}: params.yaml names the raw data "
            "in turn.raw, and a run on a cluster brings them from a `repository`"
        )
    version = snapshots.version_of(named.raw)
    if named.raw.is_dir():
        shutil.copytree(named.raw, place)
    else:
        shutil.copyfile(named.raw, place)
    return version


def _has_own_container() -> bool:
    """Returns True if this step runs on a cluster, in a container of its own.

    `local` sets COWEST_LOCAL, as in a notebook on a cluster, where all steps share one.
    """
    return "KUBERNETES_SERVICE_HOST" in os.environ and not os.environ.get("COWEST_LOCAL")


def _store_problems(run: str) -> list[CoWestError]:
    """Returns what keeps the call store from being used by the steps of this run."""
    found: list[CoWestError] = []
    place = os.environ.get("COWEST_STORE", "")
    if _has_own_container() and "://" not in place:
        found.append(
            StoreError(
                "COWEST_STORE names a file, and the steps of a cluster share none: give it the "
                "address of a PostgreSQL database, as a secret of the profile"
            )
        )
    try:
        # The turn is not known yet; that the store takes the row is what counts.
        note_run(open_store(), NotedRun(run, "", None))
    except CoWestError as error:
        found.append(error)
    return found


def passing_registries(settings: Sequence[BaseModel]) -> list[CoWestError]:
    """Returns the registries whose decisions would go with the container that this step runs in.

    A registry in a file has to lie on a volume that the steps share. What no other mount than that
    of `/` holds lies on none.
    """
    found: dict[str, CoWestError] = {}
    for config in settings:
        registry = getattr(config, "registry", None)
        if not isinstance(registry, RegistryConfig):
            continue
        places = []
        if registry.uri.startswith(SQLITE):
            places.append(("uri", Path(registry.uri.removeprefix(SQLITE))))
        folder = folder_of(location_of(registry.artifacts))
        # A server has its own place for the files.
        if folder is not None and not registry.uri.startswith(("http://", "https://")):
            places.append(("artifacts", folder))
        for setting, place in places:
            if _on_disk_of_container(place):
                found[f"{setting}: {place}"] = RegistryError(
                    f"the registry's {setting} is {place}, on the disk of this step's container, "
                    f"which goes with it: give `registry.{setting}` the address of a server or "
                    "bucket, or a place on a volume that the profile mounts in preflight, pin, "
                    "register, page and summary"
                )
    return list(found.values())


def _on_disk_of_container(place: Path) -> bool:
    """Returns True if no other mount than that of `/` holds a place.

    Devices do not tell: a volume on the node's disk may have that of `/`.
    """
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    # The fifth field is the mount point, with blanks and backslashes in octal.
    points = [re.sub(r"\\([0-7]{3})", _character, line.split(" ")[4]) for line in lines]
    # `resolve` would raise where a folder may not be entered.
    there = Path(os.path.realpath(place))
    return not any(point != "/" and there.is_relative_to(point) for point in points)


def _character(octal: re.Match[str]) -> str:
    return chr(int(octal[1], 8))


def _too_dear(values: dict[str, Any], raw: Path) -> list[CoWestError]:
    """Returns the problem of a turn whose calls may cost more than its budget."""
    budget = parse(PinConfig, section(values, "pin"), "params.yaml: pin").budget
    if budget.usd is None and budget.tokens is None:
        return []
    try:
        rows = forecast.forecast(values, raw)
    except CoWestError as error:
        return [error]
    excess = forecast.excess(rows, budget)
    return [] if excess is None else [ConfigError(excess)]


def _is_open(run: str, turn: Turn, values: dict[str, Any]) -> bool:
    """Records the run's turn, and prints its state. Returns False if it was decided before."""
    registry = parse(PinConfig, section(values, "pin"), "params.yaml: pin").registry
    decided = settled(registry.open().log(), turn.key)
    note_run(open_store(), NotedRun(run, turn.key, None if decided is None else decided.version))
    if decided is None:
        print(f"turn {turn.key[:8]} is open: it begins", file=sys.stderr)
        return True
    print(
        f"nothing is new: turn {turn.key[:8]} was decided on version {decided.version} "
        f"({decided.verdict}: {decided.reason}); `force` decides it anew",
        file=sys.stderr,
    )
    return False
