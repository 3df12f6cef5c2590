"""HTTP as servers and proxies speak it, over real sockets."""

import asyncio
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from cowest.errors import ConfigError
from cowest.net.client import LARGEST, Client, Reply, Sink, Stream
from cowest.net.connections import ForbiddenError, LostError
from tests.servers import Fate, chat_server, raw_server

BODY = b'{"choices": []}'


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def post(url: str, times: int = 1, timeout: float = 3, key: str | None = None) -> list[Reply]:
    async def posts() -> list[Reply]:
        client = Client(f"{url}/chat/completions", key, timeout)
        try:
            return [await client.post({"messages": [{"content": "hi"}]}) for _ in range(times)]
        finally:
            await client.close()

    return asyncio.run(posts())


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY,
        b"HTTP/1.1 200\r\ncontent-length:15\r\n\r\n" + BODY,
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7;x=y\r\n"
        + BODY[:7]
        + b"\r\n8\r\n"
        + BODY[7:]
        + b"\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(BODY, mtime=0),
        b"HTTP/1.1 200 OK\nContent-Length: 15\n\n" + BODY,
        b"HTTP/1.1 200 \xff\r\nA: \xff\r\nA: " + b"b" * 20_000 + b"\r\n"
        b"Content-Type: application/json; charset=no-such\r\nContent-Length: 15\r\n\r\n" + BODY,
    ],
)
def test_reads_whatever_servers_send(reply: bytes) -> None:
    with raw_server(reply) as url:
        (found,) = post(url)
    assert (found.status, found.content) == (200, BODY)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "connection lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "connection lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n" + BODY, "connection lost"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n" + BODY[:7] + b"\r\n8\r\n",
            "connection lost",
        ),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "not HTTP: does base_url name the API's own port"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", f"more than {LARGEST} bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nno gzip", "not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
            + gzip.compress(bytes(LARGEST + 1)),
            f"more than {LARGEST} bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 15\r\n\r\n" + BODY,
            "not HTTP: it names two lengths, which a proxy .* may have added: try without it",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -15\r\n\r\n" + BODY, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +15\r\n\r\n" + BODY, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1_5\r\n\r\n" + BODY, "not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0xf\r\n"
            + BODY
            + b"\r\n0\r\n\r\n",
            "not HTTP",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n"
            + BODY
            + b"\r\n0\r\n"
            + b"A: b\r\n" * 5_000,
            "not HTTP",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 60_000 + b"\r\n",
            "not HTTP",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000, "connection lost"),
        (b"HTTP/1.1 -50 OK\r\nContent-Length: 15\r\n\r\n" + BODY, "not HTTP"),
        (b"HTTP/1.1 020 OK\r\nContent-Length: 15\r\n\r\n" + BODY, "not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\n\r\n" + BODY, "not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"f\r\n" + BODY + b"\r\n0\r\n\r\n",
            "not HTTP: it names two lengths",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + BODY, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: a\x00b\r\nContent-Length: 15\r\n\r\n" + BODY, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000, "not HTTP"),
        (b"HTTP/1.1 200 " + b"b" * 100_000, "not HTTP"),
    ],
)
def test_what_is_not_a_whole_response_is_lost_and_may_have_been_paid_for(
    reply: bytes, reason: str
) -> None:
    with raw_server(reply) as url, pytest.raises(LostError, match=reason) as raised:
        post(url)
    assert raised.value.reached


def test_a_connection_serves_many_calls_and_one_that_was_closed_meanwhile_is_not_used() -> None:
    with chat_server() as server:
        assert [reply.status for reply in post(server.url, 5)] == [200] * 5
        assert len(set(server.ports)) == 1
    with chat_server(otherwise=Fate(headers={"Connection": "close"})) as server:
        assert [reply.status for reply in post(server.url, 3)] == [200] * 3
        assert len(set(server.ports)) == 3


def test_a_hang_and_a_trickle_are_cut_by_the_deadline() -> None:
    for fate in (Fate(delay=3), Fate(trickle=0.02)):
        with (
            chat_server(otherwise=fate) as server,
            pytest.raises(LostError, match=r"no answer in 0\.3 s"),
        ):
            post(server.url, timeout=0.3)


def test_no_such_host_was_never_reached() -> None:
    with pytest.raises(LostError) as raised:
        post("http://no-such-host.invalid/v1")
    assert not raised.value.reached


