"""The MLflow run of a turn, found by its tag `turn`: where the tracker and the registry put what a turn leaves behind."""

import logging
import os
import re
import sqlite3
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from cowest.errors import RegistryError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
POSTGRES = "postgresql+psycopg://"
LOCK = int.from_bytes(b"registry")
"""Whoever looks for MLflow's tables in PostgreSQL and makes them holds this advisory lock: two at once break each other's."""
PROBE_SECONDS = 10
"""How long a server may take to answer at all. MLflow itself would try for minutes before it says that nobody is there."""


class Runs:
    """One experiment of one MLflow store; `name` is the experiment's and the registered model's."""

    def __init__(self, uri: str, name: str, artifacts: str) -> None:
        """`artifacts` is where files go, for a store that is a database; a server keeps files where it likes."""
        if uri.startswith(SQLITE):
            uri = f"{SQLITE}{_database(uri)}"
        # SQLAlchemy's own choice of driver differs from version to version.
        self.uri = re.sub(r"^postgres(ql)?(\+psycopg)?://", POSTGRES, uri)
        self.place = _without_password(self.uri)
        self.name = name
        self._artifacts = _location(artifacts) if self.uri.startswith((SQLITE, POSTGRES)) else None
        with self.reached():
            self.client = self._connect()

    def _connect(self) -> "MlflowClient":
        if self.uri.startswith(SQLITE) and self._artifacts is not None:
            _create(Path(self.uri.removeprefix(SQLITE)), self._artifacts)
        elif self.uri.startswith(("http://", "https://")):
            _probe(self.uri)
        from mlflow.tracking import MlflowClient

        _hush()
        with _alone(self.uri) if self.uri.startswith(POSTGRES) else nullcontext():
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Says in one line what MLflow and its database complain of. Raises RegistryError."""
        try:
            yield
        except ImportError as error:
            extras = "track,postgres" if self.uri.startswith(POSTGRES) else "track"
            raise RegistryError(
                f"{error}: the registry at {self.place} needs it; install cowest[{extras}]"
            ) from None
        except _faults() as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            for secret in {_password(self.uri), os.environ.get("PGPASSWORD")} - {None, ""}:
                said = said.replace(str(secret), "***")
            raise RegistryError(f"the registry at {self.place}: {said[:300]}") from None

    def find(self, turn: str) -> "Run | None":
        """The run of a turn, the first where two were started at once; None when there is none."""
        experiment = self.client.get_experiment_by_name(self.name)
        if experiment is None:
            return None
        assert turn.isalnum(), turn
        found = self.client.search_runs(
            [experiment.experiment_id],
            f"tags.turn = '{turn}'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return found[0] if found else None

    def of(self, turn: str) -> "Run":
        """The run of a turn; it is started where there is none."""
        experiment = self._experiment()
        found = self.find(turn)
        return (
            found
            if found is not None
            else self.client.create_run(experiment, run_name=turn[:8], tags={"turn": turn})
        )

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        location = self._artifacts
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

    found: tuple[type[Exception], ...] = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
    if "boto3" in sys.modules:  # only where files are in a bucket
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        found += (Boto3Error, BotoCoreError, ClientError)
    return found


def _same_place(one: str, other: str) -> bool:
    return one.removeprefix("file://").rstrip("/") == other.removeprefix("file://").rstrip("/")


def _database(uri: str) -> Path:
    path = uri.removeprefix(SQLITE)
    if not path:
        raise RegistryError(f"{uri} names no file: write it as {SQLITE}mlflow.db")
    return Path(path).absolute()


def _location(artifacts: str) -> str:
    return artifacts if "://" in artifacts else Path(artifacts).absolute().as_uri()


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Nobody else at a PostgreSQL registry's tables. Says at once where it can't be reached; MLflow would try for minutes."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        uri, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": PROBE_SECONDS}
    )
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({LOCK})"))
        yield


def _create(database: Path, artifacts: str) -> None:
    """Makes MLflow's tables whole or not at all: they take seconds, and half of them can't be mended."""
    if database.is_file() and database.stat().st_size > 0:
        with database.open("rb") as file:
            if file.read(15) != b"SQLite format 3":
                raise RegistryError(
                    f"{database} is not an SQLite file: give the registry another uri"
                )
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _hush()
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{database.name}.", dir=database.parent) as folder:
        fresh = Path(folder) / "fresh.db"
        SqlAlchemyStore(f"{SQLITE}{fresh}", artifacts).engine.dispose()
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
        raise RegistryError(
            f"nobody answers at {_without_password(uri)}: {error.reason}; is the registry's server up?"
        ) from None


def _password(uri: str) -> str | None:
    password = urlsplit(uri).password
    return unquote(password) if password else None


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{parts.netloc.rpartition('@')[2]}"))


def _hush() -> None:
    """What goes wrong is raised and said in one line; MLflow would also log it, with its stack. And no bars for small files."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, level in {
        "mlflow": logging.ERROR,
        "mlflow.store": logging.CRITICAL,
        "alembic": logging.WARNING,
    }.items():
        logging.getLogger(name).setLevel(level)
