"""Pictures of a page, as inline SVG. Colours are CSS variables of the page, so one picture serves light, dark and print."""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from cowest.records import Comparison, Estimate, Transitions
from cowest.report.contents import Curve, Gains
from cowest.report.words import NAMES, score, share, signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib wants colours; these stand-ins become the variables of the same names in the SVG's text.
INK, MUTED, RULE, AFTER, BEFORE, WARN, FAINT, PAPER = (f"#0{n}0{n}0{n}" for n in range(1, 9))
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    AFTER: "after",
    BEFORE: "before",
    WARN: "warn",
    FAINT: "faint",
    PAPER: "paper",
}
COLOURS = {
    "after": AFTER,
    "before": BEFORE,
    "policy_after": AFTER,
    "policy_before": BEFORE,
    "strong": MUTED,
    "champion": INK,
    "ideal": INK,
}
WIDTH = 440.0
# Labels stand above what they label, so that a picture can be as narrow as a telephone and still be read.
STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "cowest", "font.size": 12.5, "text.parse_math": False, "axes.unicode_minus": True,
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "axes.edgecolor": RULE,
    "xtick.labelsize": 12, "ytick.labelsize": 12, "axes.labelsize": 12, "xtick.major.size": 0, "ytick.major.size": 0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "path.simplify": True,
}  # fmt: skip


@contextmanager
def _drawing(width: float, height: float) -> "Iterator[Figure]":
    """A figure whose unit is a CSS pixel. No pyplot: no global state, no window."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE}):
        yield Figure(figsize=(width / 72, height / 72), facecolor="none")


def _axes(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Axes placed in CSS pixels from the lower left corner."""
    whole = figure.get_size_inches() * 72
    return figure.add_axes(
        (left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]), facecolor="none"
    )


def _svg(figure: "Figure", name: str, title: str, description: str) -> Markup:
    """The figure as one `<svg>` with a title and a description, no fixed size, and ids that are its own on the page."""
    target = io.StringIO()
    figure.savefig(
        target,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"font: ([^;\"]*?px)[^;\"]*", r"font: \1 var(--sans)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box, "matplotlib writes a viewBox"
    names = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" aria-labelledby="{name}-title {name}-desc">{names}'
    # Every text in it is either ours or escaped by matplotlib and by `escape`.
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, text, count=1))  # noqa: S704


def systems(found: Mapping[str, Estimate], name: str = "systems") -> Markup:
    """The mean of each system with its interval."""
    low = min([0.0, *(e.mean if e.low is None else e.low for e in found.values())])
    high = max([1.0, *(e.mean if e.high is None else e.high for e in found.values())])
    said = "; ".join(f"{NAMES[key]} {score(e.mean)}" for key, e in found.items())
    labels = [(NAMES[key], e, score(e.mean), COLOURS[key]) for key, e in found.items()]
    return _intervals(labels, (low, high), name, "Scores of the systems with 95 % intervals", said)


def differences(found: Mapping[str, Comparison], name: str = "differences") -> Markup:
    """Paired differences with their intervals, around zero."""
    edges = [edge for e in found.values() for edge in (e.low, e.mean, e.high) if edge is not None]
    reach = max([0.05, *map(abs, edges)]) * 1.08
    low = -reach if min(edges, default=0) < -0.15 * reach else -0.15 * reach
    said = "; ".join(f"{key} {signed(e.mean)}" for key, e in found.items())
    labels = [(key, e, signed(e.mean), _tone(e)) for key, e in found.items()]
    return _intervals(
        labels, (low, reach), name, "Paired differences with 95 % intervals", said, zero=True
    )


def _tone(estimate: Comparison) -> str:
    """Better or worse is for the aligned collaboration; other differences are neither."""
    if estimate.of != "after":
        return BEFORE
    if estimate.low is not None and estimate.low > 0:
        return AFTER
    return WARN if estimate.high is not None and estimate.high < 0 else BEFORE


def _intervals(
    rows: Sequence[tuple[str, Estimate, str, str]],
    span: tuple[float, float],
    name: str,
    title: str,
    said: str,
    zero: bool = False,
) -> Markup:
    step, margin = 40.0, 10.0
    height = step * len(rows) + 32
    with _drawing(WIDTH, height) as figure:
        axes = _axes(figure, margin, 26, WIDTH - 2 * margin, height - 32)
        axes.set(xlim=span, ylim=(len(rows) - 0.6, -0.6), yticks=[])
        axes.spines["bottom"].set_visible(False)
        for row, (label, estimate, value, colour) in enumerate(rows):
            place = row + 0.18
            axes.plot(span, [place, place], color=RULE, linewidth=1.5, clip_on=False)
            if zero:
                axes.plot([0, 0], [place - 0.17, place + 0.17], color=MUTED, linewidth=1.5)
            if estimate.low is not None and estimate.high is not None:
                ends = [estimate.low, estimate.high]
                axes.plot(
                    ends,
                    [place, place],
                    color=colour,
                    linewidth=7,
                    alpha=0.32,
                    solid_capstyle="round",
                    clip_on=False,
                )
            axes.plot(
                [estimate.mean],
                [place],
                "o",
                color=colour,
                markersize=8,
                markeredgecolor=PAPER,
                markeredgewidth=1.5,
                clip_on=False,
            )
            _label(axes, row, label, value)
        return _svg(figure, name, title, said)


def _label(axes: "Axes", row: int, label: str, value: str) -> None:
    """A row's name on the left and its value on the right, above what is drawn."""
    where: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
    }
    axes.annotate(label, (0, row), xytext=(-8, 10), ha="left", **where)
    axes.annotate(value, (1, row), xytext=(8, 10), ha="right", fontweight="bold", **where)


