"""Downloads files over HTTP: streamed, up to a limit, and never from a forbidden address.

The address is checked before each request and each redirect, and again once the connection is made,
so that a name which changes its mind in between gains nothing.
"""

import http.client
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from cowest.errors import ConfigError, InputError
from cowest.net.address import forbidden, objection, redirect_objection
from cowest.net.proxies import goes_straight

TIMEOUT = 30.0
"""Maximum seconds without a byte."""
PIECE = 2**20
"""Maximum number of bytes held at once."""
REDIRECTS = 5
"""Maximum number of redirects of one download."""
REFUSED = {
    401: "it asks for a key: HF_TOKEN names one for the hub",
    403: "it is not ours to read (is the data set gated?)",
    404: "there is nothing there (or it is private, and HF_TOKEN has no key to it)",
    429: "too many requests: wait, and fetch it again",
}
"""Statuses in words."""


class Web:
    """Downloads from the web. `headers` holds headers by host, each sent to that host only."""

    def __init__(self) -> None:
        self.headers: dict[str, Mapping[str, str]] = {}
        # Python's default opener also reads local files and FTP, so we put together our own.
        self._opener = urllib.request.OpenerDirector()
        handlers = (
            _Proxies(),
            urllib.request.UnknownHandler(),
            _HTTP(),
            _HTTPS(),
            _Redirects(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        )
        for handler in handlers:
            self._opener.add_handler(handler)

    def pieces(
        self, url: str, limit: int, headers: Mapping[str, str] | None = None
    ) -> Iterator[bytes]:
        """Yields the content piece by piece.

        Raises InputError for more than `limit` bytes, for less than announced, and for no answer.
        """
        where = _shown(url)
        with self._opened(url, headers) as response:
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                raise InputError(f"{where} comes packed ({encoding}), which was not asked for")
            announced = response.headers.get("Content-Length")
            size = 0
            while True:
                piece = response.read(PIECE)
                if not piece:
                    break
                size += len(piece)
                if size > limit:
                    raise InputError(
                        f"{where} has more than the {limit} bytes that may be: raise the limit, "
                        "or fetch a part"
                    )
                yield piece
            # http.client gives what came before the connection broke off, without an error.
            if announced is not None and announced.isdigit() and size < int(announced):
                raise InputError(f"{where} was cut: {size} bytes of {announced}; fetch it again")

    def text(self, url: str, limit: int, headers: Mapping[str, str] | None = None) -> str:
        """Downloads a small document. Raises InputError."""
        try:
            return b"".join(self.pieces(url, limit, headers)).decode()
        except UnicodeDecodeError:
            raise InputError(f"{_shown(url)} is not UTF-8") from None

    @contextmanager
    def _opened(
        self, url: str, headers: Mapping[str, str] | None
    ) -> Iterator[http.client.HTTPResponse]:
        why = objection(url)
        if why is not None:
            raise ConfigError(f"{_shown(url)} {why}")
        if headers is None:
            headers = self.headers.get(urlsplit(url).netloc, {})
        request = urllib.request.Request(  # noqa: S310
            url, headers={"Accept-Encoding": "identity", "User-Agent": "cowest", **headers}
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
            reason = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
            raise InputError(
                f"{_shown(url)} can't be fetched: {reason or type(error).__name__}"
            ) from None


def _why(status: int) -> str:
    default = "try again later" if status >= 500 else "refused"
    return f"status {status}: {REFUSED.get(status, default)}"


def _shown(url: str) -> str:
    """A URL as it may be shown: without password and query, which may hold a signature."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return repr(url.rpartition("@")[2][:200])
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Proxies(urllib.request.ProxyHandler):
    """Asks the proxy of the environment, but for what NO_PROXY holds by our reading of it."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        if goes_straight(req.full_url):
            return None
        return super().proxy_open(req, proxy, type)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects under our rule, and leaves the key with the host that it is for."""

    max_redirections = REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        why = redirect_objection(req.full_url, newurl)
        if why is not None:
            raise ConfigError(f"{_shown(req.full_url)} leads to {_shown(newurl)}, which {why}")
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            found.remove_header("Authorization")
        return found


def _checked(connection: http.client.HTTPConnection) -> None:
    """Ends a connection to a forbidden address before anything is said on it."""
    peer = connection.sock.getpeername()[0]
    if forbidden(peer):
        connection.close()
        raise ConfigError(
            f"{connection.host} leads to {peer}, a link-local or metadata address: no data are "
            "there"
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
