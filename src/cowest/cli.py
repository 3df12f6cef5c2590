"""`cowest <stage> --<port> path ...` and `cowest <command>`.

Stages get their flags from the ports of their `main` and their settings from their section of params.yaml.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast, get_args

from cowest import __version__, config, environment
from cowest.errors import CoWestError
from cowest.ports import config_of, ports_of, takes_shard

COMMANDS = {
    "init": "make a project from a sample of your data: JSONL, CSV or Parquet",
    "data": "data sets: fetch one, make a version of it, or say what differs between two",
    "turn": "one turn of the wheel: pin, dvc repro, register, report",
    "ask": "put one question to the champion and the strong model, and see the draft beside the answer",
    "report": "write the page of the last turn again",
    "status": "who is champion, and what was decided",
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

A turn: cowest turn.   Settings: params.yaml.   Where to read first: README.md.
"""


def main(argv: list[str] | None = None) -> int:
    """The command line. 0: done; 1: a CoWestError, printed in one line; 2: wrong usage; 130: interrupted."""
    environment.settle()
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(argv)
    except CoWestError as error:
        print(f"cowest: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where, what = error.filename or "a file", error.strerror or error
        print(
            f"cowest: {where}: {what}: is it ours to read and write, and is there room?",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(
            "cowest: interrupted; what was answered is kept, run the same command again to go on",
            file=sys.stderr,
        )
        return 130


def _dispatch(argv: list[str]) -> int:
    from cowest.stages import STAGES

    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        commands = "\n".join(f"  {command:<10} {text}" for command, text in COMMANDS.items())
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
    print(
        f"cowest: {name!r} is neither a stage nor a command: see `cowest --help`", file=sys.stderr
    )
    return 2


def _stage(stage: str, argv: list[str]) -> int:
    from cowest import stages

    main = stages.main_of(stage)
    doc = importlib.import_module(main.__module__).__doc__ or ""
    parser = argparse.ArgumentParser(
        prog=f"cowest {stage}",
        description=doc,
        epilog=_settings(stage, main),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for port in ports_of(main):
        parser.add_argument(
            f"--{port.name}",
            required=True,
            metavar="PATH",
            nargs="+" if port.many else None,
            help="read" if port.direction == "in" else "written",
        )
    reads_params = any(
        port.name == "params" for port in ports_of(main)
    )  # pin and register: their port is the settings file
    if not reads_params:
        parser.add_argument(
            "--params",
            type=Path,
            default=Path("params.yaml"),
            help="the settings file (params.yaml)",
        )
    if takes_shard(main):
        parser.add_argument(
            "--shard",
            type=_shard,
            metavar="I/N",
            help="only this part of the queries, in whole blocks: 0/4 is the first quarter",
        )
    given = vars(parser.parse_args(argv))
    params, shard = (
        Path(given["params"] if reads_params else given.pop("params")),
        given.pop("shard", None),
    )
    values = config.section(config.load(params), stage, str(params))
    before = signal.signal(
        signal.SIGTERM, _interrupt
    )  # calls in flight are waited for, and their answers kept
    try:
        stages.run(stage, values, shard, **given)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _settings(stage: str, main: Callable[..., object]) -> str:
    """The settings of a stage with their docstrings, for its --help."""
    return "\n".join(
        ["settings (in params.yaml):", *_fields(_of_place(stage, config_of(main)), "")]
    )


def _of_place(stage: str, kind: type[config.Config]) -> type[config.Config]:
    """The settings of one place of a stage that stands in several: of `validate@pairs`, those of pairs."""
    place = stage.partition("@")[2]
    for field in kind.model_fields.values():
        for member in get_args(field.annotation):
            named = getattr(member, "model_fields", {}).get("kind")
            if named is not None and get_args(named.annotation) == (place,):
                return cast("type[config.Config]", member)
    return kind


def _fields(kind: type[config.Config], path: str) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        words = " ".join((field.description or "").split())
        if isinstance(field.annotation, type) and issubclass(field.annotation, config.Config):
            yield f"  {path}{name}{f': {words}' if words else ''}"
            yield from _fields(field.annotation, f"{path}{name}.")
        else:
            default = (
                "required"
                if field.is_required()
                else f"default {field.get_default(call_default_factory=True)!r}"
            )
            yield f"  {path}{name}: {words}{' ' if words else ''}({default})"


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
