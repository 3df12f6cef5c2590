"""The data model: rows that only grow, and what they fold into.

    Query -> Draft -> Refinement -> Feedback (-> Trial)

One class per kind of file, one JSON object per line. A row holds all that was known when it was
written, so no stage joins files. Rows hold nothing that differs between two equal runs: no time,
no money, nothing random.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from cowest.config import query_id
from cowest.report_parts import Choices, Matches, PolicyAgreement, Probe, Transitions

Split = Literal["train", "dev", "test"]
NOBODY = "nobody"
"""Name of the strong model in rows for which none was asked (`align: self`, `align: grpo`)."""
Collaboration = Literal["before", "after", "champion", "ideal"]
"""A system in which the strong model refines drafts: those of the policy before or after alignment,
those of the champion, or the query's own ideal draft."""


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


def with_contents(messages: Sequence[Message], contents: Sequence[str]) -> tuple[Message, ...]:
    """Messages with other contents, one for each, in their order."""
    made = []
    for message, content in zip(messages, contents, strict=True):
        made.append(Message(role=message.role, content=content))
    return tuple(made)


class Query(Record):
    """A question with its right answers."""

    id: str = Field(default="", pattern=r"^[0-9a-f]{20}$")
    """Digest of prompt, targets and choices; filled in if left out, refused if wrong."""
    group: str
    """Queries that are right or wrong together, such as those about one product or one document.
    Intervals are over groups, not queries."""
    split: Split
    prompt: tuple[Message, ...] = Field(min_length=1)
    targets: tuple[str, ...] = Field(min_length=1)
    """Right answers; each of them counts as right."""
    choices: tuple[str, ...] = ()
    """The options of a multiple choice."""
    ideal: str | None = None
    """The best possible draft, where it is known: the ceiling of collaboration."""
    tags: tuple[str, ...] = ()
    """Slices of the data that a report shows separately."""
    source: str
    """The raw row, `file:line`."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        found = query_id(self.prompt, self.targets, self.choices)
        if not self.id:
            # Only the default is empty: an empty id that is given does not fit the pattern. The
            # row is frozen, so the id is written past pydantic, and noted as set so that a dump
            # without defaults keeps it.
            self.__dict__["id"] = found
            self.__pydantic_fields_set__.add("id")
        elif self.id != found:
            raise ValueError(
                "id is not the digest of prompt, targets and choices: leave it out to have it "
                "filled in"
            )
        if "" in self.targets or any(map(str.isspace, self.targets)):
            raise ValueError("targets: empty text")
        if not self.prompt[-1].content.strip():
            raise ValueError("prompt: the last message is empty")
        return self


Q = TypeVar("Q", bound=Query)


def grown(kind: type[Q], row: Query, **more: Any) -> Q:
    """A row of the next kind: the fields of `row`, and `more`, which may replace some of them."""
    # pydantic keeps the fields of a row in `__dict__`. To read them there is many times faster than
    # `dict(row)`, and every row of every stage is grown here.
    return kind(**{**vars(row), **more})


def of_query(row: Query) -> Query:
    """The query that a later row grew from."""
    return Query(**{name: getattr(row, name) for name in Query.model_fields})


class Demonstration(Record):
    """One example that specialises the policy."""

    prompt: tuple[Message, ...] = Field(min_length=1)
    completion: str = Field(min_length=1)
    source: str
    """The raw row, `file:line`."""
    of_query: bool = False
    """True if the raw row is a query too: then it is learned only where that query is fit."""


class Fate(Record):
    """One quarantined raw row, or a count of raw rows: left out for one reason, or used."""

    fate: Literal["quarantined", "left out", "used"]
    rows: int = Field(default=1, ge=0)
    reason: str | None = None
    source: str | None = None
    """A quarantined row, `file:line`."""
    raw: str | None = None
    """The beginning of a quarantined row's text."""


