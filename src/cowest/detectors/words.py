"""A user's own terms: found in any case, as whole words."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cowest.detectors.plain import Span, plain

ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Scripts in which a word's end is not written: each letter is a word."""
WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+|[^\w\s]|_")


def split(text: str) -> list[str]:
    """The words and signs of a text, whatever their case."""
    return [word.casefold() for word in WORD.findall(plain(text)[0])]


def finder(terms: Sequence[str]) -> Callable[[str], Iterator[Span]]:
    """What finds the terms: at each place the longest one that begins there."""
    tree: dict[str, Any] = {}  # of words; "" marks a term's end
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
            while node is not None:
                if "" in node:
                    end = found[place][2]
                place += 1
                node = node.get(found[place][0]) if place < len(found) else None
            if end is not None:
                yield start, end

    return find
