"""Texts that stand word for word in longer ones: a greeting makes no other question of it.

A text of few words, or of words that most questions have, may stand anywhere ("which of the
following is true"): such a text is not looked for. And the longer text must go on after it with
another sentence, since "who built the old harbour" is not "who built the old harbour gate". A
question may be known with its options, which make another question of the same words. The time
grows with the length of what is searched, however many texts are known, but for those that are the
same words with other options. Pure.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from cowest.expectations.numbering import unnumbered
from cowest.sametext import FEW, NO_SPACES, PUNCTUATION, STOP, by_letter, seen

FEWEST = 5
"""Words that a text must have to be looked for; two letters of a script without spaces are one."""
ENDING = re.compile(r"[?!;:()\[\]\"\u201c-\u201f\u00ab\u00bb\u3001\u3002\n]|(?<!\d)[.,]|[.,](?!\d)")
"""Marks after which another sentence, or a part of one, may begin."""
GENERIC = STOP | frozenset(
    # English, German, French and Spanish, as questions with options have them.
    ["above", "answer", "answers", "below", "best", "both", "choose", "correct", "incorrect",
     "neither", "none", "one", "ones", "option", "options", "please", "right", "select",
     "statement", "statements", "these", "this", "wrong", "yes", "no", "maybe", "ja", "nein",
     "antwort", "antworten", "aussage", "aussagen", "beide", "das", "dem", "den", "der", "die",
     "ein", "eine", "einer", "falsch", "folgende", "folgenden", "ist", "keine", "korrekt",
     "nicht", "oder", "richtig", "richtige", "richtigen", "sind", "treffen", "trifft", "und",
     "von", "welche", "welchen", "welcher", "welches", "zu", "zutreffend",
     "affirmation", "affirmations", "aucune", "ces", "correcte", "correctes", "de", "des",
     "du", "est", "et", "exacte", "exactes", "fausse", "fausses", "faux", "la", "laquelle", "le",
     "lequel", "les", "lesquelles", "lesquels", "non", "ou", "oui", "parmi", "proposition",
     "propositions", "quel", "quelle", "quelles", "quels", "r\u00e9ponse", "r\u00e9ponses",
     "sont", "suivante", "suivantes", "suivants", "un", "une", "vrai", "vraie", "vraies",
     "afirmaci\u00f3n", "afirmaciones", "correcta", "correctas", "correcto", "cu\u00e1l",
     "cu\u00e1les", "\u00bfcu\u00e1l", "\u00bfcu\u00e1les", "el", "es", "falsa", "falsas",
     "las", "los", "ninguna", "o", "opciones", "opci\u00f3n", "respuesta", "respuestas",
     "siguiente", "siguientes", "son", "s\u00ed", "verdadera", "verdaderas", "y"]
)  # fmt: skip
"""Words that most questions with options have: "which one of the following statements is right"."""
BASE, MODULUS = 0x1F3D5B79A1C3E5F7, (1 << 61) - 1


def _any(_: int) -> bool:
    return True


class Contained:
    """Texts to look for, each known by a number that the caller gives."""

    def __init__(self) -> None:
        # Numbers of texts by the digests of their first words, their length, and all their words.
        self._known: dict[int, dict[int, dict[int, list[int]]]] = {}
        self._options: dict[int, list[str]] = {}

    def add(self, number: int, text: str, options: Sequence[str] = ()) -> None:
        """Adds a text without its number, if it tells anything apart.

        The options are those of a question that does not show them.
        """
        found = unnumbered(seen(text))
        # A number that may be what is asked about stays.
        words, _ = _words(text if found.number else found.text)
        if not _tells(words):
            return
        sums = _sums(words)
        lengths = self._known.setdefault(_digest(sums, 0, FEWEST), {})
        texts = lengths.setdefault(len(words), {})
        texts.setdefault(_digest(sums, 0, len(words)), []).append(number)
        of_options = [_words(option)[0] for option in options]
        # Options such as "none of these", yes and no are those of many questions.
        telling = [f" {' '.join(option)} " for option in of_options if set(option) - GENERIC]
        if telling:
            self._options[number] = telling

    def within(
        self, text: str, among: Callable[[int], bool] = _any, answer: str | None = None
    ) -> int | None:
        """Returns the number of a text, for which `among` is true, that stands in this one.

        Given the answer to this text, a question that was added with its options counts only if one
        of them stands in either.
        """
        if not self._known:
            return None
        words, ends = _words(text)
        sums = _sums(words)
        said: str | None = None
        for at in range(len(words) - FEWEST + 1):
            for count, texts in self._known.get(_digest(sums, at, FEWEST), {}).items():
                if at + count in ends:
                    for number in texts.get(_digest(sums, at, count), ()):
                        if answer is not None and number in self._options and said is None:
                            said = f" {' '.join([*words, *_words(answer)[0]])} "
                        if among(number) and (said is None or self._offers(number, said)):
                            return number
        return None

    def _offers(self, number: int, said: str) -> bool:
        options = self._options.get(number)
        return options is None or any(option in said for option in options)


def tells(text: str) -> bool:
    """True for a text of enough words, and words of its own, that it says where it is from."""
    return _tells(_words(text)[0])


def _words(text: str) -> tuple[list[str], set[int]]:
    """Returns the words of a text, and the numbers of words after which a sentence may end."""
    words: list[str] = []
    ends: set[int] = set()
    for part in ENDING.split(seen(text).casefold()):
        words += by_letter(PUNCTUATION.sub(" ", part)).split()
        ends.add(len(words))
    return words, ends


def _tells(words: Sequence[str]) -> bool:
    size = sum(0.5 if NO_SPACES.match(word) else 1 for word in words)
    return size >= FEWEST and len(words) >= FEWEST and len(set(words) - GENERIC) >= FEW


def _sums(words: Iterable[str]) -> list[int]:
    """Returns the digests of the words up to each place, of which `_digest` makes any other."""
    sums = [0]
    for word in words:
        sums.append((sums[-1] * BASE + hash(word)) % MODULUS)
    return sums


def _digest(sums: Sequence[int], start: int, count: int) -> int:
    """Returns the digest of some adjacent words."""
    return (sums[start + count] - sums[start] * pow(BASE, count, MODULUS)) % MODULUS
