"""The MLflow run of a turn, found by its tag `turn`: where the tracker and the registry put what a turn leaves behind."""

import logging
import os
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from cowest.errors import RegistryError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
PROBE_SECONDS = 10
"""How long a server may take to answer at all. MLflow itself would try for minutes before it says that nobody is there."""


class Runs:
    """One experiment of one MLflow store; `name` is the experiment's and the registered model's."""

    def __init__(self, uri: str, name: str, artifacts: str) -> None:
        """`artifacts` is the folder for files beside a local store; a server keeps files where it likes."""
        self.uri = f"{SQLITE}{_database(uri)}" if uri.startswith(SQLITE) else uri
        self.place = _without_password(self.uri)
        self.name = name
        self._artifacts = Path(artifacts).absolute() if uri.startswith(SQLITE) else None
        with self.reached():
            self.client = self._connect()

    def _connect(self) -> "MlflowClient":
        if self._artifacts is not None:
            _create(Path(self.uri.removeprefix(SQLITE)), self._artifacts)
        elif self.uri.startswith(("http://", "https://")):
            _probe(self.uri)
        from mlflow.tracking import MlflowClient

        _hush()
        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        client.search_experiments(max_results=1)
        return client

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Says in one line what MLflow and its database complain of. Raises RegistryError."""
        try:
            yield
        except ImportError as error:
            raise RegistryError(f"{error}: the registry needs MLflow; install cowest[track]") from None
        except _faults() as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RegistryError(f"the registry at {self.place}: {said[:300]}") from None

    def find(self, turn: str) -> "Run | None":
        """The run of a turn, the first where two were started at once; None when there is none."""
        experiment = self.client.get_experiment_by_name(self.name)
        if experiment is None:
            return None
        assert turn.isalnum(), turn
        found = self.client.search_runs(
            [experiment.experiment_id], f"tags.turn = '{turn}'", order_by=["attributes.start_time ASC"], max_results=1
        )
        return found[0] if found else None

    def of(self, turn: str) -> "Run":
        """The run of a turn; it is started where there is none."""
        experiment = self._experiment()
        found = self.find(turn)
        return found if found is not None else self.client.create_run(experiment, run_name=turn[:8], tags={"turn": turn})

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        location = self._artifacts.as_uri() if self._artifacts else None
        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            try:
                return str(self.client.create_experiment(self.name, artifact_location=location))
            except MlflowException:  # somebody else was quicker
                found = self.client.get_experiment_by_name(self.name)
                if found is None:
                    raise
        if location is not None and not _same_place(found.artifact_location, location):
            raise RegistryError(
                f"{self.place} keeps the files of {self.name!r} in {found.artifact_location}, not in {location}: "
                "was the project moved or copied? move it back, or give the registry another uri"
            )
        return str(found.experiment_id)


def _faults() -> tuple[type[Exception], ...]:
    """What MLflow and what it stands on may raise; a request's error is an OSError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)


def _same_place(one: str, other: str) -> bool:
    return one.removeprefix("file://").rstrip("/") == other.removeprefix("file://").rstrip("/")


def _database(uri: str) -> Path:
    path = uri.removeprefix(SQLITE)
    if not path:
        raise RegistryError(f"{uri} names no file: write it as {SQLITE}mlflow.db")
    return Path(path).absolute()


def _create(database: Path, artifacts: Path) -> None:
    """Makes MLflow's tables whole or not at all: they take seconds, and half of them can't be mended."""
    if database.is_file() and database.stat().st_size > 0:
        with database.open("rb") as file:
            if file.read(15) != b"SQLite format 3":
                raise RegistryError(f"{database} is not an SQLite file: give the registry another uri")
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _hush()
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{database.name}.", dir=database.parent) as folder:
        fresh = Path(folder) / "fresh.db"
        SqlAlchemyStore(f"{SQLITE}{fresh}", artifacts.as_uri()).engine.dispose()
        try:
            if database.is_file():  # empty: a call that was cut short
                database.unlink()
            os.link(fresh, database)
        except FileExistsError:  # another process was quicker, and its tables are as good
            pass
        except OSError:  # a file system without links
            fresh.replace(database)


def _probe(uri: str) -> None:
    """Any answer will do, a refusal too."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS):  # noqa: S310 (http or https: see _connect)
            pass
    except urllib.error.HTTPError:
        pass
    except urllib.error.URLError as error:
        raise RegistryError(f"nobody answers at {_without_password(uri)}: {error.reason}; is the registry's server up?") from None


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{parts.netloc.rpartition('@')[2]}"))


def _hush() -> None:
    """What goes wrong is raised and said in one line; MLflow would also log it, with its stack. And no bars for small files."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, level in {"mlflow": logging.ERROR, "mlflow.store": logging.CRITICAL, "alembic": logging.WARNING}.items():
        logging.getLogger(name).setLevel(level)
