"""The normal forms of texts return what they always returned: scores, splits, pairs and the ids of
groups rest on them.

The table was computed by the code from before the forms had one home, of commit 0b4f11c.
"""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest import sametext


class Pin(NamedTuple):
    text: str
    caseless: str
    unpunctuated: str
    normalise: str
    words_only: str
    keywords: str


PINS = [
    Pin("", "", "", "", "", ""),
    Pin(" \n\t", "", "", "", "", ""),
    Pin("...", "...", "...", "...", "", ""),
    Pin("+", "+", "+", "+", "", ""),
    Pin("_", "_", "_", "_", "_", "_"),
    Pin("???", "???", "???", "???", "", ""),
    Pin("a", "a", "a", "a", "a", ""),
    Pin("A", "a", "a", "a", "a", ""),
    Pin("the", "the", "the", "the", "the", ""),
    Pin(
        "The Eiffel  Tower!\n",
        "the eiffel tower!",
        "the eiffel tower",
        "eiffel tower",
        "the eiffel tower",
        "eiffel tower",
    ),
    Pin("\u201cAn apple\u201d", "\u201can apple\u201d", "an apple", "apple", "an apple", "apple"),
    Pin("a 'cat'", "a 'cat'", "a cat", "cat", "a cat", "cat"),
    Pin("It is A.", "it is a.", "it is a", "it is a", "it is a", "it"),
    Pin("A is right", "a is right", "a is right", "a is right", "a is right", "right"),
    Pin("Vitamin A", "vitamin a", "vitamin a", "vitamin a", "vitamin a", "vitamin"),
    Pin("don't", "don't", "don t", "dont", "don t", "don t"),
    Pin(
        "don\u2019t stop", "don\u2019t stop", "don t stop", "dont stop", "don t stop", "don stop t"
    ),
    Pin("U.S.A.", "u.s.a.", "u s a", "usa", "u s a", "s u"),
    Pin(
        "well-known/loved",
        "well-known/loved",
        "well-known/loved",
        "well known loved",
        "well known loved",
        "known loved well",
    ),
    Pin(
        "__needs_caution__",
        "__needs_caution__",
        "needs caution",
        "needs caution",
        "__needs_caution__",
        "__needs_caution__",
    ),
    Pin("**Paris**", "**paris**", "**paris**", "paris", "paris", "paris"),
    Pin("3.5", "3.5", "3 5", "3.5", "3 5", "3 5"),
    Pin("3.", "3.", "3", "3", "3", "3"),
    Pin("1,000", "1,000", "1 000", "1000", "1 000", "000 1"),
    Pin("1,2", "1,2", "1 2", "1 2", "1 2", "1 2"),
    Pin("-5", "-5", "-5", "-5", "5", "5"),
    Pin("\u22125", "\u22125", "\u22125", "-5", "5", "5"),
    Pin("10-20", "10-20", "10-20", "10 20", "10 20", "10 20"),
    Pin("50 %", "50 %", "50 %", "50", "50", "50"),
    Pin("C++ or C#", "c++ or c#", "c++ or c#", "c++ or c#", "c or c", "c"),
    Pin("Na+ > K+", "na+ > k+", "na+ > k+", "na+ k+", "na k", "k na"),
    Pin("1+2 = 3", "1+2 = 3", "1+2 = 3", "1 2 3", "1 2 3", "1 2 3"),
    Pin(
        "Stra\u00dfe STRASSE",
        "strasse strasse",
        "strasse strasse",
        "stra\u00dfe strasse",
        "strasse strasse",
        "strasse",
    ),
    Pin(
        "\u0130stanbul",
        "i\u0307stanbul",
        "i\u0307stanbul",
        "i\u0307stanbul",
        "i stanbul",
        "i stanbul",
    ),
    Pin("\ufb01ne", "fine", "fine", "\ufb01ne", "fine", "fine"),
    Pin("\u1e9e", "ss", "ss", "\u00df", "ss", "ss"),
    Pin(
        "\u03a3\u03a3",
        "\u03c3\u03c3",
        "\u03c3\u03c3",
        "\u03c3\u03c2",
        "\u03c3\u03c3",
        "\u03c3\u03c3",
    ),
    Pin(
        "E\u0301t\u00e9",
        "e\u0301t\u00e9",
        "e\u0301t\u00e9",
        "\u00e9t\u00e9",
        "e t\u00e9",
        "e t\u00e9",
    ),
    Pin("\u00c9", "\u00e9", "\u00e9", "\u00e9", "\u00e9", "\u00e9"),
    Pin(
        "\u0939\u093f\u0928\u094d\u0926\u0940\u0964",
        "\u0939\u093f\u0928\u094d\u0926\u0940\u0964",
        "\u0939\u093f\u0928\u094d\u0926\u0940\u0964",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u0939 \u0928 \u0926",
        "\u0926 \u0928 \u0939",
    ),
    Pin(
        "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
        "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
        "\u4f60\u597d \u4e16\u754c",
        "\u4f60\u597d \u4e16\u754c",
        "\u4f60\u597d \u4e16\u754c",
        "\u4e16\u754c \u4f60\u597d",
    ),
    Pin(
        "no\u00a0break\u2003em\u2028line",
        "no break em line",
        "no break em line",
        "no break em line",
        "no break em line",
        "break em line no",
    ),
    Pin(
        "zero\u200bwidth",
        "zero\u200bwidth",
        "zero\u200bwidth",
        "zero width",
        "zero width",
        "width zero",
    ),
    Pin(
        "x\u00b2 + \u00bd",
        "x\u00b2 + \u00bd",
        "x\u00b2 + \u00bd",
        "x\u00b2 \u00bd",
        "x\u00b2 \u00bd",
        "x\u00b2 \u00bd",
    ),
    Pin(
        "\u0661\u0662\u0663",
        "\u0661\u0662\u0663",
        "\u0661\u0662\u0663",
        "\u0661\u0662\u0663",
        "\u0661\u0662\u0663",
        "\u0661\u0662\u0663",
    ),
    Pin("emoji \U0001f600!", "emoji \U0001f600!", "emoji \U0001f600", "emoji", "emoji", "emoji"),
    Pin(
        "tab\u000bfeed\u001cunit",
        "tab feed unit",
        "tab feed unit",
        "tab feed unit",
        "tab feed unit",
        "feed tab unit",
    ),
    Pin(
        "soft\u00adhyphen",
        "soft\u00adhyphen",
        "soft\u00adhyphen",
        "soft hyphen",
        "soft hyphen",
        "hyphen soft",
    ),
    Pin("\u00ab Oui \u00bb", "\u00ab oui \u00bb", "oui", "oui", "oui", "oui"),
    Pin(
        "2*3 / 4 <= 5 ^ 2 | 50%",
        "2*3 / 4 <= 5 ^ 2 | 50%",
        "2*3 / 4 <= 5 ^ 2 | 50%",
        "2 3 4 5 2 50",
        "2 3 4 5 2 50",
        "2 3 4 5 50",
    ),
    Pin("Which is true?", "which is true?", "which is true", "which is true", "which is true", ""),
    Pin(
        "All are true about enamel rods of teeth except",
        "all are true about enamel rods of teeth except",
        "all are true about enamel rods of teeth except",
        "all are true about enamel rods of teeth except",
        "all are true about enamel rods of teeth except",
        "enamel rods teeth",
    ),
    Pin(
        "False about enamel rods of teeth is",
        "false about enamel rods of teeth is",
        "false about enamel rods of teeth is",
        "false about enamel rods of teeth is",
        "false about enamel rods of teeth is",
        "enamel rods teeth",
    ),
    Pin(
        "gnas-1 gene GNAS 1",
        "gnas-1 gene gnas 1",
        "gnas-1 gene gnas 1",
        "gnas 1 gene gnas 1",
        "gnas 1 gene gnas 1",
        "1 gene gnas",
    ),
    Pin(
        "the the The cat cat sat",
        "the the the cat cat sat",
        "the the the cat cat sat",
        "cat cat sat",
        "the the the cat cat sat",
        "cat sat",
    ),
    Pin(
        "what which who with",
        "what which who with",
        "what which who with",
        "what which who with",
        "what which who with",
        "",
    ),
    Pin("a.b.c d_e", "a.b.c d_e", "a b c d e", "abc d e", "a b c d_e", "b c d_e"),
    Pin(
        "\u01c4 \u01c5 \u01c6",
        "\u01c6 \u01c6 \u01c6",
        "\u01c6 \u01c6 \u01c6",
        "\u01c6 \u01c6 \u01c6",
        "\u01c6 \u01c6 \u01c6",
        "\u01c6",
    ),
    Pin("\u0149 n", "\u02bcn n", "\u02bcn n", "\u0149 n", "\u02bcn n", "n \u02bcn"),
    Pin("(a)", "(a)", "a", "a", "a", ""),
    Pin("An", "an", "an", "an", "an", ""),
    Pin("the a an apple", "the a an apple", "the a an apple", "apple", "the a an apple", "apple"),
    Pin("A or B", "a or b", "a or b", "a or b", "a or b", "b"),
    Pin("I\u0307 i", "i\u0307 i", "i\u0307 i", "i\u0307 i", "i i", "i"),
    Pin("one\ttwo", "one two", "one two", "one two", "one two", "one two"),
    Pin("one two", "one two", "one two", "one two", "one two", "one two"),
    Pin("one, two", "one, two", "one two", "one two", "one two", "one two"),
    Pin("two one", "two one", "two one", "two one", "two one", "one two"),
]


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: ascii(pin.text))
def test_a_normal_form_stays_what_it_was(pin: Pin) -> None:
    assert sametext.caseless(pin.text) == pin.caseless
    assert sametext.unpunctuated(pin.text) == pin.unpunctuated
    assert sametext.normalise(pin.text) == pin.normalise
    assert sametext.words_only(pin.text) == pin.words_only
    assert sametext.keywords(pin.text) == pin.keywords


