"""Pictures of a page, as inline SVG.

Colours are CSS variables of the page, so one picture serves light, dark and print.
"""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from cowest.records import Comparison, Estimate, GateResult
from cowest.report.contents import Curve, Gains
from cowest.report.words import NAMES, score, share, signed
from cowest.report_parts import Transitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib knows no CSS variables. It draws in these stand-ins, which nothing else in the SVG has,
# and they become the variables of the same names in the text of the SVG.
INK = "#010101"
MUTED = "#020202"
RULE = "#030303"
AFTER = "#040404"
BEFORE = "#050505"
WARN = "#060606"
FAINT = "#070707"
PAPER = "#080808"
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
"""Width of a picture in CSS pixels.

Labels stand above what they label, so a picture this narrow can still be read on a telephone."""
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cowest",
    "font.size": 12.5,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": RULE,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "axes.labelsize": 12,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "path.simplify": True,
}
"""Text stays text, ids are the same in every run, and no text is read as mathematics."""


@contextmanager
def _drawing(width: float, height: float) -> "Iterator[Figure]":
    """Gives a figure whose unit is a CSS pixel. Without pyplot: no global state, no window."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE}):
        yield Figure(figsize=(width / 72, height / 72), facecolor="none")


def _axes(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Places axes, in CSS pixels from the lower left corner."""
    whole = figure.get_size_inches() * 72
    return figure.add_axes(
        (left / whole[0], bottom / whole[1], width / whole[0], height / whole[1]), facecolor="none"
    )


def _svg(figure: "Figure", name: str, title: str, description: str) -> Markup:
    """Returns the figure as one `<svg>` with a title, a description and no fixed size.

    The ids in it begin with `name`, so they are unique on the page.
    """
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
    # Several pictures stand on one page, so ids and the references to them get the picture's name.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"font: ([^;\"]*?px)[^;\"]*", r"font: \1 var(--sans)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box, "matplotlib writes a viewBox"
    title_id, description_id = f"{name}-title", f"{name}-desc"
    head = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img" '
        f'aria-labelledby="{title_id} {description_id}">'
        f'<title id="{title_id}">{escape(title)}</title>'
        f'<desc id="{description_id}">{escape(description)}</desc>'
    )
    end = text.index(">") + 1
    # Every text in it is either ours or escaped by matplotlib and by `escape`.
    return Markup(head + text[end:])  # noqa: S704


def systems(found: Mapping[str, Estimate], name: str = "systems") -> Markup:
    """Draws the mean of each system with its interval."""
    low, high = 0.0, 1.0
    rows, said = [], []
    for key, one in found.items():
        low = min(low, one.mean if one.low is None else one.low)
        high = max(high, one.mean if one.high is None else one.high)
        rows.append((NAMES[key], one, score(one.mean), COLOURS[key]))
        said.append(f"{NAMES[key]} {score(one.mean)}")
    title = "Scores of the systems with 95 % intervals"
    return _intervals(rows, (low, high), name, title, "; ".join(said))


def differences(found: Mapping[str, Comparison], name: str = "differences") -> Markup:
    """Draws paired differences with their intervals, around zero."""
    edges: list[float] = []
    rows, said = [], []
    for key, one in found.items():
        edges += [edge for edge in (one.low, one.mean, one.high) if edge is not None]
        rows.append((key, one, signed(one.mean), _tone(one)))
        said.append(f"{key} {signed(one.mean)}")
    reach = max([0.05, *map(abs, edges)]) * 1.08
    # Most differences are positive. The negative side is drawn whole only if it is needed.
    low = -0.15 * reach
    if min(edges, default=0) < low:
        low = -reach
    title = "Paired differences with 95 % intervals"
    return _intervals(rows, (low, reach), name, title, "; ".join(said), zero=True)


ALONE = frozenset(["length", "tokens", "distinct"])
"""Metrics of which most values lie far from a difference of scores: each has an axis of its own, as
it would squeeze that of the other gates."""


def gates(found: Sequence[GateResult], name: str = "gates") -> Markup | None:
    """Draws each gate's interval, and the line that it must not cross; None if there is none."""
    shown = [one for one in found if one.estimate is not None]
    if not shown:
        return None
    together = [one for one in shown if one.metric not in ALONE]
    parts = [together] if together else []
    parts += [[one] for one in shown if one.metric in ALONE]
    step, margin, ticks = 44.0, 10.0, 32.0
    top = sum(step * len(part) + ticks for part in parts)
    with _drawing(WIDTH, top) as figure:
        for part in parts:
            height = step * len(part)
            top -= height + ticks
            axes = _axes(figure, margin, top + 26, WIDTH - 2 * margin, height)
            _gates(axes, part)
        said = "; ".join(f"{one.name}: {_outcome(one)}" for one in shown)
        return _svg(figure, name, "Gates: intervals, and what is asked", said)


def _gates(axes: "Axes", shown: Sequence[GateResult]) -> None:
    """Draws gates on one axis."""
    edges = [0.0]
    for one in shown:
        estimate = one.estimate
        ends = (estimate.low, estimate.mean, estimate.high) if estimate is not None else ()
        edges += [end for end in (*ends, one.at_least, one.at_most) if end is not None]
    room = 0.06 * max(0.1, max(edges) - min(edges))
    span = (min(edges) - room, max(edges) + room)
    axes.set(xlim=span, ylim=(len(shown) - 0.6, -0.6), yticks=[])
    axes.spines["bottom"].set_visible(False)
    for row, one in enumerate(shown):
        draw_gate(axes, row, one, span)
        _label(axes, row, one.name, _outcome(one))


def _outcome(gate: GateResult) -> str:
    return {True: "passed", False: "closed", None: "does not apply"}[gate.passed]


