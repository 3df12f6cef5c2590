"""Pairs become trees, and training becomes a list of shares, before anything is computed; pure.

A tree is a query's prompt with its different drafts. A step takes whole trees, so that what their
drafts have in common is computed once, and is dealt out in shares: one per process and part of the
step. Each share knows the sizes of its whole step, so that the loss does not depend on how a step
was dealt out.
"""

import math
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Tokens = tuple[int, ...]


class Tree(NamedTuple):
    """The prompt of a query, each different draft once, and what is learned of these drafts."""

    prompt: Tokens
    drafts: tuple[Tokens, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    """Places in `drafts`: of the chosen one, and of the rejected one."""
    alone: tuple[tuple[int, bool], ...] = ()
    """Drafts without a partner, by their places in `drafts`, each with whether it helped."""
    others: tuple[int, ...] = ()
    """Places of drafts of other queries, of which nothing is learned: the KL to the reference is
    estimated by them."""

    def rows(self) -> int:
        """Returns how many rows of the data are learned: pairs, and drafts alone."""
        return len(self.pairs) + len(self.alone)

    def chosen(self) -> list[int]:
        """Returns the places of the chosen drafts, each as often as it is chosen."""
        places = [place for place, _ in self.pairs]
        return places + [place for place, helped in self.alone if helped]

    def size(self) -> int:
        """Returns the most tokens that the tree takes: its drafts may share more than a prompt."""
        return len(self.prompt) + sum(map(len, self.drafts))

    def longest(self) -> int:
        """Returns the tokens of the prompt with the longest draft."""
        return len(self.prompt) + max(map(len, self.drafts))


class Share(NamedTuple):
    """The part of a step that one process computes at once."""

    trees: tuple[int, ...]
    """Numbers of trees. A step with fewer trees than shares leaves some empty."""
    rows: int
    """Pairs, or drafts alone, of the whole step."""
    chosen: int
    """Tokens of all chosen drafts of the whole step, each as often as it is chosen."""


def trees_of(pairs: Iterable[tuple[Tokens, Tokens, Tokens]]) -> list[Tree]:
    """Returns a tree per different prompt, in the order in which they come.

    A pair is the tokens of a prompt, of the chosen draft and of the rejected one.
    """
    drafts: dict[Tokens, dict[Tokens, int]] = {}
    places: dict[Tokens, list[tuple[int, int]]] = {}
    for prompt, chosen, rejected in pairs:
        known = drafts.setdefault(prompt, {})
        for draft in (chosen, rejected):
            known.setdefault(draft, len(known))
        places.setdefault(prompt, []).append((known[chosen], known[rejected]))
    return [Tree(prompt, tuple(drafts[prompt]), tuple(places[prompt])) for prompt in drafts]


def rows_of(prompts: Iterable[Tokens]) -> list[list[int]]:
    """Returns the numbers of the rows of each tree that `trees_of` makes of rows with such prompts.

    A prompt per row, in the order of the rows.
    """
    found: dict[Tokens, list[int]] = {}
    for number, prompt in enumerate(prompts):
        found.setdefault(prompt, []).append(number)
    return list(found.values())


def trees_of_drafts(
    rows: Iterable[tuple[Tokens, Tokens, bool]], most: int, seed: int
) -> list[Tree]:
    """Returns a tree per different prompt, of drafts that helped or did not.

    A row is the tokens of a prompt and of a draft, and whether the draft helped. Each tree also
    gets as many drafts of other prompts, drawn by the seed, without those that would be longer than
    `most` tokens after its own prompt; none if there is one prompt alone.
    """
    # Queries with one prompt and different targets may judge the same draft differently.
    alone: dict[Tokens, list[tuple[Tokens, bool]]] = {}
    for prompt, draft, helped in rows:
        alone.setdefault(prompt, []).append((draft, helped))
    prompts = list(alone)
    random.Random(seed).shuffle(prompts)  # noqa: S311 - the order of rows is no secret
    drafts: list[tuple[Tokens, Tokens]] = []
    for prompt in prompts:
        drafts += [(prompt, draft) for draft, _ in alone[prompt]]
    # Drafts of a prompt stand side by side, so that this many places on there is another's.
    shift = max(map(len, alone.values()), default=0)
    others: dict[Tokens, list[Tokens]] = {prompt: [] for prompt in prompts}
    for number, (prompt, _) in enumerate(drafts):
        whose, draft = drafts[(number + shift) % len(drafts)]
        if whose != prompt and len(prompt) + len(draft) <= most:
            others[prompt].append(draft)
    found = []
    for prompt, own in alone.items():
        places: dict[Tokens, int] = {}
        for draft in (*(draft for draft, _ in own), *others[prompt]):
            places.setdefault(draft, len(places))
        elsewhere = tuple(places[draft] for draft in others[prompt])
        known = tuple((places[draft], helped) for draft, helped in own)
        found.append(Tree(prompt, tuple(places), alone=known, others=elsewhere))
    return found


def apart(trees: Iterable[Tree]) -> list[Tree]:
    """Returns a tree per draft, in their order: for models that can't compute branches."""
    found = []
    for tree in trees:
        found += [Tree(tree.prompt, (draft,)) for draft in tree.drafts]
    return found


def steps(
    trees: Sequence[Tree], batch_size: int, epochs: float, seed: int
) -> list[tuple[int, ...]]:
    """Returns the trees of each step, by their numbers.

    Trees are shuffled in every epoch. A tree belongs to the step in which the middle of its rows
    falls when they are counted off by `batch_size`. So a step has about that many rows, and as
    many on average; a tree with several times as many is a step alone.
    """
    dice = random.Random(seed)  # noqa: S311 - the order of rows is no secret
    found: list[tuple[int, ...]] = []
    for epoch in range(math.ceil(epochs)):
        order = list(range(len(trees)))
        dice.shuffle(order)
        dealt: dict[int, list[int]] = {}
        counted = 0
        for number in order:
            rows = trees[number].rows()
            dealt.setdefault(int((counted + rows / 2) // batch_size), []).append(number)
            counted += rows
        # The last epoch may be a fraction, and 1.1 - 1 is a little more than 0.1.
        take = math.ceil(round(min(epochs - epoch, 1) * len(dealt), 9))
        found += [tuple(step) for step in list(dealt.values())[:take]]
    return found


def shares(trees: Sequence[Tree], step: Sequence[int], count: int) -> list[Share]:
    """Deals a step out in `count` shares of about as many tokens."""
    dealt: list[list[int]] = [[] for _ in range(count)]
    sizes = [0] * count
    for number in sorted(step, key=lambda number: -trees[number].size()):
        least = sizes.index(min(sizes))
        dealt[least].append(number)
        sizes[least] += trees[number].size()
    rows = sum(trees[number].rows() for number in step)
    chosen = 0
    for number in step:
        for place in trees[number].chosen():
            chosen += len(trees[number].drafts[place])
    return [Share(tuple(numbers), rows, chosen) for numbers in dealt]
