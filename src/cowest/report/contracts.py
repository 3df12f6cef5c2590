"""What `validate` found: its page for people, and the same in numbers, which the page carries for the turn's report."""

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

from pydantic import ValidationError

from cowest.config import complaints
from cowest.errors import InputError
from cowest.records import Validation

CARRIES = "cowest-validation"
"""The name of the page's meta element that holds a Validation as JSON."""
Pointed = Sequence[tuple[str, str]]
"""What was expected in vain, and of which row."""


def page(
    rows: str, found: Validation, *, fail: Pointed, note: Pointed, aside: Pointed, lines: Pointed
) -> str:
    """One HTML page that needs no network; everything that comes from data is escaped.

    Rows that fail the turn, to look at, and set aside: the first of them, each with its place;
    `lines` has all lines of a rule where they are more.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cowest.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    html: str = environment.get_template("contract.html.jinja").render(
        rows=rows,
        found=found,
        fail=fail,
        note=note,
        aside=aside,
        lines=lines,
        carries=CARRIES,
        data=found.model_dump_json(),
    )
    return html


def read(path: Path) -> Validation:
    """What a page carries. Raises InputError for one that is not there, or no such page."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {error}") from None
    carried = _Carried()
    carried.feed(text)
    if carried.data is None:
        raise InputError(f"{path} is no page of `validate`")
    try:
        return Validation.model_validate_json(carried.data)
    except ValidationError as error:
        raise InputError(
            f"{path} is no page of this version of `validate`: {complaints(error)}"
        ) from None


class _Carried(HTMLParser):
    """Finds the element that carries the numbers."""

    data: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "meta" and found.get("name") == CARRIES:
            self.data = found.get("content")
