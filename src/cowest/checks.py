"""What must be there before a turn: asked of the machine (`cowest doctor`), and of the settings before anything is spent."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cowest import environment, stages
from cowest.config import Config, digest, load, parse, section
from cowest.errors import ConfigError, CoWestError, InputError
from cowest.models import embedded
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.ports import config_of
from cowest.registry import RegistryConfig

EXTRAS = {
    "validate": ("great_expectations", "pandas", "jinja2", "rensa", "py3langid", "tokenizers", "phonenumbers", "stdnum"),
    "train": ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "gguf"),
    "track": ("mlflow",),
    "report": ("matplotlib", "jinja2"),
    "parquet": ("pyarrow",),
    "dvc": ("dvc", "ruamel.yaml"),
    "privacy": ("phonenumbers", "stdnum"),
    "strong": ("uvloop", "orjson"),
    "pipeline": ("kfp",),
    "serve": ("bentoml",),
}
"""The modules of each extra."""
OF_A_TURN = ("validate", "train", "track", "report", "dvc")
BESIDE_STAGES = {"models", "registry", "turn", "serve"}
"""Sections of params.yaml that are no stage: `models` holds anchors."""
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


def preflight(params: Path) -> None:
    """Raises one CoWestError with all that would stop a turn later: settings, extras, raw data, models, keys.

    Takes about a second; relative paths are those of the current folder.
    """
    settings, problems = _settings(params)
    problems += _raw(params)
    models = {digest(model): model for config in settings for model in providers(config)}
    problems += [
        ConfigError(f"{', '.join(missing)} can't be imported: pip install 'cowest[{extra}]'")
        for extra in OF_A_TURN
        if (missing := _missing(extra))
    ]
    for model in models.values():
        try:
            _check_model(model)
        except CoWestError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise CoWestError(f"{len(problems)} things to mend before the turn starts:" + "".join(f"\n  - {problem}" for problem in problems))


def _settings(params: Path) -> tuple[list[Config], list[CoWestError]]:
    values = load(params)
    known = {stage.partition("@")[0] for stage in stages.STAGES} | BESIDE_STAGES
    problems: list[CoWestError] = [
        ConfigError(f"{params} has an unknown section {name!r}: they are {', '.join(sorted(known))}")
        for name in values
        if name not in known
    ]
    found: dict[str, Any] = {}
    for stage in stages.STAGES:
        try:
            found[stage] = parse(config_of(stages.main_of(stage)), section(values, stage, str(params)), f"{params}: {stage}")
        except CoWestError as error:
            problems.append(error)
    try:
        agree(found, str(params))
    except ConfigError as error:
        problems.append(error)
    return list(found.values()), problems


def agree(settings: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError where the corpus has another contract of the queries than the queries: what one masks the other would teach."""
    queries, corpus = settings.get("validate@queries"), settings.get("validate@corpus")
    if queries is not None and corpus is not None and corpus.suite.queries != queries.suite:
        raise ConfigError(
            f"{where}: validate.corpus.queries is not validate.queries, so what is masked or set aside there would be learned: "
            "write `queries: &contract {...}` and `corpus: {kind: corpus, queries: *contract}`"
        )


def _raw(params: Path) -> list[CoWestError]:
    turn = load(params).get("turn")
    raw = turn.get("raw") if isinstance(turn, dict) else None
    if not isinstance(raw, str):
        return [ConfigError(f"{params}: turn.raw should name the raw data")]
    path, named = Path(raw), isinstance(turn, dict) and turn.get("rev")
    if not path.exists() and (named or path.with_name(f"{path.name}.dvc").is_file()):
        how = "`cowest turn` brings what turn.rev names" if named else f"`dvc pull {raw}.dvc` brings the version that git names"
        return [InputError(f"{raw}: the raw data are not here yet: {how}")]
    if not path.exists() or (path.is_dir() and not any(part.is_file() for part in path.rglob("*"))):
        return [InputError(f"{raw}: no raw data there: put them there, or name their place in turn.raw of {params}")]
    return []


