"""The refusal of a request: the status, the reason, and what the client may do about it."""

import math


class RefusalError(Exception):
    """Ends a request with an error; each way of asking renders it in its own shape."""

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        retry: bool = True,
    ) -> None:
        """Takes the HTTP status, the reason, and the parameter that it is about.

        retry_after: seconds after which the client should ask again; None where nothing is known.
        retry: False if the same request would end the same way; clients then don't repeat it.
        """
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.retry = retry

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say when to ask again: whole seconds, at least 1."""
        found = {}
        if self.retry_after is not None:
            found["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if not self.retry:
            # The official client repeats what ends with a status of 500 and above, unless told so.
            found["x-should-retry"] = "false"
        return found


class GoneError(Exception):
    """The client left, or reads too slowly for the deadline."""
