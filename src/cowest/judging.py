"""The verdict on each gate, with its reason in words. Pure.

A gate is closed, with its reason, wherever the evidence is missing or may not be trusted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cowest.gates import BEST, COUNTS, LACKS, NAMED, Gate, Quantity, Rules
from cowest.power import told_by
from cowest.records import Estimate, GateResult

SAID: dict[str, str] = {
    "policy_before": "the policy alone before alignment",
    "policy_after": "the challenger's policy alone",
    "strong": "the strong model alone",
    "before": "the policy before alignment",
    "after": "the challenger",
    "champion": "the champion",
    "ideal": "the ideal draft",
    "base": "the base model",
}
"""The systems in words. Where nothing is said of `alone`, the strong model refines the drafts; but
general questions are answered by the policies alone."""

LEAST = -1.0
"""The lowest difference of two systems' scores."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that gates look at."""

    best: str
    """The best single model."""
    found: Mapping[Quantity, Estimate | None]
    """The quantities with their intervals; None where no query has a value."""
    failed: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By system that took part, the share of each query's rows that failed."""
    refused: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By system, the share of each query's rows that were refused; empty if no gate counts them."""
    instructs: Mapping[str, float] = field(default_factory=dict)
    """By system, the share of its rows that speak to the judge; empty if no judge scores."""
    probe_failed: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """By system, 1 for each general question whose answer failed or is missing, 0 for the others;
    empty if none were asked."""
    members: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By tag, the numbers of the queries that have it."""
    guarded: Mapping[Quantity, Estimate | None] = field(default_factory=dict)
    """The quantities of guards that have another interval there than for proof."""
    corrected: Mapping[Gate, Mapping[Quantity, Estimate]] = field(default_factory=dict)
    """By guard of many slices, those that can be judged, each with an interval as wide as Holm's
    procedure asks."""
    strict: Mapping[Quantity, Estimate | None] = field(default_factory=dict)
    """The quantities with the intervals whose ends decide, where they are wider than 95 %."""
    confidence: float = 0.95
    """Confidence of the intervals in `strict`."""

    def of(self, gate: Gate, quantity: Quantity) -> Estimate | None:
        """The estimate that decides on a gate."""
        # A guard is closed where the whole interval is bad: a wider interval would open it.
        if gate.guards:
            return self.guarded.get(quantity, self.found.get(quantity))
        return self.strict.get(quantity, self.found.get(quantity))

    def confidence_in(self, gate: Gate, quantity: Quantity) -> float:
        """The confidence of that estimate's interval."""
        return 0.95 if gate.guards or quantity not in self.strict else self.confidence


GateVerdict = tuple[bool | None, str, Estimate | None]
"""True if a gate passed (None: it does not apply), the reason, and the estimate that decided."""


def judge(gates: Sequence[Gate], rules: Rules, seen: Evidence) -> tuple[GateResult, ...]:
    """The outcome of each gate."""
    results = []
    for gate in gates:
        passed, reason, estimate = _judge(gate, rules, seen)
        bound = gate.bound
        results.append(
            GateResult(
                name=gate.name,
                of=gate.of,
                over=gate.over,
                metric=gate.metric,
                at_least=bound.number if bound.relation == "at least" else None,
                at_most=bound.number if bound.relation == "at most" else None,
                value=_end(gate, estimate),
                estimate=estimate,
                passed=passed,
                reason=reason,
            )
        )
    return tuple(results)


def passed(results: Sequence[GateResult]) -> bool:
    """True if no gate failed; a gate that does not apply is no obstacle."""
    return all(result.passed is not False for result in results)


def follows(results: Sequence[GateResult], gates: Sequence[Gate], champion: bool) -> bool:
    """True if the results are those of the gates, in their order, and each follows from its value.

    `champion` is true if a champion took part in the evaluation.
    """
    if len(results) != len(gates):
        return False
    for result, gate in zip(results, gates, strict=True):
        bound = gate.bound
        held = result.at_least if bound.relation == "at least" else result.at_most
        asked = (gate.name, gate.of, gate.over, gate.metric, bound.number)
        if (result.name, result.of, result.over, result.metric, held) != asked:
            return False
        if result.passed is None and (champion or "champion" not in (gate.of, gate.over)):
            return False
        # A gate may be closed for another reason than its value, but never open against it, and
        # the value is an end of the estimate.
        if result.passed and (result.value is None or not bound.met(result.value)):
            return False
        if result.passed and result.value != _end(gate, result.estimate):
            return False
    return True


def shown(metric: str, number: float, signed: bool = False) -> str:
    """A value of a metric in words, such as 0.475, or 12.0 for a count."""
    digits = 1 if metric in COUNTS else 3
    return f"{number:+.{digits}f}" if signed else f"{number:.{digits}f}"


def _end(gate: Gate, estimate: Estimate | None) -> float | None:
    """The end of the interval that the gate looks at."""
    if estimate is None:
        return None
    if gate.bound.end == "upper":
        return estimate.high
    # A gate that asks for no more than the lowest difference of scores that there can be is met
    # without an interval.
    if estimate.low is None and gate.metric == "score" and gate.bound.number <= LEAST:
        return LEAST
    return estimate.low


