"""Names that an answer affirms: as whole words, not denied, not part of another name. Pure.

A name is denied by a negation before it in its clause (`certainly not Italy`, `neither Italy nor
France`, `Spain rather than Italy`), by one after it (`Italy is not right`), and by a retraction
(`Italy? No.`, `Italy, no wait, France`). These are words of English and a few of its neighbours;
what they miss counts as affirmed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cowest.sametext import ARTICLE, by_letter, unadorned, visible

CLAUSE = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]++(?=[\s\"'\u201d\u2019)\]]|$)|[,;:](?!\d)"
    r"|[()\[\]\n\u2014\u3001\u3002]|\s[-\u2013]+\s"
)
"""Marks that end a clause; those inside a number or an abbreviation don't."""
REACH = 5
"""Words between a negation and what it denies, at most."""
NEGATIONS = frozenset(
    ["not", "never", "neither", "nor", "cannot", "non", "unlike", "unlikely", "hardly", "except",
     "excluding", "isnt", "wasnt", "arent", "werent", "doesnt", "didnt", "dont", "cant", "couldnt",
     "wont", "wouldnt", "shouldnt", "hasnt", "havent", "hadnt", "aint", "nicht", "kein", "keine",
     "keiner", "keinem", "keinen", "niemals", "niet", "geen", "pas", "jamais", "nunca",
     "n\u00e3o"]
)  # fmt: skip
"""Words that deny what follows in their clause."""
TWO_WORD_NEGATIONS = frozenset(
    [("other", "than"), ("rather", "than"), ("instead", "of"), ("opposed", "to"),
     ("contrary", "to"), ("no", "es"), ("no", "era"), ("no", "fue"), ("no", "est\u00e1"),
     ("no", "longer"), ("no", "way")]
)  # fmt: skip
HARMLESS = frozenset(
    ["only", "just", "merely", "simply", "sure", "certain", "mistaken", "wrong", "know", "doubt",
     "until", "nur", "allein", "seulement", "solo", "solamente", "s\u00f3lo", "alleen"]
)  # fmt: skip
"""After a negation, these words say that it denies nothing: `not only Italy`, `I don't know`."""
TURNING = frozenset(["but", "sondern", "mais", "sino", "ma", "maar", "yet", "though", "however"])
"""Words after which a negation holds no longer: `not France but Italy`."""
VERBS = frozenset(
    ["is", "was", "are", "were", "be", "can", "could", "would", "should", "does", "did", "has"]
)
DENIALS = frozenset(
    ["wrong", "incorrect", "false", "impossible", "excluded", "not", "never", "cannot"]
)
RETRACTIONS = (
    ("no", "wait"), ("wait",), ("no", "it"), ("no", "its"), ("no", "that"), ("no", "thats"),
    ("nope",), ("sorry",), ("i", "mean"), ("correction",), ("scratch", "that"), ("or", "rather"),
)  # fmt: skip
"""Beginnings of a clause that take back what stands right before it."""
DENIED_BEFORE = re.compile("(?:\u4e0d\u662f|\u4e0d\u5728|\u5e76\u975e|\u4e26\u975e|\u800c\u975e)$")
DENIED_AFTER = re.compile("(?:\u3067\u306f|\u3058\u3083)(?:\u306a|\u3042\u308a)|\u3067\u306a\u3044")
"""Chinese and Japanese negations, letter by letter."""
QUALIFIERS = frozenset(["new", "north", "south", "east", "west", "equatorial"])
"""Words that, with a capital, make another name of the one after them: New York is not York."""


class Word(NamedTuple):
    """One word of an answer."""

    text: str
    """The word, without case."""
    capital: bool
    clause: int
    """Number of the clause that it stands in."""
    glued: bool
    """True if a hyphen joins it to the word before."""


class Mention(NamedTuple):
    """One place where a name stands in an answer."""

    start: int
    end: int
    name: tuple[str, ...]


