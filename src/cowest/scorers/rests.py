"""The rest of an answer from a place on, read for the options that it names. Pure.

A model that repeats itself corrects itself a thousand times, and each time the rest of its answer
counts. So fields, announcements and lines are read once, and summed up from the end.
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from cowest.scorers.rules import RuleNumber

ANNOUNCED = re.compile(r"\banswer\b(?:\s+choice\b)?(?P<firm>(?:\s+is\b)?\s*[:=]?)", re.IGNORECASE)
"""The words before an answer: `Answer: B`, `The final answer is (B)`, `Answer choice: B`. `firm` is
empty where `answer` is a word as any other."""
IN_MARKDOWN = re.compile(
    r"(?<![^\W_])answer(?![^\W_])(?:\s+choice(?![^\W_]))?"
    r"(?P<firm>[*_]{0,3}(?:\s+is\b)?\s*[:=]?)",
    re.IGNORECASE,
)
"""The same words as rule 3 reads them: `**Answer**: B` too."""
DENIED = re.compile(
    r"(?i:(?:[a-z]{2,20}\s+){0,2}?not\s+(?:option\s+)?)"
    r"\(?([A-Zb-z]\b|a(?=\s*(?:[*_)\].:,;]|$))|(?<=(?i:option)\s)a\b)"
)
"""`The answer is not B`, or `is surely not B`. The small `a` of `is not a river` is an article: it
is a letter before a mark, and after `option`."""
FIELD = re.compile(
    r'"\w*(?:answer|choice)"\s*:\s*(?P<value>"(?:[^"\\]|\\.)*"|[^\s",}]+)?',
    re.IGNORECASE | re.DOTALL,
)
"""An answer given as JSON, such as `"answer_choice": "B"`, even if the JSON around it is broken. If
the answer was cut before its value, `value` is None."""
SPACE = re.compile(r"\s*")

Options = set[int]


class Tiling:
    """Matches of a pattern one after another, from any place of a text on; each is read once."""

    def __init__(
        self, pattern: re.Pattern[str], text: str, read: Callable[[re.Match[str]], Options]
    ) -> None:
        self.text = text
        # From another place on others match, so those that overlap are looked for, too.
        places: list[re.Match[str]] = []
        place = pattern.search(text)
        while place is not None:
            places.append(place)
            place = pattern.search(text, place.start() + 1)
        self._starts = [place.start() for place in places]
        self._sums: list[Options] = [set() for _ in range(len(places) + 1)]
        for number in reversed(range(len(places))):
            after = self._sums[bisect_left(self._starts, places[number].end())]
            self._sums[number] = read(places[number]) | after

    def begins(self, at: int) -> bool:
        """True if there is a match from a place on."""
        return bisect_left(self._starts, at) < len(self._starts)

    def options(self, at: int) -> Options:
        """The options of all matches from a place on."""
        return self._sums[bisect_left(self._starts, at)]


@dataclass(frozen=True, slots=True)
class _Announced:
    """Options that announcements name, from one of them to the text's end."""

    every: Options
    firm: Options
    last: Options
    """Those of the last firm one that names any."""
    denied: Options

    def before(self, others: "_Announced") -> "_Announced":
        """The options of this announcement and of those after it."""
        return _Announced(
            self.every | others.every,
            self.firm | others.firm,
            others.last or self.last,
            self.denied | others.denied,
        )


NOTHING = _Announced(set(), set(), set(), set())


class Rests:
    """A text, read from any of its places to its end.

    `options` reads a text, and is told whether it was announced; `denied` reads what an
    announcement denies.
    """

    def __init__(
        self,
        text: str,
        rule: RuleNumber,
        options: Callable[[str, bool], Options],
        denied: Callable[[str], Options],
    ) -> None:
        self.text, self._rule = text, rule
        self._options, self._denied = options, denied

    def named(self, at: int) -> Options:
        """The options that the rest from a place on names."""
        if self._fields.begins(at):
            return self._fields.options(at)
        whole = self._options(self.text[at:], False)
        return whole or self._announced(at) or self._in_lines(at)

    def named_first(self, at: int) -> Options:
        """The same, where the rest stands after a correction: `C`, or as any answer does."""
        return self._options(self._line(at), True) or self.named(at)

    @cached_property
    def _fields(self) -> Tiling:
        def read(field: re.Match[str]) -> Options:
            return self._options(value_of(field, self._rule), True)

        return Tiling(FIELD, self.text, read)

    def _announced(self, at: int) -> Options:
        starts, sums = self._announcements
        found = sums[bisect_left(starts, at)]
        if self._rule == 1:
            return found.every
        # The last announcement counts, if it is beyond doubt which texts are announcements.
        return (found.last if found.every == found.firm else found.every) - found.denied

    @cached_property
    def _announcements(self) -> tuple[list[int], list[_Announced]]:
        """The places of announcements, and what they name from each of them on."""
        places = list((IN_MARKDOWN if self._rule == 3 else ANNOUNCED).finditer(self.text))
        found: list[_Announced] = []
        for place in places:
            text = self._line(self._after_space(place.end()))
            options = self._options(text, True)
            if place["firm"].lstrip("*_").strip():
                found.append(_Announced(options, options, options, self._denied(text)))
            else:
                found.append(_Announced(options, set(), set(), set()))
        sums = [NOTHING]
        for one in reversed(found):
            sums.append(one.before(sums[-1]))
        return [place.start() for place in places], sums[::-1]

    def _in_lines(self, at: int) -> Options:
        """The options that any line of the rest names."""
        begins = self._after_space(at)
        number = bisect_right(self._starts, begins)
        return self._options(self._line(begins), False) | self._of_lines[number]

    @cached_property
    def _of_lines(self) -> list[Options]:
        """The options that the lines from each on name."""
        end = len(self.text.rstrip())
        read: dict[str, Options] = {}
        sums: list[Options] = [set()]
        for line, start in zip(reversed(self._lines), reversed(self._starts), strict=True):
            if line not in read:
                read[line] = self._options(line, False)
            sums.append(sums[-1] | read[line] if start < end else set())
        return sums[::-1]

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def _starts(self) -> list[int]:
        """The places where lines begin."""
        lengths = map(len, self.text.splitlines(keepends=True))
        return list(accumulate(lengths, initial=0))[:-1]

    def _line(self, at: int) -> str:
        """The rest of the line at a place."""
        number = bisect_right(self._starts, at) - 1
        return self._lines[number][at - self._starts[number] :] if self._starts else ""

    def _after_space(self, at: int) -> int:
        space = SPACE.match(self.text, at)
        return space.end() if space else at


def value_of(field: re.Match[str], rule: RuleNumber) -> str:
    """The text of a field's JSON value; empty if it is cut, or null."""
    value = field["value"]
    if value is None or value == "null":
        return ""
    # Rules 1 and 2 read a number as Python writes it: 0.50 is 0.5.
    if rule == 3 and not value.startswith('"'):
        return str(value)
    try:
        return str(json.loads(value, strict=False))
    except (ValueError, RecursionError):
        # A thousand brackets, one in another, are more than Python reads.
        return value.strip('"')
