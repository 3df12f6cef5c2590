"""Trees are laid into rows of tokens in which no beginning stands twice.

A row is a trie, written from the root down and branch by branch: each token stands after the one
that it follows, and a subtree stands in one piece. So the tokens that token i follows are those
j <= i whose subtree has not ended before i, which is all that a mask has to say.

A mask of a whole row would have branches multiplied with each other, only to hide it. So rows also
come in segments, each a piece of a prompt or of a draft with all that stands before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cowest.trees.plan import Tokens, Tree

Numbers = NDArray[np.int64]
PADDED = 1.25
"""Segments attend together while that multiplies at most this many times what they need."""


class Branch(NamedTuple):
    """A prompt with one draft."""

    tokens: Tokens
    start: int
    """Place of the draft's first token."""
    draft: int
    """Number of the draft in what is packed."""


class Segment(NamedTuple):
    """Tokens that stand side by side in a row."""

    tokens: range
    line: list[int]
    """All that the last of them sees: places in the row, its own the last."""


class Group(NamedTuple):
    """Segments that attend together, shorter ones filled up with the row's first token."""

    queries: Numbers
    """Places in the row; shape (segments, most tokens)."""
    keys: Numbers
    """Places in the row; shape (segments, longest line)."""
    seen: NDArray[np.bool_]
    """Shape (segments, most tokens, longest line)."""


@dataclass
class Packed:
    """Drafts in rows of equal width, shorter ones filled up with tokens that nothing follows."""

    tokens: Numbers
    """Shape (rows, width)."""
    positions: Numbers
    """Place of each token in its own text; shape (rows, width)."""
    ends: Numbers
    """Place in the row after the last token that follows this one; shape (rows, width)."""
    places: Numbers
    """Of each draft, its tokens among the scored ones, filled up with -1; (drafts, longest)."""
    segments: list[Segment] = field(default_factory=list)
    """Of all rows; of use where there is one."""
    before: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    """The tokens after which a draft's token is scored, counted through all rows; shape (n,)."""
    scored: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    """The draft's token that comes there; shape (n,)."""


def pack(trees: Sequence[Tree], together: bool) -> Packed:
    """Lays out all drafts of the trees, numbered in their order: in one row, or in one per tree."""
    rows = []
    number = 0
    for tree in trees:
        row = []
        for draft in tree.drafts:
            row.append(Branch(tree.prompt + draft, len(tree.prompt), number))
            number += 1
        rows.append(row)
    if together:
        rows = [list(chain.from_iterable(rows))]
    return _written([sorted(row) for row in rows], number)


def _shared(branches: Sequence[Branch]) -> Iterator[tuple[Branch, int]]:
    """Yields each of the sorted branches with the tokens that it shares with all before it."""
    before: Tokens = ()
    for branch in branches:
        shared = 0
        for one, other in zip(before, branch.tokens, strict=False):
            if one != other:
                break
            shared += 1
        yield branch, shared
        before = branch.tokens


def _written(rows: list[list[Branch]], drafts: int) -> Packed:
    """Writes rows of sorted branches as arrays."""
    width = 0
    for row in rows:
        width = max(width, sum(len(branch.tokens) - shared for branch, shared in _shared(row)))
    shape = (len(rows), width)
    # Padding is followed by nothing, and sees itself.
    ends = np.tile(np.arange(1, width + 1), (len(rows), 1))
    longest = max(len(branch.tokens) - branch.start for branch in chain.from_iterable(rows))
    found = Packed(
        np.zeros(shape, np.int64), np.zeros(shape, np.int64), ends, np.full((drafts, longest), -1)
    )
    # For each token that is scored, in the order in which they are met: the one before it.
    before: dict[int, int] = {}
    for number, row in enumerate(rows):
        _write(found, row, number, before)
    numbered = {node: number for number, node in enumerate(before)}
    for own in found.places:
        own[own >= 0] = [numbered[node] for node in own[own >= 0]]
    found.before = np.array([*before.values()])
    found.scored = found.tokens.reshape(-1)[list(before)]
    return found


def _write(found: Packed, row: list[Branch], number: int, before: dict[int, int]) -> None:
    """Writes one row, and notes which of its tokens are scored after which."""
    first = number * found.tokens.shape[1]
    written = 0
    line: list[int] = []
    for branch, shared in _shared(row):
        found.ends[number, line[shared:]] = written
        new = range(written, written + len(branch.tokens) - shared)
        line = [*line[:shared], *new]
        written += len(new)
        found.tokens[number, line] = branch.tokens
        found.positions[number, line] = np.arange(len(line))
        # What a prompt adds, and what its draft does.
        cut = min(max(branch.start - shared, 0), len(new))
        for part in (new[:cut], new[cut:]):
            if part:
                found.segments.append(Segment(part, line[: line.index(part[-1]) + 1]))
        for place in range(branch.start, len(line)):
            before[first + line[place]] = first + line[place - 1]
        own = found.places[branch.draft]
        own[: len(line) - branch.start] = np.add(line[branch.start :], first)
    found.ends[number, line] = written


def groups(packed: Packed) -> tuple[list[Group], Numbers]:
    """Groups the segments of a single row by what they need, so that little is filled up.

    Also returns where each token of the row stands among the queries of all groups.
    """
    found: list[list[Segment]] = []
    needed = 0
    for segment in sorted(packed.segments, key=_needs, reverse=True):
        queries, keys = len(segment.tokens), len(segment.line)
        if found:
            group = [*found[-1], segment]
            most = max(len(one.tokens) for one in group) * max(len(one.line) for one in group)
            if most * len(group) <= PADDED * (needed + queries * keys):
                found[-1].append(segment)
                needed += queries * keys
                continue
        found.append([segment])
        needed = queries * keys
    places = np.zeros(packed.tokens.shape[1], np.int64)
    done = 0
    for group in found:
        most = max(len(one.tokens) for one in group)
        for one in group:
            places[one.tokens] = np.arange(done, done + len(one.tokens))
            done += most
    return [_grouped(group) for group in found], places


def _needs(segment: Segment) -> tuple[int, int]:
    return len(segment.tokens) * len(segment.line), len(segment.line)


def _grouped(segments: list[Segment]) -> Group:
    most = max(len(one.tokens) for one in segments)
    longest = max(len(one.line) for one in segments)
    queries = np.zeros((len(segments), most), np.int64)
    keys = np.zeros((len(segments), longest), np.int64)
    seen = np.zeros((len(segments), most, longest), np.bool_)
    # What is filled up sees one token, since attention to nothing is no number.
    seen[:, :, 0] = True
    for number, (tokens, line) in enumerate(segments):
        queries[number, : len(tokens)] = tokens
        keys[number, : len(line)] = line
        first = len(line) - len(tokens)
        places = np.arange(len(line))
        seen[number, : len(tokens), : len(line)] = places <= first + np.arange(len(tokens))[:, None]
    return Group(queries, keys, seen)
