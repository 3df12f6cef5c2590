"""Registries and versions for tests: MLflow on a real SQLite file or PostgreSQL database, and
folders small enough to make by the dozen.
"""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from cowest import environment, version
from cowest.prompts import Prompts, Template
from cowest.registry.mlflow import RegistryConfig
from tests import stores

PROMPTS = Prompts(refine=Template(user="{query} {draft}"), solo=Template())


@functools.cache
def migrated() -> Path:
    """A database with MLflow's tables, made once a process: they take seconds."""
    environment.settle()
    folder = Path(tempfile.mkdtemp(prefix="cowest-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    RegistryConfig(
        uri=f"sqlite:///{folder}/mlflow.db", name="any", artifacts=str(folder / "artifacts")
    ).open()
    return folder / "mlflow.db"


@functools.cache
def migrated_database() -> str:
    """The same on PostgreSQL, to be copied."""
    environment.settle()
    place = stores.server().database()
    RegistryConfig(uri=place, name="any").open()
    stores.server().sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
        f"'{place.rpartition('/')[2]}'"
    )
    return place


def empty_registry(folder: Path, kind: str = "sqlite") -> RegistryConfig:
    """A registry of its own, with nothing decided; its files are in the folder."""
    if kind == "postgres":
        return RegistryConfig(
            uri=stores.server().database(like=migrated_database()),
            name="handbook",
            artifacts=str(folder / "mlartifacts"),
        )
    shutil.copy(migrated(), folder / "mlflow.db")
    return RegistryConfig(
        uri=f"sqlite:///{folder}/mlflow.db", name="handbook", artifacts=str(folder / "mlartifacts")
    )


def make_version(folder: Path, weights: str = "weights", curves: str = "") -> Path:
    """A version of the policy whose adapter is a word."""
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    (folder / "adapter" / "adapter_model.safetensors").write_text(weights)
    if curves:
        (folder / "curves.jsonl").write_text(curves)
    version.write(folder, base="base@1", prompts=PROMPTS, trained="t")
    return folder
