"""Multiple choice: 1 if the answer names the right option, by its letter or its text; else 0.

An answer that names no option, or two, scores 0 and says `unparseable: ...`; nothing is guessed.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from string import ascii_uppercase
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.sametext import normalise

ANNOUNCED = re.compile(r"\banswer\b(?:\s+choice\b)?(?:\s+is\b)?\s*[:=]?", re.IGNORECASE)
"""The words before an answer: `Answer: B`, `The final answer is (B)`, `Answer choice: B`."""
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
JOINED = r"\s*(?:,\s*(?:and|or)\b|[,;/&+]|\b(?:and|or)\b)\s*"
MANY = re.compile(rf"[\s*_(\[]*[A-Z](?:{JOINED}[A-Z])+[*_)\].\s]*")
"""Letters and nothing else: `A, B and D`, `A/C`."""
ANOTHER = re.compile(rf"(?:{JOINED}|\.\s+)(?:option\s+)?\(?([A-Z])[.):]\s*\w")
"""An option beside the first: `A. Molars and B. Premolars`."""
SWEEPING = re.compile(r"(?:none|all|both|neither)\b")
"""Begins the words after the letter in `D. None of the above`: no D, if D is something else."""


class ChoiceConfig(Config):
    """Scores 1 if the answer names the right option, by its text or its letter, and 0 otherwise.

    The letters are A, B, C ... in the order of the query's `choices`.
    """

    scorer: Literal["choice"] = "choice"

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield Choice()


class Choice:
    """Multiple choice, parsed strictly. A target is an option's text or its letter."""

    name = "choice"

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 per (query, answer), in order, lazily; a query without choices fails."""
        for query, answer in answers:
            right = rights(query)
            if not right:
                number = len(query.choices)
                reason = f"no target of query {query.id} is one of its {number} choices"
                yield Score(None, failed=reason)
                continue
            named = parse(answer, query.choices)
            if isinstance(named, str):
                yield Score(0.0, f"unparseable: {named}")
            else:
                yield Score(float(named in right), f"chose {_letter(named)}")


def rights(query: Query) -> set[int]:
    """The options that are right; two if the data has the right option twice."""
    found: set[int] = set()
    for target in query.targets:
        found |= _targets(target, query.choices)
    return found


def parse(answer: str, choices: tuple[str, ...]) -> int | str:
    """The number of the option that an answer names, or the reason why none can be read from it.

    A JSON field (`"answer_choice": "B. Paris"`) is the answer if there is one, and nothing around
    it is read. Otherwise the answer is the first of these that names an option:

    1. the whole text, if it is an option's text, its letter, or both (`Paris`, `(b)`, `B. Paris`);
    2. what follows `answer is` or `answer:`, up to the end of its line;
    3. a line of its own.

    A field, and what was announced, may go on after the letter (`B. It lies on the Seine`), but
    not to another option, nor to none or all of them.
    """
    named = _named(answer, choices)
    if len(named) == 1:
        return named.pop()
    if named:
        return f"names {' and '.join(map(_letter, sorted(named)))}"
    return "names no option" if answer.strip() else "is empty"


def _named(answer: str, choices: tuple[str, ...]) -> set[int]:
    """The options that an answer names; more than one is a contradiction."""
    fields = [_text(found["value"]) for found in FIELD.finditer(answer)]
    if fields:
        return _any_of(fields, choices, announced=True)
    whole = _options(answer, choices, announced=False)
    if whole:
        return whole
    announced = []
    for place in ANNOUNCED.finditer(answer):
        lines = answer[place.end() :].strip().splitlines()
        announced.append(lines[0] if lines else "")
    return _any_of(announced, choices, announced=True) or _any_of(
        answer.strip().splitlines(), choices, announced=False
    )


def _any_of(texts: Iterable[str], choices: tuple[str, ...], announced: bool) -> set[int]:
    """The options that any of the texts names."""
    found: set[int] = set()
    for text in texts:
        found |= _options(text, choices, announced)
    return found


def _text(value: str | None) -> str:
    """The text of a JSON value; empty if it is cut."""
    try:
        return str(json.loads(value or '""', strict=False))
    except ValueError:
        return (value or "").strip('"')


def _options(text: str, choices: tuple[str, ...], announced: bool) -> set[int]:
    """The options that a text names by its words or by a letter; two if they contradict each other.

    `announced`: the text follows `answer is` or stands in a field, so more may follow the letter.
    """
    named = _alike(text, choices)
    if announced and MANY.fullmatch(text):
        if named:
            return named
        # Letters alone are options only if all of them are: `N/A` names nothing.
        letters = set(re.findall(r"[A-Z]", text))
        several = set(_numbers(letters, choices))
        return several if len(several) == len(letters) else set()
    found = LETTER.fullmatch(text.strip())
    numbers = _numbers([found[1]], choices) if found else []
    if found is None or not numbers:
        return named
    number, rest = numbers[0], found["rest"].strip()
    also = _alike(rest, choices) if rest else set()
    # `B. London`, where B is London: letter and text agree, even if another option is London too.
    if number in also:
        return named | {number}
    # `B`, or `B. Paris` where B is London, which names two options.
    if not rest or also:
        return named | {number} | also
    # From here on, the letter is followed by other words. `A city` is no answer, and neither is a
    # letter in the middle of a thought: only an announced letter may go on, after a mark or reason.
    if not announced or not (found["closed"].strip("*_") or REASON.match(rest)):
        return named
    sweeping = SWEEPING.match(rest.lower())
    if sweeping and not choices[number].lower().startswith(sweeping[0]):
        return named
    return named | {number, *_numbers(ANOTHER.findall(rest), choices)}


def _alike(text: str, choices: tuple[str, ...]) -> set[int]:
    """The options with the same words; two if the data has them twice."""
    words = normalise(text)
    return {number for number, option in enumerate(choices) if normalise(option) == words}


def _numbers(letters: Iterable[str], choices: tuple[str, ...]) -> list[int]:
    """The options of these letters; a letter beyond the last is none."""
    known = ascii_uppercase[: len(choices)]
    return [known.index(letter.upper()) for letter in letters if letter.upper() in known]


def _targets(target: str, choices: tuple[str, ...]) -> set[int]:
    """The options that a target is: by text first, for it comes from the data, else by letter."""
    alike = _alike(target, choices)
    letter = target.strip()
    if not alike and len(letter) == 1:
        return set(_numbers([letter], choices))
    return alike


def _letter(option: int) -> str:
    if option < len(ascii_uppercase):
        return ascii_uppercase[option]
    return f"option {option + 1}"
