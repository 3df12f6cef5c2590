"""The turn as a Kubeflow pipeline: run in a project's folder, or give `--params FILE` last.

python -m cowest_pipelines compile --out FILE
    writes the turn as a KFP v2 pipeline, for any cluster; COWEST_IMAGE names the image of the steps
python -m cowest_pipelines local
    runs the same pipeline here, each step a process, in the folder of params.yaml
"""

import argparse
import os
import re
import sys
import warnings
from pathlib import Path

from cowest import environment
from cowest.commands import add_params
from cowest.config import digest, enter, load, parse, section
from cowest.errors import ConfigError, CoWestError


def main(argv: list[str] | None = None) -> int:
    """0: done; 1: a CoWestError, or a step that failed; 2: wrong usage; 130: interrupted."""
    environment.settle()
    given = _parser().parse_args(argv)
    try:
        if given.command == "compile":
            _compile(given.params, given.out)
        else:
            _local(given.params, given.root)
    except CoWestError as error:
        print(f"cowest_pipelines: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "cowest_pipelines: interrupted; what was answered is kept, and the next run starts "
            "from the first step",
            file=sys.stderr,
        )
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cowest_pipelines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    settings = argparse.ArgumentParser(add_help=False)
    add_params(settings)
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
    return parser


def _compile(params: Path, out: Path) -> None:
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {out}: KFP takes .yaml")
    from kfp import compiler

    from cowest_components import IMAGE
    from cowest_pipelines.flywheel import flywheel

    registering = section(load(params), "register", str(params))
    registry = section(registering, "registry", f"{params}: register")
    uri = registry.get("uri", "sqlite:")
    # Not Python's URL parser: it refuses some addresses that SQLAlchemy takes, passwords and all.
    if re.search(r"//[^/@]*:[^/@]+@", uri):
        raise ConfigError(
            f"{params}: the registry's address holds a password, and a compiled pipeline is read "
            "by many: leave it out, and give MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD to the steps as secrets"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(flywheel(params), str(out))
    print(
        f"{out}: the turn on image {IMAGE}; its inputs are raw, where the raw data are, and "
        "raw_digest, what they are"
    )
    if uri.startswith("sqlite:"):
        print(
            f"note: {params} keeps the registry in a file ({uri}), and the steps of a cluster "
            "share none: give it a server's address"
        )


def _local(params: Path, root: Path) -> None:
    """Runs in the folder of params.yaml, as `cowest turn` does.

    A relative path in the settings is then the same file in every step.
    """
    from kfp import local

    root = root.absolute()
    project = enter(params)
    from cowest.lineage import TurnConfig, turn_of
    from cowest_pipelines.flywheel import flywheel

    turn = flywheel(project)
    raw = parse(TurnConfig, section(load(project), "turn", str(params)), f"{params}: turn").raw
    pinned = turn_of(raw, project)
    # KFP runs a step in a folder of its own, and all steps must find one call store.
    store = os.environ.get("COWEST_STORE") or ".cowest/calls.sqlite"
    os.environ["COWEST_STORE"] = store if "://" in store else str(Path(store).absolute())
    warnings.filterwarnings("ignore", module=r"kfp\b.*")
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    try:
        turn(raw=str(raw.absolute()), raw_digest=digest(pinned.data))
    except RuntimeError as error:
        # KFP's message has colours and breaks, and ours are one line.
        reason = re.sub(r"\x1b\[\d+m", "", " ".join(str(error).split())).rstrip(".")
        raise CoWestError(
            f"{reason}, for the reason above; what its steps left is in {root}: mend it and run "
            "again"
        ) from None
    _report(project, pinned.key, root)


def _report(params: Path, key: str, root: Path) -> None:
    """Prints the decision on the turn. Raises CoWestError if there is none."""
    from cowest.stages.register import RegisterConfig

    config = parse(RegisterConfig, section(load(params), "register"), f"{params}: register")
    # The registry is asked because KFP can't be believed: if it can't read a condition, it takes
    # neither branch and ends well.
    for decision in reversed(config.registry.open().log()):
        if decision.turn == key:
            became = "promoted" if decision.promoted else "refused"
            print(f"turn {key[:8]}: version {decision.version} was {became}: {decision.reason}")
            return
    raise CoWestError(
        "the pipeline ended and decided nothing: neither branch of its gate was taken; what steps "
        f"left is in {root}"
    )


if __name__ == "__main__":
    sys.exit(main())
