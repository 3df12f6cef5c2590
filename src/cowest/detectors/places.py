"""Finds e-mail and IP addresses."""

import ipaddress
import re
from collections.abc import Iterator

from cowest.detectors.plain import Span

EMAIL = re.compile(
    r"[\w.+-]{1,128}(?:@|%40)(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])"
)
FIRST = re.compile(rf"(?<![\w.+-]){EMAIL.pattern}")
"""An address that does not begin in the middle of a run."""
FILES = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|ico|css|js|ts|json|ya?ml|py|html?|md|txt|csv|pdf)$", re.IGNORECASE
)
"""Endings of files such as icon@2x.png."""
PASSWORD = re.compile(r"//[^\s/@:]{0,64}:$")
"""The text before `password@host` in a URL: that is a secret, though it looks like an address."""
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)")
IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{6,39}(?:\.\d{1,3}){0,3}(?![\w:])")
VERSION = re.compile(
    r"(?:version|release|firmware|build|section|chapter|v\.?|ver\.?|§)\s{0,2}$", re.IGNORECASE
)


def emails(text: str) -> Iterator[Span]:
    """Finds addresses whose host has a dot in it."""
    if "@" not in text and "%40" not in text:
        return
    for first in FIRST.finditer(text):
        match: re.Match[str] | None = first
        while match is not None:
            if _is_somebodys(text, match):
                yield match.span()
            # Another address may follow directly, joined by a dash.
            match = EMAIL.match(text, match.end())


def _is_somebodys(text: str, match: re.Match[str]) -> bool:
    # `git@host:` names a service and nobody.
    if match[0].startswith("git@") and text[match.end() : match.end() + 1] in (":", "/"):
        return False
    return not (
        FILES.search(match[0]) or PASSWORD.search(text, max(0, match.start() - 80), match.start())
    )


def addresses(text: str) -> Iterator[Span]:
    """Finds IPv4 and IPv6 addresses, except 0.0.0.0, loopback and network masks."""
    if not any(digit in text for digit in "0123456789"):
        return
    for pattern in (IPV4, IPV6):
        for match in pattern.finditer(text):
            # A word such as "version" ends at most 12 characters before the number that it names.
            start = match.start()
            if _is_one(match[0]) and not VERSION.search(text, max(0, start - 12), start):
                yield match.span()


def _is_one(said: str) -> bool:
    try:
        address = ipaddress.ip_address(said)
    except ValueError:
        return False
    # Without a digit it is rather a name in code, such as dead::beef.
    if address.version == 6 and not any(letter.isdigit() for letter in said):
        return False
    return not (address.is_loopback or address.is_unspecified or said.startswith("255."))
