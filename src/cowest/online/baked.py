"""A version in a folder, as an image carries it, in place of the registry."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from cowest import version
from cowest.config import Config
from cowest.errors import ModelError, RegistryError
from cowest.records import Decision


class BakedConfig(Config):
    """The version that a folder holds. `python -m cowest_serving bento --bake` writes it."""

    number: int
    """Its number in the registry that it came from."""
    folder: Path
    """The folder that it stands in, relative to params.yaml."""

    def open(self) -> "Baked":
        """Gives the version as a registry's champion. Raises RegistryError if it is not there."""
        try:
            version.expect(self.folder)
        except ModelError as error:
            raise RegistryError(f"serve.baked: {error}") from None
        return Baked(self.number, self.folder)


@dataclass(frozen=True, slots=True)
class Baked:
    """One version that is champion for good. No registry is asked, and none is written."""

    number: int
    folder: Path

    def log(self) -> list[Decision]:
        """No decision is known here."""
        return []

    def champion(self) -> int:
        """The version's number."""
        return self.number

    def fetch(self, version: int, folder: Path) -> None:
        """Copies the version into a new folder. Raises RegistryError for another number."""
        if version != self.number:
            raise RegistryError(
                f"{self.folder} holds only version {self.number}, not {version}: leave the version "
                "out, or leave serve.baked out to ask the registry"
            )
        shutil.copytree(self.folder, folder)
