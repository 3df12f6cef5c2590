"""The turn as a Kubeflow pipeline: run in a project's folder, or give `--params FILE` last.

python -m cowest_pipelines compile --out FILE
    writes the turn as a KFP v2 pipeline; --profile says what its steps get on the cluster
python -m cowest_pipelines local
    runs the same pipeline here, each step a process, in the folder of params.yaml
python -m cowest_pipelines submit FILE | schedule FILE --cron '0 0 2 * * *'
    starts what was compiled on a Kubeflow Pipelines server: once, or by the clock
python -m cowest_pipelines status | unschedule --name NAME
    shows the schedule and the last runs; takes the schedule away
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from cowest import environment, profiles
from cowest.commands import add_params
from cowest.config import enter, load, section
from cowest.errors import ConfigError, CoWestError, in_words
from cowest.io import replacing
from cowest.passwords import passwords
from cowest.profiles import Profile, StepName
from cowest_pipelines import cluster


def main(argv: list[str] | None = None) -> int:
    """0: done; 1: a CoWestError, or a step that failed; 2: wrong usage; 130: interrupted."""
    environment.settle()
    given = parser().parse_args(argv)
    try:
        if given.command == "compile":
            _compile(given)
        elif given.command == "local":
            _local(given)
        else:
            given.run(given)
    except CoWestError as error:
        print(f"cowest_pipelines: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cowest_pipelines: {in_words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        after = "answers are kept, and the next run starts from the first step"
        if given.command not in ("compile", "local"):
            after = "the server may have done what was asked: look with `status`"
        print(f"cowest_pipelines: interrupted; {after}", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cowest_pipelines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    settings = argparse.ArgumentParser(add_help=False)
    add_params(settings)
    settings.add_argument(
        "--profile",
        default="local",
        metavar="P",
        help="what steps get on a cluster: local, cpu, gpu, or a file of yours that ends in .yaml",
    )
    settings.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="parts of the queries, each with steps of its own (default: the profile's number)",
    )
    compiling = commands.add_parser(
        "compile", parents=[settings], help="write the pipeline as YAML"
    )
    compiling.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a name that ends in .yaml"
    )
    running = commands.add_parser(
        "local", parents=[settings], help="run the pipeline on this machine"
    )
    running.add_argument(
        "--root",
        type=Path,
        default=Path("local_outputs"),
        metavar="DIR",
        help="where steps leave their files",
    )
    add_inputs(running)
    cluster.add_commands(commands)
    return parser


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Adds what an operator may give a run; `inputs_of` reads it."""
    parser.add_argument(
        "--repository",
        default="",
        metavar="URL",
        help="git repository of the data (the folder where the steps run)",
    )
    parser.add_argument(
        "--revision", default="", metavar="REV", help="revision of the data (turn.rev)"
    )
    parser.add_argument(
        "--budget-usd", default="", metavar="USD", help="what all calls may cost (pin.budget)"
    )
    parser.add_argument(
        "--force", action="store_true", help="decide the turn anew if it was decided before"
    )


def inputs_of(given: argparse.Namespace, profile: Profile) -> dict[str, Any]:
    """The pipeline's inputs, as `add_inputs` read them."""
    return {
        "repository": given.repository,
        "revision": given.revision,
        "budget_usd": given.budget_usd,
        "shards": profile.shards,
        "force": given.force,
    }


def profile_of(given: argparse.Namespace) -> Profile:
    """The profile that the flags name, with their number of shards. Raises ConfigError."""
    name: str = given.profile
    place = Path(name)
    if place.suffix not in (".yaml", ".yml"):
        known = {path.stem: path for path in sorted(_profiles().glob("*.yaml"))}
        if name not in known:
            names = ", ".join(known)
            raise ConfigError(
                f"--profile {name}: name one of {names}, or a file that ends in .yaml"
            )
        place = known[name]
    found = profiles.read(place)
    if given.shards is None:
        return found
    # Said of the flag, before any step runs.
    if not 1 <= given.shards <= profiles.MOST_SHARDS:
        raise ConfigError(
            f"--shards {given.shards}: give a number from 1 to {profiles.MOST_SHARDS}"
        )
    return found.model_copy(update={"shards": given.shards})


def _profiles() -> Path:
    """The folder of the profiles that come with CoWest: in the wheel, or in the repository."""
    beside = Path(__file__).resolve().parent.parent
    installed = beside / "cowest_profiles"
    return installed if installed.is_dir() else beside / "infra" / "profiles"


def compile_to(out: Path, params: Path, profile: Profile) -> None:
    """Writes the pipeline as YAML, whole or not at all. Raises ConfigError."""
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {out}: name a file that ends in .yaml, as KFP demands")
    from kfp import compiler

    from cowest_pipelines.flywheel import flywheel

    if any(passwords(uri) for uri in _registries(load(params))):
        raise ConfigError(
            f"{params}: a registry's address holds a password, and many can read a compiled "
            "pipeline: leave it out, and give MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD to the steps as secrets"
        )
    with replacing(out) as temporary, tempfile.TemporaryDirectory(prefix="cowest.") as folder:
        # KFP takes no other name than one that ends in .yaml.
        compiled = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(flywheel(params, profile), str(compiled))
        shutil.copyfile(compiled, temporary)


