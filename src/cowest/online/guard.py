"""The guard: lets in who may ask. Everything that is served stands behind it.

With keys (`serve.keys`), a request needs one: `Authorization: Bearer KEY`. Without keys, it has to
come from this machine: the socket (not a header) says that its connection ends at a loopback
address, and no proxy and no page of another site sent it. Only the health endpoints are open to
all.
"""

import ipaddress
import re
from collections.abc import Iterable

from starlette.types import Scope

from cowest.online.keys import KeyConfig, Keys, OpenPart
from cowest.online.refusals import RefusalError

HEALTH = frozenset({"/livez", "/readyz", "/healthz"})
"""Open to all: the platform that starts and stops the service has no key."""
PARTS: dict[OpenPart, frozenset[str]] = {
    "metrics": frozenset({"/metrics"}),
    "docs": frozenset({"/docs", "/docs.json", "/schema.json", "/v1/openapi.json"}),
    "page": frozenset({"/"}),
}
"""Paths of each part that `serve.open` may name."""
FORWARDED = (b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"cf-connecting-ip")
FORWARDING = b"x-forwarded-"
"""Headers of a proxy that passes on what others send, and the beginning of others."""
HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]+)?")
"""The header Host, or what an Origin has after `//`."""
HOW_TO_KEY = "`cowest key --name NAME` makes one, and its line belongs into serve.keys"


class Guard:
    """Knows who may ask."""

    def __init__(self, keys: Keys, open: Iterable[OpenPart] = ()) -> None:
        self._keys = keys
        self._open = HEALTH.union(*(PARTS[part] for part in open))

    def look(self, scope: Scope) -> str:
        """Returns the name of the request's key; empty if it needs none. Raises RefusalError."""
        if scope["path"] in HEALTH:
            return ""
        if not self._keys:
            expect_this_machine(scope)
            return ""
        if scope["path"] in self._open:
            return ""
        return self._expect_key(scope).name

    def _expect_key(self, scope: Scope) -> KeyConfig:
        """The key of a request, counted against its rate. Raises RefusalError."""
        given = _bearer(scope)
        if given is None:
            raise _unknown("a key is needed: send the header `Authorization: Bearer KEY`")
        key = self._keys.find(given)
        if key is None:
            raise _unknown("the key is wrong, or was revoked")
        wait = self._keys.wait(key)
        if wait:
            raise RefusalError(
                429,
                f"more than {key.rate} requests per minute came with the key of {key.name}",
                code="rate_limit_exceeded",
                retry_after=wait,
            )
        return key


def expect_this_machine(scope: Scope) -> None:
    """Raises RefusalError for a request that did not come from this machine."""
    server = scope.get("server")
    if not server or not is_loopback(str(server[0])):
        raise _elsewhere("only this machine")
    # A proxy beside us makes everybody's requests look like ours. One that says nothing of itself
    # (nginx, unless it is told to) speaks HTTP/1.0, which clients of today do not.
    if scope.get("http_version") == "1.0" or _was_forwarded(scope):
        raise _elsewhere("nobody through a proxy")
    hosts = values(scope, b"host")
    if len(hosts) != 1 or not names_loopback(hosts[0]):
        # A page of another site can have its own name lead to this machine (DNS rebinding).
        raise _elsewhere("only requests to localhost or 127.0.0.1")
    for origin in values(scope, b"origin"):
        if not names_loopback(origin.partition("://")[2]):
            # A browser sends a page's request, though the page may not read the answer.
            raise _elsewhere("no page of another site")


def _was_forwarded(scope: Scope) -> bool:
    names = [name.lower() for name, _ in scope["headers"]]
    return any(name in FORWARDED or name.startswith(FORWARDING) for name in names)


def values(scope: Scope, name: bytes) -> list[str]:
    """Returns the values of a header, each time that it stands in the request."""
    found = []
    for key, value in scope["headers"]:
        if key.lower() == name:
            found.append(value.decode("latin-1").strip())
    return found


def _bearer(scope: Scope) -> str | None:
    """The key that a request gives; None if it gives none, or two."""
    given = values(scope, b"authorization")
    if len(given) != 1:
        return None
    scheme, _, key = given[0].partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def is_loopback(address: str) -> bool:
    """True for 127.0.0.0/8 and ::1, however they are written; not for names and files."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback


def names_loopback(host: str) -> bool:
    """True for the Host of a request to this machine, with or without a port."""
    found = HOST.fullmatch(host.lower())
    if found is None:
        return False
    # No server gives an address for names under `localhost` (RFC 6761): browsers don't ask.
    name = (found["name"] or found["address"]).removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def _unknown(reason: str) -> RefusalError:
    return RefusalError(401, reason, code="invalid_api_key", retry=False)


def _elsewhere(who: str) -> RefusalError:
    reason = f"this service has no keys, so it answers {who}; {HOW_TO_KEY}"
    return RefusalError(403, reason, code="only_this_machine", retry=False)
