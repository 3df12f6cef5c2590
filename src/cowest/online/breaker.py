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

    Closed: all calls are made. Open: no call is made, for some seconds. Half-open: one call is
    made, and its outcome closes or opens the breaker.
    """

    def __init__(
        self, config: BreakerConfig, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._name = name
        self._clock = clock
        self._failures = 0
        self._until = 0.0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """True while the model is not asked, or while one call tries it."""
        return self._failures >= self._config.failures

    def begin(self) -> bool:
        """Admits a call, or raises UpstreamError. Returns True for the call that tries the model.

        The caller ends an admitted call by `succeed` or `fail`; one that tries, also by `abandon`.
        """
        if not self.is_open:
            return False
        left = self._until - self._clock()
        if left > 0 or self._trying:
            # While a call tries the model, its outcome is awaited for a moment.
            raise UpstreamError(
                f"{self._name} is not asked for a while: {self._failures} calls in a row failed",
                retry_after=max(left, 1.0),
            )
        self._trying = True
        return True

    def succeed(self) -> None:
        """Notes that the model answered."""
        self._failures = 0
        self._trying = False

    def fail(self, retry_after: float | None = None) -> None:
        """Notes that the model did not answer, and the pause that it asked for, if any."""
        self._failures += 1
        self._trying = False
        self._until = self._clock() + max(self._config.seconds, retry_after or 0.0)

    def abandon(self) -> None:
        """Notes that the call that tries ended before the model could answer it."""
        self._trying = False
