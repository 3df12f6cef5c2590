"""Circuit breaker, one per model: a model that is down is not asked for a while."""

import time
from collections.abc import Callable

from pydantic import Field

from cowest.config import Config
from cowest.errors import UpstreamError


class BreakerConfig(Config):
    """Settings of the circuit breaker of each model."""

    failures: int = Field(default=5, ge=1)
    """Failures in a row after which a model is not asked for a while. A call that the model refused
    for its content does not count."""
    seconds: float = Field(default=10.0, gt=0)
    """Seconds for which it is then not asked, or longer if its server says so (Retry-After). After
    that one request tries it; if that is answered, all requests go to it again."""


class Breaker:
    """Counts a model's failures in a row. For one event loop.

    Closed: all calls are made. Open: no call is made, for some seconds. Half-open: the calls of one
    request are made, and the first outcome closes or opens the breaker.
    """

    def __init__(
        self, config: BreakerConfig, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._name = name
        self._clock = clock
        self._failures = 0
        self._until = 0.0
        self._trying: str | None = None
        """Id of the request that tries the model."""
        self._calls = 0
        """Calls of that request that are under way."""

    @property
    def is_open(self) -> bool:
        """True while the model is not asked, or while one request tries it."""
        return self._failures >= self._config.failures

    def begin(self, request: str) -> bool:
        """Admits a call of a request, or raises UpstreamError. Returns True if it tries the model.

        The caller ends an admitted call by `succeed` or `fail`; one that tries, also by `abandon`.
        """
        if not self.is_open:
            return False
        left = self._until - self._clock()
        # A request for several answers makes their calls at once, and needs all of them.
        if left > 0 or self._trying not in (None, request):
            # While a request tries the model, its outcome is awaited for a moment.
            raise UpstreamError(
                f"{self._name} is not asked for a while: {self._failures} calls in a row failed",
                retry_after=max(left, 1.0),
            )
        self._calls = self._calls + 1 if self._trying else 1
        self._trying = request
        return True

    def succeed(self) -> None:
        """Notes that the model answered."""
        self._failures = 0
        self._trying = None

    def fail(self, retry_after: float | None = None) -> None:
        """Notes that the model did not answer, and the pause that it asked for, if any."""
        self._failures += 1
        self._trying = None
        self._until = self._clock() + max(self._config.seconds, retry_after or 0.0)

    def abandon(self, request: str) -> None:
        """Notes that a call of the request that tries ended before the model could answer it."""
        if self._trying == request:
            self._calls -= 1
            self._trying = request if self._calls else None
