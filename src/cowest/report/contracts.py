"""The page of one run of `validate`, for people. The same findings lie beside it as JSON."""

from collections.abc import Sequence

from cowest.records import Validation

Pointed = Sequence[tuple[str, str]]
"""Rules that are not met, each with a row that does not meet it."""


def page(
    rows: str, found: Validation, *, fail: Pointed, note: Pointed, aside: Pointed, lines: Pointed
) -> str:
    """Returns one HTML page that needs no network. Everything that comes from data is escaped.

    The page shows the first rows that fail the turn, are noted, and are set aside, each with its
    place. `lines` has the numbers of all lines that break a rule, for rules that more rows break.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cowest.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    html: str = environment.get_template("contract.html.jinja").render(
        rows=rows, found=found, fail=fail, note=note, aside=aside, lines=lines
    )
    return html
