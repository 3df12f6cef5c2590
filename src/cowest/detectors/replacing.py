"""Replaces texts in a text that comes in pieces: one may begin in one piece and end in another."""

import re
from collections.abc import Collection, Mapping

from cowest.detectors import PLACEHOLDER


class Replacing:
    """Replaces what a pattern finds, and holds back what may be the beginning of a find.

    The pieces that it gives, joined, are what the pattern's `sub` makes of the joined pieces that
    it takes. A piece takes time in proportion to its length.
    """

    def __init__(
        self, pattern: re.Pattern[str], finds: Collection[str], others: Mapping[str, str]
    ) -> None:
        """`finds` are the texts that are replaced, each by the text in `others`.

        The pattern finds all of them. What else it finds stays as it is. None of them is in the
        beginning of another one.
        """
        self._pattern, self._finds, self._others = pattern, tuple(finds), others
        self._firsts = {find[0] for find in self._finds}
        self._longest = max(map(len, self._finds), default=0)
        self._held = ""

    def feed(self, piece: str) -> str:
        """Takes a piece, and returns as much of the text as can be known now."""
        text = self._held + piece
        shown = []
        place = 0
        held = self._beginning(text, 0)
        for found in self._pattern.finditer(text):
            shown += [text[place : found.start()], self._others.get(found[0], found[0])]
            place = found.end()
            if place > held:
                held = self._beginning(text, place)
        shown.append(text[place:held])
        self._held = text[held:]
        return "".join(shown)

    def end(self) -> str:
        """Returns what was held back: no more comes, so it is the beginning of nothing."""
        rest, self._held = self._held, ""
        return rest

    def _beginning(self, text: str, start: int) -> int:
        """The place, from `start` on, from which a text may be the beginning of a find."""
        for place in range(max(start, len(text) - self._longest + 1), len(text)):
            if text[place] in self._firsts and self._may_begin(text[place:]):
                return place
        return len(text)

    def _may_begin(self, end: str) -> bool:
        return any(len(find) > len(end) and find.startswith(end) for find in self._finds)


def unmasking(originals: Mapping[str, str]) -> Replacing:
    """Does what `unmask` does to a text that comes in pieces."""
    return Replacing(PLACEHOLDER, originals, originals)
