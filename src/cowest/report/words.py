"""What the numbers of an evaluation say, in words: the sentence that matters first."""

from cowest.records import Comparison, Estimate, EvalReport, Outcome

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
"""Below this many groups, the page says that intervals are too narrow."""


SURE = "95\N{NO-BREAK SPACE}% interval"


def score(value: float | None) -> str:
    """0.475"""
    return "-" if value is None else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float | None) -> str:
    """+0.475, with a minus that is as wide as the plus."""
    return "-" if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def share(value: float) -> str:
    """12 %; 1.2 % where that would say more."""
    digits = 0 if abs(value) >= 0.1 or value == 0 else 1
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def interval(estimate: Estimate) -> str:
    """0.433 to 0.520; signed for a difference."""
    if estimate.low is None:
        return "no interval"
    form = signed if isinstance(estimate, Comparison) else score
    return f"{form(estimate.low)} to {form(estimate.high)}"


def headline(report: EvalReport) -> str:
    """What alignment did, with its interval."""
    found = report.comparisons.get("after_minus_before")
    if found is None:
        return "No held-out query was answered both before and after alignment: what alignment did is not known."
    before, after = report.systems["before"].mean, report.systems["after"].mean
    of = f"on {found.queries} held-out queries in {found.groups} groups"
    if found.low is None or found.high is None:
        return f"With alignment the collaboration scored {score(after)}, without {score(before)}, {of}; {found.note}."
    span = f"{signed(found.mean)}, {SURE} {interval(found)}"
    if found.low > 0:
        return f"Alignment raised the collaboration's score from {score(before)} to {score(after)} ({span}), {of}."
    if found.high < 0:
        return f"Alignment lowered the collaboration's score from {score(before)} to {score(after)} ({span}), {of}."
    return f"Alignment made no difference that can be told from chance: {score(before)} before, {score(after)} after ({span}), {of}."


def context(report: EvalReport) -> list[str]:
    """What else the first paragraph should say: the gap, the best single model, how few groups there are."""
    said = []
    if (gap := report.gap_closed) is not None:
        span = (
            f" ({SURE} {share(gap.low)} to {share(gap.high)})"
            if gap.low is not None and gap.high is not None
            else f" ({gap.note})"
        )
        said.append(
            f"Of the gap between the collaboration before alignment and the ideal draft, {share(gap.mean)} is closed{span}."
        )
    if (best := report.comparisons.get("after_minus_best_single")) is not None:
        said.append(
            f"Against the best single model ({NAMES[best.over]}) the aligned collaboration is {signed(best.mean)} ({interval(best)})."
        )
    if 2 <= report.groups < FEW_GROUPS:
        said.append(
            f"There are only {report.groups} groups: with so few, the intervals are too narrow."
        )
    if lost := sum(sum(reasons.values()) for reasons in report.failed.values()):
        said.append(f"{lost} failed {'row is' if lost == 1 else 'rows are'} left out.")
    return said


def verdict(report: EvalReport | None, outcome: Outcome | None) -> tuple[str, str]:
    """Promoted or not in a word or two, and why."""
    if outcome is not None:
        if not outcome.promoted:
            return f"Not promoted: version {outcome.version}.", outcome.reason
        now = (
            "is champion"
            if outcome.champion == outcome.version
            else f"was promoted; the champion now is version {outcome.champion}"
        )
        return f"Promoted: version {outcome.version} {now}.", outcome.reason
    if report is None:
        return "Nothing is decided.", "There is no evaluation to decide by."
    failed = [gate for gate in report.gates if gate.passed is False]
    if failed:
        return "A gate is not passed; nothing is decided yet.", "; ".join(
            f"{gate.name}: {gate.reason}" for gate in failed
        )
    return "Gates passed; nothing is decided yet.", "The decision is taken by `register`."