def _judge(gate: Gate, rules: Rules, seen: Evidence) -> GateVerdict:
    """The verdict on one gate."""
    quantities = gate.quantities(seen.best, seen.members)
    # A champion whose rows all failed is no absent champion: then the gate fails.
    if "champion" in (gate.of, gate.over) and "champion" not in seen.failed:
        return None, "does not apply: there is no champion yet", None
    if not quantities:
        tags = f"the tag {gate.slice}" if gate.slices is None else f"a tag of {gate.slices}"
        return False, f"closed: no query has {tags}", None
    if gate.slices is None:
        return _judge_one(gate, rules, seen, quantities[0])
    if gate.guards:
        return _judge_any(gate, rules, seen, quantities)
    verdicts = {one: _judge_one(gate, rules, seen, one) for one in quantities}
    # All must pass; the one that fails is said, or else the one that is nearest to it.
    for quantity, (passed, reason, estimate) in verdicts.items():
        if not passed:
            return False, f"{quantity.tag}: {reason}", estimate
    nearest = _worst(gate, {one: verdicts[one][2] for one in quantities})
    _, reason, estimate = verdicts[nearest]
    return True, f"{len(quantities)} slices, least of all {nearest.tag}: {reason}", estimate


def _judge_one(gate: Gate, rules: Rules, seen: Evidence, quantity: Quantity) -> GateVerdict:
    """The verdict on one quantity."""
    estimate = seen.of(gate, quantity)
    if estimate is None:
        sides = [SAID[name] for name in (quantity.of, quantity.over) if name is not None]
        both = "both " if len(sides) == 2 else ""
        lacks = f"no query has {LACKS[gate.metric]} of {both}{' and '.join(sides)}"
        return False, f"closed: {lacks}", None
    closed = (
        _unequal_failures(rules, seen, quantity)
        or _unequal_instructions(rules, seen, quantity)
        or _too_few(rules, quantity, estimate)
    )
    if closed is not None:
        return False, f"closed: {closed}", estimate
    value = _end(gate, estimate)
    if value is None:
        return False, f"closed, as there is {estimate.note}", estimate
    said = _compared(gate, quantity, estimate, value, seen.confidence_in(gate, quantity))
    return gate.bound.met(value), said, estimate


def _judge_any(gate: Gate, rules: Rules, seen: Evidence, quantities: list[Quantity]) -> GateVerdict:
    """The verdict of a guard, which is closed if any of its slices is worse."""
    if all(seen.found.get(quantity) is None for quantity in quantities):
        return _judge_one(gate, rules, seen, quantities[0])
    for quantity in quantities:
        closed = _unequal_failures(rules, seen, quantity)
        closed = closed or _unequal_instructions(rules, seen, quantity)
        if closed is not None:
            return False, f"closed: {quantity.tag}: {closed}", seen.found.get(quantity)
    judged = seen.corrected.get(gate, {})
    if not judged:
        return _judge_untold(gate, rules, seen, quantities)
    worst = _worst(gate, judged)
    value = _end(gate, judged[worst])
    assert value is not None, "a slice without an interval is not judged"
    left_out = len(quantities) - len(judged)
    said = f"{len(judged)} slices"
    if left_out:
        said += f" ({left_out} more have too few groups that differ, or no interval)"
    said += f", worst of all {worst.tag}: {_compared(gate, worst, judged[worst], value)}"
    said = said.replace("its 95 % interval", "its interval, as wide as so many slices ask,")
    return gate.bound.met(value), said, judged[worst]


def _judge_untold(
    gate: Gate, rules: Rules, seen: Evidence, quantities: list[Quantity]
) -> GateVerdict:
    """The verdict of a guard of slices in none of which enough groups differ to tell anything."""
    large, told = {}, {}
    for quantity in quantities:
        estimate = seen.of(gate, quantity)
        if estimate is None or estimate.groups < rules.min_groups:
            continue
        large[quantity] = estimate
        # Too few groups, or one that has nearly all of the queries, leave no interval.
        if _end(gate, estimate) is not None:
            told[quantity] = estimate
    if not large:
        few = f"none of {len(quantities)} slices has {rules.min_groups} groups (compare.min_groups)"
        return False, f"closed: {few}", None
    if not told:
        first, estimate = next(iter(large.items()))
        none = f"none of {len(quantities)} slices has {rules.min_groups} groups and an interval"
        return False, f"closed: {none}; of {first.tag} there is {estimate.note}", estimate
    worst = _worst(gate, told)
    value = _end(gate, told[worst])
    assert value is not None, "only those with an interval are compared"
    said = f"in none of {len(quantities)} slices do enough groups differ to say that it is worse"
    said += f", worst of all {worst.tag}: {_compared(gate, worst, told[worst], value)}"
    return gate.bound.met(value), said, told[worst]


def _worst(gate: Gate, estimates: Mapping[Quantity, Estimate | None]) -> Quantity:
    """The quantity whose interval's end is the nearest to failing, or fails by the most."""
    ends = {}
    for quantity, estimate in estimates.items():
        value = _end(gate, estimate)
        assert value is not None, "only what was judged is compared"
        ends[quantity] = value if gate.bound.relation == "at least" else -value
    return min(ends, key=ends.__getitem__)


