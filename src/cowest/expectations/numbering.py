"""Takes the number of a question off: `Question 17: Who ...?` and `Who ...? (2 points)` ask `Who`.

A number that is set off by marks before or after a question is its place on some sheet, or what it
is worth. Some forms may be content too: `1. FC Cologne ...`, `Problem 3: who solved it?`, `Q3: what
was earned?`. Their number is kept beside the text: a copy with it and one without are the same
question, and two copies with different numbers are not. Pure.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

FEWEST = 6
"""Letters that a question must have without its number; else the number stays."""
QUARTERS = 4
"""`Q1` to `Q4` may be quarters of a year, and higher ones are questions."""
AT_MOST = 5
"""Numbers that are taken off one line, at most."""
EDGE = 80
"""Characters at either end of a line in which numbers are looked for."""
DIGIT = re.compile(r"\d")
WHOLE = re.compile(r"\d+")

NUMBER = r"\d{1,4}(?:\.\d{1,3}){0,3}[a-z]?"
OPEN, CLOSE = r"[(\[{（【]", r"[)\]}）】]"  # noqa: RUF001
MARK = rf"(?:{CLOSE}|[:.|：．、。]|[-–—](?=\s))"  # noqa: RUF001
"""Ends a number before a question."""
ENDED = r"(?<=[?.!…。？！])"  # noqa: RUF001
BEGINS = r"(?=[^\W\d_]|[\"'“‘«¿¡(\[])"  # noqa: RUF001
"""A question begins with a letter or a quotation mark: `3) + 4` is a sum."""
DASH = "[–—-]"  # noqa: RUF001
QUESTION = (
    "question|quest|ques|frage|pregunta|domanda|pergunta|questão|questao|vraag|fråga|spørgsmål|"
    "spørsmål|kysymys|pytanie|otázka|kérdés|soru|câu(?: hỏi)?|вопрос|"
    "问题|問題|质问|質問|题|題|질문|문제"
)
"""Words for a question: what they number is a question, and nothing that is asked about."""
OTHER = (
    "q|problem|prob|exercise|exercice|ejercicio|esercizio|exercício|ex|item|task|aufgabe|übung|"
    "opgave|uppgift|zadanie|задача|задание|number|num|no|nr|№"
)
"""Words before a number that may be what is asked about."""
UNIT = (
    r"points?|pts?|marks?|mks?|credits?|punkte?|pkte?|pkt|puntos?|punti|pontos?|poäng|балл\w*|"
    "[分点]"
)
WORTH = (
    rf"(?:max\.?\s*|worth\s*|total:?\s*)?\d{{1,3}}(?:[.,/]\d{{1,3}})?[\s-]*(?:{UNIT})\b\.?"
    r"(?:\s*each)?"
)
"""What an answer is worth: `2 points`, `0.5 pts`."""
IN_BRACKETS = rf"{OPEN}\s*{WORTH}\s*{CLOSE}"
NAMED = (
    rf"(?:(?P<question>{QUESTION})|(?P<other>{OTHER}))"
    rf"(?:[\s.#_]|{DASH})*{OPEN}?\s*(?:no|nr|num|№)?[\s.#]*(?P<number>{NUMBER})"
)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


BEFORE_A_LINE = (
    _pattern(rf"\s*{IN_BRACKETS}\s*(?:[:.]|{DASH})?\s*"),
    _pattern(rf"\s*第\s*\d{{1,4}}\s*[题題问問]\s*{MARK}*\s*"),
    _pattern(
        rf"[\s*_#>]*{NAMED}(?:\s*(?:of|out of|/|von|de|di|из)\s*\d{{1,4}})?\s*{CLOSE}?\s*"
        rf"(?:{IN_BRACKETS})?\s*(?:{MARK}+|$)[\s*_]*"
    ),
)
AFTER_A_LINE = (
    _pattern(rf"(?:\s*{IN_BRACKETS}|{ENDED}\s*(?:[/,]|{DASH})?\s*{WORTH}|\s{DASH}\s*{WORTH})\s*$"),
    _pattern(rf"\s*{OPEN}\s*{NAMED}\s*{CLOSE}\s*$"),
)
BEFORE_THE_TEXT = (
    _pattern(rf"[\s*_]*(?:{NUMBER}|[a-z]|[ivxl]{{2,6}})\)[\s*_]*{BEGINS}"),
    _pattern(
        rf"[\s*_]*(?:{OPEN}\s*#?(?P<inside>{NUMBER})\s*{CLOSE}\s*[:.]?|#\s*(?P<hash>{NUMBER})"
        rf"{MARK}?|(?P<plain>{NUMBER})\s*{MARK}|(?P<tab>{NUMBER})(?=\t))\s+[*_]*{BEGINS}"
    ),
)
AFTER_THE_TEXT = (
    _pattern(rf"\s+{OPEN}\s*#?(?P<inside>\d{{1,3}})\s*{CLOSE}\s*$"),
    _pattern(r"(?<=[?!…？！])\s*#?\s*(?P<plain>\d{1,3})\s*$"),  # noqa: RUF001
)


class Unnumbered(NamedTuple):
    """A question without its number."""

    text: str
    number: str
    """The number, if it may be what is asked about; empty if it never is, or there is none."""


def may_agree(one: str, other: str) -> bool:
    """True if two questions of one text, with these numbers, may be the same question."""
    return not one or not other or one == other


def unnumbered(text: str, options: str = "") -> Unnumbered:
    """The question without numbers before and after it, and without what it is worth.

    `options` are shown beside the text: their letters count as the question's.
    """
    if DIGIT.search(text) is None and ")" not in text[:EDGE]:
        return Unnumbered(text, "")
    lines = text.splitlines()
    filled = [place for place, line in enumerate(lines) if line.strip()]
    numbers: list[str] = []
    for place in filled:
        if place != filled[0] and DIGIT.search(lines[place]) is None:
            continue
        before, after = list(BEFORE_A_LINE), list(AFTER_A_LINE)
        if place == filled[0]:
            before += BEFORE_THE_TEXT
        if place in (filled[0], filled[-1]):
            after += AFTER_THE_TEXT
        lines[place] = _without(lines[place], before, after, numbers)
    bare = "\n".join(lines)
    if sum(map(str.isalpha, bare + options)) < FEWEST:
        return Unnumbered(text, "")
    return Unnumbered(bare, " ".join(numbers))


def _without(
    line: str,
    before: Iterable[re.Pattern[str]],
    after: Iterable[re.Pattern[str]],
    numbers: list[str],
) -> str:
    """A line without its numbers; those that may be what is asked about go into `numbers`."""
    for _ in range(AT_MOST):
        if not any(map(str.isalnum, line)):
            break
        was = line
        for pattern in before:
            found = pattern.match(line, 0, EDGE)
            if found is not None:
                line = line[found.end() :]
                numbers += _kept(found)
        for pattern in after:
            found = pattern.search(line, max(0, len(line) - EDGE))
            if found is not None:
                line = line[: found.start()]
                numbers += _kept(found)
        if line == was:
            break
    return line


def _kept(found: re.Match[str]) -> list[str]:
    """The number of a form that may be content."""
    groups = found.groupdict()
    if groups.get("question"):
        return []
    if groups.get("other"):
        number = groups["number"]
        # The number may be that of a part: 12a, 2.1.
        whole = int(WHOLE.findall(number)[0])
        is_question = groups["other"].casefold() == "q" and whole > QUARTERS
        return [] if is_question else [number]
    return [number for number in groups.values() if number is not None]
