"""Multiple choice: 1 where the answer names the right option, by its letter or its text; else 0.

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
from cowest.scorers.normal import normalise

SAID = re.compile(r"\banswer\b(?:\s+choice\b)?(?:\s+is\b)?\s*[:=]?", re.IGNORECASE)
"""What announces an answer: `Answer: B`, `The final answer is (B)`, `Answer choice: B`."""
FIELD = re.compile(
    r'"\w*(?:answer|choice)"\s*:\s*(?P<value>"(?:[^"\\]|\\.)*"|[^\s",}]+)?',
    re.IGNORECASE | re.DOTALL,
)
"""An answer given as JSON, whether the JSON around it is whole or not: `"answer_choice": "B"`. No value: it is cut."""
LETTER = re.compile(
    r"[\s*_(\[]*(?:option\s+)?([A-Za-z])(?P<closed>[*_)\].:,;]+|$|(?=\s))(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
REASON = re.compile(r"\s*(?:because|since|as)\b", re.IGNORECASE)
JOINED = r"\s*(?:,\s*(?:and|or)\b|[,;/&+]|\b(?:and|or)\b)\s*"
MANY = re.compile(rf"[\s*_(\[]*[A-Z](?:{JOINED}[A-Z])+[*_)\].\s]*")
"""Letters and nothing else: `A, B and D`, `A/C`."""
ANOTHER = re.compile(rf"(?:{JOINED}|\.\s+)(?:option\s+)?\(?([A-Z])[.):]\s*\w")
"""An option beside the first: `A. Molars and B. Premolars`."""
SWEEPING = re.compile(r"(?:none|all|both|neither)\b")
"""`D. None of the above` is no D where D is something else."""


class ChoiceConfig(Config):
    """The answer names an option; its letters are A, B, C ... in the order of the query's `choices`."""

    scorer: Literal["choice"] = "choice"

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer."""
        yield Choice()


class Choice:
    """Multiple choice, parsed strictly. A target is an option's text or its letter."""

    name = "choice"

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """0 or 1 for each (query, answer), in order, lazily; a query without choices fails."""
        for query, answer in answers:
            right = rights(query)
            if not right:
                yield Score(
                    None,
                    failed=f"no target of query {query.id} is one of its {len(query.choices)} choices",
                )
                continue
            said = parse(answer, query.choices)
            if isinstance(said, str):
                yield Score(0.0, f"unparseable: {said}")
            else:
                yield Score(float(said in right), f"chose {_letter(said)}")


def rights(query: Query) -> set[int]:
    """The options that a query's targets are; two where the data has a right option twice."""
    return {option for target in query.targets for option in _targets(target, query.choices)}


def parse(answer: str, choices: tuple[str, ...]) -> int | str:
    """Which option an answer names, or why that can't be told.

    A JSON field (`"answer_choice": "B. Paris"`) is the answer where there is one, and nothing around it is read. Otherwise the
    whole answer is an option's text, its letter, or both (`B`, `(b)`, `B. Paris`, `Paris`); or what follows `answer is` or
    `answer:` is, up to the end of its line; or else a line of its own is. A field, and what was announced, may go on after
    the letter (`B. It lies on the Seine`), but not to another option, nor to none or all of them.
    """
    if fields := [found["value"] for found in FIELD.finditer(answer)]:
        named = {
            option for value in fields for option in _options(_text(value), choices, announced=True)
        }
    else:
        lines = answer.strip().splitlines()
        announced = [
            (answer[place.end() :].strip().splitlines() or [""])[0]
            for place in SAID.finditer(answer)
        ]
        named = (
            _options(answer, choices, announced=False)
            or {option for text in announced for option in _options(text, choices, announced=True)}
            or {option for text in lines for option in _options(text, choices, announced=False)}
        )
    if len(named) == 1:
        return named.pop()
    if named:
        return f"names {' and '.join(map(_letter, sorted(named)))}"
    return "is empty" if not answer.strip() else "names no option"


def _text(value: str | None) -> str:
    """What a JSON value says; nothing where it is cut."""
    try:
        return str(json.loads(value or '""', strict=False))
    except ValueError:
        return (value or "").strip('"')


def _options(text: str, choices: tuple[str, ...], announced: bool) -> set[int]:
    """The options that a text may name: by text, by letter. Two where they contradict each other."""
    named = _alike(text, choices)
    if announced and MANY.fullmatch(text):  # but `N/A` names nothing
        letters = re.findall(r"[A-Z]", text)
        several = set(_numbers(letters, choices))
        return named or (several if len(several) == len(set(letters)) else set())
    found = LETTER.fullmatch(text.strip())
    if found is None or not (numbers := _numbers([found[1]], choices)):
        return named
    number, rest = numbers[0], found["rest"].strip()
    also = _alike(rest, choices) if rest else set()
    if number in also:
        return named | {number}
    if not rest or also:
        return named | {number} | also
    if not announced or not (found["closed"].strip("*_") or REASON.match(rest)):
        return named
    if (sweeping := SWEEPING.match(rest.lower())) and not choices[number].lower().startswith(
        sweeping[0]
    ):
        return named
    return named | {number, *_numbers(ANOTHER.findall(rest), choices)}


def _alike(text: str, choices: tuple[str, ...]) -> set[int]:
    """The options with the same words; two where the data has them twice."""
    return {number for number, option in enumerate(choices) if normalise(option) == normalise(text)}


def _numbers(letters: Iterable[str], choices: tuple[str, ...]) -> list[int]:
    """The options of these letters; a letter beyond the last is none."""
    known = ascii_uppercase[: len(choices)]
    return [known.index(letter.upper()) for letter in letters if letter.upper() in known]


def _targets(target: str, choices: tuple[str, ...]) -> set[int]:
    """The options that a target is: by its text first, for it comes from the data, then by its letter."""
    return _alike(target, choices) or (
        set(_numbers([target.strip()], choices)) if len(target.strip()) == 1 else set()
    )


def _letter(option: int) -> str:
    return ascii_uppercase[option] if option < len(ascii_uppercase) else f"option {option + 1}"