@pytest.mark.parametrize(
    ("text", "spaced", "unadorned"),
    [
        (" Co \n", "Co", "Co"),
        ("CO", "CO", "CO"),
        ("The  Tower!", "The Tower!", "Tower"),
        ("A 'cat'", "A 'cat'", "cat"),
        ("It is A.", "It is A.", "It is A"),
        ("U.S.A.", "U.S.A.", "USA"),
        ("-5", "-5", "-5"),
        ("...", "...", "..."),
        ("E\u0301", "E\u0301", "\u00c9"),
    ],
)
def test_two_forms_keep_case(text: str, spaced: str, unadorned: str) -> None:
    assert (sametext.spaced(text), sametext.unadorned(text)) == (spaced, unadorned)


def test_seen_composes_letters_and_drops_those_that_are_not_seen() -> None:
    assert sametext.seen("Cafe\u0301 so\u00adup\u200b, \uff21 1\u0000") == "Caf\u00e9 soup, A 1"
    assert sametext.seen("10\u00b2") == "10\u00b2"


@given(st.text(alphabet="aAtThHeEnN. '-5"))
def test_unadorned_and_normalise_differ_in_case_alone(text: str) -> None:
    assert sametext.unadorned(text).lower() == sametext.normalise(text)


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ("Which is true?", "The red and the blue", "and blue red the"),
        ("Which gland is it?", "red, Red; BLUE", "blue gland it red"),
        ("gland hormone comet", "red blue", "comet gland hormone"),
        ("comet gland", "", "comet gland"),
        ("", "the the a", "a the"),
    ],
)
def test_a_text_of_few_keywords_takes_all_words_of_another(
    text: str, more: str, words: str
) -> None:
    assert sametext.keywords(text, more) == words


@given(st.text())
def test_case_and_white_space_can_be_folded_in_either_order(text: str) -> None:
    """Drafts of a query were once compared in the one order, and options in the other."""
    assert sametext.caseless(text) == " ".join(text.split()).casefold()


@given(st.text())
def test_a_normal_form_is_one_line_without_spaces_around_it(text: str) -> None:
    for form in (
        sametext.spaced,
        sametext.unadorned,
        sametext.caseless,
        sametext.unpunctuated,
        sametext.normalise,
        sametext.words_only,
        sametext.keywords,
    ):
        found = form(text)
        assert found == " ".join(found.split()), form.__name__
