"""The proxy that the environment names for a URL: HTTP_PROXY, HTTPS_PROXY and NO_PROXY.

NO_PROXY is read as curl and requests read it: what they send straight, we send straight, too.
"""

import base64
import re
from ipaddress import ip_network
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies

from cowest.errors import ConfigError
from cowest.net.address import host_address, plain_host

PORTS = {"http": 80, "https": 443}
WITH_PORT = re.compile(r"(?P<host>[^:\[\]]+|\[[^\[\]]+\])(?::(?P<port>[0-9]+))?")
"""An entry of NO_PROXY that may end in a port. An IPv6 address needs its brackets for that."""


def proxy_of(url: str) -> str | None:
    """Returns the URL of the proxy for a URL, or None if there is none or NO_PROXY holds its host.

    Raises ConfigError for a proxy that we can't speak to.
    """
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or goes_straight(url):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        place = urlsplit(proxy)
        fit = place.scheme == "http" and bool(place.hostname) and place.port != 0
    except ValueError:
        fit = False
    if not fit:
        # The message does not show the proxy's address, since a password may stand in it.
        raise ConfigError(
            f"{parts.scheme.upper()}_PROXY names no proxy that is spoken to by http://host:port: "
            f"name one that is, or put {parts.hostname} into NO_PROXY if it is reached without one"
        )
    return proxy


def goes_straight(url: str) -> bool:
    """True if NO_PROXY says that no proxy is asked for this URL.

    Its entries are separated by commas or spaces. An entry is `*` (every host), a domain that
    stands for itself and all below it (`example.com`, `.example.com`, `*.example.com`), an address,
    or a range of addresses (`10.0.0.0/8`, `fd00::/8`). A domain or address may end in a port, and
    then holds for that port only. No name is resolved.
    """
    parts = urlsplit(url)
    entries = getproxies().get("no", "").replace(",", " ").split()
    return any(_matches(entry, parts) for entry in entries)


def _matches(entry: str, parts: SplitResult) -> bool:
    if entry == "*":
        return True
    host = plain_host(parts.hostname or "")
    address = host_address(host)
    if "/" in entry:
        try:
            # A network may be written by any of its addresses: 10.1.2.3/8 is 10.0.0.0/8.
            return address is not None and address in ip_network(_bare(entry), strict=False)
        except ValueError:
            return False
    wanted = entry
    found = WITH_PORT.fullmatch(entry)
    if found is not None:
        port = parts.port or PORTS.get(parts.scheme)
        if found["port"] is not None and int(found["port"]) != port:
            return False
        wanted = found["host"]
    wanted = plain_host(_bare(wanted))
    if address is not None:
        return address == host_address(wanted)
    domain = wanted.removeprefix("*").lstrip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _bare(entry: str) -> str:
    """An IPv6 address or range without its brackets: [fd00::]/8 is fd00::/8."""
    return entry.replace("[", "").replace("]", "")


def login(proxy: str) -> dict[str, str]:
    """Returns the header that carries a proxy's password, or nothing."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def without_login(proxy: str) -> str:
    """Returns the URL of a proxy without its name and password."""
    parts = urlsplit(proxy)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def refusal(first: str, host: str) -> str:
    """Says what to do about a proxy that refuses to hand on; `first` is its answer's first line."""
    mend = f"ask who runs it to let {host} through, or name {host} in NO_PROXY"
    if first.split(" ")[1:2] == ["407"]:
        mend = "put its name and password into HTTPS_PROXY (http://name:password@host:port)"
    return f"the proxy refuses: {first[:100]}: {mend}"
