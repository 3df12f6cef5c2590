"""Everything around an answer: the guard before it; metrics, log and traces after it."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from cowest.online import request_log
from cowest.online.drain import Drain
from cowest.online.guard import Guard
from cowest.online.keys import Keys
from cowest.online.live import ServeConfig
from cowest.online.metrics import Meters, Standing
from cowest.online.traces import open_traces
from cowest.online.visits import Visit


class Around:
    """The guard, the drain, the metrics, the log and the traces, as the settings say."""

    def __init__(self, config: ServeConfig, standing: Callable[[], Standing]) -> None:
        self.drain = Drain(config.drain)
        self._guard = Guard(Keys(config.keys), config.open)
        providers = {"policy": config.policy.provider, "strong": config.strong.provider}
        self._meters = Meters(standing, providers)
        self.traces = open_traces(config)

    def look(self, scope: Scope) -> str:
        """Returns the name of the key that asks. Raises RefusalError."""
        return self._guard.look(scope)

    def ended(self, visit: Visit) -> None:
        """Counts, logs and traces a request that has ended. Returns at once, and raises nothing."""
        self._meters.count(visit)
        request_log.tell(visit)
        if self.traces is not None:
            self.traces.add(visit)

    def metrics(self, request: Request) -> Response:
        """Returns the page of metrics."""
        page, kind = self._meters.page(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": kind})

    def close(self) -> None:
        """Sends the spans that were not sent yet."""
        if self.traces is not None:
            self.traces.close()
