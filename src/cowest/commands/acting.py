"""The parts that the commands about the registry share: where it is, and an act entered into it."""

import argparse
from datetime import datetime
from pathlib import Path

from cowest.commands import add_params, shown
from cowest.config import enter, load, parse, section
from cowest.errors import ConfigError, RegistryError
from cowest.protocols import Entry, Registry
from cowest.records import Decision
from cowest.registry.log import champion_of, settled
from cowest.registry.mlflow import RegistryConfig

WHERE = "where the registry is said to be (register.registry)"
CHAMPION_TAKES_EFFECT = (
    "what serves takes it up by itself (within serve.watch seconds, and the time to load it); with "
    "`watch: null`, when it is started again"
)


def parser_of(command: str, words: str) -> argparse.ArgumentParser:
    """A parser whose help keeps the lines of `words`."""
    parser = argparse.ArgumentParser(
        prog=f"cowest {command}",
        description=words,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_params(parser, WHERE)
    return parser


def add_why(parser: argparse.ArgumentParser) -> None:
    """Adds the flag `--why`, which every act needs."""
    parser.add_argument(
        "--why", required=True, metavar="WORDS", help="the reason, for whoever reads the history"
    )


def registry_of(params: Path) -> RegistryConfig:
    """The registry that a settings file names; goes to the file's folder. Raises ConfigError."""
    values = section(load(params), "register", str(params))
    enter(params)
    if "registry" not in values:
        raise ConfigError(f"{params}: register.registry is missing: it says where the registry is")
    return parse(RegistryConfig, values["registry"], f"{params}: register.registry")


def opened(params: Path) -> Registry:
    """The registry, if there is one. Raises RegistryError; makes none."""
    config = registry_of(params)
    if not config.begun():
        raise RegistryError(
            f"there is no registry at {config.uri} yet: `cowest turn` makes it with the first "
            "decision"
        )
    return config.open()


def entered(registry: Registry, entry: Entry) -> tuple[Decision, int | None]:
    """Adds an act to the log and returns its line, with the champion after it.

    Raises RegistryError if somebody was quicker and the act does not count.
    """
    try:
        made = registry.enter(entry)
        champion = champion_of(registry.log())
    except RegistryError as error:
        raise RegistryError(f"{error}{_entered_all_the_same(registry, entry)}") from None
    if entry.promote and not made.promoted:
        raise RegistryError(
            f"version {made.version} is in the history, and does not count: {made.reason}"
        )
    return made, champion


def _entered_all_the_same(registry: Registry, entry: Entry) -> str:
    """Says that an act is in the log though its command failed, for whoever would do it again.

    A rollback that is done twice goes back twice.
    """
    try:
        made = settled(registry.log(), entry.turn)
    except RegistryError:
        return "; it may have been entered all the same: see `cowest history` before you try again"
    if made is None:
        return ""
    return f"; it was entered all the same, as version {made.version}, and need not be done again"


def moment(at: float | None) -> str:
    """A time as people here read it; empty if it is not known."""
    return "" if at is None else datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M")


def cut(text: str, width: int) -> str:
    """A text on one line of at most this many characters."""
    line = shown(" ".join(text.split()))
    return line if len(line) <= width else f"{line[: width - 1]}…"
