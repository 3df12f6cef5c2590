"""Limits the calls under way: as many as configured, and fewer while the endpoint is too busy.

Additive increase, multiplicative decrease (Chiu and Jain, 1989). The limit is halved when the
endpoint refuses calls because it is busy, and cut when its latency keeps rising. It grows back by
an eighth per round of good answers.
"""

REFUSED, LATE = 0.5, 0.7
"""Factors on the limit after a refusal, and after a rise of the latency."""
RISEN = 2.5
"""Ratio of recent to usual latency from which the endpoint is taken to be overloaded."""


class Pace:
    """Limit on the calls under way to one endpoint, adapted to how the endpoint copes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._cut_at = 0.0
        self._refused_in_a_row = 0
        self._seen = 0
        self._recent = self._usual = self.median = 0.0
        """Latency in seconds: mean over about two rounds, over about twenty, and running median."""

    @property
    def limit(self) -> int:
        """Number of calls that may be under way now."""
        return int(self._limit)

    def answered(self, began: float, now: float) -> None:
        """Notes that a call begun at `began` was answered `now`, in seconds of one clock."""
        seconds = now - began
        self._refused_in_a_row = 0
        self._seen += 1
        weight = max(1 / self._seen, 1 / (self._limit + 1))
        self._recent += (seconds - self._recent) * weight
        self._usual += (seconds - self._usual) * max(1 / self._seen, weight / 10)
        self._move_median(seconds)
        self._limit = min(self._most, self._limit + max(1.0, self._limit / 8) / self._limit)
        # Rising latency is only a suspicion, since answers may simply have become longer. So it
        # never takes more than three quarters of the limit, and refusals alone bring it down to
        # one.
        if self._seen > self._most and self._recent > RISEN * self._usual:
            self._cut(LATE, began, now, max(1.0, self._most / 4))

    def refused(self, began: float, now: float) -> bool:
        """Notes that the endpoint was too busy for a call; True if it is so for all calls.

        A single refusal may be about its row alone. We lower the limit once an eighth of the calls
        under way were refused in a row.
        """
        self._refused_in_a_row += 1
        if self._refused_in_a_row < max(1, self.limit // 8):
            return False
        self._cut(REFUSED, began, now, 1.0)
        return True

    def _move_median(self, seconds: float) -> None:
        """Moves the running median by 5 % towards the latest latency."""
        if self._seen == 1:
            self.median = seconds
            return
        # A step in proportion to the median could never climb from a first answer that took no
        # time.
        step = 0.05 * max(self.median, seconds / 20)
        self.median += step if seconds > self.median else -step

    def _cut(self, factor: float, began: float, now: float, least: float) -> None:
        """Multiplies the limit by `factor`, down to `least`."""
        # The calls that were under way at the last cut were sent under the old limit. What becomes
        # of them says nothing about the new one, so each round is cut once.
        if began >= self._cut_at:
            self._cut_at = now
            self._limit = max(min(least, self._limit), self._limit * factor)
