"""Where no model is: link-local and metadata addresses, at which a machine in a cloud gets its credentials."""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

NAMES = {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
ADDRESSES = {"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"}
"""Metadata services outside the link-local ranges: Alibaba, Azure, Oracle, and Amazon's over IPv6."""
NAT64 = IPv6Network("64:ff9b::/96")


def leads_astray(host: str) -> bool:
    """Whether a name resolves to such an address. One that can't be resolved now is left to whoever calls it."""
    try:
        return any(forbidden(str(place[4][0])) for place in socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def forbidden(host: str) -> bool:
    """Whether a host, as written, is link-local or a cloud's metadata service; nothing is resolved."""
    host = host.rstrip(".").lower()
    address = _address(host)
    if address is None:
        return host in NAMES
    return address.is_link_local or str(address) in ADDRESSES


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host's text is, in any form that resolvers take (0xA9FEA9FE, 169.254.43518, ::ffff:169.254.169.254)."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address in NAT64):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
