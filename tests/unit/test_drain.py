"""The end of the service: it says so first, and then passes the signal on."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest.config import parse
from cowest.errors import ConfigError
from cowest.online.drain import SIGNALS, Drain
from cowest.online.front import Front
from cowest.online.keys import KeyConfig, digest_of
from cowest.online.live import ServeConfig
from cowest.online.visits import Visit
from cowest_serving import __main__ as serving


@pytest.fixture
def passed_on() -> Iterator[list[int]]:
    """The signals that reach the server, as which this test stands there."""
    found: list[int] = []
    before = {sent: signal.signal(sent, lambda sent, _: found.append(sent)) for sent in SIGNALS}
    try:
        yield found
    finally:
        for sent, handler in before.items():
            signal.signal(sent, handler)


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_signal_is_passed_on_after_a_while(sent: signal.Signals, passed_on: list[int]) -> None:
    async def live() -> None:
        drain = Drain(0.05)
        drain.watch()
        assert not drain.begun
        os.kill(os.getpid(), sent)
        await asyncio.sleep(0)
        assert drain.begun and not passed_on
        # BentoML's parent process and a terminal may both send one.
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert passed_on == [sent]

    asyncio.run(live())


def test_somebody_at_a_terminal_need_not_wait(passed_on: list[int]) -> None:
    async def live() -> None:
        drain = Drain(60)
        drain.watch()
        for expected in ([], [signal.SIGINT]):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0)
            assert passed_on == expected

    asyncio.run(live())


@pytest.mark.parametrize("lost", [False, True])
def test_whoever_has_lost_its_parent_ends_too(
    lost: bool, passed_on: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cowest.online.drain.LOOK", 0.01)

    async def live() -> None:
        Drain(0).watch(os.getppid() + lost)
        await asyncio.sleep(0.1)

    asyncio.run(live())
    assert passed_on == ([signal.SIGTERM] if lost else [])


class Around:
    """Lets everybody in."""

    def __init__(self) -> None:
        self.drain = Drain(5)
        self.visits: list[Visit] = []

    def look(self, scope: Any) -> str:
        return ""

    def ended(self, visit: Visit) -> None:
        self.visits.append(visit)


def test_meanwhile_each_response_ends_its_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    around = Around()
    front = Front(app, lambda: around)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": []}
    for begun in (False, True):
        around.drain.begun = begun
        asyncio.run(front(dict(scope), None, send))  # type: ignore[arg-type]
    starts = [one["headers"] for one in sent if one["type"] == "http.response.start"]
    assert starts == [[], [(b"connection", b"close")]]
    assert [visit.status for visit in around.visits] == [200, 200]


def settings(**more: Any) -> dict[str, Any]:
    scripted = {"provider": "scripted", "rules": [{"match": "", "replies": ["yes"]}]}
    return {"registry": {"name": "x"}, "policy": scripted, "strong": scripted, **more}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "cowest.example"])
def test_where_others_could_ask_a_key_is_needed_before_it_starts(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump({"serve": settings()}))
    monkeypatch.setattr(sys, "argv", ["cowest_serving", "serve", "--host", host])
    with pytest.raises(SystemExit) as ended:
        serving.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith(f"cowest_serving: --host {host}: ") and "`cowest key" in said


def test_with_a_key_or_on_this_machine_it_may_start() -> None:
    key = KeyConfig(name="alice", sha256=digest_of("x"))
    without, keyed = (parse(ServeConfig, settings(keys=keys), "serve") for keys in ([], [key]))
    for host in ("127.0.0.1", "::1", "localhost"):
        serving.expect_keys(without, host)
    serving.expect_keys(keyed, "0.0.0.0")
    with pytest.raises(ConfigError):
        serving.expect_keys(without, "0.0.0.0")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"name": "alice", "sha256": digest_of("y")}, "two keys have the name alice"),
        ({"name": "bob", "sha256": digest_of("x")}, "two keys have the sha256"),
        ({"name": "bob", "sha256": "x"}, r"keys\.1\.sha256"),
        ({"name": "bob", "key": "sk-cowest-1", "sha256": digest_of("z")}, "unknown setting"),
    ],
)
def test_slips_in_keys_are_said_without_a_key(second: dict[str, Any], said: str) -> None:
    keys = [{"name": "alice", "sha256": digest_of("x")}, second]
    with pytest.raises(ConfigError, match=said) as error:
        parse(ServeConfig, settings(keys=keys), "serve")
    assert "sk-cowest-1" not in str(error.value)
