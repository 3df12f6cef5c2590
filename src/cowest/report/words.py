"""The numbers of an evaluation in words: the sentence that matters most comes first."""

import re

from cowest import wear
from cowest.records import Changes, Comparison, Decision, Estimate, EvalReport, GateResult

NAMES = {
    "policy_before": "policy alone, before alignment",
    "policy_after": "policy alone, after alignment",
    "strong": "strong model alone",
    "before": "collaboration before alignment",
    "after": "collaboration after alignment",
    "champion": "collaboration with the champion",
    "ideal": "collaboration with the ideal draft",
    "best_single": "the best single model",
}
FEW_GROUPS = 10
"""Below this many groups, the page says that they are too few: as `compare.min_groups`."""
WIDER = re.compile(r"end of its (?!95 )[\d.]+ % interval")
"""The part of a gate's reason that names a wider interval than those of the page."""
SURE = "95\N{NO-BREAK SPACE}% interval"


def score(value: float | None) -> str:
    """Formats a score: 0.475."""
    return "-" if value is None else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float | None) -> str:
    """Formats a difference: +0.475, with a minus that is as wide as the plus."""
    return "-" if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def share(value: float) -> str:
    """Formats a share: 12 %; below 10 % with one decimal, 1.2 %."""
    digits = 0 if abs(value) >= 0.1 or value == 0 else 1
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def interval(estimate: Estimate) -> str:
    """Formats an interval: 0.433 to 0.520; signed for a difference."""
    if estimate.low is None:
        return "no interval"
    form = signed if isinstance(estimate, Comparison) else score
    return f"{form(estimate.low)} to {form(estimate.high)}"


def headline(report: EvalReport) -> str:
    """Says what alignment changed, with the interval."""
    found = report.comparisons.get("after_minus_before")
    if found is None:
        return (
            "No held-out query was answered both before and after alignment: what alignment did "
            "is not known."
        )
    # A query of which one side failed is in a system's own mean, and in no difference.
    base = found.base_mean
    if base is None:
        base = report.systems["before"].mean
    before, after = score(base), score(base + found.mean)
    of = f"on {found.queries} held-out queries in {found.groups} groups"
    if found.low is None or found.high is None:
        return (
            f"With alignment the collaboration scored {after}, without {before}, {of}; "
            f"{found.note}."
        )
    span = f"{signed(found.mean)}, {SURE} {interval(found)}"
    if found.low > 0 or found.high < 0:
        moved = "raised" if found.low > 0 else "lowered"
        return (
            f"Alignment {moved} the collaboration's score from {before} to {after} ({span}), {of}."
        )
    return (
        f"Alignment made no difference that can be told from chance: {before} before, {after} "
        f"after ({span}), {of}."
    )


def context(report: EvalReport) -> list[str]:
    """The other sentences of the first paragraph.

    They are on the gap that was closed, the best single model, too few groups, worn queries, rows
    that speak to the judge, failed rows, and general questions.
    """
    said = []
    gap = report.gap_closed
    if gap is not None:
        span = gap.note
        moved = report.comparisons.get("after_minus_before")
        if moved is not None and moved.low is None:
            # The share is of that difference, and can't be surer than it.
            span = "no interval, as for the difference"
        elif gap.low is not None and gap.high is not None:
            span = f"{SURE} {share(gap.low)} to {share(gap.high)}"
        said.append(
            "Of the gap between the collaboration before alignment and the ideal draft, "
            f"{share(gap.mean)} is closed ({span})."
        )
    best = report.comparisons.get("after_minus_best_single")
    if best is not None:
        said.append(
            f"Against the best single model ({NAMES[best.over]}) the aligned collaboration is "
            f"{signed(best.mean)} ({interval(best)})."
        )
    if 2 <= report.groups < FEW_GROUPS:
        said.append(f"There are only {report.groups} groups: too few for intervals to rely on.")
    worn = wear.said(report.wear)
    if worn is not None:
        wider = any(WIDER.search(gate.reason) for gate in report.gates)
        said.append(f"{worn} Gates look at wider intervals for it." if wider else worn)
    for name, count in report.instructs.items():
        rows = "row speaks" if count == 1 else "rows speak"
        said.append(
            f"{count} {rows} to the strong model or the judge ({NAMES.get(name, name)}): see "
            "whether the answers are better, or only scored better."
        )
    failed = sum(sum(reasons.values()) for reasons in report.failed.values())
    if failed:
        said.append(f"{failed} failed {'row is' if failed == 1 else 'rows are'} left out.")
    known = general(report)
    if known is not None:
        said.append(known)
    return said