def draw_gate(axes: "Axes", row: int, gate: GateResult, span: tuple[float, float]) -> None:
    """Draws one gate: the side that is not good enough, the interval, and the asked line."""
    place, colour = row + 0.2, AFTER if gate.passed else WARN
    axes.plot(span, [place, place], color=RULE, linewidth=1.5, clip_on=False)
    asked = gate.at_least if gate.at_most is None else gate.at_most
    if asked is not None:
        bad = (span[0], asked) if gate.at_most is None else (asked, span[1])
        axes.fill_between(bad, place - 0.16, place + 0.16, color=WARN, alpha=0.12, linewidth=0)
        axes.plot([asked, asked], [place - 0.24, place + 0.24], color=INK, linewidth=1.5)
    estimate = gate.estimate
    if estimate is None:
        return
    if estimate.low is not None and estimate.high is not None:
        ends = [estimate.low, estimate.high]
        axes.plot(ends, [place, place], color=colour, linewidth=4, solid_capstyle="butt")
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


def _tone(estimate: Comparison) -> str:
    """Only a difference of the aligned collaboration is coloured as better or worse."""
    if estimate.of != "after":
        return BEFORE
    if estimate.low is not None and estimate.low > 0:
        return AFTER
    if estimate.high is not None and estimate.high < 0:
        return WARN
    return BEFORE


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
    """Writes a row's name on the left and its value on the right, above what is drawn."""
    where: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "va": "center",
    }
    axes.annotate(label, (0, row), xytext=(-8, 10), ha="left", **where)
    axes.annotate(value, (1, row), xytext=(8, 10), ha="right", fontweight="bold", **where)


def gains(found: Gains, name: str = "gains") -> Markup:
    """Draws the distribution of gains over the drafts of the training feedback."""
    bars = len(found.bins)
    edges, colours, heights = [], [], []
    for number, count in enumerate(found.bins):
        edges.append(-1 + 2 * number / (bars - 1))
        heights.append(found.share(count))
        colours.append(_tone_of_gain(edges[-1]))
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


def _tone_of_gain(edge: float) -> str:
    # The bar in the middle stands at zero, but for rounding.
    if abs(edge) <= 1e-9:
        return BEFORE
    return WARN if edge < 0 else AFTER


KINDS = (
    ("right_to_right", "stayed right", FAINT, INK),
    ("wrong_to_right", "wrong to right", AFTER, PAPER),
    ("right_to_wrong", "right to wrong", WARN, PAPER),
    ("wrong_to_wrong", "stayed wrong", RULE, INK),
)
"""Fields of Transitions: each with its words, the colour of its bar and of the number on it."""
PLACES = (0.0, 0.235, 0.505, 0.765)
"""Places of their words in the legend, as shares of the width."""


def transitions(found: Mapping[str, Transitions], name: str = "transitions") -> Markup:
    """Draws the effect of drafts on the strong model's own answers, one bar per collaboration."""
    step, margin = 46.0, 10.0
    height = step * len(found) + 28
    with _drawing(WIDTH, height) as figure:
        axes = _axes(figure, margin, 2, WIDTH - 2 * margin, height - 28)
        axes.set(xlim=(0, 1), ylim=(len(found) - 0.5, -0.5), xticks=[], yticks=[])
        axes.spines["bottom"].set_visible(False)
        said = []
        for row, (system, counts) in enumerate(found.items()):
            _label(axes, row, NAMES[system], "")
            _stack(axes, row + 0.2, [getattr(counts, kind) for kind, *_ in KINDS])
            parts = [f"{getattr(counts, kind)} {word}" for kind, word, *_ in KINDS]
            said.append(f"{NAMES[system]}: {', '.join(parts)}")
        for (_, word, colour, _), place in zip(KINDS, PLACES, strict=True):
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
        title = "What drafts did to the strong model's own answers"
        return _svg(figure, name, title, "; ".join(said))


def _stack(axes: "Axes", row: float, counts: Sequence[int]) -> None:
    total, place = max(1, sum(counts)), 0.0
    for count, (_, _, colour, on) in zip(counts, KINDS, strict=True):
        part = count / total
        axes.barh(
            [row], [part], left=[place], height=0.46, color=colour, edgecolor=PAPER, linewidth=1.5
        )
        # A narrower part has no room for its number.
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
    """Draws one chart of training, with the lines labelled where they end."""
    alone = len(found.lines) == 1
    with _drawing(300, 170) as figure:
        axes = _axes(figure, 44, 32, 200 if alone else 152, 126)
        axes.set_xlabel("step", labelpad=2)
        axes.grid(axis="y", color=RULE, linewidth=1)
        axes.set_axisbelow(True)
        axes.locator_params(axis="both", nbins=4)
        ends, said = [], []
        for (label, points), colour in zip(found.lines.items(), (AFTER, BEFORE), strict=False):
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) == 1 else ""
            axes.plot(steps, values, color=colour, linewidth=2, marker=marker)
            value = _short(values[-1])
            ends.append((values[-1], steps[-1], value if alone else f"{label} {value}", colour))
            said.append(f"{label}: from {_short(values[0])} to {value}")
        ends.sort()
        places = _apart([end[0] for end in ends], axes.get_ylim())
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
        return _svg(figure, name, found.title, "; ".join(said))


def _apart(places: list[float], span: tuple[float, float]) -> list[float]:
    """Moves two labels apart that would overlap; `places` are in order."""
    least = (span[1] - span[0]) * 0.13
    if len(places) != 2 or places[1] - places[0] >= least:
        return places
    middle = sum(places) / 2
    return [middle - least / 2, middle + least / 2]


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
