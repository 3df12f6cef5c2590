"""Gates on the challenger's policy alone: it serves as it was judged. Pure."""

from collections.abc import Sequence

from cowest.records import EvalReport, GateResult
from cowest.report_parts import NumberFormat, PolicyAgreement

AGREEMENT = "agreement"
"""The metric of these gates in a report."""
ALLOWED: dict[NumberFormat, float] = {"float32": 0.001, "bfloat16": 0.5, "unknown": 0.5}
"""Largest difference of a token's log-probability, by the coarser number format of two models. An
endpoint's is not known, and most serve in bfloat16."""
FORMS = {"adapter": "the adapter beside its base", "served": "the model that is served"}


def agreement_gates(
    found: Sequence[PolicyAgreement] | None, allowed: float | None
) -> tuple[GateResult, ...]:
    """One gate per form of the policy that was compared; `allowed` replaces ALLOWED.

    None where nothing was measured, which the report says.
    """
    if not found:
        return ()
    return tuple(_gate(one, allowed) for one in found)


def unmeasured(report: EvalReport) -> str:
    """The reason why a report has no gate on agreement; empty if it has one."""
    if report.agreement is None:
        return (
            "not measured, since compare was given no --agreement: a dvc.yaml that `cowest init` "
            "writes today has it"
        )
    if report.agreement:
        return ""
    return (
        "not measured, since evaluate.agreement is null, or evaluate.policy is of another provider "
        "than hf, whose weights can't be looked at"
    )


def rejudged(report: EvalReport, allowed: float | None) -> tuple[GateResult, ...]:
    """The gates of this module as they follow from what a report holds."""
    return agreement_gates(report.agreement, allowed)


def _gate(one: PolicyAgreement, allowed: float | None) -> GateResult:
    limit = ALLOWED[one.dtype] if allowed is None else allowed
    form = FORMS[one.form]
    if one.queries == 0:
        reason = "closed: no query of the sample fits the policy's context"
        return _result(one.form, limit, None, False, reason)
    if one.failed:
        reason = (
            f"closed: {form} ({one.model}) answered {one.queries - one.failed} of {one.queries} "
            "queries of the sample, or reads their prompts as other tokens"
        )
        return _result(one.form, limit, None, False, reason)
    apart = one.largest if one.largest is not None else one.mean
    # Two models that are each `limit` away may turn a tie of twice that round.
    worst = max(apart or 0.0, (one.gap or 0.0) / 2)
    said = f"{one.queries - one.changed} of {one.queries} greedy answers are the same"
    if one.gap is not None:
        said += f" (the others part where two tokens are {one.gap:.5f} apart at most)"
    if apart is None:
        said += ", and the endpoint gave no log-probabilities (`extra: {logprobs: true}`)"
    else:
        kind = "at most" if one.largest is not None else "on average"
        said += f", and the log-probability of a token differs by {apart:.5f} {kind}"
    reason = f"what was judged and {form}: {said}; {limit:g} is allowed"
    return _result(one.form, limit, worst, worst <= limit, reason)


def _result(
    form: str, limit: float, worst: float | None, passed: bool | None, reason: str
) -> GateResult:
    return GateResult(
        name=f"{FORMS[form]} answers as judged".removeprefix("the "),
        of="after",
        over=form,
        metric=AGREEMENT,
        at_least=None,
        at_most=limit,
        value=worst,
        passed=passed,
        reason=reason,
    )
