"""Gates: the conditions under which a challenger is promoted, as settings. Pure.

A gate looks at one quantity of the evaluation, such as the score after alignment minus the score
before it, and asks that even the unfavourable end of its 95 % interval is good enough (of a wider
one where earlier decisions looked at the queries: `spend`). A gate with `unless_worse_by` is a
guard: it is closed only where the whole interval is bad.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from cowest.config import Config
from cowest.records import Collaboration

System = Literal["policy_before", "policy_after", "strong", Collaboration]
Metric = Literal[
    "score",
    "accuracy",
    "macro_f1",
    "unparseable",
    "refused",
    "length",
    "tokens",
    "right_to_wrong",
    "distinct",
    "probe",
]
ALL = "*"
"""In the place of a name of tags: all of them."""
BEST = "best_single"
"""The best single model: of the policies and the strong model, each alone, the one with the highest
mean over the queries that it has a score for."""
BASE = "base"
"""The base model of the policy, which answers general questions alone."""
PROBED = ("base", "before", "after", "champion")
"""The policies that answer general questions."""
LOWER = frozenset(["unparseable", "refused", "length", "tokens", "right_to_wrong"])
"""The metrics of which less is better."""
OF_CHOICES = frozenset(["macro_f1", "unparseable"])
"""The metrics that only the answers to a multiple choice have."""
COUNTS = frozenset(["length", "tokens"])
"""The metrics that are no share of 1."""
NAMED: dict[str, str] = {
    "score": "score",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "unparseable": "unparseable share",
    "refused": "refused share",
    "length": "length",
    "tokens": "tokens",
    "right_to_wrong": "right to wrong",
    "distinct": "distinct drafts",
    "probe": "general questions",
}
"""The metrics in words."""
LACKS: dict[str, str] = {
    "score": "a score",
    "accuracy": "a score",
    "macro_f1": "an answer that names an option",
    "unparseable": "an answer to a multiple choice",
    "refused": "a call that was answered or refused",
    "length": "an answer",
    "tokens": "an answer whose tokens the provider counted",
    "right_to_wrong": "a score",
    "distinct": "a draft",
    "probe": "an answer to a general question (evaluate.probe)",
}
"""By metric, the thing without which a query has no value of it."""
RELATIONS = ("at_least", "better_by", "no_worse_by", "unless_worse_by")


class Quantity(NamedTuple):
    """One thing that is measured with an interval: a paired difference, or a system's own mean."""

    metric: Metric
    of: str
    over: str | None
    """The system whose value is subtracted; None for the mean of `of` itself."""
    tag: str | None = None
    """Only the queries with this tag; None for all."""


class Bound(NamedTuple):
    """The end of an interval that a gate looks at, and the number that it is held against."""

    end: Literal["lower", "upper"]
    relation: Literal["at least", "at most"]
    number: float

    def met(self, value: float) -> bool:
        """True if the end of the interval is good enough."""
        return value >= self.number if self.relation == "at least" else value <= self.number


