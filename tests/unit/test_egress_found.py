"""The planted items of tests/bench/egress.py: floors of what is found, and of false alarms."""

import pytest

from cowest.detectors import Detection, find, mask, unmask
from tests.bench import egress

SEED = 11


def test_nine_of_ten_planted_items_of_each_kind_are_found() -> None:
    seen: dict[str, list[bool]] = {}
    for item in egress.planted(SEED):
        seen.setdefault(item.kind, []).append(egress.found(item, Detection()))
    shares = {kind: sum(right) / len(right) for kind, right in seen.items()}
    assert set(shares) == {"phone", "national_id", "email", "secret", "card", "iban"}
    assert min(shares.values()) >= 0.9, shares


def test_masks_of_planted_items_are_undone() -> None:
    for item in egress.planted(SEED):
        masked, originals = mask(item.text, find(item.text, Detection()))
        assert unmask(masked, originals) == item.text


def test_two_of_a_hundred_ordinary_sentences_at_most_raise_an_alarm() -> None:
    texts = list(egress.prose(SEED, 500))
    alarms = [text for text in texts if find(text, Detection())]
    assert len(alarms) <= 10, alarms


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Fragen Sie sean.o'brien@post.example.ie danach.", "sean.o'brien@post.example.ie"),
        ("Unser Telefon: 0521 550 1234.", "0521 550 1234"),
        ("Vous pouvez appeler le 02 40 12 34 56 le matin.", "02 40 12 34 56"),
        ("He pays with 4012.8888.8888.1881 at the till.", "4012.8888.8888.1881"),
        ("the sort code is 20-00-00", "20-00-00"),
        ("account number 73841902, please", "73841902"),
        ("lee (at) mail (dot) example (dot) org", "lee (at) mail (dot) example (dot) org"),
        ("reach lee at posteo dot net today", "lee at posteo dot net"),
        ("ask lee @ posteo . net today", "lee @ posteo . net"),
        ("it is kQ7/vT2mXw9RbZ4+LsN8cJ1hYf6DpG3aUe5oKiV0 now",
         "kQ7/vT2mXw9RbZ4+LsN8cJ1hYf6DpG3aUe5oKiV0"),
    ],
)  # fmt: skip
def test_an_item_is_found_whole(text: str, whole: str) -> None:
    found = [text[one.start : one.end] for one in find(text, Detection())]
    assert found == [whole]


@pytest.mark.parametrize(
    "text",
    [
        "Die Telefonrechnung vom 03.04.2021 war hoch.",
        "Telefon: 12.05.2023, 9 Uhr",
        "meet at the red dot in the map",
        "the dots are at point 3 dot 4",
        "commit 788bf87a1b2c3d4e5f60718293a4b5c6d7e8f901 src/Main/Java/Com/Example/Deep/Path12/A",
        "they ring 1234567 bells",
        "the national income was 123 456 782",
    ],
)
def test_what_only_looks_alike_is_left_alone(text: str) -> None:
    assert [text[one.start : one.end] for one in find(text, Detection())] == []
