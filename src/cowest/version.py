"""A version of the policy: one LoRA adapter on a public base, with its prompts, in one folder.

version.json    this record, or `null` where there is none (no champion yet)
adapter/        the PEFT adapter
curves.jsonl    what training logged
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cowest.config import complaints, digest, file_digest
from cowest.errors import ModelError
from cowest.io import write_text
from cowest.prompts import Prompts
from cowest.records import Record, Spread


class Aligned(Record):
    """The way in which a version was aligned."""

    align: Literal["dpo", "kto", "grpo", "self"]
    """The objective."""
    rows: tuple[int, ...]
    """Rows of data that each round learned from; of `grpo`, drafts up to its best checkpoint."""
    strong: tuple[str, ...]
    """Strong models that fed back; empty where the drafts' own scores taught."""


class Version(Record):
    """The record in a version's folder."""

    base: str
    """Name of the base model with the digest of its weights."""
    adapter: str
    """Digest of the folder `adapter/`."""
    prompts: Prompts
    trained: str
    """Digest of what SFT rests on: base, corpus, settings, and the adapter that it went on from.

    SFT has nothing to do if it is equal.
    """
    continued: str | None = None
    """Digest of the adapter that SFT went on from; None if it began from the base."""
    gains: Spread | None = None
    """Spread of the gains in the feedback that the version was aligned by.

    The next turns are compared with it. None if nothing was aligned.
    """
    aligned: Aligned | None = None
    """The way in which it was aligned; None for one round of DPO, and if nothing was aligned."""

    @property
    def digest(self) -> str:
        """Digest of what its answers follow from: base, adapter and prompts."""
        return digest([self.base, self.adapter, self.prompts.served])


def read(folder: Path) -> Version | None:
    """Reads the version in a folder and checks the adapter against its digest.

    None if the folder says that there is no version. Raises ModelError.
    """
    path = folder / "version.json"
    try:
        text = path.read_text(encoding="utf-8")
        if text.strip() == "null":
            return None
        version = Version.model_validate_json(text)
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is not a version of the policy: it has no version.json"
        ) from None
    except ValidationError as error:
        raise ModelError(f"{path} is not a version: {complaints(error)}") from None
    if file_digest(folder / "adapter") != version.adapter:
        raise ModelError(
            f"{folder}/adapter is not what version.json says: the folder was changed or cut short; "
            "fetch or train it again"
        )
    return version


def expect(folder: Path) -> Version:
    """Reads the version in a folder. Raises ModelError if there is none."""
    version = read(folder)
    if version is None:
        raise ModelError(f"{folder} holds no version of the policy")
    return version


def write(
    folder: Path,
    *,
    base: str,
    prompts: Prompts,
    trained: str,
    continued: str | None = None,
    gains: Spread | None = None,
    aligned: Aligned | None = None,
) -> Version:
    """Writes version.json into a folder that holds `adapter/` already."""
    version = Version(
        base=base,
        adapter=file_digest(folder / "adapter"),
        prompts=prompts,
        trained=trained,
        continued=continued,
        gains=gains,
        aligned=aligned,
    )
    # Left out where there is none, so that a version that began from the base, or was aligned by
    # one round of DPO, is the same bytes as before these fields were there, and keeps its digest.
    left_out = {name for name in ("continued", "aligned") if getattr(version, name) is None}
    values = version.model_dump(mode="json", exclude=left_out)
    text = json.dumps(values, indent=2, ensure_ascii=False)
    write_text(folder / "version.json", text + "\n")
    return version


def write_none(folder: Path) -> None:
    """Makes a folder that says that there is no version."""
    folder.mkdir(parents=True, exist_ok=True)
    # An empty folder would be lost in an object store.
    write_text(folder / "version.json", "null\n")
