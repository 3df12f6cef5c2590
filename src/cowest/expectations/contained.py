"""Texts that stand word for word in longer ones: a greeting makes no other question of it.

A text of few words, or of words that most questions have, may stand anywhere ("which of the
following is true"): such a text is not looked for. And the longer text must go on after it with
another sentence, since "who built the old harbour" is not "who built the old harbour gate". The
time grows with the length of what is searched, however many texts are known. Pure.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from cowest.expectations.numbering import unnumbered
from cowest.sametext import FEW, NO_SPACES, PUNCTUATION, STOP, by_letter, seen

FEWEST = 5
"""Words that a text must have to be looked for; two letters of a script without spaces are one."""
ENDING = re.compile(r"[?!;:()\[\]\"\u201c-\u201f\u00ab\u00bb\u3001\u3002\n]|(?<!\d)[.,]|[.,](?!\d)")
"""Marks after which another sentence, or a part of one, may begin."""
BASE, MODULUS = 0x1F3D5B79A1C3E5F7, (1 << 61) - 1


def _any(_: int) -> bool:
    return True


class Contained:
    """Texts to look for, each known by a number that the caller gives."""

    def __init__(self) -> None:
        # Numbers of texts by the digests of their first words, their length, and all their words.
        self._known: dict[int, dict[int, dict[int, list[int]]]] = {}

    def add(self, number: int, text: str) -> None:
        """Adds a text without its number, if it tells anything apart."""
        found = unnumbered(seen(text))
        # A number that may be what is asked about stays.
        words, _ = _words(text if found.number else found.text)
        if not _tells(words):
            return
        sums = _sums(words)
        lengths = self._known.setdefault(_digest(sums, 0, FEWEST), {})
        texts = lengths.setdefault(len(words), {})
        texts.setdefault(_digest(sums, 0, len(words)), []).append(number)

    def within(self, text: str, among: Callable[[int], bool] = _any) -> int | None:
        """Returns the number of a text, for which `among` is true, that stands in this one."""
        if not self._known:
            return None
        words, ends = _words(text)
        sums = _sums(words)
        for at in range(len(words) - FEWEST + 1):
            for count, texts in self._known.get(_digest(sums, at, FEWEST), {}).items():
                if at + count in ends:
                    for number in texts.get(_digest(sums, at, count), ()):
                        if among(number):
                            return number
        return None


def _words(text: str) -> tuple[list[str], set[int]]:
    """Returns the words of a text, and the numbers of words after which a sentence may end."""
    words: list[str] = []
    ends: set[int] = set()
    for part in ENDING.split(seen(text).casefold()):
        words += by_letter(PUNCTUATION.sub(" ", part)).split()
        ends.add(len(words))
    return words, ends


def _tells(words: Sequence[str]) -> bool:
    size = sum(0.5 if NO_SPACES.match(word) else 1 for word in words)
    return size >= FEWEST and len(words) >= FEWEST and len(set(words) - STOP) >= FEW


def _sums(words: Iterable[str]) -> list[int]:
    """Returns the digests of the words up to each place, of which `_digest` makes any other."""
    sums = [0]
    for word in words:
        sums.append((sums[-1] * BASE + hash(word)) % MODULUS)
    return sums


def _digest(sums: Sequence[int], start: int, count: int) -> int:
    """Returns the digest of some adjacent words."""
    return (sums[start + count] - sums[start] * pow(BASE, count, MODULUS)) % MODULUS
