"""Addresses at which no model is, in all forms that a resolver takes, and those that may be
named.
"""

from typing import Any

import pytest

from cowest.config import parse
from cowest.errors import ConfigError
from cowest.models.openai import OpenAIConfig
from cowest.net.address import (
    followed,
    forbidden,
    leads_astray,
    objection,
    origin,
    outside,
    redirect_objection,
)

METADATA = [
    "169.254.169.254",
    "169.254.0.1",
    "169.254.170.2",
    "2852039166",
    "0xA9FEA9FE",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "169.254.169.254.",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[FE80::A]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "metadata",
    "metadata.google.internal",
    "Metadata.Google.Internal.",
    "instance-data.ec2.internal",
    "%31%36%39.254.169.254",
    "169\u3002254\u3002169\u3002254",
    "\uff11\uff16\uff19.254.169.254",
]
FINE = [
    "api.openai.com",
    "127.0.0.1",
    "[::1]",
    "10.0.0.8",
    "192.168.1.4",
    "localhost",
    "8.8.8.8",
    "[2001:db8::1]",
    "vllm",
    "169.253.1.1",
]


@pytest.mark.parametrize("host", METADATA)
def test_no_form_of_a_metadata_address_is_called(host: str) -> None:
    with pytest.raises(ConfigError, match="base_url: is a link-local or metadata address"):
        parse(OpenAIConfig, {"model": "m", "base_url": f"http://{host}/v1"}, "test")


@pytest.mark.parametrize("host", FINE)
def test_others_are(host: str) -> None:
    assert parse(
        OpenAIConfig, {"model": "m", "base_url": f"http://{host}:8000/v1"}, "test"
    ).base_url.endswith("/v1")


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        (["169.254.10.20"], "http://169.254.10.20/v1"),
        (["169.254.10.20"], "http://0xA9FE0A14/v1"),
        (["fe80::1"], "http://[fe80::1%25eth0]/v1"),
        (["Metadata"], "http://metadata/v1"),
    ],
)
def test_one_that_is_named_may_be_called_and_no_other(allowed: list[str], url: str) -> None:
    found = parse(OpenAIConfig, {"model": "m", "allow_address": allowed, "base_url": url}, "test")
    assert not found.forbids("169.254.10.20")
    with pytest.raises(ConfigError, match="base_url"):
        parse(
            OpenAIConfig,
            {"model": "m", "allow_address": allowed, "base_url": "http://169.254.169.254/v1"},
            "test",
        )


def test_what_a_name_leads_to_is_looked_at_unless_it_is_named() -> None:
    assert not leads_astray("localhost") and not leads_astray("no.such.name.invalid")
    assert not leads_astray("x\0y") and not forbidden("x%00y")
    assert leads_astray("0xA9FEA9FE") and not leads_astray("0xA9FEA9FE", ["169.254.169.254"])
    named = OpenAIConfig(
        model="m", base_url="http://models.example/v1", allow_address=("models.example",)
    )
    assert not named.forbids("169.254.1.1") and OpenAIConfig(model="m").forbids("169.254.1.1")
    assert forbidden("fe80::1%eth0") and not forbidden("fe80::1%eth0", ["fe80::1"])


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "gopher://host/v1"},
        {"base_url": "unix:///run/model.sock"},
        {"base_url": "//host/v1"},
    ],
)
def test_other_ways_than_http_are_refused_whatever_is_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="base_url: should be http"):
        parse(OpenAIConfig, {"model": "m", "allow_address": ["host"], **settings}, "test")


@pytest.mark.parametrize(
    ("came_from", "url"),
    [
        ("https://a.invalid/x", "https://b.invalid/y?signature=s"),
        ("http://a.invalid/x", "http://b.invalid:8000/y"),
        ("http://a.invalid/x", "https://b.invalid/y"),
        ("HTTPS://a.invalid/x", "HTTPS://b.invalid/y"),
    ],
)
def test_redirects_that_are_followed(came_from: str, url: str) -> None:
    assert redirect_objection(came_from, url) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://b.invalid/y", "is not https"),
        ("file:///etc/passwd", "is not https"),
        ("https://", "is not fetched from"),
        ("https://b.invalid:0/y", "is not fetched from"),
        ("https://b.invalid:99999/y", "is no address"),
        ("https://[::1/y", "is no address"),
        ("https://x%00y/", "is no address"),
        ("https://b.invalid%0d%0a/y", "is no address"),
        ("https://me@b.invalid/y", "holds a name or password"),
        ("https://:word@b.invalid/y", "holds a name or password"),
        ("https://b.invalid/a b", "holds characters"),
        ("https://b.invalid/a\r\nX: y", "holds characters"),
        ("https://b.invalid/\u00e4", "holds characters"),
        ("https://169.254.169.254/y", "link-local or metadata"),
        ("https://0xA9FEA9FE/y", "link-local or metadata"),
    ],
)
def test_redirects_that_are_not_followed(url: str, why: str) -> None:
    assert why in (redirect_objection("https://a.invalid/x", url) or "")


def test_where_a_redirect_leads_and_whose_key_goes_there() -> None:
    assert followed("http://a.invalid/x/y", "../z") == ("http://a.invalid/z", None)
    assert followed("http://a.invalid/x", "http://[::1/y") == ("http://[::1/y", "is no address")
    for same in ("https://a.invalid/y", "https://A.invalid:443/", "https://me@a.invalid"):
        assert origin(same) == origin("https://a.invalid/x"), same
    for other in ("http://a.invalid/x", "https://b.invalid/x", "https://a.invalid:444/x"):
        assert origin(other) != origin("https://a.invalid/x"), other


def test_a_url_is_fetched_from_unless_it_leads_to_where_no_data_are() -> None:
    assert objection("http://localhost:1/x") is None
    assert "only http:// and https:// are" in (objection("ftp://localhost/x") or "")
    assert "link-local" in (objection("http://169.254.1.1/x") or "")
    assert objection("http://169.254.1.1/x", ["169.254.1.1"]) is None


def test_inside_and_outside() -> None:
    inside = [
        "localhost",
        "127.0.0.1",
        "[::1]".strip("[]"),
        "10.1.2.3",
        "192.168.0.9",
        "172.16.0.1",
        "fd12::1",
        "vllm",
        "vllm.ns.svc",
        "box.local",
    ]
    assert [host for host in inside if outside(host)] == []
    assert all(
        outside(host)
        for host in ["api.openai.com", "8.8.8.8", "2606:4700::1111", "models.example.com"]
    )
