"""The option of a multiple choice that a target of a table names. Pure."""

import re
from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase
from typing import Literal

from cowest.raw.intake import Unfit
from cowest.sametext import caseless, spaced
from cowest.scorers.rules import FORMS

OWN_LETTER = re.compile(r"\s*\(?([A-Za-z])[.):]\s*\S")
"""An option that begins with a letter of its own: `B) Oslo`."""
Keyed = Literal["text", "letter", "from_0", "from_1", "label"]
"""The ways in which a target names its option."""


def option_of(target: str, choices: tuple[str, ...], keyed: Keyed, labels: Sequence[str]) -> str:
    """The option that a target names, as the scorer `choice` will find it again. Raises Unfit.

    `labels` are the options' own labels, in their order, if the data gives them any.
    """
    number = _number_of(target, choices, keyed, labels)
    if number is None or not 0 <= number < len(choices):
        how = {
            "text": "",
            "letter": ", named by its letter",
            "from_0": ", numbered from 0",
            "from_1": ", numbered from 1",
            "label": f", labelled {', '.join(labels)}"[:100],
        }[keyed]
        raise Unfit(f"the target {target[:40]!r} is not among the {len(choices)} options{how}")
    # The scorer compares texts in the form of its rule. Options that it can't tell apart by one of
    # the rules go by their letter.
    if not any(_is_like_another(number, list(map(form, choices))) for form in FORMS.values()):
        return choices[number]
    if number >= len(ascii_uppercase):
        raise Unfit(
            f"the option {choices[number][:40]!r} reads like another one, and only the first "
            f"{len(ascii_uppercase)} have letters to tell them apart"
        )
    letter = ascii_uppercase[number]
    for form in FORMS.values():
        # The scorer takes a target for a text before it takes it for a letter.
        for choice in choices:
            if form(choice) == form(letter):
                raise Unfit(
                    f"the option {choices[number][:40]!r} reads like another one, and its letter "
                    f"{letter} reads like the option {choice[:40]!r}: rewrite these options so "
                    "that each reads otherwise"
                )
    return letter


def _is_like_another(number: int, forms: Sequence[str]) -> bool:
    return forms.count(forms[number]) > 1


def _number_of(
    target: str, choices: tuple[str, ...], keyed: Keyed, labels: Sequence[str]
) -> int | None:
    """The number of the option that a target names, from 0; it may be out of range."""
    if keyed == "text":
        return _by_text(target, choices)
    bare = list(map(bare_label, labels))
    said = bare_label(target)
    if keyed == "label":
        return bare.index(said) if said in bare else None
    if keyed == "letter":
        if said in bare:
            return bare.index(said)
        _refuse_own_letters(choices)
        # Labels that are letters, and not this one: its place in the alphabet says nothing.
        alphabet = list(ascii_lowercase)
        if said not in alphabet or not set(bare).isdisjoint(alphabet):
            return None
        return alphabet.index(said)
    found = re.fullmatch(r"([0-9]{1,4})(?:\.0+)?", target.strip())
    if found is None:
        return None
    first = int(keyed[-1])
    # Labels say which number is whose where they are these numbers, in whatever order.
    if sorted(bare) == sorted(str(first + place) for place in range(len(choices))):
        return bare.index(found[1]) if found[1] in bare else None
    return int(found[1]) - first


def _refuse_own_letters(choices: tuple[str, ...]) -> None:
    """Raises Unfit for options that begin with letters in another order than A, B, C.

    Then a letter may mean the one or the other, for us and for a model.
    """
    found = [OWN_LETTER.match(choice) for choice in choices]
    letters = [match[1].casefold() for match in found if match is not None]
    in_order = list(ascii_lowercase[: len(choices)])
    # Two options may as well begin with somebody's initials.
    if len(choices) > 2 and letters != in_order and sorted(letters) == in_order:
        raise Unfit(
            f"the options have letters of their own in another order ({', '.join(letters)}): take "
            "the letters off, or sort the options by them"
        )


def _by_text(target: str, choices: tuple[str, ...]) -> int | None:
    """The number of the option with this text; among options that differ in case, as written."""
    written = [spaced(choice) for choice in choices]
    said = spaced(target)
    if said in written:
        return written.index(said)
    alike = [place for place, choice in enumerate(choices) if caseless(choice) == caseless(target)]
    if len(alike) > 1:
        raise Unfit(
            f"the target {target[:40]!r} may be any of {len(alike)} options that differ in case "
            "alone: write it as one of them"
        )
    return alike[0] if alike else None


def bare_label(label: str) -> str:
    """A label without case and the marks around it: `(A)` and `a.` are the same."""
    return label.strip().strip("().").casefold()
