"""The commands that a person calls: one file each, with `main(argv) -> int | None`."""

import argparse
from pathlib import Path


def add_params(
    parser: argparse.ArgumentParser,
    words: str = "the settings file (params.yaml)",
    default: str = "params.yaml",
) -> None:
    """Adds the flag `--params`, which names the settings file, with `words` as its help."""
    parser.add_argument("--params", type=Path, default=Path(default), help=words)