def gains(found: Gains, name: str = "gains") -> Markup:
    """How many drafts of the training feedback had which gain."""
    bars = len(found.bins)
    edges = [-1 + 2 * n / (bars - 1) for n in range(bars)]
    colours = [WARN if edge < -1e-9 else AFTER if edge > 1e-9 else BEFORE for edge in edges]
    heights = [found.share(count) for count in found.bins]
    with _drawing(WIDTH, 210) as figure:
        axes = _axes(figure, 42, 44, WIDTH - 50, 130)
        axes.bar(edges, heights, width=0.085, color=colours)
        axes.set(
            xlim=(-1.07, 1.07),
            xticks=[-1, -0.5, 0, 0.5, 1],
            xlabel="gain: score with the draft less score alone",
        )
        axes.yaxis.set_major_formatter(lambda value, _: share(value))
        axes.grid(axis="y", color=RULE, linewidth=1)
        axes.set_axisbelow(True)
        words = (
            ("hurt", found.hurt, WARN, 0.16),
            ("no change", found.tied, MUTED, 0.5),
            ("helped", found.helped, AFTER, 0.84),
        )
        for word, count, colour, place in words:
            axes.text(
                place,
                1.14,
                f"{word} {share(found.share(count))}",
                transform=axes.transAxes,
                ha="center",
                color=colour,
                fontweight="bold",
            )
        said = ", ".join(f"{word} {count} of {found.drafts}" for word, count, _, _ in words)
        return _svg(figure, name, "Distribution of gains over the training drafts", said)


KINDS = (
    ("right_to_right", "stayed right", FAINT, INK), ("wrong_to_right", "wrong to right", AFTER, PAPER),
    ("right_to_wrong", "right to wrong", WARN, PAPER), ("wrong_to_wrong", "stayed wrong", RULE, INK),
)  # fmt: skip


def transitions(found: Mapping[str, Transitions], name: str = "transitions") -> Markup:
    """What became of the strong model's own answers, a bar a collaboration."""
    step, margin = 46.0, 10.0
    height = step * len(found) + 28
    with _drawing(WIDTH, height) as figure:
        axes = _axes(figure, margin, 2, WIDTH - 2 * margin, height - 28)
        axes.set(xlim=(0, 1), ylim=(len(found) - 0.5, -0.5), xticks=[], yticks=[])
        axes.spines["bottom"].set_visible(False)
        for row, (system, counts) in enumerate(found.items()):
            _label(axes, row, NAMES[system], "")
            _stack(axes, row + 0.2, [getattr(counts, kind) for kind, *_ in KINDS])
        for (_, word, colour, _), place in zip(KINDS, (0.0, 0.235, 0.505, 0.765), strict=True):
            axes.annotate(
                "■",
                (place, 1),
                xycoords="axes fraction",
                xytext=(-8, 10),
                textcoords="offset points",
                color=colour,
                fontsize=14,
            )
            axes.annotate(
                word,
                (place, 1),
                xycoords="axes fraction",
                xytext=(6, 11),
                textcoords="offset points",
                color=MUTED,
                fontsize=11.5,
            )
        said = "; ".join(
            f"{NAMES[system]}: "
            + ", ".join(f"{getattr(counts, kind)} {word}" for kind, word, *_ in KINDS)
            for system, counts in found.items()
        )
        return _svg(figure, name, "What drafts did to the strong model's own answers", said)


def _stack(axes: "Axes", row: float, counts: Sequence[int]) -> None:
    total, place = max(1, sum(counts)), 0.0
    for count, (_, _, colour, on) in zip(counts, KINDS, strict=True):
        part = count / total
        axes.barh(
            [row], [part], left=[place], height=0.46, color=colour, edgecolor=PAPER, linewidth=1.5
        )
        if part > 0.05:
            axes.text(
                place + part / 2,
                row,
                str(count),
                ha="center",
                va="center",
                color=on,
                fontweight="bold",
            )
        place += part


def curve(found: Curve, name: str) -> Markup:
    """One chart of training, its lines labelled where they end."""
    with _drawing(300, 170) as figure:
        axes = _axes(figure, 44, 32, 200 if len(found.lines) == 1 else 152, 126)
        axes.set_xlabel("step", labelpad=2)
        axes.grid(axis="y", color=RULE, linewidth=1)
        axes.set_axisbelow(True)
        axes.locator_params(axis="both", nbins=4)
        ends = []
        for (label, points), colour in zip(found.lines.items(), (AFTER, BEFORE), strict=False):
            steps, values = zip(*points, strict=True)
            axes.plot(
                steps, values, color=colour, linewidth=2, marker="o" if len(points) == 1 else ""
            )
            ends.append(
                (
                    values[-1],
                    steps[-1],
                    f"{label if len(found.lines) > 1 else ''} {_short(values[-1])}".strip(),
                    colour,
                )
            )
        low, high = axes.get_ylim()
        ends.sort()
        places = [end[0] for end in ends]
        if (
            len(ends) == 2 and places[1] - places[0] < (high - low) * 0.13
        ):  # keep the two labels apart
            middle = sum(places) / 2
            places = [middle - (high - low) * 0.065, middle + (high - low) * 0.065]
        for place, (_, step, text, colour) in zip(places, ends, strict=True):
            axes.annotate(
                text,
                (step, place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontweight="bold",
                fontsize=11.5,
            )
        said = "; ".join(
            f"{label}: from {_short(points[0][1])} to {_short(points[-1][1])}"
            for label, points in found.lines.items()
        )
        return _svg(figure, name, found.title, said)


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
