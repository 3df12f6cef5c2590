"""Two versions of a data set side by side: for a terminal, and as one HTML page that needs no network and no script."""

from collections.abc import Iterable, Iterator
from typing import Any

from cowest import __version__
from cowest.raw.difference import Difference, Distribution, Side
from cowest.records import Query
from cowest.report.words import share

FEW = {"text": 8, "page": 24}
"""Values of a distribution that are shown."""
LONGEST = {"text": 100, "page": 1500}
"""Characters of one text."""
TITLES = {
    "split": "Splits",
    "target": "Right answers",
    "tag": "Tags",
    "prompt": "Prompt",
    "ideal": "Ideal draft",
}


def text(found: Difference) -> str:
    """For a terminal."""
    lines = [f"{found.names[0]}  ->  {found.names[1]}", ""]
    lines += _columns(
        [(name, f"{before:,}", f"{after:,}") for name, (before, after) in sums(found)]
    )
    lines += ["", f"  same     {found.same:>9,}", f"  changed  {found.changed:>9,}{_how(found)}"]
    lines += [f"  added    {found.added:>9,}", f"  removed  {found.removed:>9,}"]
    for one in found.distributions:
        if len(one.shares) > 1 or one.name != "tag":
            rest = (
                f", the first {FEW['text']} of {max(one.values):,}{' or more' if one.more else ''}"
                if max(one.values) > FEW["text"]
                else ""
            )
            lines += ["", f"{TITLES[one.name].lower()}{rest}{moved(one)}"]
            lines += _columns(
                [
                    (clip(part.value, 40), *_counts(part.counts, one.sums))
                    for part in one.shares[: FEW["text"]]
                ],
                "  ",
            )
    lines += ["", "lengths in characters: least, a tenth below, half, nine tenths, most"]
    for name, sides in found.lengths.items():
        if any(sides):
            before, after = (
                ", ".join(f"{value:,}" for value in side) if side else "none" for side in sides
            )
            lines += _columns([(name, before, after)], "  ")
    for kind, rows in found.examples.items():
        lines += ["", f"{kind}, the first {len(rows)}"] if rows else []
        lines += [f"  {line}" for before, after in rows for line in _example(before, after)]
    return "\n".join(lines)


def sums(found: Difference) -> Iterator[tuple[str, Side]]:
    """What is counted in both."""
    yield "queries", found.rows
    yield "groups", found.groups
    if any(found.repeated):
        yield "prompts that stand before", found.repeated
    if any(found.demonstrations):
        yield "demonstrations", found.demonstrations
        yield "demonstrations of its own", found.other_demonstrations


def _how(found: Difference) -> str:
    said = []
    if found.other_targets:
        said.append(f"other right answers: {found.other_targets:,}")
    if found.other_split:
        said.append(f"another split: {found.other_split:,}")
    return f"   ({', '.join(said)})" if said else ""


def moved(one: Distribution) -> str:
    """How far apart the two mixtures are."""
    return (
        ""
        if one.moved is None
        else f" ({share(one.moved)} moved)"
        if one.moved >= 0.0005
        else " (as before)"
    )


def _counts(counts: Side, of: Side) -> tuple[str, str]:
    before, after = (
        f"{count:,} {f'({share(count / whole)})' if whole else ''}"
        for count, whole in zip(counts, of, strict=True)
    )
    return before, after


def _largest(counts: Iterable[Side], of: Side) -> float:
    """The largest share of either version."""
    return max(
        count / whole for pair in counts for count, whole in zip(pair, of, strict=True) if whole
    )


def _columns(rows: list[tuple[str, str, str]], indent: str = "") -> list[str]:
    widths = [max([12, *(len(row[column]) for row in rows)]) for column in range(3)]
    return [
        f"{indent}{row[0]:<{max(26, widths[0])}}  {row[1]:>{widths[1]}}  ->  {row[2]:>{widths[2]}}"
        for row in rows
    ]


def _example(before: Query | None, after: Query | None) -> Iterator[str]:
    row = after or before
    assert row is not None, "one of the two is there"
    yield f"{row.source}: {clip(asked(row), LONGEST['text'])}"
    for name, old, new in changes(before, after):
        yield f"    {name}: {clip(old, LONGEST['text'])}  ->  {clip(new, LONGEST['text'])}"


def changes(before: Query | None, after: Query | None) -> list[tuple[str, str, str]]:
    """What a row says otherwise, by field."""
    if before is None or after is None:
        return []
    fields = ("targets", "choices", "split", "group", "ideal", "tags")
    return [
        (name, said(getattr(before, name)), said(getattr(after, name)))
        for name in fields
        if getattr(before, name) != getattr(after, name)
    ]


def said(value: Any) -> str:
    """A field in words."""
    if isinstance(value, tuple):
        return " | ".join(value) or "none"
    return "none" if value is None else str(value)


def asked(query: Query) -> str:
    """What a query asks, in one text."""
    return (
        "\n\n".join(message.content for message in query.prompt if message.role != "system")
        or query.prompt[-1].content
    )


def clip(value: str, longest: int) -> str:
    """In one line, and no longer than that."""
    flat = " ".join("".join(sign if sign.isprintable() else " " for sign in value).split())
    return flat if len(flat) <= longest else f"{flat[: longest - 3]}..."


def page(found: Difference) -> str:
    """The page. Everything that comes from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cowest.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        share=share,
        count=lambda value: f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
        said=said,
    )
    environment.filters.update(
        asked=lambda row: asked(row)[: LONGEST["page"]], clip=lambda value: value[: LONGEST["page"]]
    )
    rendered: str = environment.get_template("difference.html.jinja").render(
        found=found, sums=list(sums(found)), how=_how(found).strip(" ()"), moved=moved, changes=changes, titles=TITLES,
        largest=_largest, few=FEW["page"],
        cowest=__version__,
    )  # fmt: skip
    return rendered
