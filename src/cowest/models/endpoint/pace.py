"""How many calls may be under way: as many as configured, and fewer while the endpoint shows that those are too many.

Additive increase, multiplicative decrease (Chiu and Jain, 1989): halved when the endpoint refuses for being busy, cut when its answers take
ever longer, and back by an eighth for every round of good answers.
"""

REFUSED, LATE = 0.5, 0.7
"""What is left of the calls at once after a refusal, and after a rise of the latency."""
RISEN = 2.5
"""The recent latency, as a multiple of the usual one, from which the endpoint is taken to be overloaded."""


class Pace:
    """For one endpoint."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._cut_at = 0.0
        self._refused_in_a_row = 0
        self._seen = 0
        self._recent = self._usual = self.median = 0.0
        """Seconds of an answer: the mean of about two rounds, that of about twenty, and their running median."""

    @property
    def limit(self) -> int:
        """Calls at once."""
        return int(self._limit)

    def answered(self, began: float, now: float) -> None:
        """A call that began then was answered now (seconds of one clock)."""
        seconds = now - began
        self._refused_in_a_row = 0
        self._seen += 1
        weight = max(1 / self._seen, 1 / (self._limit + 1))
        self._recent += (seconds - self._recent) * weight
        self._usual += (seconds - self._usual) * max(1 / self._seen, weight / 10)
        self.median += (
            max(self.median, seconds / 20) * (0.05 if seconds > self.median else -0.05)
            if self._seen > 1
            else seconds
        )
        self._limit = min(self._most, self._limit + max(1.0, self._limit / 8) / self._limit)
        # Latency is a suspicion only: answers may simply be longer now. It never takes more than three quarters.
        if self._seen > self._most and self._recent > RISEN * self._usual:
            self._cut(LATE, began, now, max(1.0, self._most / 4))

    def refused(self, began: float, now: float) -> bool:
        """The endpoint was too busy for a call that began then. Whether it is so for all: a single one may be about its row alone."""
        self._refused_in_a_row += 1
        if self._refused_in_a_row < max(1, self.limit // 8):
            return False
        self._cut(REFUSED, began, now, 1.0)
        return True

    def _cut(self, part: float, began: float, now: float, least: float) -> None:
        """Once for all calls that were under way at the time."""
        if began >= self._cut_at:
            self._cut_at = now
            self._limit = max(min(least, self._limit), self._limit * part)
