"""Fetch the embedded models by checksum and convert them once into the cache.

cowest fetch                          those that params.yaml names; without params.yaml, both
cowest fetch smollm2-135m-instruct    the one under Apache-2.0
"""

import argparse
import re
import time
from pathlib import Path

from cowest.errors import ModelError
from cowest.models import embedded


def main(argv: list[str]) -> int:
    """Fetches the models, and prints what is there already and under what terms.

    Raises ModelError.
    """
    parser = argparse.ArgumentParser(
        prog="cowest fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which: {', '.join(embedded.MODELS)} "
    )
    names = parser.parse_args(argv).names or _named() or list(embedded.MODELS)
    unknown = [name for name in names if name not in embedded.MODELS]
    if unknown:
        raise ModelError(
            f"{unknown[0]!r} is no embedded model: they are {', '.join(embedded.MODELS)}"
        )
    for name in names:
        _fetch(embedded.MODELS[name])
    return 0


def _named() -> list[str]:
    """The embedded models that the project here uses."""
    params = Path("params.yaml")
    if not params.is_file():
        return []
    text = params.read_text(encoding="utf-8", errors="replace")
    # Found by their spelling: settings that are not valid yet name models all the same.
    return [
        name for name in embedded.MODELS if re.search(rf"model: *[\"']?{re.escape(name)}\b", text)
    ]


def _fetch(model: embedded.Embedded) -> None:
    folder = embedded.folder_of(model)
    if embedded.is_there(model):
        print(f"{model.name}: already there, {folder} ({model.licence})")
        return
    if model.notice:
        print(model.notice.format(folder=folder))
    print(
        f"{model.name}: fetching {model.mebibytes} MiB and converting it ({model.licence}) ...",
        flush=True,
    )
    started = time.monotonic()
    embedded.fetch(model)
    print(f"{model.name}: there in {time.monotonic() - started:.0f} s, {folder}")
