"""The guard in front of the service: who is let in, and what the others are told."""

from typing import Any

import pytest
import yaml

from cowest import cli
from cowest.config import parse
from cowest.errors import ConfigError
from cowest.online.guard import Guard
from cowest.online.keys import PREFIX, KeyConfig, Keys, Rate, digest_of, new_key
from cowest.online.live import ServeConfig
from cowest.online.refusals import RefusalError

ALICE, BOB = new_key(), new_key()
HERE = ("127.0.0.1", 3000)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def keys(rate: int | None = 60, clock: Clock | None = None) -> Keys:
    made = [
        KeyConfig(name="alice", sha256=digest_of(ALICE), rate=rate),
        KeyConfig(name="bob", sha256=digest_of(BOB), rate=None),
    ]
    return Keys(made, clock or Clock())


def look(
    guard: Guard, path: str = "/v1/models", server: Any = HERE, **headers: str
) -> str | RefusalError:
    """The name of the key that asks, or the refusal."""
    given = {"host": "localhost:3000"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    sent = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    try:
        return guard.look({"type": "http", "path": path, "headers": sent, "server": server})
    except RefusalError as refusal:
        return refusal


def refused(found: str | RefusalError, status: int, code: str) -> str:
    """The reason of a refusal, which is as it should be."""
    assert isinstance(found, RefusalError)
    assert (found.status, found.code) == (status, code)
    return found.reason


@pytest.mark.parametrize(
    "server",
    [
        HERE,
        ("127.1.2.3", 80),
        ("::1", 3000),
        ("::ffff:127.0.0.1", 3000),
        ("::ffff:7f00:1", 3000),
    ],
)
def test_without_keys_this_machine_is_answered(server: Any) -> None:
    assert look(Guard(Keys([])), server=server) == ""


@pytest.mark.parametrize(
    "server",
    [
        ("192.168.1.7", 3000),
        ("0.0.0.0", 3000),
        ("::", 3000),
        ("::ffff:10.0.0.1", 3000),
        ("fe80::1%lo", 3000),
        ("/run/cowest.sock", None),
        ("localhost", 3000),
        ("", 0),
        None,
    ],
)
def test_without_keys_another_end_is_refused(server: Any) -> None:
    """A unix socket's end is a file: a proxy may be behind it."""
    for path in ("/v1/chat/completions", "/metrics", "/", "/docs.json", "/readyz/", "//readyz"):
        found = look(Guard(Keys([]), open=["metrics", "page", "docs"]), path, server)
        assert "`cowest key --name NAME`" in refused(found, 403, "only_this_machine")


@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        ("host", "evil.example", "requests to localhost"),
        ("host", "0.0.0.0:3000", "requests to localhost"),
        ("host", "localhost:80@evil.example", "requests to localhost"),
        ("host", "localhost.evil.example", "requests to localhost"),
        ("host", "", "requests to localhost"),
        ("x_forwarded_for", "10.0.0.1", "through a proxy"),
        ("forwarded", "for=10.0.0.1", "through a proxy"),
        ("via", "1.1 front", "through a proxy"),
        ("x_forwarded_host", "chat.example.org", "through a proxy"),
        ("cf_connecting_ip", "10.0.0.1", "through a proxy"),
        ("origin", "https://evil.example", "page of another site"),
        ("origin", "null", "page of another site"),
        ("origin", "http://[", "page of another site"),
        ("origin", "http://127.0.0.1.evil.example", "page of another site"),
    ],
)
def test_without_keys_what_others_sent_through_this_machine_is_refused(
    header: str, value: str, said: str
) -> None:
    found = look(Guard(Keys([])), **{header: value})
    assert said in refused(found, 403, "only_this_machine")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1"},
        {"host": "[::1]:3000"},
        {"host": "LOCALHOST."},
        {"host": "cowest.localhost:80"},
        {"origin": "http://localhost:8080"},
    ],
)
def test_without_keys_a_page_of_this_machine_may_ask(headers: dict[str, str]) -> None:
    assert look(Guard(Keys([])), **headers) == ""


