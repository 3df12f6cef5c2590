"""The process that serves: nothing of BentoML stands before the guard, and its end waits for no
thread.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowest.config import parse
from cowest.errors import CoWestError
from cowest.online.around import Around
from cowest.online.front import Front
from cowest.online.keys import digest_of
from cowest.online.live import ServeConfig
from cowest.online.metrics import Standing
from cowest.online.visits import Visit
from cowest_serving.__main__ import main, parser
from tests import tiny
from tests.serving import POLICY, STRONG

pytestmark = pytest.mark.slow

SETTINGS = {
    "policy": POLICY.model_dump(),
    "strong": STRONG.model_dump(),
    "registry": {"name": "none"},
    "keys": [{"name": "alice", "sha256": digest_of("a key")}],
}


class Watched(Around):
    """Keeps the requests that ended."""

    def __init__(self) -> None:
        super().__init__(parse(ServeConfig, SETTINGS, "serve"), Standing)
        self.visits: list[Visit] = []

    def ended(self, visit: Visit) -> None:
        super().ended(visit)
        self.visits.append(visit)


@pytest.fixture
def served() -> Iterator[tuple[Any, Watched]]:
    """BentoML's application as the process serves it, without its models."""
    from cowest_serving import service

    around = Watched()
    service.app.state.service = SimpleNamespace(around=around)
    yield service.guarded(), around
    del service.app.state.service


async def statuses(app: Any, *headers: tuple[bytes, bytes]) -> list[int]:
    """Sends a request without a body; the statuses that come back."""
    found = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "raw_path": b"/v1/models",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 3000),
        "headers": headers,
    }
    await app(scope, receive, send)
    return found


def test_whoever_has_no_key_meets_the_guard_first(
    served: tuple[Any, Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, around = served
    assert app.user_middleware[0].cls is Front

    async def asked() -> list[int]:
        loop, timers = asyncio.get_running_loop(), []
        call_later = loop.call_later

        def noted(*given: Any, **words: Any) -> asyncio.TimerHandle:
            timers.append(call_later(*given, **words))
            return timers[-1]

        monkeypatch.setattr(loop, "call_later", noted)
        found = await statuses(app, (b"user-agent", b"\xff\\x"), (b"host", b"x"))
        # A timer that goes on holds the request, with all that it brought.
        assert all(timer.cancelled() for timer in timers)
        return found

    assert asyncio.run(asked()) == [401]
    assert [(one.route, one.status) for one in around.visits] == [("/v1/models", 401)]


def test_a_port_that_is_none_is_one_line() -> None:
    from cowest_serving import server

    with pytest.raises(CoWestError, match=r"can't listen on 127\.0\.0\.1, port 70000: .*0-65535"):
        server.bound("127.0.0.1", 70000)


def test_the_environment_names_the_port_which_the_image_asks_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COWEST_LISTEN", raising=False)
    # Kubernetes sets it beside a Service of this name.
    monkeypatch.setenv("COWEST_PORT", "tcp://10.96.0.11:3000")
    assert parser().parse_args(["serve"]).port == 3000
    monkeypatch.setenv("COWEST_LISTEN", "8080")
    assert parser().parse_args(["serve"]).port == 8080
    assert parser().parse_args(["serve", "--port", "3001"]).port == 3001


def test_a_build_argument_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["bento", "--build-arg", "=x"])
    assert "'=x' names no argument: write NAME or NAME=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "status"), [("serve", 0), ("bento", 143)])
def test_sigterm_is_no_success_of_what_makes_something(
    command: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cowest_serving", command])
    monkeypatch.setattr("cowest_serving.__main__.load", end)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == status


ENDING = """
import asyncio, os, signal, sys, time
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from cowest.config import parse
from cowest.online.live import ServeConfig
from cowest_serving import server

@asynccontextmanager
async def living(app):
    loading = asyncio.create_task(asyncio.to_thread(time.sleep, 600))
    asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), getattr(signal, sys.argv[1]))
    yield
    loading.cancel()
    print("the log is closed")

server.guarded = lambda: Starlette(lifespan=living)
server.run(server.bound("127.0.0.1", 0), parse(ServeConfig, SETTINGS, "serve"))
"""


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_its_end_waits_for_no_thread_that_loads_or_looks_up(sent: str, tmp_path: Path) -> None:
    script = ENDING.replace("SETTINGS", repr(SETTINGS))
    done = subprocess.run(
        [sys.executable, "-c", script, sent],
        cwd=tmp_path,
        # It imports what this process would.
        env=tiny.surroundings(PYTHONPATH=os.pathsep.join(sys.path), BENTOML_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "the log is closed\n"), done.stderr
