"""Logs one line of JSON per request, and per message of the service.

No line holds questions or answers. An error is logged by its type and the places in the code that
it came through: its message might repeat what was sent.
"""

import json
import logging
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from cowest.online.guard import HEALTH, PARTS
from cowest.online.metrics import outcome
from cowest.online.visits import Visit

LOGGER = logging.getLogger("cowest.requests")
FIELDS = "cowest_fields"
"""Attribute of a log record that holds further fields of its line."""
PROBES = HEALTH | PARTS["metrics"]
"""Routes that probes and scrapers ask all the time. Metrics count them; the log leaves them out."""
DEEPEST = 5
"""Number of last places in the code that a line names for an error."""


def tell(visit: Visit) -> None:
    """Logs a request that has ended, unless it is of a route that is asked all the time."""
    if visit.route not in PROBES and LOGGER.isEnabledFor(logging.INFO):
        said = f"{visit.method} {visit.route} {visit.status}"
        LOGGER.info(said, extra={FIELDS: described(visit)})


def described(visit: Visit) -> dict[str, Any]:
    """Returns what a line says of a request."""
    found: dict[str, Any] = {
        "id": visit.id,
        "key": visit.caller,
        "method": visit.method,
        "route": visit.route,
        "status": visit.status,
        "seconds": round(visit.seconds, 4),
        "refused": visit.refused,
    }
    if visit.rows:
        found |= _answered(visit)
    # What is empty says nothing.
    return {name: value for name, value in found.items() if value not in ("", None)}


def _answered(visit: Visit) -> dict[str, Any]:
    row = visit.rows[0]
    calls = [] if row.drafting is None else [row.drafting]
    for one in visit.rows:
        if one.answering is not None:
            calls.append(one.answering)
    prices = [call.usd for call in calls if call.usd is not None]
    return {
        "model": row.model,
        "version": row.version,
        "outcome": outcome(visit.rows),
        "degraded": row.degraded,
        "answers": len(visit.rows),
        "finish": row.finish,
        "prompt_tokens": sum(call.prompt_tokens for call in calls),
        "completion_tokens": sum(call.completion_tokens for call in calls),
        "usd": sum(prices) if prices else None,
    }


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without its end."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            found["error"] = record.exc_info[0].__name__
            found["where"] = _places(record.exc_info[2])
        return json.dumps(found, default=str)


def _places(trace: Any) -> list[str]:
    """The last places in the code that an error came through."""
    frames = traceback.extract_tb(trace)[-DEEPEST:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


def begin() -> None:
    """Makes all loggers write JSON lines to stderr: ours from INFO on, others from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in list(logging.root.manager.loggerDict):
        # BentoML and uvicorn have handlers of their own, which write plain lines.
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("cowest").setLevel(logging.INFO)
