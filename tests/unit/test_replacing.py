"""Texts that come in pieces: what is replaced in them is what is replaced in the whole."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cowest.detectors import unmask
from cowest.detectors.replacing import Replacing, unmasking

ORIGINALS = {
    "[EMAIL_1]": "ann@example.com",
    "[EMAIL_12]": "bob@example.com",
    "[NATIONAL_ID_1]": "[EMAIL_1",
    "[TERM_3]": "Falcon]",
}
PARTS = st.sampled_from([*ORIGINALS, "[EMAIL_2]", "[", "]", "EMAIL", "_1", "2]", "a", "\n", "é[TE"])
TEXTS = st.lists(PARTS, max_size=12).map("".join)
CUTS = st.lists(st.integers(0, 120), max_size=30)


def cut(text: str, cuts: list[int]) -> list[str]:
    """A text in pieces, of which some may be empty."""
    places = [0, *sorted(min(place, len(text)) for place in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def fed(replacing: Replacing, pieces: list[str]) -> list[str]:
    return [*map(replacing.feed, pieces), replacing.end()]


@given(TEXTS, CUTS)
def test_pieces_are_unmasked_as_the_whole_is(text: str, cuts: list[int]) -> None:
    assert "".join(fed(unmasking(ORIGINALS), cut(text, cuts))) == unmask(text, ORIGINALS)


KEY, QUOTED = "sk-s/sk", "sk-s%2Fsk"
WORDS = st.sampled_from([KEY, QUOTED, "s", "k", "-", "/", "sk-", "%2F", " "])


@given(st.lists(WORDS, max_size=12).map("".join), CUTS)
def test_any_texts_are_replaced_as_in_the_whole(text: str, cuts: list[int]) -> None:
    pattern = re.compile("|".join(map(re.escape, (KEY, QUOTED))))
    others = {KEY: "***", QUOTED: "***"}
    found = fed(Replacing(pattern, others, others), cut(text, cuts))
    assert "".join(found) == pattern.sub("***", text)


def test_only_what_may_begin_a_placeholder_is_held_back() -> None:
    pieces = ["Write to [", "EMA", "IL_1", "] or [B] [TER", "M_4] and [EMAIL_1"]
    assert fed(unmasking(ORIGINALS), pieces) == [
        "Write to ",
        "",
        "",
        "ann@example.com or [B] ",
        "[TERM_4] and ",
        "[EMAIL_1",
    ]


def test_nothing_is_held_back_where_nothing_was_masked() -> None:
    assert fed(unmasking({}), ["[EMAIL", "_1] ["]) == ["[EMAIL", "_1] [", ""]
