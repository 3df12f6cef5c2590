"""Near copies, by MinHash: texts that share most of their runs of five characters (Broder 1997), whatever their case and punctuation.

Texts with other figures or signs in them are no copies, however alike: "who built engine 1?" is not "who built engine 11?".

What is held is about 2.5 KB a text of those searched in (4 KB below 0.9). A similarity is the Jaccard index of the two sets of runs,
estimated: its standard error is 0.035 at 0.8 and 0.026 at 0.9.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cowest.expectations.columns import number as number_of

RUN, HASHES = 5, 128
BANDS = {0.9: 16, 0.0: 32}
"""From which similarity on how many bands. Of pairs that are just as alike, 99.99 % share a band of eight at 0.9, and are compared;
99.98 % a band of four at 0.7, 98.8 % at 0.6."""
PUNCTUATION = re.compile(
    r"[.,;:!?\"'`()\[\]{}_\u2010-\u201f\u2026\u3001\u3002\u00ab\u00bb\uff0c\uff1f\uff01]"
)
FIGURE, LETTER = re.compile(r"[\d+*/=<>^%|]"), re.compile(r"[^\W\d_]")
LEAST = 0.6
"""The lowest similarity that can be asked for."""


class Sketch(NamedTuple):
    """What stands for a text."""

    hashes: Any
    figures: tuple[str, ...]
    """Its words with digits or signs in them, in order of the alphabet."""


def plain(text: str) -> str:
    """The words and signs of a text in lower case, its punctuation left out."""
    return " ".join(PUNCTUATION.sub(" ", text.casefold()).split()) or text.casefold().strip()


def sketches(texts: Sequence[str]) -> list[Sketch]:
    """Sketches of plain texts."""
    from rensa import RMinHash

    runs = [
        list({text[at : at + RUN] for at in range(max(len(text) - RUN + 1, 1))}) for text in texts
    ]
    figures = (
        tuple(
            sorted(word for word in text.split() if FIGURE.search(word) or not LETTER.search(word))
        )
        for text in texts
    )
    return [
        Sketch(*pair)
        for pair in zip(RMinHash.from_token_sets(runs, HASHES, 0), figures, strict=True)
    ]


class Index:
    """Texts to be searched in, each known by a number of the caller's."""

    def __init__(self, least: float) -> None:
        from rensa import RMinHashLSH

        self._least = least
        self._bands = RMinHashLSH(
            least, HASHES, next(bands for start, bands in BANDS.items() if least >= start)
        )
        self._kept: list[tuple[int, Sketch]] = []

    def add(self, numbers: Sequence[int], texts: Sequence[str]) -> None:
        """Plain texts with their numbers."""
        for number, sketch in zip(numbers, sketches(texts), strict=True):
            self._bands.insert(len(self._kept), sketch.hashes)
            self._kept.append((number, sketch))

    def nearest(self, sketch: Sketch, among: Callable[[int], bool]) -> tuple[float, int | None]:
        """The similarity and number of the nearest text of those `among` lets pass; 0 and None where none reaches `least`."""
        best: tuple[float, int | None] = (0.0, None)
        for key in self._bands.query(sketch.hashes) if self._kept else ():
            number, kept = self._kept[key]
            if kept.figures != sketch.figures or not among(number):
                continue
            alike = float(sketch.hashes.jaccard(kept.hashes))
            if alike >= self._least and alike > best[0]:
                best = alike, number
        return best


class Known:
    """Texts that no other may be, word for word or nearly, each with the words that name it."""

    def __init__(self, least: float | None) -> None:
        """`least` is the similarity from which on a text is a near copy; None looks for the same words alone."""
        self._near = None if least is None else Index(least)
        self._same: dict[int, int] = {}
        self._places: list[str] = []

    def add(self, places: Sequence[str], texts: Sequence[str]) -> None:
        """Texts with their names."""
        said = [plain(text) for text in texts]
        start = len(self._places)
        self._same |= {number_of(text): start + at for at, text in enumerate(said)}
        if self._near is not None:
            self._near.add(range(start, start + len(said)), said)
        self._places += places

    def nearest(self, text: str) -> tuple[float, str | None]:
        """The similarity and the name of what a text, or its longest line, is; 0 and None where it is none of them.

        The longest line is looked at by itself, since a prompt may show options or a template beside its question.
        """
        said = list(
            dict.fromkeys([plain(text), plain(max(text.splitlines(), key=len, default=""))])
        )
        alike, other = max(
            ((1.0, self._same[number]) for number in map(number_of, said) if number in self._same),
            default=(0.0, None),
        )
        if other is None and self._near is not None:
            alike, other = max(
                (self._near.nearest(sketch, lambda _: True) for sketch in sketches(said)),
                key=lambda one: one[0],
            )
        return alike, None if other is None else self._places[other]
