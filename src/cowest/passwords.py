"""Finds passwords in the addresses of databases and servers, and shows addresses without them.

A database's address is read as SQLAlchemy and PostgreSQL read it, which take some that Python's
parser of URLs does not: a password may hold a slash, and may stand among the parameters.
"""

import re
from urllib.parse import unquote, unquote_plus

NAMED = re.compile(r"://(?P<user>[^:/@]*):(?P<password>[^@]*(?:@[^@?]*(?=@))*)@")
"""A password before a host. One with an @ in it ends at the last, so that none of it is shown."""
TOKEN = re.compile(
    r"(?i)(?:(?<=http://)|(?<=https://))(?=[^@\d]*\d)"
    r"(?P<user>[\w.~-]{20,})(?::(?P<rest>[^@/?#]*))?@"
)
"""A user as long as a token, which servers of git take for one, with any password or none."""
PORT = re.compile(r"(?!postgres)[\w+.-]+://[^:/@]*:\d*[/?#]")
"""A port, whatever follows it: only a database's password may have a slash."""
PARAMETERS = ("password", "sslpassword")


def passwords(address: str) -> list[str]:
    """The passwords in an address, as they are written there and as they are meant."""
    _, written = _parted(address)
    found = []
    for one in written:
        # A driver stops at the first @, and its messages quote both parts.
        for form in (one, *one.split("@")):
            found += [form, unquote(form), unquote_plus(form)]
    return [one for one in dict.fromkeys(found) if one]


def without_password(address: str) -> str:
    """The address as it may be shown."""
    return _parted(address)[0]


def _parted(address: str) -> tuple[str, list[str]]:
    """The address without passwords, and the passwords."""
    found = []
    start = ""
    for token in TOKEN.finditer(address):
        found += [token["user"], token["rest"] or ""]
    address = rest = TOKEN.sub("", address)
    named = None if PORT.match(address) else NAMED.search(address)
    if named is not None:
        found.append(named["password"])
        start = f"{address[: named.start()]}://{named['user']}@"
        rest = address[named.end() :]
    before, question, query = rest.partition("?")
    kept = []
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if unquote_plus(name).lower() in PARAMETERS:
            found.append(value)
        else:
            kept.append(parameter)
    shown = "&".join(kept)
    return f"{start}{before}{question if shown else ''}{shown}", [one for one in found if one]