@contextmanager
def proxy(
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n",
) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that notes what it is asked, and hands everything on."""
    asked: list[bytes] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with closing(sink), suppress(OSError):
            while part := source.recv(2**16):
                sink.sendall(part)

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            head = client.recv(2**16)
            asked.append(head)
            method, target = head.split(b" ")[:2]
            place = target if method == b"CONNECT" else target.split(b"/")[2]
            host, _, port = place.decode().rpartition(":")
            far = socket.create_connection((host, int(port)))
            if method == b"CONNECT":
                client.sendall(answer)
            else:
                far.sendall(head)
            for pair in ((client, far), (far, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", asked


def test_goes_through_the_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server() as server, proxy() as (place, asked):
        monkeypatch.setenv("HTTP_PROXY", f"http://me:s%20t@{place}")
        assert post(server.url, key="k")[0].status == 200
        assert asked[0].startswith(f"POST {server.url}/chat/completions HTTP/1.1\r\n".encode())
        assert b"Proxy-Authorization: Basic bWU6cyB0\r\n" in asked[0]
        for straight in ("127.0.0.1", "10.0.0.0/8,127.0.0.0/8"):
            monkeypatch.setenv("NO_PROXY", straight)
            assert post(server.url)[0].status == 200
            assert len(asked) == 1
        monkeypatch.delenv("NO_PROXY")
        for none in ("socks5://127.0.0.1:1", "http://:1", "http://127.0.0.1:port", "http://[::1"):
            monkeypatch.setenv("HTTP_PROXY", none)
            with pytest.raises(ConfigError, match="HTTP_PROXY"):
                post(server.url)


@pytest.fixture
def certified(tmp_path: Path) -> ssl.SSLContext:
    """A server's certificate for this machine, signed by itself; its file is tmp_path/cert.pem."""
    return certificate(tmp_path, "localhost", "127.0.0.1")