class Draft(Query):
    """A query with one draft of the policy."""

    sample: int = Field(ge=0)
    """Number of this draft among the drafts of its query, from 0."""
    draft: str | None
    """None when the call failed: `failed` says why."""
    cut: bool = False
    """True if the draft reached its token limit: it is refined, but no pair is made of it."""
    policy: str
    """Name of the model that drafted, with the digest of its adapter."""
    candidate: str | None = Field(default=None, exclude_if=lambda name: name is None)
    """Name of the prompt in the version's `candidates` that asked for the draft; None for the
    policy's own prompt, and then the field is not written."""
    failed: str | None = None
    """The reason, if a call of this row failed. Such rows stay; `pair` and `compare` leave them out
    and count them."""

    @model_validator(mode="after")
    def _answered_or_failed(self) -> Self:
        if self.draft is None and self.failed is None:
            raise ValueError("a draft that is null needs its reason in `failed`")
        return self


class Refinement(Draft):
    """A draft with the strong model's answers: one that saw the draft, and one that did not."""

    refinement: str | None
    """The strong model's answer with the draft."""
    solo: str | None
    """The strong model's answer alone, asked once per query: the bar that a draft must clear."""
    strong: str
    refinement_tokens: int | None = Field(default=None, exclude=True)
    """Tokens of the refinement, if the provider counted them: kept by trials alone."""
    solo_tokens: int | None = Field(default=None, exclude=True)
    """Tokens of the strong model's answer alone."""


class Feedback(Refinement):
    """A refinement with its scores."""

    score: float | None
    """Score of the refinement."""
    solo_score: float | None
    """Score of the strong model alone."""
    draft_score: float | None
    """Score of the draft alone."""
    scorer: str
    explanation: str | None = None
    """The scorer's reason for the refinement's score."""

    @property
    def gain(self) -> float | None:
        """Collaborative feedback: how much better the final answer is with the draft than without.

        gain = score(strong(x, draft)) - score(strong(x)); None when the row failed.
        (Jiao et al. 2025, section 4.3.1)
        """
        if self.failed is not None or self.score is None or self.solo_score is None:
            return None
        return self.score - self.solo_score


class Trial(Feedback):
    """Feedback on a held-out query for one of the systems compared."""

    system: Collaboration
    """The system whose draft this row holds."""
    version: str | None = None
    """Digest of the version that drafted (`Version.digest`); None for `ideal`, and in rows from
    before it was recorded."""
    refinement_tokens: int | None = None
    """Tokens of the refinement as the provider counted them, thoughts included; None if it did not,
    and in rows from before they were recorded."""
    solo_tokens: int | None = None
    """The same of the strong model's answer alone."""


class PreferencePair(Record):
    """Two drafts of one query, one of which helped more; for KTO, one draft alone.

    A draft alone that helped is `chosen`, one that did not is `rejected`, and the other side is
    empty. The fields prompt, chosen and rejected are TRL's conversational preference format; the
    others say where the pair comes from.
    """

    id: str = Field(pattern=r"^[0-9a-f]{20}$")
    """Digest of query, chosen and rejected."""
    query: str
    split: Split
    prompt: tuple[Message, ...] = Field(min_length=1)
    """The query as the policy saw it, in the policy's own template."""
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float
    """Score of the chosen draft minus score of the rejected one; of a draft alone, its gain."""
    policy: str
    strong: str
    """The strong model whose answers were scored; NOBODY where the drafts themselves were."""
    scorer: str
    samples: tuple[int, int]
    """Sample numbers of the two drafts, chosen and rejected; of a draft alone, its own twice."""
    candidates: tuple[str | None, str | None] = Field(
        default=(None, None), exclude_if=lambda names: names == (None, None)
    )
    """Names of the prompts in the version's `candidates` that asked for the two drafts, as rows of
    drafts have them."""


class Estimate(Record):
    """A mean over queries with its 95 % interval."""

    mean: float
    low: float | None
    """Lower end of the interval; None if there is none, and `note` says why."""
    high: float | None
    queries: int
    groups: int
    note: str | None = None


