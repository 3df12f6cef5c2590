"""Reads lists and objects that a program wrote into one text, as in a cell of CSV.

    ['Arlen', 'the town of Arlen']                      Python, and JSON with double quotes
    ['Arlen' 'the town of Arlen']                       NumPy writes no commas
    {'text': array(['Arlen'], dtype=object), 'n': 3}    pandas
    c("Arlen", "the town of Arlen")                     R

Sets and tuples of quoted texts are lists too. Only a text that is such a value from end to end is
read: everything else stays the text that it is.
"""

import html
import re
import struct
from collections.abc import Iterator
from typing import Any

DEPTH = 6
"""Lists and objects inside each other, at most: no table's cell has more."""
LONGEST = 2**20
"""Characters of a text that is looked at, at most."""
TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<open>(?:np\.|numpy\.)?array\s*\(|c\s*\(|[\[({])|(?P<close>[\])}])"
    r"|(?P<mark>[,:])"
    r"|(?P<text>(?<![\w'\"])(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"))"
    r"|(?P<number>(?<![\w.'\"])[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?(?![\w.]))"
    r"|(?P<word>dtype\s*=\s*(?:'[^']*'|[\w.<>|]+)|[A-Za-z_]\w*)"
    r")",
    re.DOTALL,
)
BEGINS = ("[", "{", "(", "array", "np.array", "numpy.array", "c(")
ENDS = {"[": "]", "{": "}", "(": ")"}
WORDS = {"None": None, "null": None, "nan": None, "NaN": None, "NA": None}
TRUTHS = {"True": True, "true": True, "False": False, "false": False}
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}


PARTS = {"|": 40, ";": 4}
"""Marks that part several answers in one text, each with the most words of an answer."""
EXPONENT = re.compile(r"[-+]?\d+(?:[.,]\d+)?[eE][-+]\d{1,3}")
"""A number as programs write very small and very large ones: `1.2e-05`, `1.2E+17`."""
LETTER = re.compile(r"\w")
WIDENED = re.compile(r"[-+]?\d+\.\d+")
DIGITS = 15
"""Characters, at least, that a 32-bit number has when it is written with the digits of 64 bits."""
MIDNIGHT = re.compile(r"\d{4}-\d\d-\d\d[ T]00:00(?::00(?:\.0+)?)?(?:Z|[+-]\d\d:?\d\d)?")


class _NotWritten(Exception):
    """Says that a text is no list or object."""


def value_of(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or object that a text is; None if it is neither."""
    text = text.strip()
    if not text.startswith(BEGINS) or len(text) > LONGEST or text[-1] not in "])}":
        return None
    try:
        tokens = _Tokens(text)
        found = _value(tokens, 0)
    except _NotWritten:
        return None
    if tokens.kind is not None or not isinstance(found, list | dict):
        return None
    return found


def oddity(text: str) -> str | None:
    """What a program made of a number or a day, that hardly an answer will say; None for nothing.

    Texts stay what they are, so that this can only be said.
    """
    text = text.strip()
    if not text[:2].strip("+-")[:1].isdigit():
        return None
    if EXPONENT.fullmatch(text):
        return "is a number with an exponent, as a program writes it: write it out, as in 0.000012"
    if MIDNIGHT.fullmatch(text):
        return "is a time stamp at midnight: take the time off if a day is meant"
    if WIDENED.fullmatch(text) and len(text) >= DIGITS and _has_32_bits(float(text)):
        return (
            "is a number of 32 bits that was written with all digits of 64: round it, as "
            "0.10000000149011612 to 0.1"
        )
    return None


def parted_by(text: str) -> str | None:
    """The mark that seems to part several answers: `Oslo|Kristiania`; None for no such text."""
    for mark, most in PARTS.items():
        # `&amp;` ends with a mark that parts nothing.
        parts = html.unescape(text).split(mark) if mark in text else []
        if len(parts) > 1 and all(
            len(part.split()) <= most and LETTER.search(part) for part in parts
        ):
            return mark
    return None


def _has_32_bits(value: float) -> bool:
    """True if a number loses nothing in 32 bits, and does not end there after a few digits."""
    try:
        kept = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return False
    return bool(kept == value) and len(repr(value).strip("-0.")) >= DIGITS


def are_quoted(entries: list[Any]) -> bool:
    """True if all entries are texts that were in quotes, and there is one."""
    return bool(entries) and all(isinstance(entry, str) for entry in entries)


class _Tokens:
    """The parts of a text, of which the first that was not taken yet is in sight."""

    def __init__(self, text: str) -> None:
        self.kind: str | None = None
        """`open`, `close`, `mark`, `text`, `number` or `word`; None at the end of the text."""
        self.said = ""
        self._found = self._all(text)
        self.go_on()

    def go_on(self) -> None:
        """Takes the part in sight. Raises _NotWritten if what follows is none."""
        self.kind, self.said = next(self._found, (None, ""))

    @staticmethod
    def _all(text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(text):
            found = TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise _NotWritten
            yield found.lastgroup, found[found.lastgroup]
            at = found.end()


def _value(tokens: _Tokens, depth: int) -> Any:
    kind, said = tokens.kind, tokens.said
    if kind == "open" and depth < DEPTH:
        return _gathered(tokens, said, depth)
    tokens.go_on()
    if kind == "text":
        text = ESCAPE.sub(_unescaped, said[1:-1])
        # JSON writes a character beyond the first 65,536 as two halves.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if kind == "number":
        return _number(said)
    if kind == "word" and said in WORDS:
        return WORDS[said]
    if kind == "word" and said in TRUTHS:
        return TRUTHS[said]
    raise _NotWritten


def _gathered(tokens: _Tokens, opened: str, depth: int) -> Any:
    """What stands between brackets: an object, or a list."""
    end = ENDS[opened[-1]]
    tokens.go_on()
    entries: list[Any] = []
    keys: list[Any] = []
    commas = 0
    while tokens.said != end or tokens.kind != "close":
        if tokens.kind == "word" and tokens.said.startswith("dtype"):
            # The kind of an array, its last argument, says nothing of what is in it.
            tokens.go_on()
            continue
        entries.append(_value(tokens, depth + 1))
        if opened == "{" and (tokens.kind, tokens.said) == ("mark", ":"):
            tokens.go_on()
            keys.append(entries.pop())
            entries.append(_value(tokens, depth + 1))
        if (tokens.kind, tokens.said) == ("mark", ","):
            commas += 1
            tokens.go_on()
    tokens.go_on()
    if keys:
        if len(keys) != len(entries) or not all(isinstance(key, str) for key in keys):
            raise _NotWritten
        return dict(zip(keys, entries, strict=True))
    return _list(opened, entries, commas)


def _list(opened: str, entries: list[Any], commas: int) -> Any:
    if opened == "[":
        return entries
    if opened.rstrip("( \t").endswith("array"):
        # An array is a call whose argument is the list.
        if len(entries) != 1 or not isinstance(entries[0], list):
            raise _NotWritten
        return entries[0]
    # Round and curly brackets stand in prose and in mathematics too: texts in quotes alone count,
    # and a tuple has a comma.
    if not are_quoted(entries) or (opened == "(" and not commas):
        raise _NotWritten
    return entries


def _number(said: str) -> int | float:
    try:
        return int(said)
    except ValueError:
        return float(said)


def _unescaped(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if digits is None:
        return ESCAPED.get(found[4], found[4])
    try:
        return chr(int(digits, 16))
    except (ValueError, OverflowError):
        raise _NotWritten from None
