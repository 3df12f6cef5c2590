"""Addresses that are never called: link-local ones and the metadata services of clouds.

A machine in a cloud gets its credentials there: whoever could make us call there could read them.
"""

import socket
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import unquote, urljoin, urlsplit

NAMES = {
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
}
"""Host names of metadata services."""
ADDRESSES = {"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"}
"""Metadata services outside the link-local ranges: Alibaba, Azure, Oracle, and those of Amazon and
Google over IPv6."""
INSIDE = (
    "localhost",
    ".localhost",
    ".local",
    ".internal",
    ".lan",
    ".home.arpa",
    ".svc",
    ".cluster.local",
)
"""Endings of host names that lead to no other network."""
FOUR_IN_SIX = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))
"""IPv6 networks whose addresses end in an IPv4 address: NAT64 (RFC 6052, 8215), and the old
compatible form (RFC 4291)."""

HOPS = 5
"""Maximum number of redirects of one download."""
MOVED = (301, 302, 303, 307, 308)
"""Statuses that redirect a download."""


def objection(url: str, allowed: Collection[str] = ()) -> str | None:
    """Says why nothing may be fetched from a URL, or returns None if something may.

    The host's name is resolved, which may take a while.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "is no address"
    # No host is called by a line end or a NUL, also where they are written %0A or %00.
    if not plain_host(host).isprintable():
        return "is no address"
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return "is not fetched from: only http:// and https:// are"
    # Addresses are shown in logs and error messages, and passwords must not be.
    if parts.username or parts.password:
        return "holds a name or password, which would end in logs: take it out"
    if forbidden(host, allowed) or leads_astray(host, allowed):
        return "is a link-local or metadata address: no data are there"
    return None


def redirect_objection(came_from: str, url: str, allowed: Collection[str] = ()) -> str | None:
    """Says why a redirect is not followed, or returns None if it is.

    A redirect is followed to where we would fetch from in the first place, and never from https to
    http. The names of hosts are resolved, which may take a while.
    """
    # Over https we get what the host sent. Over http anybody on the way could change it.
    if urlsplit(came_from).scheme == "https" and not url.lower().startswith("https:"):
        return "is not https, unlike the address that leads to it"
    # The address goes into the first line of a request, which ends at a space or a line break.
    if not (url.isascii() and url.isprintable()) or " " in url:
        return "holds characters that an address can't have"
    return objection(url, allowed)


def followed(
    came_from: str, location: str, allowed: Collection[str] = ()
) -> tuple[str, str | None]:
    """Returns the URL that a redirect leads to, and why it is not followed; None if it is."""
    try:
        target = urljoin(came_from, location)
    except ValueError:
        target = location
    return target, redirect_objection(came_from, target, allowed)


def origin(url: str) -> tuple[str, str | None, int]:
    """The scheme, host and port of a URL. A key for one origin is sent to no other."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def leads_astray(host: str, allowed: Collection[str] = ()) -> bool:
    """True if a host's name resolves to a forbidden address.

    A name that can't be resolved now is left to the connection, which looks at the address again.
    """
    if names(allowed, host):
        return False
    try:
        return any(forbidden(str(place[4][0]), allowed) for place in socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def forbidden(host: str, allowed: Collection[str] = ()) -> bool:
    """True for a host that, as written, is link-local or a metadata service, unless it is allowed.

    Nothing is resolved.
    """
    host = plain_host(host)
    address = host_address(host)
    if names(allowed, host):
        return False
    if address is None:
        return host in NAMES
    return any(one.is_link_local or str(one) in ADDRESSES for one in _inner(address))


def names(allowed: Collection[str], host: str) -> bool:
    """True if a host is among the allowed ones, in whatever form both are written."""
    host = plain_host(host)
    address = host_address(host)
    for one in allowed:
        plain = plain_host(one)
        if host == plain or (address is not None and address == host_address(plain)):
            return True
    return False


def outside(host: str) -> bool:
    """True if a host, as written, is in another network than ours. Nothing is resolved."""
    host = plain_host(host)
    address = host_address(host)
    if address is not None:
        return not (address.is_private or address.is_loopback or address.is_link_local)
    return "." in host and not host.endswith(INSIDE)


def plain_host(host: str) -> str:
    """A host as resolvers and clients come to read it.

    Full-width letters become ASCII and %31 becomes 1, in lower case and without the last point.
    """
    return unicodedata.normalize("NFKC", unquote(host)).replace("\u3002", ".").rstrip(".").lower()


def host_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host's text is, in any form that resolvers take, or None for a name.

    Such forms are 0xA9FEA9FE, 169.254.43518 and ::ffff:169.254.169.254.
    """
    try:
        # What follows % in an IPv6 address names the interface, not the host.
        address = ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


@lru_cache
def canonical(url: str) -> str:
    """The URL with its host as four numbers, if it is an IPv4 address in another form.

    Such forms are 127.1 and 2130706433: resolvers take them, and aiohttp does not.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    address = host_address(host.rstrip("."))
    if not host.replace(".", "").isdigit() or address is None or str(address) == host:
        return url
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{address}{port}").geturl()


def _inner(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """An address, and the IPv4 addresses that it may carry: gateways deliver to those."""
    found: list[IPv4Address | IPv6Address] = [address]
    if isinstance(address, IPv6Address):
        if any(address in network for network in FOUR_IN_SIX):
            found.append(IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour:
            found.append(address.sixtofour)
        if address.teredo:
            found += address.teredo
    return found