class Comparison(Estimate):
    """The mean of paired differences, `of` minus `over`, on the queries where both have a score."""

    of: str
    over: str
    left_out: int
    """Queries where one of the two, or both, has no score."""
    base_mean: float | None = None
    """The mean score of `over` on these queries, which `mean` is added to; None for another measure
    than the score, and in a report from before it was recorded."""


class Slice(Record):
    """A mean over the queries of one tag."""

    mean: float
    queries: int


class GateResult(Record):
    """One condition that a challenger must meet, and the outcome."""

    name: str
    of: str
    over: str | None
    """The system compared with; for `best_single`, `reason` says which system that was. None for a
    gate on a number."""
    metric: str = "score"
    """The measure compared, as the settings name it."""
    at_least: float | None
    """The number that `value` must reach; None if there is `at_most`."""
    at_most: float | None = None
    """The number that `value` may not exceed."""
    value: float | None
    """The end of the interval that is judged; None if there is none."""
    estimate: Estimate | None = None
    """The paired difference, or the system's own mean, with its interval; None if nothing could be
    compared, and in a report from before it was recorded."""
    passed: bool | None
    """None when the gate does not apply, because there is no champion yet."""
    reason: str


class EvalReport(Record):
    """Systems compared on the held-out queries: one document, `reports/eval.json`.

    Systems: `policy_before` and `policy_after` (the policy alone), `strong` (the strong model
    alone), and the collaborations `before`, `after`, `champion` (if there is one) and `ideal` (the
    ceiling).
    """

    queries: int
    """Held-out queries, failed ones included."""
    groups: int
    scorer: str
    strong: str
    policies: dict[str, str]
    """Name of the policy behind each collaboration."""
    versions: dict[str, str] = {}
    """Digest of the version behind each collaboration (`Version.digest`)."""
    split: str | None = None
    """The split of the queries; None in a report from before it was recorded."""
    rules: str | None = None
    """Digest of the settings of `compare` that the report was made with."""
    draws: int | None = None
    """Resamples behind each interval, in a report of an older CoWest."""
    systems: dict[str, Estimate]
    comparisons: dict[str, Comparison]
    macro_f1: dict[str, Comparison] = {}
    """Differences of macro F1, if the scorer is `choice`."""
    gap_closed: Estimate | None
    """(after - before) / (ideal - before); None if no query has all three scores, or no gap."""
    transitions: dict[str, Transitions]
    choices: dict[str, Choices] = {}
    """By system, if the scorer is `choice`."""
    matches: dict[str, Matches] = {}
    """By system, if the scorer is exact match or token F1 by any rule: one of the two decides, and
    the report shows both."""
    tags: dict[str, dict[str, Slice]]
    failed: dict[str, dict[str, int]]
    """Rows left out, by system and reason."""
    instructs: dict[str, int] = {}
    """By system, rows whose draft or answer speaks to the strong model or the judge."""
    agreement: tuple[PolicyAgreement, ...] | None = None
    """How the other forms of the challenger's policy agree with what was judged; None if `compare`
    was not given it."""
    probe: Probe | None = None
    """Answers to general questions; None if `evaluate` was to ask none."""
    wear: float | None = None
    """Mean number of earlier decisions that a query has taken part in; None if it is not known."""
    gates: tuple[GateResult, ...]
    passed: bool
    """No gate failed."""


class Spread(Record):
    """The distribution of a turn's gains: one number per query, the mean gain of its drafts."""

    counts: tuple[int, ...]
    """Queries per bin. The bins are equally wide; the first is centred on -1, the last on 1."""

    @property
    def queries(self) -> int:
        """All queries counted."""
        return sum(self.counts)


class RuleOutcome(Record):
    """The outcome of one rule of a contract."""

    name: str
    says: str
    """The expectation, in words."""
    mend: str
    """The advice for where it is not met."""
    severity: Literal["fail", "aside", "note"]
    """The effect where it is not met."""
    met: bool
    found: str
    rows: int
    """Rows that do not meet it; 0 for a rule about the whole."""


