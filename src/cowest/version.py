"""A version of the policy: one LoRA adapter on a public base, with its prompts, in one folder.

version.json    this record, or `null` where there is none (no champion yet)
adapter/        the PEFT adapter
curves.jsonl    what training logged
"""

import json
from pathlib import Path

from pydantic import ValidationError

from cowest.config import complaints, file_digest
from cowest.errors import ModelError
from cowest.io import write_text
from cowest.prompts import Prompts
from cowest.records import Record, Spread


class Version(Record):
    """What a version's folder says of itself."""

    base: str
    """Name of the base model, its weights' digest included."""
    adapter: str
    """Digest of the folder `adapter/`."""
    prompts: Prompts
    trained: str
    """Digest of what SFT rests on (base, corpus, settings): equal means that SFT has nothing to do."""
    gains: Spread | None = None
    """How the gains were spread that it was aligned by: what the next turns are held against. None where nothing was aligned."""


def read(folder: Path) -> Version | None:
    """The version in a folder, its adapter checked against its digest; None where the folder says there is none."""
    path = folder / "version.json"
    try:
        text = path.read_text(encoding="utf-8")
        version = None if text.strip() == "null" else Version.model_validate_json(text)
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is not a version of the policy: it has no version.json"
        ) from None
    except ValidationError as error:
        raise ModelError(f"{path} is not a version: {complaints(error)}") from None
    if version and file_digest(folder / "adapter") != version.adapter:
        raise ModelError(
            f"{folder}/adapter is not what version.json says: the folder was changed or cut short; fetch or train it again"
        )
    return version


def expect(folder: Path) -> Version:
    """The version in a folder. Raises ModelError where there is none."""
    version = read(folder)
    if version is None:
        raise ModelError(f"{folder} holds no version of the policy")
    return version


def write(
    folder: Path, *, base: str, prompts: Prompts, trained: str, gains: Spread | None = None
) -> Version:
    """Completes a folder that already holds `adapter/` with its version.json."""
    version = Version(
        base=base,
        adapter=file_digest(folder / "adapter"),
        prompts=prompts,
        trained=trained,
        gains=gains,
    )
    write_text(
        folder / "version.json",
        json.dumps(version.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n",
    )
    return version


def write_none(folder: Path) -> None:
    """Makes a folder that says there is no version (a file, since an empty folder is lost in object stores)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "version.json", "null\n")
