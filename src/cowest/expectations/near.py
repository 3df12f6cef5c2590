"""Near copies by MinHash: texts that share most of their runs of five characters (Broder 1997).

Case, white space and punctuation do not count, and neither do letters that can't be seen, the form
of letters, and a number before or after a text (`numbering`). Texts with other different figures
or signs are no copies, however similar they are: "who built engine 1?" is not "who built engine
11?".

The similarity is an estimate of the Jaccard index of the two sets of runs. Its standard error is
0.035 at 0.8 and 0.026 at 0.9. An indexed text takes about 2.5 KB of memory (4 KB for similarities
below 0.9).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cowest.expectations.columns import number as number_of
from cowest.expectations.contained import Contained, tells
from cowest.expectations.numbering import Unnumbered, may_agree, unnumbered
from cowest.sametext import seen, unpunctuated

RUN, HASHES = 5, 128
FIGURE, LETTER = re.compile(r"[\d+*/=<>^%|]"), re.compile(r"[^\W\d_]")
LEAST = 0.6
"""The lowest similarity that can be asked for."""


class Sketch(NamedTuple):
    """The MinHash of a text without its number, and what a copy must have in common with it."""

    hashes: Any
    figures: tuple[str, ...]
    """Words with digits or signs in them, sorted."""
    number: str
    """The number before or after the text, if the text may be about it (`Unnumbered`)."""


def sketches(texts: Sequence[str]) -> list[Sketch]:
    """Returns the sketches of texts."""
    from rensa import RMinHash

    found = [bare(text) for text in texts]
    runs = []
    for text, _ in found:
        starts = range(max(len(text) - RUN + 1, 1))
        runs.append(list({text[at : at + RUN] for at in starts}))
    hashes = RMinHash.from_token_sets(runs, HASHES, 0)
    sketched = []
    for hashes_of_text, (text, number) in zip(hashes, found, strict=True):
        sketched.append(Sketch(hashes_of_text, _figures(text), number))
    return sketched


def bare(text: str) -> Unnumbered:
    """A text without its number, case, white space and punctuation, its letters in one form."""
    found = unnumbered(seen(text))
    return Unnumbered(unpunctuated(found.text), found.number)


def _figures(text: str) -> tuple[str, ...]:
    words = [word for word in text.split() if FIGURE.search(word) or not LETTER.search(word)]
    return tuple(sorted(words))


def _bands(least: float) -> int:
    """Number of LSH bands, by the lowest similarity asked for.

    From 0.9 on, 16 bands of 8 hashes find 99.99 % of pairs at exactly 0.9. Below, 32 bands of 4
    hashes find 99.98 % of pairs at 0.7 and 98.8 % at 0.6.
    """
    return 16 if least >= 0.9 else 32


def _any(_: int) -> bool:
    return True


class Index:
    """Texts to search in, each known by a number that the caller gives."""

    def __init__(self, least: float) -> None:
        from rensa import RMinHashLSH

        self._least = least
        self._bands = RMinHashLSH(least, HASHES, _bands(least))
        self._kept: list[tuple[int, Sketch]] = []

    def add(self, numbers: Sequence[int], texts: Sequence[str]) -> None:
        """Adds texts, with their numbers."""
        for number, sketch in zip(numbers, sketches(texts), strict=True):
            self._bands.insert(len(self._kept), sketch.hashes)
            self._kept.append((number, sketch))

    def nearest(
        self, sketch: Sketch, among: Callable[[int], bool] = _any
    ) -> tuple[float, int | None]:
        """Returns the similarity and the number of the nearest text for which `among` is true.

        Returns 0 and None if no text is as similar as `least`.
        """
        best: tuple[float, int | None] = (0.0, None)
        if not self._kept:
            return best
        for key in self._bands.query(sketch.hashes):
            # The bands only propose candidates, some of them much less similar.
            number, kept = self._kept[key]
            if kept.figures != sketch.figures or not among(number):
                continue
            if not may_agree(kept.number, sketch.number):
                continue
            alike = float(sketch.hashes.jaccard(kept.hashes))
            if alike >= self._least and alike > best[0]:
                best = alike, number
        return best


class Known:
    """Texts that no other text may repeat, word for word or nearly, each with a name."""

    def __init__(self, least: float | None) -> None:
        """Texts whose similarity is `least` or more are near copies; None: only the same words."""
        self._near = None if least is None else Index(least)
        self._numbered: dict[int, int] = {}
        self._asked: dict[int, int] = {}
        self._contained = Contained()
        self._places: list[str] = []

    def add(
        self, texts: Sequence[tuple[str, str]], options: Sequence[Sequence[str]] | None = None
    ) -> None:
        """Adds texts, each after its name; `options` are those that a question does not show."""
        start = len(self._places)
        hidden = options or [()] * len(texts)
        for at, (place, text) in enumerate(texts, start):
            self._places.append(place)
            found = bare(text)
            self._numbered[_key(found)] = at
            self._asked[number_of(found.text)] = at
            self._contained.add(at, text, hidden[at - start])
        if self._near is not None:
            self._near.add(range(start, start + len(texts)), [text for _, text in texts])

    def nearest(
        self, text: str, answer: str | None = None, short: bool = True
    ) -> tuple[float, str | None]:
        """Returns the similarity and the name of the text that this one repeats; else 0 and None.

        The longest line is also looked at by itself, because a prompt may show options or a
        template beside its question. A text that stands in this one word for word counts too; given
        the answer, a question whose options are known only if one of them stands in either, unless
        it is the longest line. `short`: texts of few words count too. Other texts than questions
        may have them by chance.
        """
        longest = max(text.splitlines(), key=len, default="")
        looked_at = [one for one in dict.fromkeys([text, longest]) if short or tells(one)]
        same = [at for at in map(self._same, looked_at) if at is not None]
        if same:
            return 1.0, self._places[max(same)]
        part = self._contained.within(text, answer=answer)
        if part is not None:
            return 1.0, self._places[part]
        best: tuple[float, int | None] = (0.0, None)
        if self._near is not None and looked_at:
            for sketch in sketches(looked_at):
                found = self._near.nearest(sketch)
                if found[0] > best[0]:
                    best = found
        alike, other = best
        return alike, None if other is None else self._places[other]

    def _same(self, text: str) -> int | None:
        """The text with the same words, whatever number one of the two has."""
        found = bare(text)
        if not found.number:
            return self._asked.get(number_of(found.text))
        same = self._numbered.get(_key(found))
        if same is not None:
            return same
        return self._numbered.get(_key(Unnumbered(found.text, "")))


def _key(text: Unnumbered) -> int:
    return number_of(f"{text.text}\0{text.number}")
