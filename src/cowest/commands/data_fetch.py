"""Fetch raw data into data/raw, whole or not at all: from a path, a URL, or the Hugging Face hub.

cowest data fetch https://host/questions.jsonl --sha256 9f86d081...
cowest data fetch hf://openlifescienceai/medmcqa --name medmcqa
cowest data fetch hf://owner/name@a-tag --split train=plain/train-* --split dev=plain/validation-*
"""

import argparse
import re
from math import inf
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from cowest.errors import ConfigError
from cowest.raw import sources

RAW = Path("data/raw")
PASSWORD = re.compile(r"(?:(?:hf:)?//[^/?#@]*:|(?!hf:)[a-zA-Z][\w+.-]*:/*)[^/?#]*@")
"""The part of an address that names who asks. After hf:// an @ alone begins a revision."""
SPLITS = ("train", "dev", "valid", "validation", "test")


def main(argv: list[str]) -> int:
    """0: fetched. Raises CoWestError, and then nothing is there."""
    parser = argparse.ArgumentParser(
        prog="cowest data fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a path, http(s)://..., or hf://owner/name@revision"
    )
    parser.add_argument("--name", help="what it is called in data/raw (as the source is)")
    parser.add_argument("--sha256", metavar="HEX", help="what the one file must be")
    parser.add_argument(
        "--limit",
        type=float,
        default=sources.LIMIT / 2**30,
        metavar="GIB",
        help="at most so much (20)",
    )
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME=PATTERN",
        help="hub: which files are train, dev or test; may come again",
    )
    given = parser.parse_args(argv)
    _refuse_unfit(given.source)
    name = given.name or _name_of(given.source)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(
            f"{name!r} is no name of a data set: letters, digits, points, dashes; "
            "give one with --name"
        )
    if not 0 < given.limit < inf:
        raise ConfigError(
            f"--limit {given.limit:g}: give a number of GiB above 0, as in --limit 50"
        )
    folder = RAW / name
    found = sources.fetch(
        given.source,
        folder,
        sha256=given.sha256,
        limit=int(given.limit * 2**30),
        splits=_splits(given.split),
    )
    for file, size, digest in found:
        print(f"{folder / file}  {size} bytes  sha256 {digest}")
    print(
        f"\nnext: `cowest data add {folder}` makes a version of it; "
        f"`turn: {{raw: {folder}}}` in params.yaml names it"
    )
    return 0


def _refuse_unfit(source: str) -> None:
    """Raises ConfigError for an address that is none, or that holds a name or password.

    It is not shown, here or later: secrets may stand in it.
    """
    if PASSWORD.match(source):
        raise ConfigError(
            "the address holds a name or password before its @, which would end in logs: take it "
            "out, and fetch from an address that needs none"
        )
    try:
        urlsplit(source)
    except ValueError as error:
        raise ConfigError(f"the source is no address ({error}): write its host anew") from None


def _name_of(source: str) -> str:
    """The last part of a path or URL, without its ending, revision and query."""
    is_hub = source.startswith("hf://")
    path = source.partition("@")[0] if is_hub else urlsplit(source).path
    return PurePosixPath(path.rstrip("/")).stem


def _splits(given: list[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for text in given:
        name, _, pattern = text.partition("=")
        if name not in SPLITS or not pattern or name in splits:
            raise ConfigError(
                f"--split {text}: give each of train, dev and test once, as in train=plain/train-*"
            )
        splits[name] = pattern
    return splits
