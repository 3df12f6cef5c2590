"""Where no model is: link-local and metadata addresses, at which a machine in a cloud gets its credentials."""

import socket
import unicodedata
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import unquote

NAMES = {
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
}
ADDRESSES = {"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"}
"""Metadata services outside the link-local ranges: Alibaba, Azure, Oracle, and those of Amazon and Google over IPv6."""
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
"""Endings of names that lead to no other network."""
FOUR_IN_SIX = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))
"""IPv6 addresses that end in an IPv4 address: NAT64 (RFC 6052, 8215), and the old compatible form (RFC 4291)."""


def leads_astray(host: str, allowed: Collection[str] = ()) -> bool:
    """Whether a name resolves to such an address. One that can't be resolved now is left to whoever calls it."""
    if names(allowed, host):
        return False
    try:
        return any(forbidden(str(place[4][0]), allowed) for place in socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def forbidden(host: str, allowed: Collection[str] = ()) -> bool:
    """Whether a host, as written, is link-local or a cloud's metadata service; nothing is resolved. `allowed` are not."""
    host = _plain(host)
    address = _address(host)
    if names(allowed, host):
        return False
    if address is None:
        return host in NAMES
    return any(one.is_link_local or str(one) in ADDRESSES for one in _inner(address))


def names(allowed: Collection[str], host: str) -> bool:
    """Whether a host is among those that are named, in whatever form."""
    host = _plain(host)
    address = _address(host)
    return any(
        host == _plain(one) or (address is not None and address == _address(_plain(one)))
        for one in allowed
    )


def outside(host: str) -> bool:
    """Whether a host, as written, is in another network than ours; nothing is resolved."""
    host = _plain(host)
    address = _address(host)
    if address is not None:
        return not (address.is_private or address.is_loopback or address.is_link_local)
    return "." in host and not host.endswith(INSIDE)


def _plain(host: str) -> str:
    """As resolvers and clients come to read it: full-width letters as ASCII, %31 as 1, lower case, without the last point."""
    return unicodedata.normalize("NFKC", unquote(host)).replace("\u3002", ".").rstrip(".").lower()


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host's text is, in any form that resolvers take (0xA9FEA9FE, 169.254.43518, ::ffff:169.254.169.254)."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _inner(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """An address with the IPv4 addresses that it may be a wrapping of."""
    found: list[IPv4Address | IPv6Address] = [address]
    if isinstance(address, IPv6Address):
        if any(address in network for network in FOUR_IN_SIX):
            found.append(IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour:
            found.append(address.sixtofour)
        if address.teredo:
            found += address.teredo
    return found