def certificate(tmp_path: Path, host: str, address: str) -> ssl.SSLContext:
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]),
    )
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ip_address(address))])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
    )
    certificate = builder.add_extension(names, False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(secret)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


def test_https_straight_and_through_a_proxy_and_only_with_a_certificate_that_is_trusted(
    certified: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chat_server(tls=certified) as server, proxy() as (place, asked):
        with pytest.raises(LostError, match=r"(?i)certificate") as raised:
            post(server.url)
        assert not raised.value.reached
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert [reply.status for reply in post(server.url, 2)] == [200, 200]
        monkeypatch.setenv("HTTPS_PROXY", f"http://{place}")
        assert [reply.status for reply in post(server.url, 2, key="secret")] == [200, 200]
        assert (
            len(asked) == 1
            and asked[0].startswith(b"CONNECT 127.0.0.1:")
            and b"secret" not in asked[0]
        )
    assert len(server.bodies) == 4
    with (
        proxy(b"HTTP/1.1 407 Who are you?\r\n\r\n") as (place, _),
        chat_server(tls=certified) as server,
    ):
        monkeypatch.setenv("HTTPS_PROXY", place)
        with pytest.raises(LostError, match=r"the proxy refuses: HTTP/1\.1 407 Who are you"):
            post(server.url)


def test_a_certificate_of_another_host_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = certificate(tmp_path, "other.example", "192.0.2.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with chat_server(tls=other) as server, proxy() as (place, _):
        for through in ("", place):
            monkeypatch.setenv("HTTPS_PROXY", through)
            with pytest.raises(
                LostError, match=r"certificate is not valid for '127\.0\.0\.1'"
            ) as raised:
                post(server.url, key="secret")
            assert not raised.value.reached and server.calls == 0


def test_a_proxy_puts_no_answer_of_its_own_before_what_is_encrypted(
    certified: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    forged = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY
    with chat_server(tls=certified) as server, proxy(forged) as (place, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{place}")
        (found,) = post(server.url, key="secret")
    assert found.content != BODY and server.calls == 1


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 407 Who?\r\n\r\n", b"HTTP/1.1 407 Who?\r\n" + b"A: b\r\n" * 20_000 + b"\r\n"],
)
def test_a_connection_that_a_proxy_refuses_is_ended(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(3)
            heard.append(connection.recv(2**16))
            connection.sendall(answer)
            try:
                heard.append(connection.recv(1))
            except ConnectionResetError:
                heard.append(b"")
            except TimeoutError:
                heard.append(b"it is open still")

    async def refused() -> None:
        client = Client("https://model.example/v1", None, 3)
        with pytest.raises(LostError, match="the proxy") as raised:
            await client.post({"messages": []})
        assert not raised.value.reached
        await client.close()
        await asyncio.to_thread(thread.join)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        asyncio.run(refused())
    assert heard[0].startswith(b"CONNECT model.example:443 ") and heard[1] == b""


def test_nothing_of_a_broken_answer_is_read_by_the_next_call() -> None:
    late = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 500 Stray\r\nContent-Length: "
        b"0\r\n\r\n"
    )
    with raw_server(late, b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY) as url:
        assert [reply.content for reply in post(url, 2)] == [b"{}", BODY]


def conversation(*says: bytes | float) -> Callable[[socket.socket], None]:
    """What a server says on each connection, once it was asked; a number is a pause in seconds."""

    def talk(connection: socket.socket) -> None:
        connection.recv(2**16)
        for words in says:
            if isinstance(words, bytes):
                connection.sendall(words)
            else:
                time.sleep(words)

    return talk


@contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that talks so on each connection, and the connections that it had."""
    had: list[socket.socket] = []

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            talk(connection)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                had.append(connection)
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", had


def test_what_comes_on_an_idle_connection_is_no_answer_to_the_next_call() -> None:
    """A server that speaks once it was not asked would be one answer ahead from then on."""
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY
    stray = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    async def posts(url: str) -> list[bytes]:
        client = Client(f"{url}/chat/completions", None, 3)
        found = []
        for _ in range(2):
            found.append((await client.post({"messages": []})).content)
            await asyncio.sleep(0.3)
        await client.close()
        return found

    with talking(conversation(good, 0.1, stray, 1.0)) as (url, had):
        assert asyncio.run(posts(url)) == [BODY, BODY]
    assert len(had) == 2


def test_a_call_on_a_kept_connection_that_is_closed_under_it_is_not_sent_again() -> None:
    """It may have arrived, and then it is paid for: whoever asks decides about another attempt."""
    asked: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        asked.append(connection.recv(2**16))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY)
        asked.append(connection.recv(2**16))

    async def twice(url: str) -> None:
        client = Client(f"{url}/chat/completions", None, 3)
        await client.post({"messages": ["first"]})
        with pytest.raises(LostError, match="connection lost") as raised:
            await client.post({"messages": ["second"]})
        assert raised.value.reached
        await client.close()

    with talking(talk) as (url, had):
        asyncio.run(twice(url))
    assert len(had) == 1
    assert [b"first" in asked[0], b"second" in asked[1], len(asked)] == [True, True, 2]


def test_a_connection_that_is_closed_right_after_its_answer_is_not_used() -> None:
    """Some servers do so and do not say it; the next call would count as one that may be paid."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + BODY)
        writer.close()

    async def one_by_one() -> int:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        client = Client(url, None, 3)
        answers = [await client.post({}) for _ in range(20)]
        await client.close()
        server.close()
        return len(answers)

    assert asyncio.run(one_by_one()) == 20


ENDLESS = {
    "remarks": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000),
    "a header": (b"HTTP/1.1 200 OK\r\nA: ", b"b" * 10_000),
    "a body": (b"HTTP/1.1 200 OK\r\n\r\n", b"b" * 100_000),
    "small chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nb\r\n" * 1000,
    ),
    "a remark on a chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"b" * 100_000,
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_has_no_end_ends_at_a_limit_or_the_deadline_and_holds_no_other_call_up(
    what: str,
) -> None:
    head, more = ENDLESS[what]

    def talk(connection: socket.socket) -> None:
        connection.recv(2**16)
        connection.sendall(head)
        while True:
            connection.sendall(more)

    async def both(bad: str, good: str) -> None:
        one, other = Client(bad, None, 1), Client(f"{good}/chat/completions", None, 30)
        hostile = asyncio.create_task(one.post({"messages": []}))
        await asyncio.sleep(0.1)
        assert (await other.post({"messages": [{"content": "hi"}]})).status == 200
        with pytest.raises(LostError, match=r"no answer in 1 s|not HTTP|more than") as raised:
            await hostile
        assert raised.value.reached
        await one.close()
        await other.close()

    with talking(talk) as (bad, _), chat_server() as good:
        asyncio.run(both(bad, good.url))


def test_a_call_that_could_not_begin_was_never_reached() -> None:
    """Until the connection stands, nothing of a request has left."""

    async def once(port: int) -> None:
        client = Client(f"https://127.0.0.1:{port}/v1", None, 0.3)
        with pytest.raises(LostError, match=r"no connection in time|no answer in") as raised:
            await client.post({"messages": []})
        assert not raised.value.reached
        await client.close()

    # It is connected to, and never answers the handshake.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(once(listener.getsockname()[1]))


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1."])
def test_an_address_in_any_form_that_resolvers_take_is_called_and_looked_at(host: str) -> None:
    asked: list[str] = []

    def forbidden(peer: str) -> bool:
        asked.append(peer)
        return len(asked) > 1

    async def twice(url: str) -> None:
        for _ in range(2):
            client = Client(f"{url}/chat/completions", None, 3, forbidden)
            try:
                assert (await client.post({"messages": [{"content": "hi"}]})).status == 200
            finally:
                await client.close()

    with chat_server() as server:
        with pytest.raises(ForbiddenError):
            asyncio.run(twice(server.url.replace("127.0.0.1", host)))
        assert asked == ["127.0.0.1"] * 2 and server.calls == 1


def test_a_redirect_is_not_followed_and_nothing_else_is_sent_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a password of .netrc, nor a cookie, nor the name of the library."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password canary")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    moved = Fate(302, b"", {"Location": "http://127.0.0.1:1/", "Set-Cookie": "a=b"})
    with chat_server(otherwise=moved) as server:
        assert [reply.status for reply in post(server.url, 2)] == [302, 302]
    for headers in server.headers:
        assert headers == {
            "host": server.url.split("/")[2],
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "cowest",
            "content-type": "application/json",
            "content-length": "31",
        }


def test_the_other_end_is_looked_at_before_anything_is_said() -> None:
    """A name may lead elsewhere by the time of the call than when its settings were read."""
    asked: list[str] = []

    def forbidden(host: str) -> bool:
        asked.append(host)
        return True

    async def once(url: str) -> None:
        client = Client(f"{url}/chat/completions", "sk-canary", 3, forbidden)
        with pytest.raises(LostError, match="leads to a link-local or metadata address") as raised:
            await client.post({"messages": []})
        assert not raised.value.reached
        await client.close()

    with chat_server() as server:
        asyncio.run(once(server.url.replace("127.0.0.1", "localhost")))
        assert asked == ["127.0.0.1"] and server.calls == 0


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_is_sent_and_an_answer_taken_piece_by_piece(packed: bool) -> None:
    """Neither is held whole, and the timeout is that of a piece."""
    content = b"0123456789abcdef" * (LARGEST // 16 + 1)
    fate = Fate(
        body=gzip.compress(content, 1) if packed else content,
        headers={"Content-Encoding": "gzip"} if packed else {},
    )

    def slow() -> Iterator[bytes]:
        for piece in (b'{"messages": [', b'{"content": "hi"}', b"]}"):
            time.sleep(0.3)
            yield piece

    async def sent(url: str) -> tuple[Reply, int]:
        client, taken = Client(url, None, 0.5), 0

        def take(piece: bytes) -> None:
            nonlocal taken
            taken += len(piece)

        reply = await client.send("POST", f"{url}/chat/completions", Stream(33, slow()), into=take)
        await client.close()
        return reply, taken

    with chat_server(otherwise=fate) as server:
        reply, taken = asyncio.run(sent(server.url))
    assert (reply.status, reply.content, taken) == (200, b"", len(content))
    assert server.bodies == [{"messages": [{"content": "hi"}]}]


def test_a_file_that_was_packed_and_is_cut_is_no_file() -> None:
    async def fetched(url: str) -> None:
        client, taken = Client(url, None, 3), bytearray()
        with pytest.raises(LostError, match="connection lost"):
            await client.send("GET", f"{url}/files/f/content", into=taken.extend)
        await client.close()

    cut = gzip.compress(b"a line\n" * 1000)[:-9]
    with raw_server(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
        % (len(cut), cut)
    ) as url:
        asyncio.run(fetched(url))


def test_a_file_may_be_packed_in_several_members() -> None:
    taken = bytearray()

    async def fetched(url: str) -> None:
        client = Client(url, None, 3)
        await client.send("GET", f"{url}/files/f/content", into=taken.extend)
        await client.close()

    packed = gzip.compress(b"a line\n") + gzip.compress(b"another\n")
    with raw_server(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
        % (len(packed), packed)
    ) as url:
        asyncio.run(fetched(url))
    assert taken == b"a line\nanother\n"


@pytest.mark.parametrize("into", [None, bytearray().extend], ids=["held", "handed on"])
def test_a_broken_chunk_after_a_good_one_is_lost_at_once(into: Sink | None) -> None:
    """aiohttp closes the connection, and would leave who reads waiting until the timeout."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
        for piece in (head, b"zz\r\n{}\r\n0\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.close()

    async def lost() -> LostError:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        client = Client(url, None, 60)
        async with asyncio.timeout(20):
            with pytest.raises(LostError) as raised:
                await client.send("POST", url, b"{}", into=into)
        await client.close()
        server.close()
        return raised.value

    assert asyncio.run(lost()).reached


def test_an_address_is_asked_for_as_it_is_written() -> None:
    """A signature in an address holds for its letters: %7E and ~ are not the same to it."""
    target = "/a%2Fb%7Ec/%41?name=%27a%3Bb%27+%28c%29&X-Signature=a%2fb%3D"

    async def asked(written: str) -> bytes:
        got = bytearray()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.extend(await reader.readline())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = Client(url, None, 3)
        await client.send("GET", url + written)
        await client.close()
        server.close()
        return bytes(got)

    assert asyncio.run(asked(f"{target}#part")) == f"GET {target} HTTP/1.1\r\n".encode()
    # What no request can hold is quoted.
    assert asyncio.run(asked("/\u00e4 b\r\nc")).startswith(b"GET /%C3%A4%20b")
