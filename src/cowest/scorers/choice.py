"""Multiple choice: 1 if the answer names the right option, by its letter or its text; else 0.

An answer that names no option, or two, scores 0 and says `unparseable: ...`; nothing is guessed.
"""

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
from cowest.scorers.rests import DENIED, FIELD, Rests, Tiling, value_of
from cowest.scorers.rules import RuleNumber, named, remind

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
BEGINNING = 200
"""Letters of a long text that are folded first, beside twice those of the longest option."""
EDGE = 20
"""Letters that the form of a beginning may have too many because it was cut, and more."""
FOLDED = re.compile(r"[\W_]+|\b(?:an?|the)\b", re.IGNORECASE)
"""All that a form may take out of a text in ASCII."""


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
        self._longest = max(longest for _, _, longest in self._known)
        # What was read last: a line that announces again and again is read from each of its places.
        self._rests: Rests | None = None
        self._another = Tiling(ANOTHER, "", self._of_letter)
        self._denials = Tiling(DENIED, "", self._of_letter)
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
            found = self._settled(visible(answer))
        if found is None:
            return "takes back what it said"
        if len(found) == 1:
            return min(found)
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
            said = value_of(field, self._rule)
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
        return self._rests_of(answer).named(0)

    def _of_field(self, value: str) -> set[int]:
        return self.options_in(value, announced=True)

    def _said_after(self, text: str, at: int) -> set[int]:
        """The options that a text names right after a correction, from a place on."""
        return self._rests_of(text).named_first(at)

    def _rests_of(self, text: str) -> Rests:
        if self._rests is None or self._rests.text != text:
            self._rests = Rests(text, self._rule, self.options_in, self._denied)
        return self._rests

    def _denied(self, text: str) -> set[int]:
        """The options that an announcement denies."""
        # What only goes on to a denial, as a reason may, takes nothing back.
        if not DENIED.match(text):
            return set()
        if not self._denials.text.endswith(text):
            self._denials = Tiling(DENIED, text, self._of_letter)
        return self._denials.options(len(self._denials.text) - len(text))

    def _beside(self, text: str, rest: str) -> set[int]:
        """The options that a text names in its rest, beside its first."""
        # The underline of `B_and C. Rome` is no part of a word.
        if text.removesuffix(rest).endswith("_"):
            return set(self._numbers(ANOTHER.findall(rest)))
        if not self._another.text.endswith(text):
            self._another = Tiling(ANOTHER, text, self._of_letter)
        return self._another.options(len(self._another.text) - len(rest))

    def _of_letter(self, place: re.Match[str]) -> set[int]:
        return set(self._numbers([place[1]]))

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
        return named | {number} | self._beside(text.strip(), rest)

    def _alike(self, text: str) -> set[int]:
        """The options with the same words; two if the data has them twice."""
        # A form keeps all letters of a text but articles. So a text whose beginning has more than
        # any option is none, and need not be folded whole: a line that announces the answer many
        # times is read from each of its places on.
        beginning = text[: 2 * self._longest + BEGINNING]
        is_cut = len(beginning) < len(text)
        if is_cut and beginning.isascii() and _kept(beginning) > self._longest + EDGE:
            return set()
        for form, options, longest in self._known:
            length = 2 * longest + BEGINNING
            while length < len(text) and _letters(form(text[:length])) <= longest + EDGE:
                length *= 2
            if length < len(text):
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


def _kept(text: str) -> int:
    """The number of letters that every form of a text in ASCII keeps."""
    return len(FOLDED.sub("", text))


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def _letter(option: int) -> str:
    if option < len(ascii_uppercase):
        return ascii_uppercase[option]
    return f"option {option + 1}"
