"""The licence of a base model, as its own files name it."""

from pathlib import Path
from typing import Any

import yaml

from cowest.models import embedded

UNKNOWN = "unknown: look it up"
FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")


def of(name: str, folder: Path) -> str:
    """Returns the licence of a model, by what is written in its folder; UNKNOWN if nothing is."""
    known = embedded.MODELS.get(name)
    if known is not None:
        return known.licence
    return _of_card(folder / "README.md") or _of_file(folder) or UNKNOWN


def _of_card(path: Path) -> str | None:
    """The licence in the head of a model card, as the Hugging Face hub has it."""
    try:
        _, head, _ = path.read_text(encoding="utf-8").split("---", 2)
        values: Any = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(values, dict):
        return None
    found = values.get("license")
    if found == "other":
        found = values.get("license_name") or found
    return found if isinstance(found, str) else None


def _of_file(folder: Path) -> str | None:
    """The first line of a licence's text."""
    for name in FILES:
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for line in text.splitlines():
            if line.strip():
                return f"{line.strip()} (see {name} of the base)"
    return None
