"""The page of a turn: one HTML file that needs no network and no script, in light, dark and on paper.

contents.py    what the files of a turn say, or in words why they can't be read
words.py       numbers in words
figures.py     pictures, as inline SVG
contracts.py   what `validate` found: its own pages, and how they are read
page.html.jinja   the page
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from cowest import __version__, io
from cowest.records import Comparison, EvalReport, Outcome
from cowest.report import contents, words
from cowest.report.contents import Contents, Missing
from cowest.report.words import headline

__all__ = ["Spent", "headline", "page", "write"]

LONGEST = 1500
"""Characters of one text on the page; the rest is counted."""
MOST_TAGS = 24
"""Tags in the table of slices: those of most queries."""


class Spent(Protocol):
    """One line of the call store's ledger: what a stage took when it last ran."""

    stage: str
    seconds: float
    peak_memory: int
    asked: int
    stored: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


def write(out: Path, root: Path = Path(), *, ledger: Sequence[Spent] = ()) -> None:
    """Writes the page of the turn whose files lie in `root`, whole or not at all."""
    io.write_text(out, page(contents.gather(root), ledger=ledger))


def page(found: Contents, *, ledger: Sequence[Spent] = ()) -> str:
    """The page. What is missing is said on it in words. Everything that comes from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cowest.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    environment.filters.update(
        score=words.score,
        signed=words.signed,
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
        names=words.NAMES,
        cowest=__version__,
        **_told(found),
        **_pictures(found),
    )
    return text


def _told(found: Contents) -> dict[str, Any]:
    """The first paragraph, and what the tables of the evaluation are made of."""
    outcome = found.outcome if isinstance(found.outcome, Outcome) else None
    report = found.report if isinstance(found.report, EvalReport) else None
    verdict, why = words.verdict(report, outcome)
    good = outcome.promoted if outcome else report.passed if report else None
    told = {"verdict": verdict, "why": why, "good": good, "outcome": outcome}
    if report is None:
        return {
            **told,
            "headline": "This turn has no evaluation yet, so what alignment did is not known.",
            "context": [],
        }
    tags = sorted(
        report.tags.items(),
        key=lambda item: (-max(part.queries for part in item[1].values()), item[0]),
    )
    return {
        **told,
        "headline": words.headline(report),
        "context": words.context(report),
        "tags": dict(tags[:MOST_TAGS]),
    }


def _differences(report: EvalReport) -> dict[str, Comparison]:
    """The comparisons by what to call them. The best single model is one of the others under another name: shown once."""
    best = report.comparisons.get("after_minus_best_single")
    named = {}
    for key, one in report.comparisons.items():
        if not key.endswith("_best_single"):
            is_best = best is not None and (one.of, one.over) == (best.of, best.over)
            note = " (best single)" if is_best else " (room left)" if one.of == "ideal" else ""
            named[f"{SHORT[one.of]} \N{MINUS SIGN} {SHORT[one.over]}{note}"] = one
    return named


SHORT = {
    "policy_before": "policy alone, before", "policy_after": "policy alone, after", "strong": "strong alone",
    "before": "before", "after": "after", "champion": "champion", "ideal": "ideal",
}  # fmt: skip


def _pictures(found: Contents) -> dict[str, Any]:
    from cowest.report import figures

    drawn: dict[str, Any] = {
        "curves": [
            (curve, figures.curve(curve, f"curve{number}"))
            for number, curve in enumerate(found.curves)
        ]
    }
    if isinstance(found.report, EvalReport):
        differences = _differences(found.report)
        drawn["differences"] = differences
        drawn["systems_figure"] = figures.systems(found.report.systems)
        drawn["differences_figure"] = figures.differences(differences) if differences else ""
        drawn["transitions_figure"] = (
            figures.transitions(found.report.transitions) if found.report.transitions else ""
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
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _clip(text: str | None) -> str:
    if text is None:
        return ""
    return (
        text
        if len(text) <= LONGEST
        else f"{text[:LONGEST]} [... {_count(len(text) - LONGEST)} more characters]"
    )
