"""The page of a turn: one HTML file that needs no network and no script.

It can be read in light, in dark and on paper.

contents.py       reads the files of a turn; says in words why one can't be read
left.py           tells them from those that another turn left
words.py          puts numbers into words
figures.py        draws pictures as inline SVG
contracts.py      writes the pages of `validate`
difference.py     writes the page of two data sets compared
page.html.jinja   the page
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from cowest import __version__, io
from cowest.alone import unmeasured
from cowest.ledger.claims import Spent
from cowest.records import Comparison, Decision, EvalReport, Slice
from cowest.report import contents, words
from cowest.report.contents import Contents, Missing
from cowest.report.words import headline

__all__ = ["LedgerLine", "headline", "page", "write"]

LONGEST = 1500
"""Characters of one text on the page; the rest is counted."""
MOST_TAGS = 24
"""Tags in the table of slices: the ones with the most queries."""


class LedgerLine(Protocol):
    """One line of the call store's ledger: time, memory, calls and cost of a stage in this turn."""

    stage: str
    seconds: float
    peak_memory: int
    asked: int
    stored: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


def write(
    out: Path,
    root: Path = Path(),
    *,
    ledger: Sequence[LedgerLine] = (),
    spent: Spent | None = None,
) -> None:
    """Writes the page of the turn whose files lie in `root`, whole or not at all.

    `spent` is what the turn's calls cost so far, and its budget.
    """
    io.write_text(out, page(contents.gather(root), ledger=ledger, spent=spent))


def page(found: Contents, *, ledger: Sequence[LedgerLine] = (), spent: Spent | None = None) -> str:
    """Returns the page. It says in words what is missing, and escapes what comes from data."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cowest.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["missing"] = _is_missing
    environment.filters.update(
        score=words.score,
        signed=words.signed,
        unmeasured=unmeasured,
        interval=words.interval,
        count=_count,
        clock=_clock,
        size=_size,
        clip=_clip,
        share=words.share,
    )
    text: str = environment.get_template("page.html.jinja").render(
        found=found,
        ledger=ledger,
        spent=spent,
        names=words.NAMES,
        cowest=__version__,
        prompts_same=_prompts_same(found),
        **_words(found),
        **_pictures(found),
    )
    return text


def _is_missing(value: object) -> bool:
    return isinstance(value, Missing)


def _words(found: Contents) -> dict[str, Any]:
    """The first paragraph, and the rows of the table of tags."""
    outcome = found.outcome if isinstance(found.outcome, Decision) else None
    report = found.report if isinstance(found.report, EvalReport) else None
    good = None
    if outcome is not None:
        good = outcome.promoted
    elif report is not None:
        good = report.passed
    verdict, why = words.verdict(report, outcome)
    told = {"verdict": verdict, "why": words.by_gate(report, why), "good": good, "outcome": outcome}
    if report is None:
        headline = "No turn has run here."
        if found.begun:
            headline = "This turn has no evaluation yet, so what alignment did is not known."
        return {**told, "headline": headline, "context": []}
    return {
        **told,
        "headline": words.headline(report),
        "context": words.context(report),
        "tags": dict(sorted(report.tags.items(), key=_most_queries_first)[:MOST_TAGS]),
    }


def _prompts_same(found: Contents) -> bool | None:
    """True if champion and challenger have equal prompts; None if one of them is not there."""
    known = dict(found.versions)
    champion, challenger = known["models/champion"], known["models/challenger"]
    if isinstance(champion, Missing) or isinstance(challenger, Missing):
        return None
    return champion.prompts.served == challenger.prompts.served


def _most_queries_first(item: tuple[str, dict[str, Slice]]) -> tuple[int, str]:
    tag, slices = item
    return -max(one.queries for one in slices.values()), tag


def _differences(report: EvalReport) -> dict[str, Comparison]:
    """The comparisons by their names on the page.

    The best single model is one of the other systems under a second name, so it is shown once.
    """
    best = report.comparisons.get("after_minus_best_single")
    named = {}
    for key, one in report.comparisons.items():
        if key.endswith("_best_single"):
            continue
        name = f"{SHORT[one.of]} \N{MINUS SIGN} {SHORT[one.over]}"
        if best is not None and (one.of, one.over) == (best.of, best.over):
            name += " (best single)"
        elif one.of == "ideal":
            name += " (room left)"
        named[name] = one
    return named


SHORT = {
    "policy_before": "policy alone, before",
    "policy_after": "policy alone, after",
    "strong": "strong alone",
    "before": "before",
    "after": "after",
    "champion": "champion",
    "ideal": "ideal",
}
"""Short names of the systems, for the table of differences."""


def _pictures(found: Contents) -> dict[str, Any]:
    from cowest.report import figures

    curves = []
    for number, curve in enumerate(found.curves):
        curves.append((curve, figures.curve(curve, f"curve{number}")))
    drawn: dict[str, Any] = {"curves": curves}
    report = found.report
    if isinstance(report, EvalReport):
        differences = _differences(report)
        drawn["differences"] = differences
        drawn["systems_figure"] = figures.systems(report.systems)
        drawn["differences_figure"] = figures.differences(differences) if differences else ""
        drawn["gates_figure"] = figures.gates(report.gates)
        drawn["transitions_figure"] = (
            figures.transitions(report.transitions) if report.transitions else ""
        )
    if not isinstance(found.gains, Missing) and found.gains.drafts:
        drawn["gains_figure"] = figures.gains(found.gains)
    return drawn


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _size(value: float) -> str:
    if value < 1024:
        return f"{value:.0f} B"
    for unit in ("KiB", "MiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} GiB"


def _clip(text: str | None) -> str:
    if text is None:
        return ""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} [... {_count(len(text) - LONGEST)} more characters]"
