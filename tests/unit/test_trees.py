"""Pairs become trees, steps and rows: each token once, each draft after its own prompt alone."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest.trees import packing, plan
from cowest.trees.plan import Tree

TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=6).map(tuple)


@st.composite
def forests(draw: st.DrawFn) -> list[Tree]:
    """Trees of few different tokens, so that prompts and drafts share their beginnings."""
    found = []
    for prompt in draw(st.lists(TOKENS, min_size=1, max_size=4, unique=True)):
        drafts = draw(st.lists(TOKENS, min_size=2, max_size=4, unique=True))
        found.append(Tree(prompt, tuple(drafts), ((0, 1),)))
    return found


def tree(*lengths: int, pairs: int = 1, prompt: int = 9) -> Tree:
    drafts = [(number, *range(length - 1)) for number, length in enumerate(lengths)]
    return Tree((prompt,), tuple(drafts), ((0, 1),) * pairs)


def test_a_query_is_one_tree_and_a_draft_one_branch() -> None:
    found = plan.trees_of([((1, 2), (3,), (4,)), ((1,), (2,), (3,)), ((1, 2), (4,), (5, 6))])
    assert found == [
        Tree((1, 2), ((3,), (4,), (5, 6)), ((0, 1), (1, 2))),
        Tree((1,), ((2,), (3,)), ((0, 1),)),
    ]


@given(forests(), st.booleans())
def test_rows_hold_each_draft_after_its_prompt_and_nothing_twice(
    trees: list[Tree], together: bool
) -> None:
    packed = packing.pack(trees, together)
    width = packed.tokens.shape[1]
    assert len(packed.tokens) == (1 if together else len(trees))

    def line(node: int) -> tuple[int, list[int]]:
        """The row of a token, and the places that it sees there, its own the last."""
        row, place = divmod(int(node), width)
        return row, [j for j in range(place + 1) if place < packed.ends[row, j]]

    def text(node: int) -> tuple[int, ...]:
        """The tokens that a token sees, itself the last."""
        row, seen = line(node)
        assert [*packed.positions[row, seen]] == list(range(len(seen)))
        return tuple(packed.tokens[row, seen].tolist())

    number = 0
    for one in trees:
        for draft in one.drafts:
            places = [place for place in packed.places[number] if place >= 0]
            assert tuple(packed.scored[places].tolist()) == draft
            for done, place in enumerate(places):
                assert text(packed.before[place]) == one.prompt + draft[:done]
            number += 1
    for row in range(len(packed.tokens)):
        # Padding is 0, and the texts have no 0.
        seen = Counter(text(row * width + place) for place in range(width))
        del seen[0,]
        assert max(seen.values()) == 1


@given(forests())
def test_segments_see_what_the_mask_of_the_row_shows(trees: list[Tree]) -> None:
    packed = packing.pack(trees, together=True)
    width = packed.tokens.shape[1]
    groups, places = packing.groups(packed)
    shown = []
    for queries, keys, seen in groups:
        for segment in range(len(queries)):
            for query in range(queries.shape[1]):
                shown.append(sorted(keys[segment][seen[segment, query]].tolist()))
    for place in range(width):
        expected = [j for j in range(place + 1) if place < packed.ends[0, j]]
        assert shown[places[place]] == expected


def test_little_is_multiplied_that_nothing_sees() -> None:
    """Eight drafts of a prompt: the prompt with itself, and each draft with its own line."""
    (one,) = plan.trees_of([((9,) * 100, (n,) * 50, (n + 1,) * 50) for n in range(1, 2)])
    one = one._replace(drafts=tuple((n,) * 50 for n in range(8)))
    groups, _ = packing.groups(packing.pack([one], together=True))
    assert sum(group.seen.size for group in groups) == 100 * 100 + 8 * 50 * 150


def test_a_beginning_that_prompts_share_is_computed_once() -> None:
    told = tuple(range(100))
    trees = [Tree((*told, 200 + n), ((1, 2), (3, 4)), ((0, 1),)) for n in range(4)]
    assert packing.pack(trees, together=True).tokens.shape == (1, 100 + 4 * 5)
    assert packing.pack(trees, together=False).tokens.shape == (4, 105)


def test_every_epoch_has_each_tree_once_in_an_order_of_its_own() -> None:
    trees = [tree(2, 2, pairs=1 + number % 3) for number in range(30)]
    steps = plan.steps(trees, batch_size=8, epochs=2.5, seed=0)
    assert steps == plan.steps(trees, 8, 2.5, seed=0) != plan.steps(trees, 8, 2.5, seed=1)
    seen = Counter(number for step in steps for number in step)
    assert set(seen) == set(range(30)) and set(seen.values()) == {2, 3}
    # 60 pairs: 8 steps an epoch of about 8 pairs, and half of the last.
    assert len(steps) == 8 + 8 + 4
    sizes = [sum(len(trees[number].pairs) for number in step) for step in steps]
    assert max(sizes) <= 11 and sum(sizes[:8]) == sum(sizes[8:16]) == 60


@pytest.mark.parametrize(("epochs", "expected"), [(1.1, 11), (2.3, 23), (1.05, 11), (0.1, 1)])
def test_a_fraction_of_an_epoch_has_its_steps_and_none_more(epochs: float, expected: int) -> None:
    trees = [tree(2, 2) for _ in range(10)]
    assert len(plan.steps(trees, 1, epochs, 0)) == expected


def test_drafts_that_queries_with_one_prompt_judge_differently_all_count() -> None:
    rows = [((1,), (5,), True), ((1,), (6,), False), ((1,), (5,), False), ((2,), (7, 8), True)]
    one, other = plan.trees_of_drafts(rows, most=9, seed=0)
    found = ((0, True), (1, False), (0, False))
    assert one == Tree((1,), ((5,), (6,), (7, 8)), alone=found, others=(2,))
    assert other.drafts[0] == (7, 8) and other.alone == ((0, True),)
    assert one.rows() + other.rows() == len(rows)


def test_no_draft_of_another_prompt_makes_a_text_longer_than_any_may_be() -> None:
    rows = [((1,) * 9, (3,), True), ((2,), (4,) * 8, False)]
    within, beyond = (plan.trees_of_drafts(rows, most, seed=0) for most in (10, 17))
    assert max(map(Tree.longest, beyond)) == 17 and beyond[0].others == (1,)
    assert max(map(Tree.longest, within)) == 10
    assert within[0] == Tree((1,) * 9, ((3,),), alone=((0, True),))
    assert within[1] == beyond[1], "what is within the limit stays as it is"


def test_a_query_with_more_pairs_than_a_step_is_a_step_alone() -> None:
    every = tuple(combinations(range(8), 2))
    trees = [Tree((number,), tuple((n,) for n in range(8)), every) for number in range(5)]
    assert sorted(plan.steps(trees, 8, 1, 0)) == [(number,) for number in range(5)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_step_is_dealt_out_whole(count: int) -> None:
    trees = [tree(2, 3), tree(9, 9, pairs=2), tree(4, 1), tree(5, 5, 5), tree(1, 1)]
    dealt = plan.shares(trees, range(5), count)
    assert len(dealt) == count
    assert sorted(number for share in dealt for number in share.trees) == list(range(5))
    # The mean over a step has the same divisors in every share.
    assert {(share.rows, share.chosen) for share in dealt} == {(6, 2 + 9 + 9 + 4 + 5 + 1)}
    sizes = [sum(trees[number].size() for number in share.trees) for share in dealt]
    assert sum(sizes) == 50 and max(sizes) <= max(50 / count, 19) + 6
