"""Shows two versions of a data set side by side: on a terminal, and as an HTML page.

The page is one file that needs no network and no script.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from cowest import __version__
from cowest.raw.difference import Difference, Distribution, Side
from cowest.records import Query
from cowest.report.words import share

FEW = {"text": 8, "page": 24}
"""Number of values of a distribution that are shown."""
LONGEST = {"text": 100, "page": 1500}
"""Characters of one text that are shown."""
TITLES = {
    "split": "Splits",
    "target": "Right answers",
    "tag": "Tags",
    "prompt": "Prompt",
    "ideal": "Ideal draft",
}
COMPARED = ("targets", "choices", "split", "group", "ideal", "tags")
"""Fields of a changed row that are shown."""


def text(found: Difference) -> str:
    """Returns the comparison for a terminal."""
    lines = [f"{found.names[0]}  ->  {found.names[1]}", ""]
    counts = [(name, f"{before:,}", f"{after:,}") for name, (before, after) in sums(found)]
    lines += _columns(counts)
    lines += ["", f"  same     {found.same:>9,}"]
    how = how_changed(found)
    lines.append(f"  changed  {found.changed:>9,}" + (f"   ({how})" if how else ""))
    lines += [f"  added    {found.added:>9,}", f"  removed  {found.removed:>9,}"]
    for one in found.distributions:
        # Most data sets have no tags, and then the tag "(none)" is the only one.
        if len(one.shares) > 1 or one.name != "tag":
            lines += _distribution(one)
    lines += ["", "lengths in characters: least, a tenth below, half, nine tenths, most"]
    for name, sides in found.lengths.items():
        if any(sides):
            lines += _columns([(name, _quantiles(sides[0]), _quantiles(sides[1]))], "  ")
    for kind, rows in found.examples.items():
        if rows:
            lines += ["", f"{kind}, the first {len(rows)}"]
        for before, after in rows:
            lines += [f"  {line}" for line in _example(before, after)]
    return "\n".join(lines)


def _distribution(one: Distribution) -> list[str]:
    few, values = FEW["text"], max(one.values)
    title = TITLES[one.name].lower()
    if values > few:
        title += f", the first {few} of {values:,}{' or more' if one.more else ''}"
    rows = []
    for part in one.shares[:few]:
        before, after = part.counts
        rows.append((
            clip(part.value, 40), _count(before, one.sums[0]), _count(after, one.sums[1]),
        ))  # fmt: skip
    return ["", title + moved(one), *_columns(rows, "  ")]


def _quantiles(lengths: tuple[int, ...] | None) -> str:
    return ", ".join(f"{length:,}" for length in lengths) if lengths else "none"


def sums(found: Difference) -> Iterator[tuple[str, Side]]:
    """Yields what is counted in both versions, by name."""
    yield "queries", found.rows
    yield "groups", found.groups
    if any(found.repeated):
        yield "prompts that stand before", found.repeated
    if any(found.demonstrations):
        yield "demonstrations", found.demonstrations
        yield "demonstrations of its own", found.other_demonstrations


def how_changed(found: Difference) -> str:
    """Says how many of the changed rows have other answers or another split."""
    parts = []
    if found.other_targets:
        parts.append(f"other right answers: {found.other_targets:,}")
    if found.other_split:
        parts.append(f"another split: {found.other_split:,}")
    return ", ".join(parts)


def moved(one: Distribution) -> str:
    """Says how far apart the two mixtures are."""
    if one.moved is None:
        return ""
    # Below half of the last digit that is shown.
    if one.moved < 0.0005:
        return " (as before)"
    return f" ({share(one.moved)} moved)"


def _count(count: int, whole: int) -> str:
    return f"{count:,} " + (f"({share(count / whole)})" if whole else "")


def _largest(counts: Iterable[Side], of: Side) -> float:
    """The largest share of either version."""
    shares = []
    for pair in counts:
        for count, whole in zip(pair, of, strict=True):
            if whole:
                shares.append(count / whole)
    return max(shares)


def _columns(rows: list[tuple[str, str, str]], indent: str = "") -> list[str]:
    widths = []
    for column, least in enumerate((26, 12, 12)):
        widths.append(max([least, *(len(row[column]) for row in rows)]))
    lines = []
    for name, before, after in rows:
        lines.append(
            f"{indent}{name:<{widths[0]}}  {before:>{widths[1]}}  ->  {after:>{widths[2]}}"
        )
    return lines


def _example(before: Query | None, after: Query | None) -> Iterator[str]:
    row = after or before
    assert row is not None, "one of the two is there"
    longest = LONGEST["text"]
    yield f"{clip(row.source, longest)}: {clip(asked(row), longest)}"
    for name, old, new in changes(before, after):
        yield f"    {name}: {clip(old, longest)}  ->  {clip(new, longest)}"


def changes(before: Query | None, after: Query | None) -> list[tuple[str, str, str]]:
    """Lists the fields in which a row changed, with both values in words."""
    if before is None or after is None:
        return []
    found = []
    for name in COMPARED:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found.append((name, said(old), said(new)))
    return found


def said(value: Any) -> str:
    """Returns the value of a field in words."""
    if isinstance(value, tuple):
        return " | ".join(value) or "none"
    return "none" if value is None else str(value)


def asked(query: Query) -> str:
    """Returns all that a query asks as one text, without the system's message."""
    texts = [message.content for message in query.prompt if message.role != "system"]
    return "\n\n".join(texts) or query.prompt[-1].content


def clip(value: str, longest: int) -> str:
    """Returns a text on one line, shortened to `longest` characters."""
    # What can't be printed could move the cursor or change the terminal's colours.
    printable = "".join(sign if sign.isprintable() else " " for sign in value)
    flat = " ".join(printable.split())
    return flat if len(flat) <= longest else f"{flat[: longest - 3]}..."


def page(found: Difference) -> str:
    """Returns the page. Everything that comes from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cowest.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        share=share, count=_spaced, said=said, asked=_asked_on_page, clip=_clip_on_page
    )
    rendered: str = environment.get_template("difference.html.jinja").render(
        found=found,
        sums=list(sums(found)),
        how=how_changed(found),
        moved=moved,
        changes=changes,
        titles=TITLES,
        largest=_largest,
        few=FEW["page"],
        cowest=__version__,
    )
    return rendered


def _spaced(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _asked_on_page(query: Query) -> str:
    return asked(query)[: LONGEST["page"]]


def _clip_on_page(value: str) -> str:
    return value[: LONGEST["page"]]
