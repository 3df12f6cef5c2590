"""Reads a text the way a person reads its numbers and words.

Digits of any script become 0 to 9; full-width letters, dashes and spaces become ASCII; accents
are composed with their letters; and characters that can't be seen are left out. So a number can't
be hidden by the way it is written.
"""

import unicodedata

Span = tuple[int, int]
"""First character, and the first character after the end."""
BETWEEN = "\n| |\n"
"""Stands between texts that are searched together. No number and no word reaches across it."""
ASKED = r"\s?\?\n\| \|\n"
"""A pattern of the end of a question, whose answer is the next text."""
INVISIBLE = frozenset(
    "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff"
)
SPACES = (
    "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"


class _Table(dict[int, int]):
    """A table for str.translate: one character for each, worked out when it is first met."""

    def __missing__(self, code: int) -> int:
        letter = chr(code)
        digit = unicodedata.decimal(letter, None)
        if digit is not None:
            self[code] = ord("0") + digit
        elif letter in SPACES:
            self[code] = ord(" ")
        elif letter in DASHES:
            self[code] = ord("-")
        else:
            # The full-width forms U+FF01 to U+FF5E stand in the order of ASCII's ! to ~.
            self[code] = code - 0xFEE0 if 0xFF01 <= code <= 0xFF5E else code
        return self[code]


TABLE = _Table()


def plain(text: str) -> tuple[str, list[int] | None]:
    """Returns the text as it is read, and where its characters and its end were in the original.

    The places are None if nothing moved.
    """
    # Most texts end here or at the next return: only the others pay for a list of places.
    if text.isascii():
        return text, None
    if unicodedata.is_normalized("NFC", text) and not any(letter in text for letter in INVISIBLE):
        return text.translate(TABLE), None
    letters: list[str] = []
    starts: list[int] = []
    for start, end in _clusters(text):
        for letter in unicodedata.normalize("NFC", text[start:end]):
            letters.append(letter)
            starts.append(start)
    starts.append(len(text))
    return "".join(letters).translate(TABLE), starts


def _clusters(text: str) -> list[Span]:
    """Returns the places of letters with their accents; what can't be seen is in none."""
    clusters: list[Span] = []
    for place, letter in enumerate(text):
        if letter in INVISIBLE:
            continue
        if clusters and unicodedata.combining(letter):
            start, end = clusters[-1]
            # At most 32 characters, so that a text of accents alone is not one long cluster.
            if end == place and place - start < 32:
                clusters[-1] = start, place + 1
                continue
        clusters.append((place, place + 1))
    return clusters