def _registries(settings: Any) -> Iterator[str]:
    """Yields the addresses of the registries that any section names: the whole text goes in."""
    if not isinstance(settings, dict):
        return
    for name, value in settings.items():
        if name == "registry" and isinstance(value, dict):
            yield str(value.get("uri", ""))
        yield from _registries(value)


def _registry(params: Path) -> str:
    """The address of the registry that the settings name."""
    registering = section(load(params), "register", str(params))
    registry = section(registering, "registry", f"{params}: register")
    uri: str = registry.get("uri", "sqlite:")
    return uri


def _compile(given: argparse.Namespace) -> None:
    from cowest_components import IMAGE

    profile = profile_of(given)
    images = [profile.step(name).image or profile.image for name in get_args(StepName)]
    note = _loose(IMAGE) if None in images else None
    compile_to(given.out, given.params, profile)
    shards = "1 shard" if profile.shards == 1 else f"{profile.shards} shards"
    print(f"{given.out}: the turn in {shards}, on image {profile.image or IMAGE}")
    if note is not None:
        print(note)
    uri = _registry(given.params)
    if uri.startswith("sqlite:"):
        print(
            f"note: {given.params} keeps the registry in a file ({uri}), and the steps of a "
            "cluster share none: give it a server's address"
        )


def _loose(image: str) -> str | None:
    """A note if the components' image may be another one tomorrow; None if not.

    Raises ConfigError where somebody named it.
    """
    try:
        profiles.expect_fixed(image, "COWEST_IMAGE")
    except ConfigError:
        if os.environ.get("COWEST_IMAGE") == image:
            raise
        return (
            f"note: {image} may be another image tomorrow: name it by digest (NAME@sha256:...) or "
            "by the commit it was built from (NAME:0123abc), in COWEST_IMAGE or in the profile"
        )
    return None


def _local(given: argparse.Namespace) -> None:
    from kfp import local

    profile = profile_of(given)
    run_here(
        given.params,
        given.root.absolute(),
        profile,
        inputs_of(given, profile),
        local.SubprocessRunner(use_venv=False),
    )


def run_here(
    params: Path, root: Path, profile: Profile, inputs: dict[str, Any], runner: Any
) -> None:
    """Runs the pipeline by one of kfp.local's runners, in the folder of params.yaml.

    A relative path in the settings is then the same file in every step of a SubprocessRunner.
    Raises CoWestError if a step failed, or if the run decided nothing and its turn was open.
    """
    from kfp import local

    project = enter(params)
    from cowest_pipelines.flywheel import NAME, flywheel

    turn = flywheel(project, profile)
    # KFP runs a step in a folder of its own, and all steps must find one call store.
    store = os.environ.get("COWEST_STORE") or ".cowest/calls.sqlite"
    os.environ["COWEST_STORE"] = store if "://" in store else str(Path(store).absolute())
    # In a pod of a cluster, such as a notebook, the steps would take it for their own.
    os.environ["COWEST_LOCAL"] = "1"
    warnings.filterwarnings("ignore", module=r"kfp\b.*")
    local.init(runner=runner, pipeline_root=str(root))
    before = set(root.glob(f"{NAME}-*"))
    try:
        turn(**inputs)
    except RuntimeError as error:
        # KFP's message has colours and breaks, and ours are one line.
        reason = re.sub(r"\x1b\[\d+m", "", " ".join(str(error).split())).rstrip(".")
        raise CoWestError(
            f"{reason}, for the reason above (its steps' files are in {root}): mend it and run "
            "again"
        ) from None
    report([folder for folder in root.glob(f"{NAME}-*") if folder not in before], root)


def report(runs: list[Path], root: Path) -> None:
    """Prints what became of the run. Raises CoWestError if nothing did."""
    from cowest.io import read_document
    from cowest.steps.summary import RunOutcome

    # The summary is asked because KFP can't be believed: if it can't read a condition, it takes
    # neither branch and ends well, and it may leave the last task out.
    told = [folder / "summary" / "outcome" for folder in runs]
    told = [path for path in told if path.is_file()]
    if not told:
        raise CoWestError(
            f"the pipeline ended without its summary; look at the files of its steps in {root}"
        )
    found = read_document(told[0], RunOutcome)
    if found.became == "unknown":
        raise CoWestError(
            "the pipeline ended, and what it decided is not known: "
            + "; ".join((found.reason, *found.notes, f"its steps' files are in {root}"))
        )
    if found.became in ("failed", "undecided"):
        raise CoWestError(
            f"the pipeline ended and decided nothing: {found.reason}; its steps' files are "
            f"in {root}"
        )
    print(found.line)


if __name__ == "__main__":
    sys.exit(main())