def _missing(extra: str) -> list[str]:
    """Modules of an extra that are not installed; none is imported."""
    return [name for name in EXTRAS[extra] if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it is not there
        return False


def providers(config: BaseModel) -> Iterator[HFConfig | OpenAIConfig]:
    """Every model that a stage's settings name, however deep."""
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, HFConfig | OpenAIConfig):
            yield value
        elif isinstance(value, BaseModel):
            waiting += (getattr(value, name) for name in type(value).model_fields)
        elif isinstance(value, list | tuple):
            waiting += value


def _check_model(model: HFConfig | OpenAIConfig) -> None:
    if isinstance(model, HFConfig):
        model.folder()
    elif model.key_env and not os.environ.get(model.key_env):
        raise ConfigError(
            f"model {model.model!r} at {model.base_url} needs a key in the environment variable {model.key_env}, which is not set"
        )


def machine(params: Path) -> Iterator[Check]:
    """What this machine has and lacks for a turn with these settings. Nothing heavy is imported, no key's value is shown."""
    yield _python()
    yield _command("git", "apt-get install git")
    for extra in EXTRAS:
        missing, needed = _missing(extra), extra in OF_A_TURN
        found = f"{', '.join(missing)} not installed" if missing else "installed"
        yield Check(f"extra {extra}", not missing or (False if needed else None), found, f"pip install 'cowest[{extra}]'")
    yield from _hardware()
    yield from _project(params)
    yield _docker()


def _python() -> Check:
    fit = sys.version_info >= (3, 11)
    return Check("Python", fit, f"{platform.python_version()} on {platform.system()} {platform.machine()}", "Python 3.11 or newer")


def _command(name: str, mend: str) -> Check:
    place = shutil.which(name)
    return Check(name, place is not None, place or "not found", mend)


def _hardware() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check("cores", True, f"{cores}" + ("" if cores > 1 else ": the demo was timed on two"))
    memory = memory_gib()
    yield Check(
        "memory", memory is None or memory >= MEMORY_GIB, f"{memory:.1f} GiB" if memory else "unknown", f"{MEMORY_GIB} GiB are wanted"
    )
    for name, folder in {"disk, here": Path.cwd(), "disk, cache": environment.cache()}.items():
        there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
        free = shutil.disk_usage(there).free / 2**30
        fit = free >= DISK_GIB and os.access(there, os.W_OK)
        yield Check(name, fit, f"{free:.1f} GiB free in {folder}", f"{DISK_GIB} GiB that may be written; COWEST_CACHE names another cache")
    waits = os.environ.get("OMP_WAIT_POLICY", "").upper()
    yield Check("OMP_WAIT_POLICY", True if waits == "PASSIVE" else None, waits or "not set", "PASSIVE is many times faster on shared cores")


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
        settings, problems = _settings(params)
    except CoWestError as error:
        yield Check("settings", False, str(error), "run in the project's folder, or give --params")
        return
    problems += _raw(params)
    yield Check("settings and raw data", not problems, "; ".join(map(str, problems)) or f"{params} is whole", "mend what is named")
    named = {digest(model): model for config in settings for model in providers(config)}
    for model in named.values():
        yield _model(model)
    wanted = {model.model for model in named.values() if isinstance(model, HFConfig)}
    for name, package in embedded.MODELS.items():
        if name not in wanted:
            found = f"{'fetched' if embedded.is_there(package) else 'not fetched'}, and not named in the settings"
            yield Check(f"embedded {name}", None, found, f"cowest fetch {name}")
    yield _store()
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
        return Check(f"model {model.model}", False, str(error), "fetch it, or name another in params.yaml")


def _store() -> Check:
    from cowest.models import journal, store

    try:
        calls = store.open_store()
        return Check("call store", True, "; ".join([calls.place, *map(str, journal.under_way(calls))]))
    except CoWestError as error:
        return Check("call store", False, str(error), "COWEST_STORE names another place")


def _registry(config: RegistryConfig) -> Check:
    """A file is looked at; a server is not called, which would take MLflow's import: `cowest status` does."""
    if not config.uri.startswith("sqlite:///"):
        return Check("registry", True, f"{config.uri.rpartition('@')[2]} (not called: `cowest status` does)")
    path = Path(config.uri.removeprefix("sqlite:///"))
    fit = os.access(path if path.exists() else path.absolute().parent, os.W_OK)
    return Check(
        "registry", fit, f"{path}{'' if path.exists() else ' (made by the first turn)'}", f"{path} should be a file that may be written"
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