class Validation(Record):
    """The findings of `validate` on one file of rows, kept for the turn's report.

    taken = left + aside
    """

    kind: str
    taken: int
    """Rows in."""
    left: int
    """Rows out, if the turn goes on."""
    aside: int
    """Rows set aside."""
    rules: tuple[RuleOutcome, ...]
    facts: dict[str, str]

    @property
    def fit(self) -> bool:
        """True if the turn goes on."""
        return all(rule.met or rule.severity != "fail" for rule in self.rules)


class Decision(Record):
    """One line of the registry's log, and for a turn the file reports/decision.json.

    The file holds `turn, version, promoted, against, champion, reason`, and `waiting` where a
    person has to approve. It knows no other verdict: read back, a late decision is a refused one.
    """

    turn: str
    """Key of the turn; for an act of a person, a digest of what it does."""
    version: int
    """The registry's number for the challenger, or for the act."""
    verdict: Literal["promoted", "refused", "late", "waiting", "noted"]
    """`late`: a promotion judged against a version that was champion no longer when it was decided,
    so the turn is open again. `waiting`: no gate failed, and a person has to approve. `noted`: an
    act that promotes nothing, which is a hold or a release."""
    against: int | None
    """Version of the champion that the challenger was judged against; None if there was none."""
    champion: int | None = None
    """Version that was champion after the decision; None if there was none, and in the log."""
    reason: str
    digest: str | None = None
    """Digest of the version's folder; the file has none."""
    tags: dict[str, str] = {}
    """The other tags of the version, among them digests of data, base model and report; the file
    has none."""
    at: float | None = None
    """Time of the decision, in seconds since 1970; the file has none."""

    @property
    def kind(self) -> str:
        """The act: `turn`, `waiting` (a turn's too), `rollback`, `approval`, `hold`, `release`."""
        return self.tags.get("kind", "turn")

    @property
    def of(self) -> int | None:
        """The version whose files an act entered again; None for a turn."""
        of = self.tags.get("of", "")
        return int(of) if of.isdecimal() else None

    @property
    def by(self) -> str | None:
        """Who decided; None if it was not recorded."""
        return self.tags.get("by")

    @property
    def promoted(self) -> bool:
        """True if the challenger became champion."""
        return self.verdict == "promoted"

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "verdict" in values:
            return values
        if not isinstance(values.get("promoted"), bool):
            return values
        fields = dict(values)
        promoted = fields.pop("promoted")
        waiting = fields.pop("waiting", False)
        refused = "waiting" if waiting else "refused"
        fields["verdict"] = "promoted" if promoted else refused
        return fields

    @model_serializer
    def _for_file(self) -> dict[str, Any]:
        names = ("turn", "version", "promoted", "against", "champion", "reason")
        found = {name: getattr(self, name) for name in names}
        return found | {"waiting": True} if self.verdict == "waiting" else found


class Changes(Record):
    """The difference between what a turn rests on and what the champion rests on."""

    version: int
    """The champion."""
    data: dict[str, Literal["added", "removed", "changed"]]
    """Raw files that differ, by their name in the raw folder."""
    settings: dict[str, tuple[str | None, str | None]] | None
    """Settings that differ, by their path: before and now; None on a side that has none. None as a
    whole where the settings of the champion's turn are not in the registry."""
    code: bool
    """True if the sources that rows depend on differ."""


class DataSet(Record):
    """One data set that a turn rests on, with the name and revision that find it again."""

    path: str
    """Path in the project, such as data/raw/handbook."""
    digest: str
    """Hex SHA-256 of the file, or of the folder's names and bytes."""
    kept: Literal["dvc", "git", "derived", "unversioned"]
    """The place that can bring it back: DVC, git itself, or the turn that made it (`derived`). Only
    somebody who has the files can bring back what is `unversioned`."""
    rev: str | None = None
    """The git commit that brought this version in; None if no commit holds it."""
    md5: str | None = None
    """DVC's name for this version."""
    rows: int | None = None
    """Number of rows, if it is a file of rows."""
