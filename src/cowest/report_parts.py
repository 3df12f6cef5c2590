"""Parts of an `EvalReport` that are no estimates."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

PolicyForm = Literal["adapter", "served"]
"""A form of the challenger's policy beside the merged weights that were judged: the adapter beside
its base, or the model that is served."""
NumberFormat = Literal["float32", "bfloat16", "unknown"]
ProbeSystem = Literal["base", "before", "after", "champion"]
"""A policy that answers general questions alone: the base model, the policy before and after
alignment, or the champion's."""


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


class Choices(ReportPart):
    """A system's answers to a multiple choice; right + wrong + unparseable are all that it gave."""

    right: int
    wrong: int
    unparseable: int
    """Answers that name no option, or several: they score 0, but are no wrong choice."""
    macro_f1: float
    """The mean over classes of F1."""


class Matches(ReportPart):
    """Both measures that are published for short answers, each the best over the targets."""

    exact_match: float
    """The mean over queries, 0 to 1."""
    token_f1: float
    queries: int


class PolicyAgreement(ReportPart):
    """How nearly another form of the challenger's policy answers a sample of held-out queries as
    the weights that were judged: one row of `data/agreement.jsonl`.

    Differences are of log-probabilities, in nats.
    """

    form: PolicyForm
    model: str
    """Name of the model that was compared."""
    version: str | None = None
    """Digest of the challenger's version (`Version.digest`); None in rows from before it was
    recorded."""
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


class ProbeAnswer(ReportPart):
    """One policy's own answer to a general question: one row of `data/probe.jsonl`."""

    system: ProbeSystem
    version: str | None
    """Digest of the version that answered (`Version.digest`); None for the base."""
    model: str
    """Name of the model that answered."""
    question: str
    targets: tuple[str, ...]
    kind: str | None
    """The kind of the question, such as capitals."""
    answer: str | None
    """The answer without its thoughts; None if it failed."""
    failed: str | None
    """The reason, if the answer or its score failed."""
    score: float | None
    scorer: str
    file: str
    """Digest of the file of questions."""
    questions: int
    """Questions in that file: each system has as many rows."""


class ProbeScore(ReportPart):
    """One policy's answers to the general questions."""

    model: str
    """Name of the model that answered."""
    score: float | None
    """The mean score of the answers; None if all failed."""
    failed: int
    """Answers that failed: they are in no mean."""
    kinds: dict[str, float]
    """By kind of question, the mean score."""


class Probe(ReportPart):
    """General questions, each answered by the policies alone."""

    file: str
    """Digest of the file of questions."""
    questions: int
    scorer: str
    kinds: dict[str, int]
    """Questions of each kind."""
    systems: dict[str, ProbeScore]
