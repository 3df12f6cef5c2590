"""Passwords in addresses: they are found in every form that drivers read, and shown nowhere."""

from pathlib import Path

import pytest

from cowest import profiles
from cowest.config import parse
from cowest.errors import ConfigError
from cowest.online.packed import pack
from cowest.passwords import passwords, without_password

HELD = {
    "postgresql://u:s3cret@h:5/db": "postgresql://u@h:5/db",
    "postgresql://h/db?user=u&password=s3cret": "postgresql://h/db?user=u",
    "postgresql://h/db#1?pass%77ord=s3cret": "postgresql://h/db#1",
    "postgresql://u:s3cret/ss@h/db": "postgresql://u@h/db",
    "postgresql://u:s3cret?s@h/db": "postgresql://u@h/db",
    "postgresql://u:s3cret@s3cret@h/db?a=b@c": "postgresql://u@h/db?a=b@c",
    "postgresql+psycopg://:s3cret@/db?sslmode=a": "postgresql+psycopg://@/db?sslmode=a",
    "postgresql://me:s3cret%20p@db:5/x": "postgresql://me@db:5/x",
    "postgresql:///x?sslmode=a&sslpassword=s3cret+p": "postgresql:///x?sslmode=a",
    "https://u:s3cret@h/x": "https://u@h/x",
    "https://ghp_s3cret0123456789abcdef@h/x.git": "https://h/x.git",
    "git+https://ghp_s3cret0123456789abcdef@h:1/x": "git+https://h:1/x",
    "https://ghp_s3cret0123456789abcdef:x-oauth-basic@h/x": "https://h/x",
}
"""Addresses with the password s3cret, and without it."""
FREE = (
    "sqlite:////projects/a:b@c/mlflow.db",
    "postgresql://u@h1:1,h2:2/db?sslmode=require",
    "postgresql://[::1]:5432/db",
    "http://h:5000/a@b",
    "ssh://git@h:22/x@y",
    "ssh://h:22/x@y",
    "git@h:team/x",
    "https://a-team-of-ours@h/_git/x",
    "https://a-team-of-ours-with-a-long-name@h1/_git/x",
    "https://h/a-long-name-with-a-digit-1@x",
    "https://a-host-with-a-digit-1.example:8443/x@y",
    "https://first.last1%40company.example@h/x",
    "postgresql://a_long_user_with_the_digit_1@h/x",
)


@pytest.mark.parametrize("address", HELD)
def test_a_password_is_found_and_left_out(address: str) -> None:
    assert without_password(address) == HELD[address]
    assert any("s3cret" in one for one in passwords(address))
    assert not passwords(HELD[address])


def test_no_token_is_shown_in_any_spelling_or_number() -> None:
    text = "[HTTPS://ghp_s3cret0123456789abcdef:@h/x, https://ghp_t3cret0123456789abcdef@h/y]"
    assert without_password(text) == "[HTTPS://h/x, https://h/y]"
    assert {"ghp_s3cret0123456789abcdef", "ghp_t3cret0123456789abcdef"} <= {*passwords(text)}


def test_a_password_is_found_as_it_is_meant() -> None:
    for address in ("postgresql://u:to%20p@h/x", "postgresql:///x?password=to+p"):
        assert "to p" in passwords(address)


@pytest.mark.parametrize("address", FREE)
def test_what_holds_no_password_stays(address: str) -> None:
    assert without_password(address) == address
    assert passwords(address) == []


@pytest.mark.parametrize("address", HELD)
def test_a_profile_holds_no_password(address: str) -> None:
    with pytest.raises(ConfigError, match="COWEST_STORE holds a password, and many") as said:
        parse(profiles.Profile, {"every": {"env": {"COWEST_STORE": address}}}, "mine.yaml")
    assert "s3cret" not in str(said.value)


@pytest.mark.parametrize("address", FREE)
def test_a_profile_may_hold_an_address(address: str) -> None:
    given = {"every": {"env": {"COWEST_STORE": address}}}
    assert parse(profiles.Profile, given, "mine.yaml").every.env == {"COWEST_STORE": address}


@pytest.mark.parametrize("address", HELD)
def test_an_image_holds_no_password(address: str, tmp_path: Path) -> None:
    model = {"provider": "scripted", "rules": [{"replies": ["x"]}]}
    registry = {"uri": address, "name": "handbook"}
    with pytest.raises(ConfigError, match="holds a password") as said:
        pack({"registry": registry, "policy": model, "strong": model}, tmp_path / "image")
    assert "s3cret" not in str(said.value) and not (tmp_path / "image").exists()
