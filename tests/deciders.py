"""Processes that decide on a registry: one that is killed between two of its writes, and two that
live long and begin each round together. They are forked from a server that has MLflow loaded.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkServerContext
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from cowest import environment
from cowest.protocols import Registry
from cowest.records import Decision
from cowest.registry import acts
from cowest.registry.log import champion_of, find
from cowest.registry.mlflow import RegistryConfig
from tests import stores
from tests.registries import empty_registry, make_version
from tests.servers import free_port

KINDS = (*stores.KINDS, "server")
PATIENCE = 300
"""Seconds that a process may take for its part."""


def context() -> ForkServerContext:
    """Starts processes in which MLflow is loaded already, which takes seconds."""
    environment.settle()
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["mlflow.tracking", "mlflow.artifacts", "tests.deciders"])
    return found


@contextmanager
def registry_of(kind: str, folder: Path) -> Iterator[RegistryConfig]:
    """An empty registry: a file, a database, or behind MLflow's server."""
    if kind != "server":
        yield empty_registry(folder, kind)
        return
    empty_registry(folder)
    with mlflow_server(folder, free_port()) as uri:
        yield RegistryConfig(uri=uri, name="handbook")


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    """MLflow's server over the file in a folder; its address."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "mlartifacts")]
    around = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=around, stdout=log, stderr=log, process_group=0
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def others(log: list[Decision]) -> list[int]:
    """Versions that were champion and hold other files than the champion, each content once."""
    champion = find(log, champion_of(log))
    found: dict[str | None, int] = {}
    for one in reversed(log):
        if one.promoted and champion is not None and one.digest != champion.digest:
            found.setdefault(one.digest, one.version)
    return list(found.values())


def act(what: str, registry: Registry, log: list[Decision], folder: Path, name: str) -> Decision:
    """A promotion or a rollback, judged by a log that was seen before."""
    if what == "promote":
        version = make_version(folder / name, name)
        given = {"promote": True, "against": champion_of(log), "reason": "better"}
        return registry.decide(version, turn=name, tags={}, **given)
    # Two that go back at once have different aims, where there are two.
    aims = others(log)
    to = aims[ord(name[0]) % len(aims)]
    return registry.enter(acts.rollback(log, to, f"so says {name}"))


def doomed(
    config: RegistryConfig, what: str, folder: str, name: str, at: int, written: "SimpleQueue[int]"
) -> None:
    """Acts, and is killed just before its write number `at`; says how many there were if not."""
    registry = config.open()
    log = registry.log()
    count = _counted(at)
    act(what, registry, log, Path(folder), name)
    written.put(count())


def _counted(at: int) -> Callable[[], int]:
    """Counts what is written to databases and servers, and kills this process before one."""
    import requests
    import sqlalchemy

    count = 0

    def written() -> None:
        nonlocal count
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def statement(_: object, __: object, sql: str, *___: object) -> None:
        if sql.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE")):
            written()

    def commit(_: object) -> None:
        written()

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", statement)
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "commit", commit)
    send = requests.Session.send

    def sent(
        session: requests.Session, request: requests.PreparedRequest, **given: object
    ) -> requests.Response:
        if request.method != "GET":
            written()
        return send(session, request, **given)

    requests.Session.send = sent  # type: ignore[method-assign, assignment]
    return lambda: count


def racer(
    config: RegistryConfig,
    what: str,
    folder: str,
    name: str,
    rounds: int,
    together: Barrier,
    made: "SimpleQueue[tuple[int, int, bool]]",
) -> None:
    """Looks at the log and acts, round after round, at the same moment as another."""
    registry = config.open()
    for number in range(rounds):
        together.wait(PATIENCE)
        log = registry.log()
        together.wait(PATIENCE)
        found = act(what, registry, log, Path(folder), f"{name}{number}")
        made.put((number, found.version, found.promoted))