class Gate(Config):
    """One condition on `of`: compared with another system (`over`), or with a number (`above`,
    `under`). Every condition must hold even at the unfavourable end of the 95 % interval.
    """

    of: System = "after"
    """The system that must be good enough: `after` is the challenger."""
    over: Literal[System, "best_single", "base"] | None = None
    """The system that it is compared with, query by query. `best_single` is the best of the
    policies alone and the strong model alone; `base`, for `probe` alone, is the base model. A gate
    on `champion` does not apply before there is one."""
    above: float | None = None
    """In place of `over`: the metric of `of` itself must be at least this."""
    under: float | None = None
    """In place of `over`: the metric of `of` itself must be at most this."""
    metric: Metric = "score"
    """The measure compared. Of an answer: `score`, `accuracy` (1 for the full score, else 0),
    `length` (characters), `tokens` (as the provider counts them, thoughts included), `refused` (the
    share that a content filter or the model refused). Of a multiple choice: `macro_f1`,
    `unparseable` (the share of answers that name no option, or several). `right_to_wrong` is the
    share of queries that `over` answers right (a score of 0.5 or more) and `of` wrong. Less is
    better of length, tokens, refused, unparseable and right_to_wrong. `distinct`, with `above`, is
    how varied the drafts are: 0 for one draft for all queries, 1 for as many distinct drafts as
    there are before alignment, distinct targets, or groups, whichever are fewest. `probe` is the
    mean score of the policy's own answers to the general questions of `evaluate.probe`, where
    `before`, `after` and `champion` are the policies alone."""
    better_by: float | None = Field(default=None, ge=0)
    """`of` must be better than `over` by this much."""
    no_worse_by: float | None = Field(default=None, ge=0)
    """`of` may be worse than `over` by this much, and no more."""
    unless_worse_by: float | None = Field(default=None, ge=0)
    """The gate is closed only where `of` is surely worse than `over` by more than this: where the
    whole interval says so. A guard against breakage, and no proof that nothing broke."""
    at_least: float | None = None
    """The same as `better_by`, or as `no_worse_by` where it is below zero; on `macro_f1` it is
    `unless_worse_by` with the sign turned. The default of all four is `at_least: 0`."""

    slice: str | None = None
    """Judges only the queries with this tag: `kind=refund`, or the tag as the report shows it."""
    slices: str | None = None
    """Judges each tag of this name by itself: `kind` for `kind: refund`, `kind: damage` and the
    others, `*` for all tags. With `unless_worse_by` the gate is closed if any of them is surely
    worse (by Holm's procedure, since of many some seem worse by chance), and tags with too few
    groups are left out. Otherwise every one of them must hold."""

    @field_validator("over", mode="before")
    @classmethod
    def _a_system(cls, value: Any) -> Any:
        if isinstance(value, int | float):
            raise ValueError(f"names a system; for a number write `above: {value:g}`, or `under`")
        return value

    @model_validator(mode="after")
    def _one_meaning(self) -> "Gate":
        against = [name for name in ("over", "above", "under") if getattr(self, name) is not None]
        if len(against) != 1:
            given = f"not {' and '.join(against)}" if against else "it names none"
            raise ValueError(
                "a gate compares with a system (`over: champion`) or with a number (`above: 0.8`, "
                f"`under: 0.05`), one of the three: {given}"
            )
        relations = [name for name in RELATIONS if getattr(self, name) is not None]
        if len(relations) > 1:
            raise ValueError(f"{' and '.join(relations)} in one gate: say one of them")
        sliced = self.slice is not None or self.slices is not None
        if self.slice is not None and self.slices is not None:
            raise ValueError("slice and slices in one gate: say one of them")
        if sliced and self.metric in ("macro_f1", "distinct"):
            raise ValueError(f"{self.metric} is of all queries, and has no slices")
        if sliced and self.metric == "probe":
            raise ValueError("probe is of general questions, which have none of the queries' tags")
        if self.over is None:
            self._of_itself(relations)
        else:
            self._of_two()
        self._of_policies()
        if self.metric == "tokens" and {"policy_before", "policy_after"} & {self.of, self.over}:
            raise ValueError("the tokens of a policy alone are not kept: compare collaborations")
        return self

    def _of_policies(self) -> None:
        """Raises ValueError for systems that do not answer general questions, or answer nothing
        else.
        """
        if self.metric != "probe":
            if self.over == BASE:
                raise ValueError("the base model answers general questions alone: `metric: probe`")
            return
        for name in (self.of, self.over):
            if name is not None and name not in PROBED:
                raise ValueError(f"{name} answers no general question: {', '.join(PROBED)} do")

    def _of_itself(self, relations: list[str]) -> None:
        """Raises ValueError for a gate on a number that means nothing."""
        if relations:
            raise ValueError(f"{relations[0]} is a difference, and needs `over`, a system")
        if self.metric == "right_to_wrong":
            raise ValueError("right_to_wrong needs `over`, the system whose right answers count")
        if self.metric == "distinct" and self.of not in ("after", "champion"):
            raise ValueError("distinct is of the drafts of `after` or of the champion")
        if self.metric == "macro_f1":
            raise ValueError("macro_f1 is compared with a system alone: name one with `over`")
        if self.under is not None and self.metric not in LOWER:
            raise ValueError(f"of {self.metric} more is better: write `above`")
        if self.above is not None and self.metric in LOWER:
            raise ValueError(f"of {self.metric} less is better: write `under`")

    def _of_two(self) -> None:
        """Raises ValueError for a gate on two systems that means nothing."""
        if self.of == self.over:
            raise ValueError(f"{self.of} over itself is always 0: name two systems")
        if self.metric == "distinct":
            raise ValueError("distinct is held against a number: write `above: 0.2`")
        if self.metric != "score" and self.over == BEST:
            raise ValueError(
                f"the best single model is the best by score: name one by {self.metric}"
            )
        allowed = self.no_worse_by if self.unless_worse_by is None else self.unless_worse_by
        if self.metric == "right_to_wrong" and allowed is None:
            raise ValueError("right_to_wrong needs `no_worse_by` or `unless_worse_by`")

    @property
    def name(self) -> str:
        """The gate in words, as in `after over best single`."""
        metric = NAMED[self.metric]
        name = f"{self.of} over {self.over}".replace("_", " ")
        if self.above is not None:
            name = f"{metric} of {self.of} above {self.above:g}"
        elif self.under is not None:
            name = f"{metric} of {self.of} under {self.under:g}"
        elif self.metric != "score":
            name = f"{name} in {metric}"
        if self.slices is not None:
            return f"{name}, each {'tag' if self.slices == ALL else self.slices}"
        return name if self.slice is None else f"{name}, {self.slice}"

    @property
    def bound(self) -> Bound:
        """The end of the interval that is looked at, and the number that it is held against."""
        if self.above is not None:
            return Bound("lower", "at least", self.above)
        if self.under is not None:
            return Bound("upper", "at most", self.under)
        better, guards = self._asked()
        if self.metric in LOWER:
            # To be better is to have less of it, so the difference is asked to be below a number.
            return Bound("lower" if guards else "upper", "at most", 0 - better)
        return Bound("upper" if guards else "lower", "at least", better)

    def _asked(self) -> tuple[float, bool]:
        """The improvement that is asked for (below zero: what may be lost), and true for a guard,
        which is closed only where the whole interval is worse.
        """
        if self.better_by is not None:
            return self.better_by, False
        if self.no_worse_by is not None:
            return 0 - self.no_worse_by, False
        if self.unless_worse_by is not None:
            return 0 - self.unless_worse_by, True
        return self.at_least or 0.0, self.metric == "macro_f1"

    @property
    def guards(self) -> bool:
        """True for a gate that is closed only where the whole interval is worse."""
        return self.over is not None and self._asked()[1]

    def tags(self, known: Iterable[str]) -> list[str]:
        """The tags that are judged, of those that the queries have."""
        if self.slice is not None:
            return [tag for tag in known if tag in (self.slice, self.slice.replace("=", ": ", 1))]
        if self.slices is None:
            return []
        return [tag for tag in known if self.slices in (ALL, tag.partition(":")[0])]

    def quantity(self, best: str, tag: str | None = None) -> Quantity:
        """The quantity that is looked at, with the name of the best single model in place."""
        return Quantity(self.metric, self.of, best if self.over == BEST else self.over, tag)

    def quantities(self, best: str, known: Iterable[str]) -> list[Quantity]:
        """The quantities that are looked at, one per slice; `known` has the tags of all queries."""
        if self.slice is None and self.slices is None:
            return [self.quantity(best)]
        return [self.quantity(best, tag) for tag in self.tags(known)]


