"""The MLflow run of a turn, found by its tag `turn`.

Tracker and registry put into it whatever a turn leaves behind.
"""

import http.client
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
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cowest.errors import RegistryError
from cowest.passwords import passwords, without_password

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
POSTGRES = "postgresql+psycopg://"
LOCK = int.from_bytes(b"registry")
"""Key of the advisory lock under which MLflow's tables are looked for in PostgreSQL, and made."""
PATIENCE = 300
"""Seconds to wait for another process that makes MLflow's tables."""
LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's code for a lock that was waited for too long."""
PROBE_SECONDS = 10
"""Time limit for a server's first answer. MLflow itself would retry for minutes before it reports
that nobody answers."""
SQLITE_HEADER = b"SQLite format 3"


class Runs:
    """One experiment of one MLflow store; the registered model has the experiment's name."""

    def __init__(self, uri: str, name: str, artifacts: str) -> None:
        """`artifacts` is the place of files if the store is a database; a server has its own."""
        if uri.startswith(SQLITE):
            uri = f"{SQLITE}{_database(uri)}"
        # The driver is named, since SQLAlchemy's own choice differs from version to version.
        self.uri = re.sub(r"^postgres(ql)?(\+psycopg)?://", POSTGRES, uri)
        self.place = without_password(self.uri)
        self.name = name
        in_database = self.uri.startswith((SQLITE, POSTGRES))
        self._artifacts = location_of(artifacts) if in_database else None
        self._file: tuple[int, int] | None = None
        """Device and number of the SQLite file that is open."""
        with self.reached():
            self.client = self._connect()
        self._file = self._file_now()

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

    def files(self, address: str) -> str:
        """Returns the address of files now, by the one that MLflow's tables hold.

        MLflow stores absolute addresses. Those of a registry in a file are read by their part after
        the experiment's location, so that a project can be moved, copied or mounted.
        """
        experiment = self.client.get_experiment_by_name(self.name)
        if experiment is None or not self._in_folder(experiment.artifact_location):
            return address
        return relocated(address, experiment.artifact_location, self._artifacts or "")

    def keep(self, run: "Run", path: Path, folder: str | None = None) -> None:
        """Copies a file, or the files of a folder, into a run or a folder of it."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        # MLflow's client would write to the address in its tables, which may be of the project
        # that this one was copied from.
        place = get_artifact_repository(self.files(run.info.artifact_uri), tracking_uri=self.uri)
        if path.is_dir():
            place.log_artifacts(str(path), folder)
        else:
            place.log_artifact(str(path), folder)

    def take(self, run: "Run", name: str) -> bytes | None:
        """The content of a file directly in a run; None if it has none of that name."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        place = get_artifact_repository(self.files(run.info.artifact_uri), tracking_uri=self.uri)
        if name not in {one.path for one in place.list_artifacts()}:
            return None
        with tempfile.TemporaryDirectory(prefix="cowest.") as folder:
            return Path(place.download_artifacts(name, folder)).read_bytes()

    def ready(self) -> None:
        """Raises RegistryError if no run could be added. Makes nothing."""
        with self.reached():
            found = self.client.get_experiment_by_name(self.name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise RegistryError(is_deleted(self.place, self.name, found.experiment_id))

    def writable(self) -> None:
        """Raises RegistryError if the store takes nothing; makes the experiment if there is none.

        Written is a tag of the experiment, which holds the time of the last try.
        """
        with self.reached():
            experiment = self._experiment()
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self.client.set_experiment_tag(experiment, "cowest.checked", now)

    def _expect_files(self, location: str) -> None:
        """Raises RegistryError if there are versions and their folder was left behind."""
        folder = folder_of(location)
        assert folder is not None, location
        if not folder.is_dir() and self.client.search_model_versions(f"name='{self.name}'"):
            raise RegistryError(are_missing(f"the files of {self.name!r}", folder))

    def _in_folder(self, location: str) -> bool:
        """True if a registry in a file has, and had, its files in a folder."""
        if not self.uri.startswith(SQLITE) or self._artifacts is None:
            return False
        return folder_of(location) is not None and folder_of(self._artifacts) is not None

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Turns errors of MLflow and its database into a RegistryError of one line."""
        self._expect_file()
        try:
            yield
        except ImportError as error:
            extras = "extra `track`"
            if self.uri.startswith(POSTGRES):
                extras = "extras `track` and `postgres`"
            raise RegistryError(
                f"{error}: the registry at {self.place} needs it; install CoWest's {extras} "
                "(README, Install)"
            ) from None
        except _faults() as error:
            text = str(error).strip() or type(error).__name__
            reason = text.splitlines()[0]
            reason = _masked(reason, self.uri)[:300]
            raise RegistryError(f"the registry at {self.place}: {reason}") from None

    def _expect_file(self) -> None:
        """Raises RegistryError if the SQLite file that was opened is gone; reads one in its place.

        A connection goes on reading a file that was moved away, and would never see the next one.
        """
        if self._file is None:
            return
        now = self._file_now()
        if now is None:
            raise RegistryError(f"the registry at {self.place}: the file is gone")
        if now != self._file:
            self._file = now
            models = self.client._get_registry_client()
            for part in (self.client._tracking_client, models):
                part.store.engine.dispose()

    def _file_now(self) -> tuple[int, int] | None:
        """Device and number of the registry's SQLite file; None without one."""
        if not self.uri.startswith(SQLITE):
            return None
        try:
            found = Path(self.uri.removeprefix(SQLITE)).stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def find(self, turn: str) -> "Run | None":
        """The run of a turn, or None. If two were started at once, every reader takes the first."""
        experiment = self.client.get_experiment_by_name(self.name)
        if experiment is None:
            return None
        # A turn's key goes into a search expression in quotes.
        assert turn.isalnum(), turn
        found = self.client.search_runs(
            [experiment.experiment_id],
            f"tags.turn = '{turn}'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return found[0] if found else None

    def of(self, turn: str) -> "Run":
        """The run of a turn, which is started if there is none."""
        experiment = self._experiment()
        found = self.find(turn)
        if found is not None:
            return found
        name = f"turn {turn[:8]} of {datetime.now(UTC):%Y-%m-%d}"
        return self.client.create_run(experiment, run_name=name, tags={"turn": turn})

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        location = self._artifacts
        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            try:
                return str(self.client.create_experiment(self.name, artifact_location=location))
            except MlflowException:
                # Another process may have been quicker.
                found = self.client.get_experiment_by_name(self.name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise RegistryError(is_deleted(self.place, self.name, found.experiment_id))
        before = found.artifact_location
        if location is None or _same_place(before, location):
            return str(found.experiment_id)
        if self._in_folder(before):
            self._expect_files(location)
            return str(found.experiment_id)
        raise RegistryError(
            f"{self.place} keeps the files of {self.name!r} in {before}, not in {location}: set "
            "register.registry.artifacts to that place, or give the registry another uri"
        )


def _faults() -> tuple[type[Exception], ...]:
    """The errors of MLflow and of the libraries under it; those of an HTTP request are OSErrors."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    found: tuple[type[Exception], ...] = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
    # MLflow imports boto3 only if the files are in a bucket; without it nothing of it was raised.
    if "boto3" in sys.modules:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        found += (Boto3Error, BotoCoreError, ClientError)
    return found


def folder_of(address: str) -> Path | None:
    """The folder that an address of files names; None for a bucket or a server."""
    parts = urlsplit(address)
    # A server's own addresses have one slash: mlflow-artifacts:/1/...
    if not parts.scheme:
        return Path(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def relocated(address: str, before: str, now: str) -> str:
    """The address of a file whose experiment was in the folder `before`, and is in `now`.

    An address that is not below `before` stays as it is.
    """
    file, old, new = folder_of(address), folder_of(before), folder_of(now)
    if file is None or old is None or new is None or not file.is_relative_to(old):
        return address
    return (new / file.relative_to(old)).as_uri()


def are_missing(files: str, folder: Path) -> str:
    """What to say where a registry's file has come without its files."""
    return (
        f"{files} are not in {folder}: bring the folder along with the registry's file, or set "
        "register.registry.artifacts to the place where it lies"
    )


def is_deleted(uri: str, name: str, number: str) -> str:
    """What to say where the experiment was deleted; MLflow keeps it, and its name, until `gc`."""
    return (
        f"the experiment {name!r} in the registry {uri} was deleted, and MLflow takes no run into "
        f"it: `MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x {number}` brings it back, "
        "or give register.registry another name"
    )


def _same_place(one: str, other: str) -> bool:
    return one.removeprefix("file://").rstrip("/") == other.removeprefix("file://").rstrip("/")


def _database(uri: str) -> Path:
    path = uri.removeprefix(SQLITE)
    if not path:
        raise RegistryError(f"{uri} names no file: write it as {SQLITE}mlflow.db")
    return Path(path).absolute()


def expect_file(database: Path) -> None:
    """Raises RegistryError for a folder, or the like, in the place of an SQLite file."""
    # SQLAlchemy would try to open it for three minutes.
    if database.exists() and not database.is_file():
        what = "a folder" if database.is_dir() else "no file"
        raise RegistryError(
            f"{database} is {what}, where the registry's SQLite file should be (`docker -v` makes "
            "a folder where a file is missing): take it away, or give the registry another uri"
        )


def location_of(artifacts: str) -> str:
    """The address of the place for files that a setting names: a folder's, or as it is given."""
    return artifacts if "://" in artifacts else Path(artifacts).absolute().as_uri()


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keeps other processes from a PostgreSQL registry's tables while MLflow makes them.

    Raises RegistryError if another process holds them too long, and SQLAlchemyError at once if the
    server can't be reached; MLflow would retry for minutes.
    """
    import sqlalchemy

    # MLflow migrates its tables step by step, and two that migrate at once break each other's. The
    # lock ends with its transaction, also behind a pooler that hands a session on after each. So a
    # process that is killed leaves none behind.
    engine = sqlalchemy.create_engine(
        uri, poolclass=sqlalchemy.NullPool, connect_args={"connect_timeout": PROBE_SECONDS}
    )
    with engine.connect() as connection:
        for name, value in (
            ("lock_timeout", f"{PATIENCE}s"),
            # The transaction stands still while MLflow works on connections of its own.
            ("idle_in_transaction_session_timeout", "0"),
        ):
            connection.execute(sqlalchemy.text(f"SET LOCAL {name} = '{value}'"))
        try:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        except sqlalchemy.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            raise RegistryError(
                f"the registry at {without_password(uri)}: for {PATIENCE} s another process has "
                "been opening it, or making its tables: let that end and run again"
            ) from None
        yield


def _create(database: Path, artifacts: str) -> None:
    """Makes an SQLite file with MLflow's tables, unless there is one. Raises RegistryError."""
    expect_file(database)
    if database.is_file() and database.stat().st_size > 0:
        with database.open("rb") as file:
            if file.read(len(SQLITE_HEADER)) != SQLITE_HEADER:
                raise RegistryError(
                    f"{database} is not an SQLite file: give the registry another uri"
                )
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _hush()
    database.parent.mkdir(parents=True, exist_ok=True)
    # The tables take seconds to make, and half of them can't be mended. So they are made in a file
    # beside the database's place, which gets its name in one step.
    with tempfile.TemporaryDirectory(prefix=f".{database.name}.", dir=database.parent) as folder:
        fresh = Path(folder) / "fresh.db"
        SqlAlchemyStore(f"{SQLITE}{fresh}", artifacts).engine.dispose()
        try:
            # An empty file: a process was cut short when it had only opened the database.
            if database.is_file():
                database.unlink()
            os.link(fresh, database)
        except FileExistsError:
            # Another process was quicker, and its tables are as good.
            pass
        except OSError:
            # The file system has no links.
            fresh.replace(database)


def _probe(uri: str) -> None:
    """Raises RegistryError if no server answers. Any answer counts, a refusal too."""
    # A name and a password before the host are for MLflow: urllib would take them for the host.
    bare = re.sub("(?<=://)[^/?#]*@", "", without_password(uri))
    place = f"{bare.rstrip('/')}/health"
    try:
        # `_connect` probes only addresses of HTTP or HTTPS.
        with urllib.request.urlopen(place, timeout=PROBE_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError, http.client.HTTPException) as error:
        # A server that is just ending breaks the connection off.
        reason = _masked(str(getattr(error, "reason", None) or error), uri)
        raise RegistryError(
            f"nobody answers at {without_password(uri)}: {reason}; is the registry's server up?"
        ) from None


def _masked(text: str, uri: str) -> str:
    """A text without the passwords of an address and of the environment.

    Drivers quote the address that they were given, and messages end in logs.
    """
    # One may be a part of another: the longest comes first, so that no rest of it stays.
    for secret in sorted((*passwords(uri), os.environ.get("PGPASSWORD") or ""), key=len)[::-1]:
        if secret:
            text = text.replace(secret, "***")
    return text


def _hush() -> None:
    """Turns off MLflow's progress bars and logs.

    What goes wrong is raised and reported in one line; MLflow would also log it with its stack.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
