"""Lists what this machine has and lacks for a turn, and how to get it.

0: nothing is missing that could be looked at; 1: something is missing.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cowest import environment, reach
from cowest.commands import add_params
from cowest.config import Config, enter
from cowest.errors import CoWestError, RegistryError
from cowest.ledger import journal, store
from cowest.models import embedded
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.models.vllm import VLLMConfig
from cowest.passwords import without_password
from cowest.preflight import (
    EXTRAS,
    OF_A_TURN,
    Model,
    check_model,
    missing_modules,
    models_of,
    stage_settings,
)
from cowest.probing import probe_notes, probe_problems
from cowest.rawdata import raw_data_problems
from cowest.registry.mlflow import RegistryConfig

MARKS = {True: "ok", False: "MISSING", None: "-"}
MEMORY_GIB = 6
DISK_GIB = 2
"""Room for models, adapters and reports, once the environment is installed.

To fetch the embedded models takes as much again for a while.
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of what the doctor prints."""

    name: str
    fit: bool | None
    """None: not there, and the demo does without it."""
    found: str
    mend: str = ""
    """The way to get it."""
    is_sure: bool = True
    """False if a turn may fail at it all the same."""


def main(argv: list[str]) -> int:
    """Prints one line per check. Of a key only its name is shown, and never the value."""
    parser = argparse.ArgumentParser(
        prog="cowest doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_params(parser)
    parser.add_argument(
        "--reach",
        action="store_true",
        help="also call the endpoints, which costs nothing, and the registry",
    )
    given = parser.parse_args(argv)
    params = given.params
    if params.is_file():
        # Relative paths in the settings, and the call store, are the project's.
        params = enter(params)
    missing = unsure = 0
    for check in machine(params, given.reach):
        mend = ""
        if check.mend and check.fit is not True:
            mend = f"  -> {check.mend}"
        if check.fit is False:
            missing += 1
        mark = MARKS[check.fit] if check.is_sure else "?"
        unsure += not check.is_sure
        # A check may take seconds, so each line is shown at once.
        print(f"{mark:<8} {check.name:<26} {check.found}{mend}", flush=True)
    if missing:
        print(f"\n{missing} of what a turn needs is missing")
        return 1
    said = "all that a turn needs is there"
    if unsure:
        said = "nothing is found missing, and a turn may still fail at what is marked with ?"
    print(
        f"\n{said}; of the raw data one row was read: `cowest turn --dry-run` reads the table, and "
        "`cowest prepare` all that is learned, too"
    )
    return 0


def machine(params: Path, called: bool = False) -> Iterator[Check]:
    """Yields what this machine has and lacks for a turn with these settings.

    With `called`, endpoints and registry are asked; without it, nothing heavy is imported.
    """
    yield _python()
    yield _command("git", "apt-get install git")
    for extra in EXTRAS:
        yield _extra(extra)
    yield _cores()
    yield _memory()
    yield _disk("disk, here", Path.cwd())
    yield _disk("disk, cache", environment.cache())
    yield _waiting_threads()
    yield from of_project(params, called)
    yield _docker()


def _python() -> Check:
    fit = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("Python", fit, found, "Python 3.11 or newer")


def _command(name: str, mend: str) -> Check:
    place = shutil.which(name)
    return Check(name, place is not None, place or "not found", mend)


def _extra(extra: str) -> Check:
    missing = missing_modules(extra)
    if not missing:
        return Check(f"extra {extra}", True, "installed")
    fit = False if extra in OF_A_TURN else None
    found = f"{', '.join(missing)} not installed"
    mend = f"install CoWest's extra `{extra}` (README, Install)"
    return Check(f"extra {extra}", fit, found, mend)


def _cores() -> Check:
    cores = os.cpu_count() or 1
    # A container may have fewer cores than its machine; not every system can say so.
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    remark = "" if cores > 1 else ": the demo was timed on two"
    return Check("cores", True, f"{cores}{remark}")


def _memory() -> Check:
    memory = memory_gib()
    if memory is None:
        return Check("memory", True, "unknown")
    mend = f"{MEMORY_GIB} GiB are wanted"
    return Check("memory", memory >= MEMORY_GIB, f"{memory:.1f} GiB", mend)


def memory_gib() -> float | None:
    """Memory of the machine, or of the container that we are in, in GiB; None if unknown."""
    sizes = []
    try:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        # Another system than Linux, or a container without a limit, whose file says "max".
        pass
    # In a container both are known, and the smaller one counts.
    return min(sizes) / 2**30 if sizes else None


def _disk(name: str, folder: Path) -> Check:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 2**30
    fit = free >= DISK_GIB and os.access(there, os.W_OK)
    mend = f"{DISK_GIB} GiB that may be written; COWEST_CACHE names another cache"
    return Check(name, fit, f"{free:.1f} GiB free in {folder}", mend)


def _waiting_threads() -> Check:
    waits = os.environ.get("OMP_WAIT_POLICY", "").upper()
    fit = True if waits == "PASSIVE" else None
    mend = "PASSIVE is many times faster on shared cores"
    return Check("OMP_WAIT_POLICY", fit, waits or "not set", mend)


def of_project(params: Path, called: bool = False) -> Iterator[Check]:
    """Yields what the project's settings need: data, models, keys, call store and registry."""
    try:
        settings, problems = stage_settings(params)
    except CoWestError as error:
        mend = "mend the file" if params.is_file() else "or begin a project: cowest init"
        yield Check("settings", False, str(error), mend)
        return
    problems += raw_data_problems(params) + probe_problems(params, settings)
    found = "; ".join(map(str, problems)) or f"{params} is whole"
    yield Check("settings and raw data", not problems, found, "mend what is named")
    if not problems:
        for note in probe_notes(params, settings):
            yield Check("general questions", None, note.removeprefix("note: general questions: "))
    models = models_of(settings)
    for model in models:
        yield _model(model, settings)
    wanted = {model.model for model in models if isinstance(model, HFConfig | VLLMConfig)}
    for name, package in embedded.MODELS.items():
        if name not in wanted:
            found, mend = "fetched, and not named in the settings", ""
            if not embedded.is_there(package):
                found, mend = f"not {found}", f"cowest fetch {name}"
            yield Check(f"embedded {name}", None, found, mend)
    yield call_store()
    if called:
        notes: list[str] = []
        unreached = reach.problems(settings, say=notes.append)
        found = "; ".join([*map(str, unreached), *notes]) or "all answer"
        fit, is_sure = not unreached, bool(unreached) or not notes
        yield Check("endpoints and registry", fit, found, "mend what is named", is_sure)
    else:
        # They may be down: who reads that all is there has to know that nobody asked.
        yield Check("endpoints and registry", None, "not asked", "cowest doctor --reach")
    for config in settings:
        registry = getattr(config, "registry", None)
        if isinstance(registry, RegistryConfig):
            yield _registry(registry)
            return


