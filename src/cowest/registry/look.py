"""A look into a registry's file, without MLflow: what would stop a turn at its very end."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from cowest.errors import RegistryError
from cowest.registry.runs import (
    SQLITE,
    are_missing,
    expect_file,
    folder_of,
    is_deleted,
    location_of,
    relocated,
)

EXPERIMENT = (
    "SELECT lifecycle_stage, artifact_location, experiment_id FROM experiments WHERE name = ?"
)
CHAMPION = (
    "SELECT v.version, v.source FROM registered_model_aliases a JOIN model_versions v "
    "ON v.name = a.name AND v.version = a.version WHERE a.name = ? AND a.alias = 'champion'"
)


def ready(database: Path, name: str, artifacts: str) -> None:
    """Raises RegistryError if the experiment was deleted, or the champion's files are not here."""
    expect_file(database)
    address = f"file:{quote(str(database.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as db:
            experiment = db.execute(EXPERIMENT, (name,)).fetchone()
            champion = db.execute(CHAMPION, (name,)).fetchone()
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):
            # An empty file, which MLflow fills.
            return
        raise RegistryError(
            f"the registry {database} can't be read: {error}; is it a file of MLflow, and ours "
            "to read?"
        ) from None
    if experiment is None:
        return
    stage, before, number = experiment
    if stage == "deleted":
        raise RegistryError(is_deleted(f"{SQLITE}{database}", name, str(number)))
    if champion is None:
        return
    version, source = champion
    folder = folder_of(relocated(source, before, location_of(artifacts)))
    if folder is not None and not folder.is_dir():
        raise RegistryError(are_missing(f"the files of the champion, version {version},", folder))
