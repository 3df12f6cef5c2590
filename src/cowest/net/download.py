"""Files fetched over HTTP: streamed, with a limit, and never from where no data are.

Checked before each request and each redirect, and again on the address that a connection was made to, so that a name which changes
its mind between the two gains nothing.
"""

import http.client
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from cowest.errors import ConfigError, InputError
from cowest.net.address import forbidden, leads_astray

TIMEOUT = 30.0
"""Seconds without a byte at most."""
PIECE = 2**20
"""Bytes held at once."""
REDIRECTS = 5


class Web:
    """What fetches. `headers` are sent to the host that they are of, and to no other."""

    def __init__(self) -> None:
        self.headers: dict[str, Mapping[str, str]] = {}
        self._opener = (
            urllib.request.OpenerDirector()
        )  # of its own: the usual one opens files and FTP as well
        for handler in (
            urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), _HTTP(), _HTTPS(), _Redirects(self.headers),
            urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
        ):  # fmt: skip
            self._opener.add_handler(handler)

    def pieces(
        self, url: str, limit: int, headers: Mapping[str, str] | None = None
    ) -> Iterator[bytes]:
        """The content, piece by piece. Raises InputError for more than `limit` bytes, for less than was announced, and for no answer."""
        where = _shown(url)
        with self._opened(url, headers) as response:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise InputError(
                    f"{where} comes packed ({response.headers['Content-Encoding']}), which was not asked for"
                )
            announced = response.headers.get("Content-Length")
            size = 0
            while piece := response.read(PIECE):
                size += len(piece)
                if size > limit:
                    raise InputError(
                        f"{where} has more than the {limit} bytes that may be: raise the limit, or fetch a part"
                    )
                yield piece
            if announced is not None and announced.isdigit() and size < int(announced):
                raise InputError(f"{where} was cut: {size} bytes of {announced}; fetch it again")

    def text(self, url: str, limit: int, headers: Mapping[str, str] | None = None) -> str:
        """A small document. Raises InputError."""
        try:
            return b"".join(self.pieces(url, limit, headers)).decode()
        except UnicodeDecodeError:
            raise InputError(f"{_shown(url)} is not UTF-8") from None

    @contextmanager
    def _opened(
        self, url: str, headers: Mapping[str, str] | None
    ) -> Iterator[http.client.HTTPResponse]:
        refuse(url)
        known = headers if headers is not None else self.headers.get(urlsplit(url).netloc, {})
        request = urllib.request.Request(  # noqa: S310
            url, headers={"Accept-Encoding": "identity", "User-Agent": "cowest", **known}
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                if response is None:
                    raise InputError(f"{_shown(url)}: no answer")
                yield response
        except HTTPError as error:
            error.close()
            raise InputError(f"{_shown(url)}: {_why(error.code)}") from None
        except (URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise InputError(
                f"{_shown(url)} can't be fetched: {' '.join(str(reason).split())[:200] or type(error).__name__}"
            ) from None


def refuse(url: str) -> None:
    """Raises ConfigError for an address that no data are fetched from."""
    try:
        parts = urlsplit(url)
        host, user = parts.hostname or "", parts.username or parts.password
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{url[:200]!r} is no address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{parts.scheme}: is not fetched from: http:// and https:// are")
    if user:
        raise ConfigError(
            f"{parts.scheme}://{host}: a password in an address ends in logs: take it out"
        )
    if forbidden(host) or leads_astray(host):
        raise ConfigError(f"{host} is a link-local or metadata address: no data are there")


def _why(status: int) -> str:
    known = {
        401: "it asks for a key: HF_TOKEN names one for the hub", 403: "it is not ours to read (is the data set gated?)",
        404: "there is nothing there (or it is private, and HF_TOKEN has no key to it)", 429: "too many requests: wait, and fetch it again",
    }  # fmt: skip
    return (
        f"status {status}: {known.get(status, 'try again later' if status >= 500 else 'refused')}"
    )


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Checked as the first address was; keys stay with the host that they are for."""

    max_redirections = REDIRECTS

    def __init__(self, headers: Mapping[str, Mapping[str, str]]) -> None:
        self._headers = headers

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        refuse(newurl)
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise InputError(f"{_shown(req.full_url)} leads from https to http: not followed")
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            found.remove_header("Authorization")
        return found


def _checked(connection: http.client.HTTPConnection) -> None:
    peer = connection.sock.getpeername()[0]
    if forbidden(peer):
        connection.close()
        raise ConfigError(
            f"{connection.host} leads to {peer}, a link-local or metadata address: no data are there"
        )


class _Plain(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _checked(self)


class _Secure(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _checked(self)


class _HTTP(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, req)


class _HTTPS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Secure, req)
