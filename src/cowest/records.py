"""The data model: rows that only grow, `Query -> Draft -> Refinement -> Feedback`, and what they fold into.

One class a file kind, one JSON object a line. A row holds all that was known when it was written, so no stage joins.
Rows hold nothing that differs between two equal runs: no time, no money, nothing random.
"""

import hashlib
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Split = Literal["train", "dev", "test"]


class Record(BaseModel):
    """Base of all rows: frozen, unknown keys refused, floats finite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def _query_id(prompt: Sequence[Message], targets: Sequence[str], choices: Sequence[str]) -> str:
    """`config.digest` of the three, its canonical JSON written by hand: every row that is read or made comes by here."""
    said = ",".join(
        [
            f'{{"content":{encode_basestring(message.content)},"role":"{message.role}"}}'
            for message in prompt
        ]
    )
    lists = f"[{','.join(map(encode_basestring, targets))}],[{','.join(map(encode_basestring, choices))}]"
    return hashlib.sha256(f"[[{said}],{lists}]".encode()).hexdigest()[:20]


class Query(Record):
    """What is asked, and what a right answer is."""

    id: str = Field(default="", pattern=r"^[0-9a-f]{20}$")
    """Digest of prompt, targets and choices; filled in where it is left out, refused where it is wrong."""
    group: str
    """Queries that share their luck (one product, one document): intervals resample groups."""
    split: Split
    prompt: tuple[Message, ...] = Field(min_length=1)
    targets: tuple[str, ...] = Field(min_length=1)
    """Right answers, any of which will do."""
    choices: tuple[str, ...] = ()
    """The options of a multiple choice."""
    ideal: str | None = None
    """The best draft that could be given: the ceiling of collaboration."""
    tags: tuple[str, ...] = ()
    """Slices that a report may show apart."""
    source: str
    """The raw row, `file:line`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        found = _query_id(self.prompt, self.targets, self.choices)
        if not self.id:  # its default: an empty one that is given does not fit the pattern
            self.__dict__["id"] = found
            self.__pydantic_fields_set__.add("id")
        elif self.id != found:
            raise ValueError(
                "id is not the digest of prompt, targets and choices: leave it out to have it filled in"
            )
        if "" in self.targets or any(map(str.isspace, self.targets)):
            raise ValueError("targets: empty text")
        if not self.prompt[-1].content.strip():
            raise ValueError("prompt: the last message is empty")
        return self


class Demonstration(Record):
    """One example that specialises the policy."""

    prompt: tuple[Message, ...] = Field(min_length=1)
    completion: str = Field(min_length=1)
    source: str
    """The raw row, `file:line`."""
    of_query: bool = False
    """Whether its raw row is a query as well: it is learned only where that query is fit."""


class Fate(Record):
    """What became of raw rows: of one that is quarantined, or of all that were left out for one reason, or of all that were used."""

    fate: Literal["quarantined", "left out", "used"]
    rows: int = Field(default=1, ge=0)
    reason: str | None = None
    source: str | None = None
    """A quarantined row, `file:line`."""
    raw: str | None = None
    """How its text begins."""


class Draft(Query):
    """A query with one draft of the policy."""

    sample: int = Field(ge=0)
    """Which of the query's drafts this is."""
    draft: str | None
    """None when the call failed: `failed` says why."""
    cut: bool = False
    """Whether the draft met its limit of tokens: it is refined as it is, and no pair is made of it."""
    policy: str
    """Name of the model that drafted, with its adapter's digest."""
    failed: str | None = None
    """Why this row has no answer; rows like it stay, and are left out and counted by `pair` and `compare`."""

    @model_validator(mode="after")
    def _answered_or_failed(self) -> Self:
        if (self.draft is None) and self.failed is None:
            raise ValueError("a draft that is null needs its reason in `failed`")
        return self


class Refinement(Draft):
    """A draft with what the strong model made of it, and without it."""

    refinement: str | None
    """The strong model's answer with the draft."""
    solo: str | None
    """The strong model's answer alone, asked once a query: the bar that a draft must clear."""
    strong: str


class Feedback(Refinement):
    """A refinement with its scores."""

    score: float | None
    """Of the refinement."""
    solo_score: float | None
    """Of the strong model alone."""
    draft_score: float | None
    """Of the draft alone."""
    scorer: str
    explanation: str | None = None
    """Why the refinement scored as it did."""

    @property
    def gain(self) -> float | None:
        """Collaborative feedback: how much better the final answer is with the draft than without.

        gain = score(strong(x, draft)) - score(strong(x)); None when the row failed. (Jiao et al. 2025, section 4.3.1)
        """
        if self.failed is not None or self.score is None or self.solo_score is None:
            return None
        return self.score - self.solo_score


class Trial(Feedback):
    """Feedback on a held-out query for one of the systems compared."""

    system: Literal["before", "after", "champion", "ideal"]
    """`before` and `after` alignment, `champion`, or `ideal`, whose draft is the query's own."""


class PreferencePair(Record):
    """Two drafts of one query, one of which helped more: TRL's conversational preference format with its provenance."""

    id: str = Field(pattern=r"^[0-9a-f]{20}$")
    """Digest of query, chosen and rejected."""
    query: str
    split: Split
    prompt: tuple[Message, ...] = Field(min_length=1)
    """As the policy saw it, its own template included."""
    chosen: tuple[Message, ...] = Field(min_length=1)
    rejected: tuple[Message, ...] = Field(min_length=1)
    margin: float
    """Score of the chosen less score of the rejected."""
    policy: str
    strong: str
    scorer: str
    samples: tuple[int, int]
    """Which drafts of the query, chosen and rejected."""


