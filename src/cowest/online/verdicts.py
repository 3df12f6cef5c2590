"""Verdicts: what people say of the answers that they got."""

from typing import Literal, Self

from pydantic import Field, model_validator

from cowest.records import Record

GOOD = 0.8
"""Lowest score that means good, if the verdict has no word."""
BAD = 0.5
"""Scores below this mean bad."""
LONGEST = 20_000
"""Most characters of a better answer."""


class AnswerVerdict(Record):
    """A person's verdict on one answer. It has at least one of its parts."""

    id: str = Field(max_length=100)
    """Id that came with the answer."""
    sample: int = Field(default=0, ge=0, lt=128, strict=True)
    """Number of the answer among the `n` of its request, from 0."""
    verdict: Literal["good", "bad"] | None = None
    """good: the answer is right as it is. bad: it is not."""
    score: float | None = Field(default=None, ge=0, le=1, strict=True)
    """A mark from 0 to 1. If there is no verdict, 0.8 and more means good, and below 0.5 bad."""
    better: str | None = Field(default=None, max_length=LONGEST)
    """The answer as it should have been."""
    comment: str | None = Field(default=None, max_length=4_000)
    """Any other remark. It is kept in the log, and never becomes data."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        parts = (self.verdict, self.score, self.better, self.comment)
        if all(part is None for part in parts):
            raise ValueError("says nothing: give a verdict, a score, a better answer or a comment")
        for name in ("better", "comment"):
            text = getattr(self, name)
            if text is not None and not text.strip():
                raise ValueError(f"{name}: empty text: leave it out")
            if text is not None and "\0" in text:
                raise ValueError(f"{name}: holds a NUL character")
        if self.score is not None:
            low, high = self.score < BAD, self.score > BAD
            if (self.verdict == "good" and low) or (self.verdict == "bad" and high):
                raise ValueError(
                    f"contradicts itself: {self.verdict}, with a score of {self.score:g}"
                )
        return self

    @property
    def says(self) -> Literal["good", "bad"] | None:
        """The verdict as a word, derived from the score if need be; None if there is neither."""
        if self.verdict is not None or self.score is None:
            return self.verdict
        if self.score >= GOOD:
            return "good"
        return "bad" if self.score < BAD else None


class KeptVerdict(AnswerVerdict):
    """A verdict as the log keeps it. Of several on one answer the last counts."""

    better: str | None = None
    """As given, or longer by its placeholders."""
    comment: str | None = None
    """The same."""
    at: float
    """Time at which it came, in seconds since 1970."""
    purse: str = ""
    """Name of the key that gave it; empty where there are no keys."""