DEFAULTS = (
    Gate(over="champion", better_by=0.005),
    Gate(over="before", better_by=0.005),
    Gate(over="best_single", better_by=0.005),
)
"""The gates of settings that name none."""
FLOORS = (Gate(over="strong", better_by=0.005), Gate(over="policy_after", better_by=0.005))
"""What a first champion must reach: with nothing to compare it with, it must at least be better
than each of its two models alone."""
GUARDS = (
    Gate(metric="distinct", above=0.2),
    Gate(over="champion", metric="right_to_wrong", unless_worse_by=0.1),
)
"""What every challenger must pass, unless the settings name a gate on the same metric."""
GUARDS_OF_CHOICES = (
    Gate(of="after", over="before", metric="macro_f1"),
    Gate(of="after", over="champion", metric="macro_f1"),
)
"""The same, for the answers to a multiple choice."""
GUARD_OF_PROBE = Gate(over="champion", metric="probe", unless_worse_by=0.05)
"""The same, where general questions are asked."""


class Rules(Config):
    """The conditions of promotion."""

    gates: tuple[Gate, ...] = DEFAULTS
    """The conditions of promotion. A challenger that fails one of them is not promoted. Left out,
    it must be better by 0.005 than the champion, than before alignment and than the best single
    model."""
    guards: bool = True
    """Holds more gates than those that are named, against what they may not see: `distinct` above
    0.2; no more right_to_wrong against the champion than 0.1, unless that could be chance; of a
    multiple choice, macro_f1 over before and over the champion; with `evaluate.probe`, general
    questions over the champion, unless surely worse by 0.05. A gate of your own on the same
    metric, of `after` on all queries, takes their place. Without a champion, `after` must also be
    better by 0.005 than the strong model alone and than the policy alone, unless gates on all
    queries name them (`unless_worse_by` does not)."""
    promote_everything: bool = False
    """Promotes every challenger, without any gate on its answers. `gates: []` must be said too."""
    min_groups: int = Field(default=10, ge=1)
    """Fewest groups of queries behind a difference for its gate to open. Under 5 there is no
    interval. With few, the interval is so wide that hardly a better challenger passes: of those
    better by .1, 26 % pass one gate at 10 groups, 44 % at 16, 80 % at 34 (4,000 simulations
    each)."""
    max_failed_gap: float = Field(default=0.01, ge=0, le=1)
    """Largest share of rows that may have failed on one side alone of a gate's two systems, query
    by query. Past it the gate is closed, since what failed there may be what that side gets
    wrong."""
    max_instructs_gap: float = Field(default=0.01, ge=0, le=1)
    """With a judge as scorer: how much larger the share of rows whose draft or answer speaks to the
    judge may be for a gate's first system than for its second. Past it the gate is closed, since
    what such a text raises may be the score and not the help."""
    max_logprob_gap: float | None = Field(default=None, ge=0)
    """Largest difference of a token's log-probability between what was judged and the adapter, or
    what is served. Null: 0.001 in float32, 0.5 in bfloat16 and for an endpoint."""
    max_failed: int | None = Field(default=None, ge=0)
    """Failed rows that may be left out; null for any number, since `evaluate` has a limit too."""
    spend: float = Field(default=1.0, ge=0)
    """How confidence is spent on held-out queries that were looked at before: the share of truths
    that the end of an interval may miss (2.5 %) is divided by (1 + wear)^spend, where wear is the
    mean number of earlier decisions that a query has taken part in. With 1, at most 8 % of
    histories of 50 turns without a better challenger promote one; with 0, which spends nothing, 32
    to 56 % do. It costs power: after 20 looks at 34 groups, 33 % of challengers better by .1 pass
    one gate, and 80 % on queries that are new."""
    draws: int = Field(default=5000, ge=1000)
    """Changes nothing any more, and can be left out: intervals resample no groups since."""
    seed: int = 0
    """Changes nothing any more, as `draws`."""

    @model_validator(mode="after")
    def _said_twice(self) -> "Rules":
        if not self.gates and not self.promote_everything:
            raise ValueError(
                "with `gates: []` every challenger would be promoted: leave `gates` out for the "
                "defaults, or say it twice, with `promote_everything: true`"
            )
        if self.gates and self.promote_everything:
            raise ValueError(
                "promote_everything and gates contradict each other: say `gates: []` beside it, or "
                "take it out"
            )
        return self

    def all_gates(self, choices: bool, champion: bool, probe: bool = False) -> tuple[Gate, ...]:
        """The gates that hold, those of the settings first.

        `choices` is true if the answers are to a multiple choice, `champion` if there is one,
        `probe` if general questions were asked.
        """
        if self.promote_everything or not self.guards:
            return self.gates
        found = list(self.gates)
        if not champion:
            found += [gate for gate in FLOORS if not self._names(gate)]
        metrics = {gate.metric for gate in self._of_challenger()}
        guards = (*GUARDS_OF_CHOICES, *GUARDS) if choices else GUARDS
        if probe:
            guards = (*guards, GUARD_OF_PROBE)
        found += [gate for gate in guards if gate.metric not in metrics]
        return tuple(found)

    def _of_challenger(self) -> list[Gate]:
        """The gates of the settings that look at the challenger on all queries: those on a slice
        take no other gate's place.
        """
        found = []
        for gate in self.gates:
            if gate.of == "after" and gate.slice is None and gate.slices is None:
                found.append(gate)
        return found

    def _names(self, floor: Gate) -> bool:
        """True if a gate of the settings compares the systems of a floor, or with the best of
        several among which the floor's is. A guard asks for no proof, and is no floor.
        """
        named = set()
        for gate in self._of_challenger():
            if gate.metric == "score" and not gate.guards:
                named.add(gate.over)
        return floor.over in named or BEST in named
