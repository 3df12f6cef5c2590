"""Connections to the service that ask nothing, and too many of them, against a real server."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from cowest_serving.idle import SPARE, IdleProtocol
from tests.serving import Running, asking, post, running

MOST = 10
"""Connections at once."""
LARGE = 8_000_000
"""Bytes of a large answer."""


class QuickProtocol(IdleProtocol):
    patience = 0.2


class Patient(IdleProtocol):
    """Nothing is closed for asking nothing while a test runs."""

    most = MOST
    patience = 600.0


class Crowding(IdleProtocol):
    most = MOST
    patience = 1.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, whatever is still to come of the body; /slow takes a second. /whole and
    /large are more than a connection holds, and /large goes on after that.
    """
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] in ("/whole", "/large"):
        more = scope["path"] == "/large"
        await send({"type": "http.response.body", "body": b"x" * LARGE, "more_body": more})
        if not more:
            return
    if scope["path"] == "/slow":
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"end"})


@contextmanager
def serving(protocol: type[IdleProtocol]) -> Iterator[tuple[int, uvicorn.Server]]:
    """A server of `app`, after its port."""
    server = uvicorn.Server(
        uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None)
    )
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


@pytest.fixture
def port() -> Iterator[int]:
    with serving(QuickProtocol) as (found, _):
        yield found


def ends(connection: socket.socket, trickle: Callable[[], None] = lambda: None) -> bytes:
    """All that comes until the server closes the connection."""
    connection.settimeout(0.05)
    until = time.monotonic() + 20
    found = b""
    while time.monotonic() < until:
        try:
            trickle()
            piece = connection.recv(4096)
        except TimeoutError:
            continue
        except OSError:
            return found
        if not piece:
            return found
        found += piece
    raise AssertionError("it stays open")


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: ",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nA: ",
    ],
)
def test_what_asks_nothing_is_closed(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        ends(connection, (lambda: connection.sendall(b"a")) if sent else lambda: None)


@pytest.mark.slow
def test_an_answer_that_takes_its_time_is_not_cut(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ends(connection).count(b"x\r\n") == 10


def opened(server: Running, stack: ExitStack, count: int) -> list[socket.socket]:
    """So many connections."""
    address = ("127.0.0.1", server.port)
    return [stack.enter_context(socket.create_connection(address)) for _ in range(count)]


@pytest.mark.slow
def test_beyond_the_bound_one_is_told_so_and_health_is_answered() -> None:
    with running(protocol=Patient) as server, ExitStack() as stack:
        first, *_ = opened(server, stack, MOST)
        server.wait(lambda: server.connections == MOST)
        status, headers, said = post(server.port, asking())
        assert (status, said["error"]["code"]) == (503, "too_many_connections")
        assert (headers["retry-after"], headers["connection"]) == ("5", "close")
        # A bare 404: this server has no such route, and BentoML's has.
        assert httpx.get(f"{server.base}/livez").status_code == 404
        first.close()
        server.wait(lambda: server.connections < MOST)
        assert post(server.port, asking())[0] == 200
        page = httpx.get(f"{server.base}/metrics").text
        assert 'cowest_refused_total{code="too_many_connections"} 1.0' in page


@pytest.mark.slow
def test_a_flood_of_connections_takes_no_more_than_the_bound() -> None:
    with running(protocol=Patient) as server:
        with ExitStack() as stack:
            many = opened(server, stack, 5 * SPARE)
            server.wait(lambda: server.connections == MOST + SPARE)
            cut = [one for one in many[MOST + SPARE :] if ends(one) == b""]
            assert len(cut) == len(many) - MOST - SPARE
        server.wait(lambda: server.connections == 0)
        assert post(server.port, asking())[0] == 200


@pytest.mark.slow
def test_heads_that_trickle_give_their_places_back() -> None:
    with running(protocol=Crowding) as server, ExitStack() as stack:
        for one in opened(server, stack, MOST):
            one.sendall(b"POST /ask HTTP/1.1\r\nhost: localhost\r\na: ")
            ends(one, partial(one.sendall, b"a"))
        server.wait(lambda: server.connections == 0)
        assert post(server.port, asking())[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize(("path", "requests"), [("large", 1), ("whole", 1), ("whole", 200)])
def test_who_reads_nothing_is_cut(path: str, requests: int) -> None:
    with serving(QuickProtocol) as (port, server), ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", port))
            asked = f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            connection.sendall(asked * requests)
        until = time.monotonic() + 15
        for opened_now in (True, False):
            while bool(server.server_state.connections) is not opened_now:
                assert time.monotonic() < until
                time.sleep(0.01)


@pytest.mark.slow
def test_who_reads_slowly_gets_all_of_an_answer() -> None:
    with serving(Crowding) as (port, _), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        found = 0
        piece = connection.recv(2**17)
        while piece:
            found += len(piece)
            time.sleep(0.05)
            piece = connection.recv(2**17)
    assert found > LARGE
