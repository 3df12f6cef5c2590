"""The proxy of a URL, and the hosts that are reached without one."""

import pytest

from cowest.errors import ConfigError, InputError
from cowest.net.download import Web
from cowest.net.proxies import goes_straight, proxy_of, refusal
from tests.servers import raw_server


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


STRAIGHT = [
    ("*", "https://api.example.com/v1"),
    ("other.org, *", "https://api.example.com/v1"),
    ("example.com", "https://example.com/v1"),
    ("example.com", "https://api.example.com/v1"),
    (".example.com", "https://api.example.com/v1"),
    (".example.com", "https://example.com/v1"),
    ("*.example.com", "https://api.example.com/v1"),
    ("EXAMPLE.com.", "https://api.Example.COM/v1"),
    ("a.org b.org,example.com", "https://example.com/v1"),
    ("example.com:443", "https://example.com/v1"),
    ("example.com:80", "http://api.example.com/v1"),
    ("example.com:8080", "http://example.com:8080/v1"),
    ("10.0.0.8", "http://10.0.0.8:8000/v1"),
    ("10.0.0.8:8000", "http://10.0.0.8:8000/v1"),
    ("10.0.0.0/8", "http://10.200.3.4/v1"),
    ("10.1.2.3/8", "http://10.200.3.4/v1"),
    ("172.16.0.0/12 , 192.168.0.0/16", "http://192.168.1.1/v1"),
    ("10.0.0.0/255.0.0.0", "http://10.9.9.9/v1"),
    ("127.0.0.0/8", "http://0x7f000001/v1"),
    ("::1", "http://[::1]:8000/v1"),
    ("[::1]", "http://[::1]:8000/v1"),
    ("[::1]:8000", "http://[::1]:8000/v1"),
    ("0:0:0:0:0:0:0:1", "http://[::1]/v1"),
    ("fd00::/8", "http://[fd12:3456::1]/v1"),
    ("[fd00::]/8", "http://[fd12:3456::1]/v1"),
    ("10.0.0.0/8", "http://[::ffff:10.0.0.1]/v1"),
]
THROUGH = [
    ("", "https://example.com/v1"),
    ("example.com", "https://notexample.com/v1"),
    ("example.com", "https://example.com.evil.org/v1"),
    ("api.example.com", "https://example.com/v1"),
    (".", "https://example.com/v1"),
    ("*.", "https://example.com/v1"),
    ("exam*", "https://example.com/v1"),
    ("example.com:80", "https://example.com/v1"),
    ("example.com:8080", "http://example.com:8081/v1"),
    ("10.0.0.8:8001", "http://10.0.0.8:8000/v1"),
    ("10.0.0.0/8", "http://11.0.0.1/v1"),
    ("10.0.0.0/33", "http://10.0.0.1/v1"),
    ("10.0.0.0/8", "http://ten.example/v1"),
    ("0.1", "http://10.0.0.1/v1"),
    ("10.0.0.0/8", "http://[fd12::1]/v1"),
    ("fd00::/8", "http://10.0.0.1/v1"),
    ("[::1]:8001", "http://[::1]:8000/v1"),
]


@pytest.mark.parametrize(("entries", "url"), STRAIGHT)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_hosts_in_no_proxy_are_reached_without_one(
    entries: str, url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv(name, entries)
    assert goes_straight(url) and proxy_of(url) is None


@pytest.mark.parametrize(("entries", "url"), THROUGH)
def test_other_hosts_are_reached_through_the_proxy(
    entries: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", entries)
    assert not goes_straight(url) and proxy_of(url) == "http://proxy.example:3128"


def test_the_lower_case_name_counts_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    monkeypatch.setenv("no_proxy", "192.168.0.0/16")
    assert goes_straight("http://192.168.0.1/v1") and not goes_straight("http://10.0.0.1/v1")


def test_a_proxy_that_can_not_be_spoken_to_is_named_with_a_way_round_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@proxy.example:1080")
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY .* put api\.example into NO_PROXY") as said:
        proxy_of("https://api.example/v1")
    assert "secret" not in str(said.value)
    monkeypatch.setenv("NO_PROXY", ".example")
    assert proxy_of("https://api.example/v1") is None


def test_a_proxys_refusal_says_what_to_do() -> None:
    assert "put its name and password into HTTPS_PROXY" in refusal("HTTP/1.1 407 Who?", "h.example")
    assert "name h.example in NO_PROXY" in refusal("HTTP/1.1 403 Forbidden", "h.example")


def test_a_download_goes_straight_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with raw_server(reply) as url:
        with pytest.raises(InputError, match="can't be fetched"):
            Web().text(url, 100)
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert Web().text(url, 100) == "yes"