def test_a_key_is_needed_and_known_by_its_name() -> None:
    guard = Guard(keys())
    for server in (HERE, ("10.0.0.1", 3000), None):
        given = f"Bearer {BOB}"
        assert look(guard, server=server, host="cowest.example", authorization=given) == "bob"
    assert look(guard, authorization=f"bearer  {ALICE} ") == "alice"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {ALICE}",
        ALICE,
        f"Bearer {ALICE}x",
        f"Bearer {ALICE.upper()}",
        f"Bearer {digest_of(ALICE)}",
        f"Bearer {ALICE} {ALICE}",
        "Bearer " + "x" * 100_000,
        "Bearer \xff\x00",
    ],
    # The keys are others each time, and two workers have to name a test alike.
    ids=range(11),
)
def test_a_wrong_key_is_refused_and_not_shown(given: str) -> None:
    said = refused(look(Guard(keys()), authorization=given), 401, "invalid_api_key")
    assert ALICE not in said and "xxx" not in said


def test_two_keys_at_once_are_none() -> None:
    headers = [(b"authorization", f"Bearer {key}".encode()) for key in (ALICE, BOB)]
    with pytest.raises(RefusalError, match="a key is needed"):
        Guard(keys()).look({"path": "/ask", "headers": headers, "server": HERE})


def test_the_health_is_open_and_the_rest_where_the_settings_say_so() -> None:
    for path in ("/livez", "/readyz", "/healthz"):
        assert look(Guard(keys()), path, server=None, host="x") == ""
    for path in ("/metrics", "/docs.json", "/", "/v1/openapi.json", "/livez/../metrics"):
        refused(look(Guard(keys()), path), 401, "invalid_api_key")
    opened = Guard(keys(), open=["metrics"])
    assert look(opened, "/metrics") == ""
    refused(look(opened, "/"), 401, "invalid_api_key")


def test_a_rate_lets_as_many_in_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    guard = Guard(keys(rate=3, clock=clock))

    def ask(key: str = ALICE) -> str | None:
        """The seconds to wait; None if none."""
        found = look(guard, authorization=f"Bearer {key}")
        if isinstance(found, str):
            return None
        refused(found, 429, "rate_limit_exceeded")
        return found.headers["retry-after"]

    assert [ask() for _ in range(4)] == [None, None, None, "20"]
    assert ask(BOB) is None
    clock.now += 20
    assert [ask() for _ in range(2)] == [None, "20"]
    clock.now += 10
    assert ask() == "10"
    clock.now += 3600
    assert [ask() for _ in range(4)] == [None, None, None, "20"]


def test_a_refused_request_costs_no_place() -> None:
    clock = Clock()
    rate = Rate(60, clock)
    assert [rate.wait() for _ in range(60)] == [0.0] * 60
    assert [rate.wait() for _ in range(1000)] == [pytest.approx(1.0)] * 1000
    clock.now += 1.0
    assert rate.wait() == 0.0


def test_the_command_prints_a_key_and_the_line_that_knows_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["key", "--name", "alice", "--rate", "5", "--usd", "2.5"]) == 0
    said = capsys.readouterr().out
    key = said.split()[0]
    assert key.startswith(PREFIX) and len(key) == len(PREFIX) + 43
    (values,) = yaml.safe_load(said[said.index("  keys:") :])["keys"]
    made = parse(KeyConfig, values, "serve.keys")
    assert (made.name, made.rate, made.budget.usd) == ("alice", 5, 2.5)
    assert Keys([made]).find(key) == made
    assert cli.main(["key", "--name", "alice", "--rate", "5"]) == 0
    assert key not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "a b", "-a", "a\n", "ä", "a" * 65, "a}"])
def test_a_name_stands_in_logs_and_metrics(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["key", f"--name={name}"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("cowest: cowest key: name: not of the form")
    assert "letters, digits" in said.err and "pattern" not in said.err
    with pytest.raises(ConfigError, match="name: "):
        parse(KeyConfig, {"name": name, "sha256": digest_of("x")}, "serve.keys")


def test_a_digest_that_is_none_is_told_what_makes_one() -> None:
    with pytest.raises(ConfigError, match=r"keys\.0\.sha256: not of .* `cowest key` makes"):
        parse(ServeConfig, {"keys": [{"name": "a", "sha256": "abc"}]}, "serve")


def test_without_keys_a_proxy_that_says_nothing_of_itself_is_refused() -> None:
    """nginx asks by HTTP/1.0, and names us as the host, unless it is told otherwise."""
    sent = [(b"host", b"127.0.0.1:3000"), (b"connection", b"close")]
    scope = {"type": "http", "path": "/ask", "headers": sent, "server": HERE}
    with pytest.raises(RefusalError, match="through a proxy"):
        Guard(Keys([])).look({**scope, "http_version": "1.0"})
    assert Guard(Keys([])).look({**scope, "http_version": "1.1"}) == ""