class Estimate(Record):
    """A mean over queries with its 95 % interval."""

    mean: float
    low: float | None
    """Lower end of the interval; None where there is none: `note` says why."""
    high: float | None
    queries: int
    groups: int
    note: str | None = None


class Comparison(Estimate):
    """The mean of paired differences, `of` less `over`, on the queries where both have a score."""

    of: str
    over: str
    left_out: int
    """Queries where one of the two, or both, has no score."""


class Transitions(Record):
    """What drafts did to the strong model's answers, as counts of rows; right is a score of at least 0.5."""

    wrong_to_right: int = 0
    right_to_wrong: int = 0
    right_to_right: int = 0
    wrong_to_wrong: int = 0
    adopted: int = 0
    """The refinement says something else than solo, or stands word for word in the draft."""
    copied: int = 0
    """Of those adopted: the refinement stands word for word in the draft."""
    ignored: int = 0
    """The rest: the refinement is solo again, and is not in the draft."""


class Choices(Record):
    """How a system's answers to a multiple choice fell; right + wrong + unparseable are all that it gave."""

    right: int
    wrong: int
    unparseable: int
    """Answers that name no option, or several: scored 0 and counted apart, for they are no wrong choice."""
    macro_f1: float
    """The mean over classes of F1."""


class Matches(Record):
    """How near a system's short answers came, best over the targets: both measures that are published for such data sets."""

    exact_match: float
    """The mean over queries, 0 to 1."""
    token_f1: float
    queries: int


class Slice(Record):
    """A mean over the queries of one tag."""

    mean: float
    queries: int


class GateResult(Record):
    """One condition that a challenger must meet, and how it went."""

    name: str
    of: str
    over: str
    """The system compared with; for `best_single`, `reason` says which it was."""
    at_least: float
    value: float | None
    """Lower end of the interval of the paired difference; None where there is none."""
    passed: bool | None
    """None when it does not apply: there is no champion yet."""
    reason: str


class EvalReport(Record):
    """Systems compared on the held-out queries: one document, `reports/eval.json`.

    Systems: `policy_before` and `policy_after` (the policy alone), `strong` (the strong model alone), and the
    collaborations `before`, `after`, `champion` (where there is one) and `ideal` (the ceiling).
    """

    queries: int
    """Held-out queries, failed ones included."""
    groups: int
    scorer: str
    strong: str
    policies: dict[str, str]
    """Name of the policy behind each collaboration."""
    draws: int
    """Resamples behind each interval."""
    systems: dict[str, Estimate]
    comparisons: dict[str, Comparison]
    gap_closed: Estimate | None
    """(after - before) / (ideal - before); None where no query has all three scores or there is no gap."""
    transitions: dict[str, Transitions]
    choices: dict[str, Choices] = {}
    """By system, where the scorer is `choice`."""
    matches: dict[str, Matches] = {}
    """By system, where the scorer is `exact_match` or `token_f1`: one of the two decides, and both are told."""
    tags: dict[str, dict[str, Slice]]
    failed: dict[str, dict[str, int]]
    """Rows left out, by system and reason."""
    gates: tuple[GateResult, ...]
    passed: bool
    """No gate failed."""


class Spread(Record):
    """How the gains of a turn spread over its queries: one number a query, the mean gain of its drafts."""

    counts: tuple[int, ...]
    """Queries by their number, rounded to a bin: equal bins from -1 to 1, both ends in the middle of theirs."""

    @property
    def queries(self) -> int:
        """How many there are."""
        return sum(self.counts)


class RuleOutcome(Record):
    """How one rule of a contract fared."""

    name: str
    says: str
    """What was expected."""
    mend: str
    severity: Literal["fail", "aside", "note"]
    """What it does where it is not met."""
    met: bool
    found: str
    rows: int
    """Rows that don't meet it; 0 for a rule about the whole."""


class Validation(Record):
    """What `validate` found in a file of rows; a page holds it for the turn's report. taken = left + aside."""

    kind: str
    taken: int
    """Rows in."""
    left: int
    """Rows out, where the turn goes on."""
    aside: int
    rules: tuple[RuleOutcome, ...]
    facts: dict[str, str]

    @property
    def fit(self) -> bool:
        """Whether the turn goes on."""
        return all(rule.met or rule.severity != "fail" for rule in self.rules)


class Outcome(Record):
    """What registration made of a turn: one document, `reports/decision.json`."""

    turn: str
    """Key of the turn."""
    version: int
    """The registry's number for the challenger."""
    promoted: bool
    against: int | None
    """The champion that it was judged against; None when there was none."""
    champion: int | None
    """The champion now."""
    reason: str


class DataSet(Record):
    """One data set that a turn rests on: what it is, and under which name and revision it is found again."""

    path: str
    """Where it lies in the project, as in data/raw/handbook."""
    digest: str
    """Hex SHA-256 of the file, or of the folder's names and bytes."""
    kept: Literal["dvc", "git", "derived", "unversioned"]
    """Who can bring it back: DVC, git itself, the turn that made it (`derived`), or nobody but whoever has the files."""
    rev: str | None = None
    """The git commit that brought this version in; None where no commit holds it."""
    md5: str | None = None
    """DVC's name of it."""
    rows: int | None = None
    """Rows, where it is a file of rows."""