POLICIES = {
    "base": "the base model",
    "before": "the policy before alignment",
    "after": "the challenger's policy",
    "champion": "the champion's policy",
}
"""The policies that answer general questions alone."""


def general(report: EvalReport) -> str | None:
    """Says how much of the general questions each policy answers; None if none were asked."""
    if report.probe is None:
        return None
    scores = []
    for name, one in report.probe.systems.items():
        scores.append(f"{POLICIES[name]} {score(one.score)}")
    asked = f"{report.probe.questions:,} general questions, answered by each policy alone"
    return f"Of {asked}: {', '.join(scores)}. {_judged(report)}"


def _judged(report: EvalReport) -> str:
    """Says how the gates on general questions ended."""
    gates = [gate for gate in report.gates if gate.metric == "probe"]
    if not gates:
        return "No gate looks at this."
    if all(gate.passed is None for gate in gates):
        return "The gate on this compares with the champion, and there is none yet."
    closed = [gate.name for gate in gates if gate.passed is False]
    return f"Closed for this: {', '.join(closed)}." if closed else "The gate on this is passed."


def verdict(report: EvalReport | None, outcome: Decision | None) -> tuple[str, str]:
    """Says in a sentence whether the challenger was promoted, and in a second one why."""
    if outcome is not None:
        return _decided(outcome), outcome.reason
    if report is None:
        return "Nothing is decided.", "There is no evaluation to decide by."
    failed = [_of_gate(gate) for gate in report.gates if gate.passed is False]
    if failed:
        return "A gate is not passed; nothing is decided yet.", "; ".join(failed)
    return "Gates passed; nothing is decided yet.", "The decision is taken by `register`."


def by_gate(report: EvalReport | None, why: str) -> list[tuple[str, str]]:
    """Parts a reason by gate: its name with its outcome, and what is said of it. The rest has no
    name.
    """
    found = []
    for gate in report.gates if report is not None else ():
        said = _of_gate(gate)
        if why.startswith(said):
            found.append((f"{gate.name} {'passed' if gate.passed else 'not passed'}", gate.reason))
            why = why[len(said) :].removeprefix("; ")
    return [*found, ("", why)] if why else found


def _of_gate(gate: GateResult) -> str:
    return f"{gate.name}: {gate.reason}"


def _decided(outcome: Decision) -> str:
    if outcome.verdict == "waiting":
        return f"Not promoted yet: version {outcome.version} waits for approval."
    if not outcome.promoted:
        if outcome.champion is None:
            return f"Not promoted: version {outcome.version}. There is no champion."
        return f"Not promoted: version {outcome.version}. Champion is version {outcome.champion}."
    # Another turn may have been decided between this promotion and the writing of the file.
    if outcome.champion != outcome.version:
        return (
            f"Promoted: version {outcome.version} was promoted; the champion now is version "
            f"{outcome.champion}."
        )
    return f"Promoted: version {outcome.version} is champion."


FEW_NAMES = 4
"""Names in a sentence; the rest are counted."""


def changes(found: Changes) -> str:
    """Says in a sentence what differs from what the champion rests on."""
    parts = []
    if found.data:
        files = [f"{name} {how}" for name, how in found.data.items()]
        parts.append(f"raw data ({_few(files)})")
    if found.settings:
        parts.append(f"settings ({_few(list(found.settings))})")
    if found.code:
        parts.append("code")
    if found.settings is None:
        parts.append("settings unknown, since the registry does not have that turn's")
    return f"new since version {found.version}: {'; '.join(parts) or 'nothing'}"


def _few(names: list[str]) -> str:
    said = ", ".join(names[:FEW_NAMES])
    more = len(names) - FEW_NAMES
    return f"{said}, and {more} more" if more > 0 else said
