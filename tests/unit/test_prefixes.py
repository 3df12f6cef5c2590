"""Beginnings of prompts are found as far as they are alike, and kept within their limit."""

from types import SimpleNamespace

from cowest.models.prefixes import WORTH, Prefixes
from cowest.models.sequences import Prefix

SHOTS = list(range(100))


def prefix(tokens: list[int], size: int = 10) -> Prefix:
    layer = SimpleNamespace(
        is_initialized=True, keys=SimpleNamespace(nbytes=size), values=SimpleNamespace(nbytes=size)
    )
    return Prefix(tokens, SimpleNamespace(layers=[layer, SimpleNamespace(is_initialized=False)]))


def test_a_prompt_is_known_as_far_as_it_begins_like_another() -> None:
    known = Prefixes(1000)
    first = prefix([*SHOTS, 1, 2, 3])
    known.keep(first)
    found = known.longest([*SHOTS, 1, 9, 9, 9])
    assert (list(found.tokens), found.cache) == ([*SHOTS, 1], first.cache)


def test_the_last_token_is_always_read() -> None:
    known = Prefixes(1000)
    known.keep(prefix(SHOTS))
    assert list(known.longest(SHOTS).tokens) == SHOTS[:-1]


def test_what_is_mostly_unknown_is_lacking_if_it_is_long() -> None:
    known = Prefixes(1000)
    assert known.lacks(SHOTS[:3], known.longest(SHOTS[:3])), "the first is kept in any case"
    known.keep(prefix(SHOTS))
    for prompt, lacking in (
        ([*SHOTS, 7, 7], False),
        ([*SHOTS[:40], *[7] * 50], True),
        ([*SHOTS[:40], *[7] * 30], False),
        ([7] * WORTH, True),
        ([7] * (WORTH - 1), False),
    ):
        assert known.lacks(prompt, known.longest(prompt)) == lacking
    assert known.longest([]).cache is None


def test_the_longest_of_several_is_found() -> None:
    known = Prefixes(1000)
    for tokens in ([*SHOTS[:40], 7], [*SHOTS[:60], 7], [*SHOTS[:50], 7]):
        known.keep(prefix(tokens))
    assert len(known.longest(SHOTS).tokens) == 60


def test_what_was_used_last_stays() -> None:
    known = Prefixes(50)
    used, unused = [*SHOTS, 1], [7, *SHOTS]
    known.keep(prefix(used))
    known.keep(prefix(unused))
    known.longest(used)
    known.keep(prefix([8, *SHOTS]))
    assert known.longest(unused).cache is None
    assert known.longest(used).cache is not None


def test_a_beginning_gives_way_to_one_that_goes_on_from_it() -> None:
    known = Prefixes(50)
    known.keep(prefix([7, *SHOTS]))
    known.keep(prefix(SHOTS))
    known.keep(prefix([*SHOTS, 1, 2]))
    assert len(known.longest([*SHOTS, 1, 2, 3]).tokens) == 102
    assert known.longest([7, *SHOTS]).cache is not None, "there is room for both"


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    known = Prefixes(50)
    known.keep(prefix(SHOTS))
    known.keep(prefix([*SHOTS, 1, 2], size=26))
    assert len(known.longest([*SHOTS, 1, 2, 3]).tokens) == 100
