"""The record of one HTTP request, filled while it is handled, for logs, metrics and traces."""

import time
from dataclasses import dataclass, field

from starlette.types import Scope

from cowest.online.interactions import Interaction

VISIT = "cowest.visit"
"""Key of the visit in an ASGI scope."""


@dataclass(slots=True)
class Visit:
    """One request over HTTP. Whoever handles it writes down what it learns."""

    method: str = ""
    route: str = ""
    """The path, if it is one of ours; else "other"."""
    parent: str = ""
    """The header `traceparent`, by which the client continues its trace; empty if none came."""
    caller: str = ""
    """Name of the key that asked; empty where there are none."""
    id: str = ""
    """Id of the request, as the client was told it."""
    at: float = field(default_factory=time.time)
    """Time of the request, in seconds since 1970."""
    seconds: float = 0.0
    """Time from the request to the end of its response."""
    status: int = 0
    """HTTP status; 0 where the client left before any."""
    refused: str = ""
    """Code of the error, where the request was refused."""
    rows: list[Interaction] = field(default_factory=list)
    """The answers, if it asked for any; also those that broke off."""


def visit_of(scope: Scope) -> Visit:
    """Returns the visit that a request belongs to. An endpoint tested alone gets one of its own."""
    if VISIT not in scope:
        scope[VISIT] = Visit()
    found: Visit = scope[VISIT]
    return found
