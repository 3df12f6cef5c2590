"""Server-sent events: cut as the standard says, wherever the pieces end, and bounded."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest.net import events
from cowest.net.events import EventError, SentEvent, SentEvents


def read(*pieces: bytes) -> list[SentEvent]:
    found = SentEvents()
    seen = []
    for piece in pieces:
        seen += found.feed(piece)
    return seen + found.end()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\ndata:\ndata: c\n\n", [b"a\nb\n\nc"]),
        (b": hello\n\n:\n\ndata: a\n: again\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"id: 7\nretry: 5\nnonsense\ndata: a\nmore: b\n\n", [b"a"]),
        (b"data\n\ndata:\n\n\n\n", []),
        (b"data: a\n\ndata: the end", [b"a", b"the end"]),
        (b"data: a\n\ndata: the end\n", [b"a", b"the end"]),
        (b"DATA: a\n\n data: b\n\n", []),
        (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
        (b"", []),
    ],
)
def test_events_are_cut_as_the_standard_says(content: bytes, expected: list[bytes]) -> None:
    assert [event.data for event in read(content)] == expected


def test_an_event_has_a_name_for_itself_alone() -> None:
    assert read(b"event: error\ndata: a\n\ndata: b\n\nevent: x\n\ndata: c\n\n") == [
        SentEvent("error", b"a"),
        SentEvent("", b"b"),
        SentEvent("", b"c"),
    ]


PARTS = st.sampled_from(
    [b"data: ", b"data:", b": ", b"event: e", b"\n", b"\r\n", b"\r", "é€😀".encode(), b"x", b"\n\n"]
)


@given(st.lists(PARTS, max_size=20).map(b"".join), st.lists(st.integers(0, 90), max_size=20))
def test_it_does_not_matter_where_the_pieces_end(content: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(place, len(content)) for place in cuts), len(content)]
    assert read(*[content[start:end] for start, end in pairwise(places)]) == read(content)


def test_a_line_may_end_in_two_pieces() -> None:
    assert [event.data for event in read(b"data: a\r", b"\ndata: b\r", b"", b"\n\r", b"\n")] == [
        b"a\nb"
    ]


def test_a_line_and_an_event_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LARGEST_EVENT", 100)
    assert read(b"data: " + b"a" * 94 + b"\n\n")
    with pytest.raises(EventError, match="a line of more than 100 bytes"):
        read(b":", *[b"a" * 10] * 11)
    with pytest.raises(EventError, match="an event of more than 100 bytes"):
        read(*[b"data: aaaaaaaaa\n"] * 11)
    assert len(read(*[b"data: aaaaaaaaa\n\n"] * 30)) == 30