def _model(model: Model, settings: list[Config]) -> Check:
    hosted = isinstance(model, OpenAIConfig)
    name = f"key of {model.model}" if hosted else f"model {model.model}"
    try:
        check_model(model, settings)
        if isinstance(model, OpenAIConfig):
            return Check(name, True, model.key_env or "none needed")
        base = model.base() if isinstance(model, VLLMConfig) else model
        return Check(name, True, str(base.folder()))
    except CoWestError as error:
        mend = "do as it says" if hosted else "do as it says, or name another model in params.yaml"
        return Check(name, False, str(error), mend)


def call_store() -> Check:
    """Opens the call store, and names the batches that wait there to be collected.

    One that an older CoWest wrote is only looked at.
    """
    try:
        older = store.older()
        if older is not None:
            found = (
                f"{older} was written by an older CoWest: what opens it next gives it new tables, "
                "no answer is lost, and an older CoWest refuses it from then on; update all that "
                "share it first"
            )
            return Check("call store", True, found)
        calls = store.open_store()
        found = "; ".join([calls.place, *map(str, journal.under_way(calls))])
    except CoWestError as error:
        return Check("call store", False, str(error), "COWEST_STORE names another place")
    return Check("call store", True, found)


def _registry(config: RegistryConfig) -> Check:
    """Looks at a file."""
    # To call a server takes the import of MLflow, which is heavy; `cowest status` does it.
    if not config.uri.startswith("sqlite:///"):
        address = without_password(config.uri)
        return Check("registry", True, f"{address} (not called: `cowest status` does)")
    path = Path(config.uri.removeprefix("sqlite:///"))
    place, found = path, f"{path}"
    if not path.exists():
        place, found = path.absolute().parent, f"{path} (made by the first turn)"
    try:
        config.ready()
    except RegistryError as error:
        return Check("registry", False, str(error), "do as it says")
    mend = f"{path} should be a file that may be written"
    return Check("registry", os.access(place, os.W_OK), found, mend)


def _docker() -> Check:
    place = shutil.which("docker")
    if place is None:
        return Check("docker", None, "not found", "only images need an engine")
    command = [place, "version", "--format", "{{.Server.Version}}"]
    try:
        asked = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return Check("docker", None, "no engine answers", "only images need one")
    return Check("docker", True, f"engine {asked.stdout.strip()}")
