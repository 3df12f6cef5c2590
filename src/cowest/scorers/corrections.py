"""Corrections within an answer: `B, no wait, C`. Pure.

A plain correction takes back what stands before it, whatever follows. After `actually` and others
that explanations use too, an answer is corrected only if another one follows.
"""

import re
from collections.abc import Callable, Iterator, Sequence

BOUNDARY = r"(?<!\s)(?:^|(?<=[.,;:!?\"'(\[)}\u2013\u2014\u2026-])|[^\S\n]*+\n)\s*+"
"""The beginning of a text, a mark or a line's end, with the white space after it. None begins
within white space: a long run, read from each of its places, would take quadratic time."""
PLAIN = re.compile(
    rf"{BOUNDARY}(?:(?:oh|but|ah|uh|um|er)[\s,]+)?(?:"
    r"no,?\s+wait\b|correction\b(?=\s*[,:\u2013\u2014-])"
    r"|wait\b(?=\s*[,.:!\u2013\u2014\u2026-]|\s+(?:no|actually|that|it|i|the)\b|\s*$))"
    r"|\b(?:scratch\s+that|on\s+second\s+thoughts?|i\s+take\s+(?:that|it)\s+back|my\s+mistake"
    r"|i\s+(?:made|have\s+made)\s+(?:a\s+mistake|an\s+error)|(?:i\s+was|i'?m|i\s+am)\s+wrong\b"
    r"|let\s+me\s+(?:correct|reconsider|rethink|re-?evaluate|revise)\b)",
    re.IGNORECASE,
)
"""Words that take back what stands before them."""
SOFT = re.compile(
    rf"{BOUNDARY}(?:actually\b|or\s+rather\b|no\s*(?=[,;\u2013\u2014])|h+mm*\b|i\s+meant?\b"
    r"|sorry\b(?=\s*[,:\u2013\u2014-]))",
    re.IGNORECASE,
)
"""Words that do if another answer follows."""
MARKS = re.compile(r"[\s,.;:!\u2013\u2014\u2026-]*")
WORDS = re.compile(r"(?:(?:no|actually|rather|sorry|so|and)[\s,.]+)*", re.IGNORECASE)
LEAD_IN = re.compile(
    r"(?:(?:it|that|this)(?:'s|\u2019s|\s+is|\s+should\s+be|\s+must\s+be|\s+would\s+be)\s+"
    r"|(?:make|call)\s+(?:it|that)\s+|i\s+(?:mean|meant|choose|say|pick)\s+)?",
    re.IGNORECASE,
)
"""Words between a correction, with its `MARKS` and more such `WORDS`, and the new answer: `it's C`,
`make that C`."""


def corrected(
    text: str, read: Callable[[str], set[int]], read_after: Callable[[str, int], set[int]]
) -> set[int] | None:
    """The options that a text names in the end, or None if it only takes back those it named.

    `read` reads a text, and `read_after` a text from the place on that follows a correction.
    """
    plain = list(PLAIN.finditer(text))
    if plain:
        (rest,) = _rests(text, plain[-1:])
        after = read_after(text[rest:], 0)
        if after:
            return after
        return None if read(text[: plain[-1].start()]) else read(text)
    for rest in _rests(text, list(SOFT.finditer(text))):
        after = read_after(text, rest)
        if after:
            return after
    return read(text)


def _rests(text: str, places: Sequence[re.Match[str]]) -> Iterator[int]:
    """Yields the places after corrections where their new answers begin, from the last one on."""
    known = ends = len(text)
    for place in reversed(places):
        begins = _end(MARKS, text, place.end(), len(text))
        # `No, no, no` is not read to its end from each of its words.
        words = _end(WORDS, text, begins, known)
        if words < known:
            ends = words
        known = begins
        yield _end(LEAD_IN, text, ends, len(text))


def _end(pattern: re.Pattern[str], text: str, at: int, before: int) -> int:
    found = pattern.match(text, at, before)
    return found.end() if found else at
