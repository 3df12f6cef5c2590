"""Parts of an `EvalReport` that are no estimates."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

PolicyForm = Literal["adapter", "served"]
"""A form of the challenger's policy beside the merged weights that were judged: the adapter beside
its base, or the model that is served."""
NumberFormat = Literal["float32", "bfloat16", "unknown"]


class ReportPart(BaseModel):
    """Base of the parts: frozen, unknown keys refused, floats finite, as of all records."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Transitions(ReportPart):
    """Effects of drafts on the strong model's answers, as counts of rows.

    An answer with a score of at least 0.5 is right.
    """

    wrong_to_right: int = 0
    right_to_wrong: int = 0
    right_to_right: int = 0
    wrong_to_wrong: int = 0
    adopted: int = 0
    """The refinement differs from solo, or stands word for word in the draft."""
    copied: int = 0
    """Adopted rows whose refinement stands word for word in the draft."""
    ignored: int = 0
    """The other rows: the refinement is solo again, and does not stand in the draft."""


class PolicyAgreement(ReportPart):
    """How nearly another form of the challenger's policy answers a sample of held-out queries as
    the weights that were judged: one row of `data/agreement.jsonl`.

    Differences are of log-probabilities, in nats.
    """

    form: PolicyForm
    model: str
    """Name of the model that was compared."""
    dtype: NumberFormat
    """The coarser number format of the two; that of an endpoint is not known."""
    queries: int
    """Queries compared; 0 if none fits the context of the policy."""
    tokens: int
    """Tokens of the greedy answers, all together."""
    failed: int = 0
    """Queries that the other form gave no answer to."""
    largest: float | None
    """Largest difference of a token; None if it is not known, as of an endpoint."""
    mean: float | None
    """Mean difference per token; None if the endpoint gives no log-probabilities."""
    changed: int
    """Queries whose greedy answer is another one."""
    gap: float | None
    """Where answers part, the largest difference between the two tokens by one of the models: a
    small one is a tie that rounding decides. None if no answer is changed."""
