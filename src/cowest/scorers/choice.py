"""Multiple choice: 1 if the answer names the right option, by its letter or its text; else 0.

An answer that names no option, or two, scores 0 and says `unparseable: ...`; nothing is guessed.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from string import ascii_uppercase
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.sametext import comparable, normalise, spaced, unadorned, visible
from cowest.scorers import rules
from cowest.scorers.corrections import corrected
from cowest.scorers.rules import RuleNumber, named, remind

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
LETTER = re.compile(
    r"[\s*_(\[]*(?:option\s+)?([A-Za-z])(?P<closed>[*_)\].:,;]+|$|(?=\s))(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
"""A letter, the marks that close it (`closed`), and what the answer goes on with (`rest`)."""
REASON = re.compile(r"\s*(?:because|since|as)\b", re.IGNORECASE)
"""The beginning of a reason for the letter before it."""
JOINED = r"(?:,\s*(?:and|or)\b|[,;/&+]|\b(?:and|or)\b)\s*"
MANY = re.compile(rf"[\s*_(\[]*[A-Z](?:\s*{JOINED}[A-Z])+[*_)\].\s]*")
"""Letters and nothing else: `A, B and D`, `A/C`."""
ANOTHER = re.compile(rf"(?:{JOINED}|\.\s+)(?:option\s+)?\(?([A-Z])[.):]\s*\w")
"""An option beside the first: `A. Molars and B. Premolars`."""
SWEEPING = re.compile(r"(?:none|all|both|neither)\b")
"""Begins the words after the letter in `D. None of the above`: no D, if D is something else."""
NEXT_LINE = re.compile(r"\s*([^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*)")
"""The next line that says something, as `str.splitlines` parts lines."""
BEGINNING = 200
"""Letters of a long text that are folded first, beside twice those of the longest option."""
EDGE = 20
"""Letters that the form of a beginning may have too many because it was cut, and more."""


def _as_written(text: str) -> str:
    return spaced(visible(text))


def _in_its_case(text: str) -> str:
    return unadorned(visible(text))


FORMS: dict[RuleNumber, tuple[Callable[[str], str], ...]] = {
    1: (normalise,),
    2: (_as_written, _in_its_case, comparable),
    3: (_as_written, _in_its_case, comparable),
}
"""By rule, the forms in which an option is looked for, until one is found. Rule 2 tells `< 5` from
`> 5`, and `CO` from `Co`."""


class ChoiceConfig(Config):
    """Scores 1 if the answer names the right option, by its text or its letter, and 0 otherwise.

    The letters are A, B, C ... in the order of the query's `choices`.
    """

    scorer: Literal["choice"] = "choice"
    rule: RuleNumber = 1
    """Rule by which answers are read. 2 follows corrections (`Answer: B, no wait, C`), tells
    options that differ in case apart, and folds forms of letters and letters that can't be seen; 3
    also reads `**Answer**: B`; 1 is the rule before, and the default for one release."""

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        remind(self.scorer, self.rule)
        yield Choice(self.rule)


class Choice:
    """Multiple choice, parsed strictly. A target is an option's text or its letter."""

    def __init__(self, rule: RuleNumber = 1) -> None:
        self.name = named("choice", rule)
        self._rule = rule

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 per (query, answer), in order, lazily; a query without choices fails."""
        for query, answer in answers:
            right = rights(query, self._rule)
            if not right:
                number = len(query.choices)
                reason = f"no target of query {query.id} is one of its {number} choices"
                yield Score(None, failed=reason)
                continue
            found = parse(answer, query.choices, self._rule)
            if isinstance(found, str):
                yield Score(0.0, f"unparseable: {found}")
            else:
                yield Score(float(found in right), f"chose {_letter(found)}")


def rule_of(scorer: str) -> RuleNumber | None:
    """The rule of a scorer by its name in rows; None if it is not `choice`."""
    return rules.rule_of(scorer, "choice")


def rights(query: Query, rule: RuleNumber = 1) -> set[int]:
    """The options that are right; two if the data has the right option twice."""
    reading = ChoiceReading(query.choices, rule)
    found: set[int] = set()
    for target in query.targets:
        found |= reading.target(target)
    return found


def parse(answer: str, choices: tuple[str, ...], rule: RuleNumber = 1) -> int | str:
    """The number of the option that an answer names, or the reason why none can be read from it.

    A JSON field (`"answer_choice": "B. Paris"`) is the answer if there is one, and nothing before
    it is read. Otherwise the answer is the first of these that names an option:

    1. the whole text, if it is an option's text, its letter, or both (`Paris`, `(b)`, `B. Paris`);
    2. what follows `answer is` or `answer:`, up to the end of its line;
    3. a line of its own.

    A field, and what was announced, may go on after the letter (`B. It lies on the Seine`), but
    not to another option, nor to none or all of them. Of several announcements the last counts. An
    answer that takes back what it said (`B, no wait, C`) is what it says after that, or nothing.
    """
    return ChoiceReading(choices, rule).parse(answer)


class ChoiceReading:
    """Reads answers to one multiple choice.

    A set of options that an answer names is empty if it names none, and has more than one option if
    it contradicts itself.
    """

    def __init__(self, choices: tuple[str, ...], rule: RuleNumber) -> None:
        self._choices, self._rule = choices, rule
        self._known = []
        for form in FORMS[rule]:
            options = [form(option) for option in choices]
            self._known.append((form, options, max(map(len, options), default=0)))
        self._read: dict[tuple[str, bool], set[int]] = {}
        self._answer = ""
        # What announcements in the answer name and deny, by the letters that stand after them.
        self._after: dict[int, tuple[set[int], set[int]]] = {}
        # Letters that are options themselves.
        self._letters: set[str] = set()
        for option in choices:
            own = LETTER.fullmatch(visible(option).strip())
            if own is not None and not own["rest"].strip():
                self._letters.add(own[1].upper())

    def parse(self, answer: str) -> int | str:
        """The number of the option that an answer names, or the reason why there is none."""
        if self._rule == 1:
            found: set[int] | None = self._named(answer)
        else:
            self._answer, self._after = visible(answer), {}
            found = self._settled(self._answer)
        if found is None:
            return "takes back what it said"
        if len(found) == 1:
            return found.pop()
        if found:
            return f"names {' and '.join(map(_letter, sorted(found)))}"
        return "names no option" if answer.strip() else "is empty"

    def target(self, target: str) -> set[int]:
        """The options that a target is: by text first, as data have them, else by letter."""
        alike = self._alike(target)
        letter = target.strip()
        if not alike and len(letter) == 1:
            return set(self._numbers([letter]))
        return alike

    def _settled(self, answer: str) -> set[int] | None:
        """The options that an answer names in the end; None if it only takes back what it said."""
        fields = list(FIELD.finditer(answer))
        if not fields:
            return corrected(answer, self._named, self._said_after)
        found: set[int] = set()
        for field in fields:
            said = _text(field["value"], self._rule)
            value = corrected(said, self._of_field, self._said_after)
            if value is None:
                return None
            found |= value

        # What follows the JSON may still take its answer back; nothing else around it is read.
        def read(_: str) -> set[int]:
            return found

        return corrected(answer[fields[-1].end() :], read, self._said_after)

    def _named(self, answer: str) -> set[int]:
        """The options that an answer names."""
        fields = [_text(found["value"], self._rule) for found in FIELD.finditer(answer)]
        if fields:
            return self._any_of(fields, announced=True)
        whole = self.options_in(answer, announced=False)
        if whole:
            return whole
        return self._announced(answer) or self._any_of(answer.strip().splitlines(), announced=False)

    def _of_field(self, value: str) -> set[int]:
        return self.options_in(value, announced=True)

    def _said_after(self, correction: str) -> set[int]:
        """The options that a text names right after a correction: `C`, or as any answer does."""
        lines = correction.splitlines()
        return self.options_in(lines[0] if lines else "", announced=True) or self._named(correction)

    def _announced(self, answer: str) -> set[int]:
        """The options that are announced."""
        every: set[int] = set()
        firm: set[int] = set()
        last: set[int] = set()
        denied: set[int] = set()
        # Each `Actually, ...` has the rest of the answer read, with the announcements in it.
        read = self._after if self._answer.endswith(answer) else {}
        for place in (IN_MARKDOWN if self._rule == 3 else ANNOUNCED).finditer(answer):
            left = len(answer) - place.end()
            if left not in read:
                read[left] = self._announcement(answer, place.end())
            found, not_these = read[left]
            every |= found
            if place["firm"].lstrip("*_").strip():
                firm |= found
                last = found or last
                denied |= not_these
        if self._rule == 1:
            return every
        # The last announcement counts, if it is beyond doubt which texts are announcements.
        return (last if every == firm else every) - denied

    def _announcement(self, answer: str, at: int) -> tuple[set[int], set[int]]:
        """The options that the line at a place names, and those that it denies."""
        line = NEXT_LINE.match(answer, at)
        text = line[1] if line else ""
        denied: set[int] = set()
        # What only goes on to a denial, as a reason may, takes nothing back.
        if DENIED.match(text):
            denied = set(self._numbers(DENIED.findall(text)))
        return self.options_in(text, announced=True), denied

    def _any_of(self, texts: Iterable[str], announced: bool) -> set[int]:
        """The options that any of the texts names."""
        found: set[int] = set()
        for text in texts:
            # Each `Actually, ...` of an answer has all lines after it read again.
            if (text, announced) not in self._read:
                self._read[text, announced] = self.options_in(text, announced)
            found |= self._read[text, announced]
        return found

    def options_in(self, text: str, announced: bool) -> set[int]:
        """The options that a text names by its words or by a letter.

        `announced`: the text follows `answer is` or stands in a field, so more may follow the
        letter.
        """
        named = self._alike(text)
        if announced and MANY.fullmatch(text):
            if named:
                return named
            # Letters alone are options only if all of them are: `N/A` names nothing.
            letters = set(re.findall(r"[A-Z]", text))
            several = set(self._numbers(letters))
            return several if len(several) == len(letters) else set()
        found = LETTER.fullmatch(text.strip())
        numbers = self._numbers([found[1]]) if found else []
        if found is None or not numbers:
            return named
        number, rest = numbers[0], found["rest"].strip()
        # `A` alone is the letter, though the option `A-` is an A too without its sign.
        if self._rule != 1 and not rest and found[1].upper() not in self._letters:
            return {number}
        also = self._alike(rest) if rest else set()
        # `B. London`, where B is London: letter and text agree, even if another option is London.
        if number in also:
            return named | {number}
        # `B`, or `B. Paris` where B is London, which names two options.
        if not rest or also:
            return named | {number} | also
        # From here on, the letter is followed by other words. `A city` is no answer, and neither is
        # a letter in the middle of a thought: only an announced letter may go on, after a mark or a
        # reason.
        if not announced or not (found["closed"].strip("*_") or REASON.match(rest)):
            return named
        sweeping = SWEEPING.match(rest.lower())
        if sweeping and not self._choices[number].lower().startswith(sweeping[0]):
            return named
        return named | {number, *self._numbers(ANOTHER.findall(rest))}

    def _alike(self, text: str) -> set[int]:
        """The options with the same words; two if the data has them twice."""
        for form, options, longest in self._known:
            # A form keeps all letters of a text but articles. So a text whose beginning has more
            # than any option is none, and need not be folded whole: a line that announces the
            # answer many times is read from each of its places on.
            beginning = text[: 2 * longest + BEGINNING]
            if len(beginning) < len(text) and _letters(form(beginning)) > longest + EDGE:
                continue
            said = form(text)
            found = {number for number, option in enumerate(options) if option == said}
            if found:
                return found
        return set()

    def _numbers(self, letters: Iterable[str]) -> list[int]:
        """The options of these letters; a letter beyond the last is none."""
        known = ascii_uppercase[: len(self._choices)]
        return [known.index(letter.upper()) for letter in letters if letter.upper() in known]


def _text(value: str | None, rule: RuleNumber) -> str:
    """The text of a JSON value; empty if it is cut, or null."""
    if value is None or value == "null":
        return ""
    # Rules 1 and 2 read a number as Python writes it: 0.50 is 0.5.
    if rule == 3 and not value.startswith('"'):
        return value
    try:
        return str(json.loads(value, strict=False))
    except (ValueError, RecursionError):
        # A thousand brackets, one in another, are more than Python reads.
        return value.strip('"')


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def _letter(option: int) -> str:
    if option < len(ascii_uppercase):
        return ascii_uppercase[option]
    return f"option {option + 1}"
