"""Finds e-mail and IP addresses."""

import ipaddress
import re
from collections.abc import Iterator

from cowest.detectors.plain import Span
from cowest.detectors.words import AFTER, ALONE, BEFORE

_FOREIGN = r"[^\W\d_A-Za-z\u00aa-\u024f\u1e00-\u1eff]"
"""A letter that is not Latin."""

_HOST = (
    r"(?:(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    # After an ending of ASCII letters the words may go on in another script without a space.
    rf"(?:[A-Za-z]{{2,24}}(?={_FOREIGN})|(?:xn--[A-Za-z0-9-]{{2,59}}|[^\W\d_]{{2,24}})(?![\w@]))"
    r"|\[(?:IPv6:)?[0-9A-Fa-f:.]{3,45}\])"
)
"""A name with a dot in it, or an address in brackets (RFC 5321, 4.1.3)."""
_INSIDE = r"['\u2019!#$%&*^{}~]"
"""Signs that stand between letters of a mailbox, and around it belong to the sentence. (RFC 5321
allows / = ? and | too; in text they rather end what stands before an address.)"""
EMAIL = re.compile(
    rf"(?:[$!{{](?=\w))?(?:[\w.+-]|(?<=\w){_INSIDE}(?=\w)|(?<=\w)}}){{1,128}}(?:@|%40){_HOST}"
)
FIRST = re.compile(rf"(?<![\w.+-])(?<!\w{_INSIDE}){EMAIL.pattern}")
"""An address that does not begin in the middle of a run."""
RUN_ON = re.compile(rf"\w*[{ALONE}](?=[A-Za-z0-9.+-]+(?:@|%40))")
"""Words of a script without spaces that run on into an ASCII mailbox."""
QUOTED = re.compile(rf'"(?:[^"\\\n]|\\.){{1,64}}"@{_HOST}')
"""A mailbox in quotes."""
_AT = r"(?:at|arroba|arobase|chiocciola|ät|a)"
_DOT = r"(?:dot|punto|ponto|punkt|point|tečka|kropka)"
_NAME = r"[\w.+-]{1,64}"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_ENDING = (
    r"(?:com|org|net|edu|gov|mil|int|info|biz|name|example|io|ai|app|dev|eu|uk|us|ca|de|fr|ch|nl"
    r"|es|pt|pl|cz|se|dk|fi|br|mx|ar|au|nz|jp|cn|ru|ie|za)"
    rf"{AFTER}"
)
SPACED = re.compile(
    # jane [at] example [dot] org, jane(at)example.org: what is in brackets is plain enough.
    rf"(?<![\w.+-])(?:{_NAME}\s?(?:[\[({{<]\s?(?:{_AT}|@)\s?[\])}}>])\s?"
    rf"{_LABEL}(?:(?:\.|\s?[\[({{<]\s?(?:{_DOT}|\.)\s?[\])}}>]\s?|\s{_DOT}\s){_LABEL}){{1,6}}"
    # jane at example dot org: both words, and an ending that is no English word.
    rf"|{_NAME}\s(?:at|arroba|arobase|chiocciola)\s"
    rf"{_LABEL}(?:\s{_DOT}\s{_LABEL}){{0,5}}\s{_DOT}\s{_ENDING}"
    # jane @ example . org, jane @ example.org
    rf"|{_NAME}\s?@\s?{_LABEL}(?:\s?\.\s?{_LABEL}){{0,5}}\s?\.\s?{_ENDING})",
    re.IGNORECASE,
)
"""An address that is written so that programs don't read it."""
SIGNS = (
    " @", "@ ", "at)", "at]", "at}", "at>", "(a)", "[a]", "@)", "@]", "at )", "at ]", "oba)",
    "oba]", "ät)", "ät]", " dot ", " punto ", " ponto ", " punkt ", " point ", " tečka ",
    " kropka ",
)  # fmt: skip
"""One of these is in every such address; most texts have none, and are not searched further."""
FILES = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|ico|css|js|ts|json|ya?ml|html?|txt|csv|pdf)$"
    # Paraguay and Moldova have addresses that end like files.
    r"|(?:@(?:v?[\d._-]+x?|main|master|latest|dev|next|stable|gpu|cpu)"
    r"|[\[({<]\s?a\s?[\])}>].*)\.(?:py|md)$",
    re.IGNORECASE,
)
"""Endings of files such as icon@2x.png, report@2024-05.md and README@main.md."""
NO_PORT = r"(?!\d{1,5}(?:\?[^\s@]*=|[,;]))"
"""A pattern of the place behind a host or a name in a URL: no port, with a query or another text
behind it, is there."""
_USER = r"//[^\s/@:?#]{0,64}:"
PASSWORD = re.compile(rf"{_USER}$|\w:{_USER}{NO_PORT}[^\s/@]{{1,64}}$")
"""The text before `password@host` in a URL, or before a part of the password: that is a secret,
though it looks like an address."""
IPV4 = re.compile(rf"{BEFORE}(?<!\.)(?:\d{{1,3}}\.){{3}}\d{{1,3}}{AFTER}(?!-|\.\w)")
IPV6 = re.compile(rf"{BEFORE}(?<![:.])[0-9A-Fa-f:]{{6,39}}(?:\.\d{{1,3}}){{0,3}}{AFTER}(?!:)")
VERSION = re.compile(
    r"(?:version|release|firmware|build|section|chapter|v\.?|ver\.?|§)\s{0,2}$", re.IGNORECASE
)


def emails(text: str) -> Iterator[Span]:
    """Finds addresses whose host has a dot in it, also those that are written in words."""
    lower = text.lower()
    if any(sign in lower for sign in SIGNS):
        for spaced in SPACED.finditer(text):
            # One without any space is an ordinary address, or is none.
            if not FILES.search(spaced[0]) and not FIRST.fullmatch(spaced[0]):
                yield spaced.span()
    if "@" not in text and "%40" not in text:
        return
    if '"@' in text:
        for quoted in QUOTED.finditer(text):
            yield quoted.span()
    match = FIRST.search(text)
    while match is not None:
        if _is_somebodys(text, match):
            words = RUN_ON.match(text, *match.span())
            yield words.end() if words else match.start(), match.end()
        # Another address may follow directly, joined by a dash.
        match = EMAIL.match(text, match.end()) or FIRST.search(text, match.end())


def _is_somebodys(text: str, match: re.Match[str]) -> bool:
    # `git@host:` names a service and nobody.
    if match[0].startswith("git@") and text[match.end() : match.end() + 1] in (":", "/"):
        return False
    return not (
        FILES.search(match[0]) or PASSWORD.search(text, max(0, match.start() - 140), match.start())
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
