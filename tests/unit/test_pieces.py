"""Texts shown while an answer is decoded stay as they are, and are all of it in the end."""

from hypothesis import example, given
from hypothesis import strategies as st

from cowest.models.pieces import Pieces

LETTERS = st.text("abc \n\u00e9\U0001f914", max_size=30)
STOPS = st.lists(st.text("abc \n", min_size=1, max_size=4), max_size=3).map(tuple)


def whole(text: str, stop: tuple[str, ...]) -> str:
    """The answer as a decoder cuts and strips it."""
    places = [text.find(one) for one in stop if one in text]
    return text[: min(places, default=len(text))].strip()


@given(LETTERS, STOPS)
@example("a ab", ("abc",))
@example("ab aab", ("abc", "b"))
def test_what_is_shown_is_the_answers_beginning_and_in_the_end_all_of_it(
    text: str, stop: tuple[str, ...]
) -> None:
    pieces, answer = Pieces(stop), whole(text, stop)
    shown = ""
    data = text.encode()
    # A token may be a single byte.
    for end in range(len(data)):
        shown += pieces.more(data[:end].decode(errors="replace"))
        assert answer.startswith(shown)
    assert shown + pieces.rest(answer) == answer


def test_what_is_sure_is_shown_at_once() -> None:
    pieces = Pieces(("\nQ:",))
    assert pieces.more(" Os") == "Os"
    assert pieces.more(" Oslo") == "lo"
    assert pieces.more(" Oslo, in") == ", in"
    assert pieces.more(" Oslo, in \n") == ""
    assert pieces.more(" Oslo, in \nNorway") == " \nNorway"


def test_a_beginning_of_a_stop_text_waits() -> None:
    pieces = Pieces(("END", "and so on"))
    assert pieces.more("one and") == "one"
    assert pieces.more("one and two E") == " and two"
    assert pieces.more("one and two ENTER") == " ENTER"
    assert pieces.more("one and two ENTER EN") == ""
    assert pieces.rest("one and two ENTER") == ""


def test_a_character_that_is_not_whole_waits() -> None:
    pieces = Pieces()
    assert pieces.more("Z\ufffd") == "Z"
    assert pieces.more("Z\ufffd\ufffd") == ""
    assert pieces.more("Z\u00fcrich") == "\u00fcrich"