def _compared(
    gate: Gate, quantity: Quantity, estimate: Estimate, value: float, confidence: float = 0.95
) -> str:
    """The comparison that decides, in words."""
    bound, metric = gate.bound, gate.metric
    signed = quantity.over is not None and metric != "right_to_wrong"
    mean = shown(metric, estimate.mean, signed)
    of = SAID[quantity.of]
    if metric == "distinct":
        return f"{estimate.note}: variety {mean}, asked at least {shown(metric, bound.number)}"
    if quantity.over is None:
        said = f"{NAMED[metric]} of {of} {mean}"
    elif metric == "right_to_wrong":
        said = f"{mean} of the queries are right with {SAID[quantity.over]} and wrong with {of}"
    else:
        said = f"{of} minus {SAID[quantity.over]}: difference {mean}"
    # Four digits would show all that is nearer to 1 as 100 %.
    digits = 4 if confidence < 0.9999 else 10
    end = f"{bound.end} end of its {100 * confidence:.{digits}g} % interval"
    said += (
        f", {end} {shown(metric, value, signed)}, "
        f"asked {bound.relation} {shown(metric, bound.number, signed)}"
    )
    if gate.over == BEST and quantity.over is not None:
        said += f" (the best single model is {SAID[quantity.over]})"
    if metric == "probe":
        said = f"{estimate.queries} general questions, each policy alone: {said}"
        told = told_by(gate, estimate.queries)
        if told is not None:
            said += f"; {told}"
    return said


def _unequal_failures(rules: Rules, seen: Evidence, quantity: Quantity) -> str | None:
    """The reason if too many rows failed on one side alone; None if they did not."""
    of, over = quantity.of, quantity.over
    if quantity.metric == "distinct":
        # Drafts are held against those before alignment, and what fails on both sides is no
        # advantage.
        over = "before"
    failed = _failed(seen, quantity, of)
    # A number fails nowhere.
    missed = [0.0] * len(failed) if over is None else _failed(seen, quantity, over)
    # Query by query: where each side fails on other queries, equal shares would hide that both
    # were spared the queries that they get wrong.
    gaps = [abs(one - other) for one, other in zip(failed, missed, strict=True)]
    if not gaps or sum(gaps) / len(gaps) <= rules.max_failed_gap:
        return None
    said = f"{sum(failed) / len(failed):.1%} of the rows of {SAID[of]} failed"
    if over is not None:
        said += (
            f" and {sum(missed) / len(missed):.1%} of those of {SAID[over]}, "
            f"{sum(gaps) / len(gaps):.1%} on one side alone"
        )
    mend = "set evaluate.max_failed lower and run `cowest turn`, which asks again what failed"
    if quantity.metric == "probe":
        mend = "data/probe.jsonl has the reasons"
    return f"{said}, and compare.max_failed_gap allows {rules.max_failed_gap:.1%}: {mend}"


def _failed(seen: Evidence, quantity: Quantity, system: str) -> Sequence[float]:
    """The share of each query's rows that failed, of the queries that the quantity is of.

    For a gate on refusals, a refused row is counted by the metric and is no failure.
    """
    if quantity.metric == "probe":
        return seen.probe_failed.get(system, ())
    failed = seen.failed.get(system, ())
    if quantity.metric == "refused" and system in seen.refused:
        pairs = zip(failed, seen.refused[system], strict=True)
        failed = [max(0.0, one - refused) for one, refused in pairs]
    if quantity.tag is None or not failed:
        return failed
    return [failed[number] for number in seen.members[quantity.tag]]


def _unequal_instructions(rules: Rules, seen: Evidence, quantity: Quantity) -> str | None:
    """The reason if the first system speaks to the judge too often; None if it does not."""
    of, over = quantity.of, quantity.over
    if quantity.metric == "probe":
        return None
    one = seen.instructs.get(of, 0.0)
    other = 0.0 if over is None else seen.instructs.get(over, 0.0)
    if one - other <= rules.max_instructs_gap:
        return None
    said = f"{one:.1%} of the rows of {SAID[of]} speak to the judge"
    if over is not None:
        said += f" and {other:.1%} of those of {SAID[over]}"
    return (
        f"{said}, and compare.max_instructs_gap allows {rules.max_instructs_gap:.1%} more: "
        "read them in the trials; the judge may have been talked round"
    )


def _too_few(rules: Rules, quantity: Quantity, estimate: Estimate) -> str | None:
    """The reason if there are too few groups of queries; None if there are enough."""
    if estimate.groups >= rules.min_groups:
        return None
    if quantity.metric == "probe":
        return (
            f"{estimate.groups} general questions were compared, and compare.min_groups asks for "
            f"{rules.min_groups}: add some to the file that evaluate.probe names"
        )
    return (
        f"{estimate.groups} groups of queries were compared, and compare.min_groups "
        f"asks for {rules.min_groups}, since with few groups hardly anything can be told: "
        "hold out more of them (prepare's splits)"
    )
