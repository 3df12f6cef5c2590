"""What this machine has and lacks for a turn, and how to get it. 0: all that is needed is there; 1: something is missing."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cowest import environment
from cowest.config import digest
from cowest.errors import CoWestError
from cowest.ledger import journal, store
from cowest.models import embedded
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.preflight import (
    EXTRAS,
    OF_A_TURN,
    missing_modules,
    providers,
    raw_problems,
    settings_and_problems,
)
from cowest.registry.mlflow import RegistryConfig

MARKS = {True: "ok", False: "MISSING", None: "-"}


def main(argv: list[str]) -> int:
    """Prints a line a check. Keys are said to be there or not; their values are never shown."""
    parser = argparse.ArgumentParser(prog="cowest doctor", description=__doc__)
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="the settings file (params.yaml)"
    )
    params = parser.parse_args(argv).params
    missing = 0
    for check in machine(params):
        missing += check.fit is False
        mend = f"  -> {check.mend}" if check.mend and check.fit is not True else ""
        print(f"{MARKS[check.fit]:<8} {check.name:<26} {check.found}{mend}", flush=True)
    print(
        f"\n{missing} of what a turn needs is missing"
        if missing
        else "\nall that a turn needs is there"
    )
    return 1 if missing else 0


MEMORY_GIB = 6


DISK_GIB = 2
"""For models, adapters and reports, once the environment is installed; fetching the embedded models takes as much again for a while."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's."""

    name: str
    fit: bool | None
    """None: not there, and the demo does without it."""
    found: str
    mend: str = ""
    """How to get it."""


def machine(params: Path) -> Iterator[Check]:
    """What this machine has and lacks for a turn with these settings. Nothing heavy is imported, no key's value is shown."""
    yield _python()
    yield _command("git", "apt-get install git")
    for extra in EXTRAS:
        missing, needed = missing_modules(extra), extra in OF_A_TURN
        found = f"{', '.join(missing)} not installed" if missing else "installed"
        yield Check(
            f"extra {extra}",
            not missing or (False if needed else None),
            found,
            f"pip install 'cowest[{extra}]'",
        )
    yield from _hardware()
    yield from _project(params)
    yield _docker()


def _python() -> Check:
    fit = sys.version_info >= (3, 11)
    return Check(
        "Python",
        fit,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "Python 3.11 or newer",
    )


def _command(name: str, mend: str) -> Check:
    place = shutil.which(name)
    return Check(name, place is not None, place or "not found", mend)


def _hardware() -> Iterator[Check]:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    yield Check("cores", True, f"{cores}" + ("" if cores > 1 else ": the demo was timed on two"))
    memory = memory_gib()
    yield Check(
        "memory",
        memory is None or memory >= MEMORY_GIB,
        f"{memory:.1f} GiB" if memory else "unknown",
        f"{MEMORY_GIB} GiB are wanted",
    )
    for name, folder in {"disk, here": Path.cwd(), "disk, cache": environment.cache()}.items():
        there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
        free = shutil.disk_usage(there).free / 2**30
        fit = free >= DISK_GIB and os.access(there, os.W_OK)
        yield Check(
            name,
            fit,
            f"{free:.1f} GiB free in {folder}",
            f"{DISK_GIB} GiB that may be written; COWEST_CACHE names another cache",
        )
    waits = os.environ.get("OMP_WAIT_POLICY", "").upper()
    yield Check(
        "OMP_WAIT_POLICY",
        True if waits == "PASSIVE" else None,
        waits or "not set",
        "PASSIVE is many times faster on shared cores",
    )


def memory_gib() -> float | None:
    """Memory of the machine, or of the container that we are in; GiB."""
    sizes = []
    try:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # another system, or no limit ("max")
        pass
    return min(sizes) / 2**30 if sizes else None


def _project(params: Path) -> Iterator[Check]:
    try:
        settings, problems = settings_and_problems(params)
    except CoWestError as error:
        yield Check("settings", False, str(error), "run in the project's folder, or give --params")
        return
    problems += raw_problems(params)
    yield Check(
        "settings and raw data",
        not problems,
        "; ".join(map(str, problems)) or f"{params} is whole",
        "mend what is named",
    )
    named = {digest(model): model for config in settings for model in providers(config)}
    for model in named.values():
        yield _model(model)
    wanted = {model.model for model in named.values() if isinstance(model, HFConfig)}
    for name, package in embedded.MODELS.items():
        if name not in wanted:
            found = f"{'fetched' if embedded.is_there(package) else 'not fetched'}, and not named in the settings"
            yield Check(f"embedded {name}", None, found, f"cowest fetch {name}")
    yield call_store()
    for config in settings:
        registry = getattr(config, "registry", None)
        if isinstance(registry, RegistryConfig):
            yield _registry(registry)
            return


def _model(model: HFConfig | OpenAIConfig) -> Check:
    if isinstance(model, OpenAIConfig):
        there = not model.key_env or bool(os.environ.get(model.key_env))
        return Check(
            f"key of {model.model}",
            there,
            f"{model.key_env or 'none needed'}{'' if there else ' is not set'}",
            f"export {model.key_env}=...",
        )
    try:
        return Check(f"model {model.model}", True, str(model.folder()))
    except CoWestError as error:
        return Check(
            f"model {model.model}", False, str(error), "fetch it, or name another in params.yaml"
        )


def call_store() -> Check:
    try:
        calls = store.open_store()
        return Check(
            "call store", True, "; ".join([calls.place, *map(str, journal.under_way(calls))])
        )
    except CoWestError as error:
        return Check("call store", False, str(error), "COWEST_STORE names another place")


def _registry(config: RegistryConfig) -> Check:
    """A file is looked at; a server is not called, which would take MLflow's import: `cowest status` does."""
    if not config.uri.startswith("sqlite:///"):
        return Check(
            "registry", True, f"{config.uri.rpartition('@')[2]} (not called: `cowest status` does)"
        )
    path = Path(config.uri.removeprefix("sqlite:///"))
    fit = os.access(path if path.exists() else path.absolute().parent, os.W_OK)
    return Check(
        "registry",
        fit,
        f"{path}{'' if path.exists() else ' (made by the first turn)'}",
        f"{path} should be a file that may be written",
    )


def _docker() -> Check:
    place = shutil.which("docker")
    if place is None:
        return Check("docker", None, "not found", "only `make image` needs an engine")
    command = [place, "version", "--format", "{{.Server.Version}}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return Check("docker", None, "no engine answers", "only `make image` needs one")
    return Check("docker", True, f"engine {asked.stdout.strip()}")
