"""Call stores for tests: an SQLite file, or a database of its own on a real PostgreSQL server,
started once a process.
"""

import atexit
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port

KINDS = ("sqlite", "postgres")
PASSWORD = "canary/of:a@word#1"
"""Of the server's one role; it is looked for wherever something is said."""
QUOTED = "canary%2Fof%3Aa%40word%231"
_numbers = itertools.count()


def place(kind: str, folder: Path) -> str:
    """What COWEST_STORE says for a new and empty store."""
    return str(folder / "calls.sqlite") if kind == "sqlite" else server().database()


class Server:
    """A PostgreSQL server in a folder, on a port of its own; started by whom PostgreSQL lets
    start it.
    """

    def __init__(self, folder: Path) -> None:
        self.data, self.log = folder / "data", folder / "log"
        self.port = free_port()
        word = folder / "password"
        word.write_text(PASSWORD)
        if os.geteuid() == 0:
            folder.chmod(0o711)
            shutil.chown(folder, "postgres")
            shutil.chown(word, "postgres")
        initdb = [
            "-U",
            "cowest",
            "-A",
            "scram-sha-256",
            f"--pwfile={word}",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        self._do("initdb", "-D", str(self.data), *initdb)
        self.start()

    def start(self, *settings: str) -> None:
        """Raises CalledProcessError where it doesn't answer within a minute."""
        given = " ".join(
            f"-c {one}"
            for one in ("fsync=off", "listen_addresses=127.0.0.1", f"port={self.port}", *settings)
        )
        options = f"{given} -c unix_socket_directories={self.data}"
        self._do(
            "pg_ctl",
            "-D",
            str(self.data),
            "-l",
            str(self.log),
            "-o",
            options,
            "-t",
            "60",
            "-w",
            "start",
        )

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is a crash."""
        self._do("pg_ctl", "-D", str(self.data), "-m", mode, "-t", "60", "-w", "stop")

    def url(self, database: str, user: str = "cowest", word: str = QUOTED) -> str:
        """Where a database is, password and all."""
        return f"postgresql://{user}:{word}@127.0.0.1:{self.port}/{database}"

    def database(self, like: str | None = None) -> str:
        """The address of a new one: empty, or a copy of one that nobody is connected to."""
        name = f"calls_{next(_numbers)}"
        self.sql(
            f"CREATE DATABASE {name} TEMPLATE {like.rpartition('/')[2] if like else 'template0'}"
        )
        return self.url(name)

    def sql(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of the last one."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as db:
            for statement in statements:
                rows = db.execute(statement.encode())
            return rows.fetchall() if rows.description else []

    def _do(self, program: str, *words: str) -> None:
        command = [str(_programs() / program), *words]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        # Into a file and not a pipe: the server would inherit it, and hold it open.
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(command, cwd="/", stdout=said, stderr=said, check=False)
            said.seek(0)
            assert done.returncode == 0, said.read()


@functools.cache
def server() -> Server:
    """The one of this process. Skips the test where PostgreSQL is not installed, and fails it in
    CI.
    """
    absent("psycopg is not installed", lambda: __import__("psycopg"))
    absent("PostgreSQL is not installed", _programs)
    folder = Path(tempfile.mkdtemp(prefix="cowest-tests-"))
    made = Server(folder)
    atexit.register(_end, made, folder)
    return made


def absent(reason: str, look: Callable[[], object]) -> None:
    """Skips the test where what it needs is not there, and fails it in CI."""
    try:
        look()
    except (ImportError, OSError):
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def _end(made: Server, folder: Path) -> None:
    with suppress(AssertionError):
        made.stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _programs() -> Path:
    """The newest of Debian's, or what is on the path."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
    )
    place = str(found[-1]) if found else shutil.which("initdb")
    if place is None:
        raise FileNotFoundError("initdb")
    return Path(place).parent
