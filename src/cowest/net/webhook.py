"""Posts one JSON document to an address that an operator named. The address may be a secret."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from cowest.errors import CallError
from cowest.net import address
from cowest.net.client import Client
from cowest.net.connections import LostError

TIMEOUT = 10
"""Seconds for the whole request."""
PAUSES = (1, 5)
"""Seconds before the second and the third try."""


def post(url: str, body: Mapping[str, Any]) -> None:
    """Posts a document, up to three times. Raises CallError, which names no more than the host.

    Must not be called where an event loop runs.
    """
    objection = address.objection(url)
    host = _host(url)
    if objection is not None:
        raise CallError(f"the webhook's address {objection}")
    reason = asyncio.run(_posted(url, dict(body)))
    if reason is not None:
        raise CallError(f"the webhook at {host}: {reason}")


async def _posted(url: str, body: dict[str, Any]) -> str | None:
    """Returns None if the document was taken, or else why it was not."""
    reason = None
    for pause in (*PAUSES, None):
        client = Client(url, None, TIMEOUT)
        try:
            reply = await client.post(body)
        except LostError as error:
            reason = str(error)
        else:
            if reply.status < 300:
                return None
            reason = f"it answered with status {reply.status}"
            # What is wrong with the request stays wrong.
            if reply.status < 500 and reply.status != 429:
                return reason
        finally:
            await client.close()
        if pause is not None:
            await asyncio.sleep(pause)
    return reason


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "?"
    except ValueError:
        return "?"
