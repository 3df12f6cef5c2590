"""HTTP to an OpenAI-compatible endpoint: one POST, and what came back. It knows no retries and no meaning.

aiohttp and not the provider's SDK: a third of the time a call, and nothing of the environment's that would be sent along.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    import aiohttp

CONNECT = 10.0
"""Seconds for a connection at most."""
LARGEST = 32 * 2**20
"""Bytes of a response at most."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as it came."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes


class LostError(Exception):
    """No whole response came. `reached`: the request may have arrived, and may have been paid for."""

    def __init__(self, reason: str, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


class Transport:
    """The connections to one endpoint, for the loop that it is made on."""

    def __init__(self, url: str, key: str | None, timeout: float, connections: int) -> None:
        self._url, self._timeout = url, timeout
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._connections, self._proxy = connections, _proxy(url)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: dict[str, Any]) -> Reply:
        """One call, within the timeout from first byte to last. Raises LostError."""
        import aiohttp

        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._opened().post(self._url, data=data, headers=self._headers, allow_redirects=False, proxy=self._proxy) as response,
            ):
                content = bytearray()
                async for part in response.content.iter_any():
                    content += part
                    if len(content) > LARGEST:
                        raise LostError(f"an answer of more than {LARGEST} bytes")
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Reply(response.status, headers, bytes(content))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise LostError(str(getattr(error, "os_error", None) or error) or "no connection", reached=False) from None
        except TimeoutError:
            raise LostError(f"no answer in {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError):
            raise LostError("connection lost") from None

    async def close(self) -> None:
        """Ends the connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> "aiohttp.ClientSession":
        import aiohttp

        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=30)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(CONNECT, self._timeout))
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for such an address (HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
