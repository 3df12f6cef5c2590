"""Multiple choice: 1 where the answer names the right option, by its letter or its text; else 0.

An answer that names no option, or two, scores 0 and says `unparseable: ...`; nothing is guessed.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from string import ascii_uppercase
from typing import Literal

from cowest.config import Config
from cowest.protocols import Score, Scorer
from cowest.records import Query
from cowest.scorers.normal import normalise

SAID = re.compile(r"\banswer\b(?:\s+is\b)?\s*[:=]?", re.IGNORECASE)
"""What announces an answer: `Answer: B`, `The final answer is (B)`."""
LETTER = re.compile(r"[\s*_(\[]*(?:option\s+)?([A-Za-z])(?P<closed>[*_)\].:,;]+|$|(?=\s))(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
REASON = re.compile(r"\s*(?:because|since|as)\b", re.IGNORECASE)


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
            right = {option for target in query.targets if (option := _target(target, query.choices)) is not None}
            if not right:
                yield Score(None, failed=f"no target of query {query.id} is one of its {len(query.choices)} choices")
                continue
            said = parse(answer, query.choices)
            if isinstance(said, str):
                yield Score(0.0, f"unparseable: {said}")
            else:
                yield Score(float(said in right), f"chose {_letter(said)}")


def parse(answer: str, choices: tuple[str, ...]) -> int | str:
    """Which option an answer names, or why that can't be told.

    The whole answer is an option's text, its letter, or both (`B`, `(b)`, `B. Paris`, `Paris`); or what follows `answer is` or
    `answer:` is, up to the end of its line, where a reason or a full stop may follow the letter; or else a line of its own is.
    """
    lines = answer.strip().splitlines()
    announced = [(answer[place.end() :].strip().splitlines() or [""])[0] for place in SAID.finditer(answer)]
    named = (
        _options(answer, choices, announced=False)
        or {option for text in announced for option in _options(text, choices, announced=True)}
        or {option for text in lines for option in _options(text, choices, announced=False)}
    )
    if len(named) == 1:
        return named.pop()
    return f"names {' and '.join(map(_letter, sorted(named)))}" if named else "names no option"


def _options(text: str, choices: tuple[str, ...], announced: bool) -> set[int]:
    """The options that a text may name: by text, by letter. Two where they contradict each other."""
    options = [normalise(choice) for choice in choices]
    named = {number for number, option in enumerate(options) if option == normalise(text)}
    found = LETTER.fullmatch(text.strip())
    number = ascii_uppercase.find(found[1].upper()) if found else -1
    if found is None or number >= min(len(choices), len(ascii_uppercase)):
        return named
    rest = found["rest"].strip()
    also = {other for other, option in enumerate(options) if option == normalise(rest)} if rest else set()
    if not rest or also or (announced and (found["closed"].strip("*_") or REASON.match(rest))):
        return named | {number} | also
    return named


def _target(target: str, choices: tuple[str, ...]) -> int | None:
    """The option that a target is: by its text first, for it comes from the data, then by its letter."""
    options = [normalise(choice) for choice in choices]
    if normalise(target) in options:
        return options.index(normalise(target))
    letter = target.strip().upper()
    return ascii_uppercase.index(letter) if len(letter) == 1 and letter in ascii_uppercase[: len(choices)] else None


def _letter(option: int) -> str:
    return ascii_uppercase[option] if option < len(ascii_uppercase) else f"option {option + 1}"
