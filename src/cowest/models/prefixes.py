"""Beginnings of prompts, with the model's keys and values of them, kept from call to call.

Prompts of one kind begin with the same shots, and a conversation begins with its earlier turns:
what was read of them is not read again. A prompt is kept whole, and serves every other prompt as
far as the two are alike, since keys and values of a token depend on those before it alone.
"""

from collections.abc import Sequence

from cowest.models.sequences import Prefix

WORTH = 64
"""Tokens from which on a prompt is kept beside others: a shorter one is read as fast."""


class Prefixes:
    """The beginnings that were used last, up to a limit in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[Prefix] = []  # the one used last is last

    def longest(self, prompt: Sequence[int]) -> Prefix:
        """The longest known beginning of a prompt, at most all but its last token.

        The logits behind the last token begin the answer, so that token is always read.
        """
        best, shared = None, 0
        for kept in self._kept:
            same = min(alike(kept.tokens, prompt), len(prompt) - 1)
            if same > shared:
                best, shared = kept, same
        if best is None:
            return Prefix((), None)
        self._kept.remove(best)
        self._kept.append(best)
        return Prefix(prompt[:shared], best.cache)

    def lacks(self, prompt: Sequence[int], known: Prefix) -> bool:
        """Says whether a prompt is to be kept, of which a beginning is known.

        The first is kept in any case: the chat template begins all of them alike.
        """
        if not self._kept:
            return True
        return len(prompt) >= WORTH and 2 * len(known.tokens) < len(prompt)

    def keep(self, prefix: Prefix) -> None:
        """Keeps a beginning, in place of those that it goes on from, while there is room."""
        if _bytes(prefix) > self._limit:
            return
        others = []
        for kept in self._kept:
            if alike(kept.tokens, prefix.tokens) < len(kept.tokens):
                others.append(kept)
        self._kept = [*others, prefix]
        held = sum(map(_bytes, self._kept))
        while held > self._limit:
            held -= _bytes(self._kept.pop(0))


def alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Counts the tokens that two prompts have in common at their beginning."""
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return place
    return min(len(one), len(other))


def _bytes(prefix: Prefix) -> int:
    total = 0
    for layer in prefix.cache.layers:
        if layer.is_initialized:
            total += layer.keys.nbytes + layer.values.nbytes
    return total
