"""Finds a user's own terms, in upper or lower case, as whole words."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cowest.detectors.plain import Span, plain

ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
"""Scripts that don't write the end of a word: each letter counts as a word."""
BEFORE, AFTER = rf"(?<![^\W{ALONE}])", rf"(?![^\W{ALONE}])"
"""Patterns of the edges of a word or a number: no letter of another word may touch it there."""
WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+|[^\w\s]|_")


def split(text: str) -> list[str]:
    """Returns the words and signs of a text in lower case."""
    return [word.casefold() for word in WORD.findall(plain(text)[0])]


def finder(terms: Sequence[str]) -> Callable[[str], Iterator[Span]]:
    """Returns a finder of the terms; at each place it finds the longest that begins there.

    The terms are a tree of words, so that ten thousand terms cost no more than one.
    """
    # From each word of a term a branch leads to the next, and the branch "" marks a term's end.
    tree: dict[str, Any] = {}
    for term in terms:
        node = tree
        for word in split(term):
            node = node.setdefault(word, {})
        node[""] = {}

    def find(text: str) -> Iterator[Span]:
        if not tree:
            return
        found = [(match[0].casefold(), match.start(), match.end()) for match in WORD.finditer(text)]
        for first, (word, start, _) in enumerate(found):
            node, end, place = tree.get(word), None, first
            # Follows the branches for as long as the text goes along, and remembers the last end.
            while node is not None:
                if "" in node:
                    end = found[place][2]
                place += 1
                node = node.get(found[place][0]) if place < len(found) else None
            if end is not None:
                yield start, end

    return find
