"""`cowest <stage> --<port> path ...` and `cowest <command>`.

A stage gets its flags from the ports of its `main`, and its settings from its section of
params.yaml.
"""

import argparse
import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import cast, get_args

from cowest import __version__, config, environment
from cowest.commands import add_params, interruptible, shown
from cowest.commands.settings_help import settings
from cowest.errors import ConfigError, CoWestError, in_words
from cowest.ports import config_of, ports_of, takes_shard

COMMANDS = {
    "init": "make a project from a sample of your data: JSONL, JSON, CSV or Parquet",
    "data": "data sets: fetch one, make a version of it, or say what differs between two",
    "turn": "one turn of the wheel: pin, dvc repro, register, report",
    "ask": (
        "put one question to the champion and the strong model, and see the draft beside the answer"
    ),
    "harvest": "make data of served answers and people's verdicts on them",
    "export": "a version as a folder that plain transformers and PEFT load, with a model card",
    "report": "write the page of the last turn again",
    "status": "who is champion, and why, in ten lines",
    "history": "every decision: promotions, refusals, rollbacks, holds, approvals",
    "rollback": "make an earlier champion champion again",
    "approve": "promote a version that waits for approval",
    "hold": "hold promotions; challengers that pass wait",
    "release": "end the hold on promotions",
    "key": "make a key for the service, and print it once",
    "doctor": "what is missing on this machine, and how to get it",
    "fetch": "fetch the embedded models by checksum and convert them once into the cache",
}

HELP = """\
cowest {version}: a small policy drafts, a strong model refines, and what helped becomes preference.

  cowest <command>          what a person does
  cowest <stage> [flags]    one step of a turn, as DVC and KFP call it

commands
{commands}

stages, in order (each: `cowest <stage> --help`)
{stages}

A turn: cowest turn.   Settings: params.yaml (each stage's --help explains its own; `cowest turn
--help` those of `turn`; `python -m cowest_serving serve --help` those of `serve`).   Where to read
first: README.md.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    0: done; 1: a CoWestError, printed on one line; 2: wrong usage; 130: interrupted; 141: nobody
    reads the output any more.
    """
    environment.settle()
    argv = sys.argv[1:] if argv is None else argv
    try:
        # Commands go to the project's folder. Who calls us from Python stays where he stood.
        with contextlib.chdir("."):
            return _written(argv)
    except CoWestError as error:
        _complain(error)
        code = 1
    except BrokenPipeError:
        code = 141
    except OSError as error:
        _complain(in_words(error))
        code = 1
    except KeyboardInterrupt:
        _complain("interrupted; what was answered is kept, run the same command again to go on")
        code = 130
    _give_up_output()
    return code


def _written(argv: list[str]) -> int:
    """Runs a command or stage, and has its output written. Raises OSError if that fails."""
    try:
        code = _dispatch(argv)
    except SystemExit:
        # So argparse ends after its help.
        _flush()
        raise
    _flush()
    return code


def _flush() -> None:
    # Python has none where the caller closed it.
    if sys.stdout is not None:
        sys.stdout.flush()


def _give_up_output() -> None:
    """Writes what is left of the output, or drops it if that fails.

    Python does it once more at its end, and would fail there with words of its own.
    """
    try:
        _flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(words: object) -> None:
    # The terminal may have closed.
    with contextlib.suppress(OSError):
        print(f"cowest: {shown(str(words))}", file=sys.stderr)


def _dispatch(argv: list[str]) -> int:
    from cowest.stages import STAGES

    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        commands = "\n".join(f"  {command:<10} {words}" for command, words in COMMANDS.items())
        stages = "  " + "  ".join(STAGES)
        print(HELP.format(version=__version__, commands=commands, stages=stages), end="")
        return 0
    if name in ("-V", "--version"):
        print(f"cowest {__version__}")
        return 0
    if name in COMMANDS:
        return int(importlib.import_module(f"cowest.commands.{name}").main(argv[1:]) or 0)
    if name in STAGES:
        return _stage(name, argv[1:])
    _complain(f"{name!r} is neither a stage nor a command: see `cowest --help`")
    return 2


def _stage(stage: str, argv: list[str]) -> int:
    from cowest import stages

    main = stages.main_of(stage)
    ports = ports_of(main)
    # The settings file is itself a port of pin and register: they hand it on.
    has_params_port = any(port.name == "params" for port in ports)
    parser = argparse.ArgumentParser(
        prog=f"cowest {stage}",
        description=importlib.import_module(main.__module__).__doc__ or "",
        epilog=settings(_of_place(stage, config_of(main)), stage.replace("@", ".")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for port in ports:
        words = "read" if port.direction == "in" else "written"
        parser.add_argument(
            f"--{port.name}",
            required=not port.optional,
            metavar="PATH",
            nargs="+" if port.many else None,
            help=f"{words}; may be left out" if port.optional else words,
        )
    if not has_params_port:
        add_params(parser)
    if takes_shard(main):
        parser.add_argument(
            "--shard",
            type=_shard,
            metavar="I/N",
            help="only this part of the queries, in whole blocks: 0/4 is the first quarter",
        )
    given = vars(parser.parse_args(argv))
    params, shard = Path(given["params"]), given.pop("shard", None)
    if not has_params_port:
        del given["params"]
    values = config.section(config.load(params), stage, str(params))
    if params.absolute().parent != Path.cwd():
        # Flags are relative to where one stands, and settings to their file.
        given = {name: _absolute(value) for name, value in given.items()}
        params = config.enter(params)
    params = params.absolute()
    # An interruption lets calls in flight be answered and kept.
    with interruptible():
        stages.run(stage, values, shard, **given)
    # DVC reads the settings again when a stage has ended well, and would keep what was made with
    # the old ones as made with the new ones.
    if config.section(config.load(params), stage, str(params)) != values:
        shown = stage.replace("@", ".")
        raise ConfigError(
            f"{params}: {shown} was changed while the stage ran, so what it made is not that of "
            "these settings: run it again"
        )
    return 0


def _absolute(given: str | list[str] | None) -> str | list[str] | None:
    """The paths of a port, whatever folder one goes to."""
    if isinstance(given, list):
        return [str(Path(part).absolute()) for part in given]
    return None if given is None else str(Path(given).absolute())


def _of_place(stage: str, kind: type[config.Config]) -> type[config.Config]:
    """The settings for one place of a stage that has several: for `validate@pairs` the pairs'."""
    place = stage.partition("@")[2]
    for field in kind.model_fields.values():
        for member in get_args(field.annotation):
            named = getattr(member, "model_fields", {}).get("kind")
            if named is not None and get_args(named.annotation) == (place,):
                return cast("type[config.Config]", member)
    return kind


def _shard(text: str) -> tuple[int, int]:
    index, _, of = text.partition("/")
    try:
        return int(index), int(of)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write it as I/N, 0/4 for the first quarter"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