def words_of(text: str) -> list[Word]:
    """The words of a text, in the form of `sametext.comparable`."""
    words = []
    for clause, part in enumerate(CLAUSE.split(ARTICLE.sub("", visible(text)))):
        for token in part.split():
            if not any(map(str.isalnum, token)):
                continue
            hyphened = "-" in token and "/" not in token
            for number, word in enumerate(by_letter(unadorned(token)).split()):
                glued = hyphened and number > 0
                words.append(Word(word.casefold(), word[0].isupper(), clause, glued))
    return words


def name_of(text: str) -> tuple[str, ...]:
    """The words of a name; empty if it has none."""
    return tuple(word.text for word in words_of(text))


def mentions(words: Sequence[Word], names: Iterable[tuple[str, ...]]) -> list[Mention]:
    """All places of the names. Of names that overlap the longest counts: New York is not York."""
    beginning: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for name in names:
        if name:
            beginning[name[0]].append(name)
    texts = tuple(word.text for word in words)
    found = []
    for start, text in enumerate(texts):
        for name in beginning.get(text, ()):
            if texts[start : start + len(name)] == name:
                found.append(Mention(start, start + len(name), name))
    found.sort(key=_longest_first)
    taken: set[int] = set()
    kept = []
    for one in found:
        places = range(one.start, one.end)
        if taken.isdisjoint(places):
            taken.update(places)
            kept.append(one)
    return kept


def is_affirmed(words: Sequence[Word], found: Mention) -> bool:
    """True if the answer says the name, and neither denies it nor goes on to another name."""
    return not (
        _is_part_of_another(words, found)
        or _is_denied_before(words, found)
        or _is_denied_after(words, found)
    )


def _longest_first(found: Mention) -> tuple[int, int]:
    return found.start - found.end, found.start


def _is_part_of_another(words: Sequence[Word], found: Mention) -> bool:
    """True for Guinea in Guinea-Bissau, and for Korea in South Korea."""
    first, last = words[found.start], words[found.end - 1]
    if found.start and first.capital:
        before = words[found.start - 1]
        if before.capital and (first.glued or before.text in QUALIFIERS):
            return before.clause == first.clause
    if found.end < len(words) and last.capital:
        after = words[found.end]
        return after.glued and after.capital
    return False


def _is_denied_before(words: Sequence[Word], found: Mention) -> bool:
    clause = words[found.start].clause
    start = found.start
    first = max(0, start - REACH - 1)
    while start > first and not _ends(words[start - 1], clause):
        start -= 1
    before = [word.text for word in words[start : found.start]]
    if DENIED_BEFORE.search("".join(before[-2:])) or before[-1:] == ["no"]:
        return True
    for place in range(len(before)):
        after = before[place + 1 : place + 2]
        if before[place] in NEGATIONS and HARMLESS.isdisjoint(after):
            return True
        if (before[place], *after) in TWO_WORD_NEGATIONS:
            return True
    return False


def _ends(word: Word, clause: int) -> bool:
    """True for a word beyond which no negation reaches into a clause."""
    return word.clause != clause or word.text in TURNING


def _is_denied_after(words: Sequence[Word], found: Mention) -> bool:
    clause = words[found.end - 1].clause
    rest = words[found.end : found.end + 6]
    here = [word.text for word in rest if word.clause == clause]
    if DENIED_AFTER.match("".join(here)):
        return True
    if here:
        return _denies(here)
    # The name ends its clause: the next one may take it back.
    following = [word.text for word in rest if word.clause == rest[0].clause]
    if following == ["no"]:
        return True
    return any(tuple(following[: len(one)]) == one for one in RETRACTIONS)


def _denies(words: Sequence[str]) -> bool:
    """True for what follows a name as in `Italy is not right` or `Italy was certainly wrong`."""
    if words[0] in NEGATIONS and words[0].endswith(("nt", "cannot")):
        return HARMLESS.isdisjoint(words[1:2])
    if words[0] not in VERBS:
        return False
    for place, word in enumerate(words[1:3], 1):
        if word in DENIALS:
            return HARMLESS.isdisjoint(words[place + 1 : place + 2])
    return False
