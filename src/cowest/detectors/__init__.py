"""Finds personal data, secrets and a user's own terms in a text, masks them, and puts them back.

Everything that is looked for has a form that can be checked: a number with its check digits, a
key with its issuer's prefix. Names of people and places have no such form, and are found only as
`terms`.

A text takes time in proportion to its length, whatever is in it, since texts come from strangers:
every pattern begins at the left edge of a run of characters and looks no further than a fixed
length.
"""

import importlib.util
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import field_validator

from cowest.config import Config
from cowest.detectors import numbers, phones, places, secrets, words
from cowest.detectors.plain import BETWEEN, Span, plain
from cowest.errors import ConfigError

Kind = Literal["email", "card", "iban", "national_id", "secret", "phone", "ip", "term"]
"""Kinds of findings. Of two that are found in the same place, the first in this list counts."""
KINDS: tuple[Kind, ...] = get_args(Kind)
PLACEHOLDER = re.compile(r"\[(?:EMAIL|PHONE|CARD|IBAN|NATIONAL_ID|SECRET|IP|TERM)_\d{1,9}\]")

RULE = 3
"""Number of the rules of what is found; it goes up when they find other things."""
NEEDS = {"phone": "phonenumbers", "card": "stdnum", "iban": "stdnum", "national_id": "stdnum"}
"""The library that checks the numbers of a kind."""

REACH, NEAR = 140, 56
"""Characters that are looked at on both sides of the place where two texts meet, and those in which
a finding counts there: what is further away may be cut off."""

FOUR = re.compile(r"\d(?:\D?\d){3}")
"""A number that another text may say something of has four digits at least; only a password has
none, and follows a question."""

Finder = Callable[[str], Iterator[Span]]
"""Finds the places of one kind in a text that `plain` has read."""


class Finding(NamedTuple):
    """One finding: its kind and its place in the text."""

    kind: Kind
    start: int
    end: int
    """The first character after it."""


class Detection(Config):
    """Settings of the detectors."""

    detect: tuple[Kind, ...] = ("email", "phone", "card", "iban", "national_id", "secret", "term")
    """Kinds to look for: email, phone, card, iban, national_id, secret, ip, term. (ip is off, since
    version numbers of four parts look the same.)"""
    terms: tuple[str, ...] = ()
    """Your own words and phrases, such as code names. They are found in upper or lower case, as
    whole words, with any white space between them."""
    terms_file: Path | None = None
    """A text file with more terms, one per line; its path is relative to params.yaml. A line that
    begins with # is a comment."""
    regions: tuple[str, ...] = ("US",)
    """Countries (ISO 3166, two letters) whose phone numbers are found as they are written within
    the country. Numbers that begin with + or 00, and those directly after a word for a phone in a
    language of their country ("Telefon:", "Appelez le"), are always found."""

    @field_validator("regions")
    @classmethod
    def _are_countries(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [region for region in regions if not re.fullmatch("[A-Za-z]{2}", region)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: two letters name a country (US, GB, DE)")
        return tuple(region.upper() for region in regions)

    @field_validator("terms")
    @classmethod
    def _say_something(cls, terms: tuple[str, ...]) -> tuple[str, ...]:
        if any(not words.split(term) for term in terms):
            raise ValueError("an empty term would be found everywhere")
        return terms

    def all_terms(self) -> tuple[str, ...]:
        """Returns the terms of the settings and of the file.

        Raises ConfigError if the file can't be read.
        """
        if self.terms_file is None:
            return self.terms
        try:
            lines = self.terms_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(f"terms_file {self.terms_file} can't be read: {said}") from None
        terms = list(self.terms)
        for line in lines:
            if words.split(line) and not line.lstrip().startswith("#"):
                terms.append(line)
        return tuple(terms)


def find(text: str, config: Detection) -> list[Finding]:
    """Returns the findings in a text, in order.

    Findings that overlap become one, of the kind of the longest.
    """
    read, starts = plain(text)
    found = []
    for kind, finder in _finders(config):
        for start, end in finder(read):
            found.append(Finding(kind, start, end))
    merged = _merged(found)
    if starts is None:
        return merged
    # Letters moved when the text was read: places go back to where they are in the text itself.
    return [Finding(one.kind, starts[one.start], starts[one.end]) for one in merged]


def find_together(
    texts: Sequence[str], search: Callable[[str], Sequence[Finding]]
) -> list[list[Finding]]:
    """Returns the findings in each of the texts that belong together, such as a conversation's.

    A word in one text may say what a number in the next one is: "Your SSN?", "219099998". Other
    texts that are that number, and nothing else, are found too: a target among its options.
    `search` finds in one text, or remembers what it found there.
    """
    found = [list(search(text)) for text in texts]
    same: dict[str, dict[Finding, None]] = {}
    for at, one in _where_they_meet(texts, search):
        text = texts[at]
        value = text[one.start : one.end]
        same.setdefault(text, {})[one] = None
        same.setdefault(value, {})[Finding(one.kind, 0, len(value))] = None
    for at, text in enumerate(texts):
        more = [one for one in same.get(text, ()) if one not in found[at]]
        if more:
            found[at] = _merged([*found[at], *more])
    return found


def _where_they_meet(
    texts: Sequence[str], search: Callable[[str], Sequence[Finding]]
) -> Iterator[tuple[int, Finding]]:
    """Yields the findings near the places where texts meet, each with the number of its text."""
    starts = [0]
    for text in texts:
        starts.append(starts[-1] + len(text) + len(BETWEEN))
    joined = BETWEEN.join(texts)
    for number in range(1, len(texts)):
        if not texts[number]:
            continue
        meet = starts[number]
        first = max(0, meet - len(BETWEEN) - REACH)
        if not _may_tell(texts[number - 1][-NEAR:], texts[number][:NEAR]):
            continue
        for one in search(joined[first : meet + REACH]):
            start, end = first + one.start, first + one.end
            at = bisect(starts, start) - 1
            if end <= meet - NEAR or start >= meet + NEAR or end > starts[at] + len(texts[at]):
                continue
            yield at, Finding(one.kind, start - starts[at], end - starts[at])


@lru_cache(maxsize=1024)
def _may_tell(before: str, after: str) -> bool:
    """Says whether one of two texts may say what a number, or a password, in the other is."""
    return bool(FOUR.search(before) or FOUR.search(after) or before.endswith("?"))


def mask(text: str, findings: Sequence[Finding]) -> tuple[str, dict[str, str]]:
    """Replaces the findings by placeholders, such as [EMAIL_1].

    Returns the text, and the originals by placeholder. Equal originals have the same placeholder.
    """
    (masked,), originals = mask_all([text], [findings])
    return masked, originals


def mask_all(
    texts: Sequence[str], findings: Sequence[Sequence[Finding]]
) -> tuple[list[str], dict[str, str]]:
    """Masks texts that belong together, with placeholders that are numbered through all of them.

    A placeholder that one of the texts contains by itself is never used, since unmasking would
    replace that too.
    """
    taken: set[str] = set()
    for text in texts:
        taken.update(PLACEHOLDER.findall(text))
    given: dict[tuple[str, str], str] = {}
    counts: Counter[str] = Counter()

    def placeholder(kind: str, original: str) -> str:
        while (kind, original) not in given:
            counts[kind] += 1
            name = f"[{kind.upper()}_{counts[kind]}]"
            if name not in taken:
                given[kind, original] = name
        return given[kind, original]

    masked = []
    for text, found in zip(texts, findings, strict=True):
        parts = []
        end = 0
        for finding in found:
            parts.append(text[end : finding.start])
            parts.append(placeholder(finding.kind, text[finding.start : finding.end]))
            end = finding.end
        parts.append(text[end:])
        masked.append("".join(parts))
    return masked, {name: original for (_, original), name in given.items()}


def unmask(text: str, originals: dict[str, str]) -> str:
    """Puts the originals back in place of their placeholders; an unknown placeholder stays."""
    if not originals:
        return text

    def original(placeholder: re.Match[str]) -> str:
        return originals.get(placeholder[0], placeholder[0])

    return PLACEHOLDER.sub(original, text)


@lru_cache(maxsize=32)
def _finders(config: Detection) -> tuple[tuple[Kind, Finder], ...]:
    """Returns each kind that is asked for with its finder.

    They are remembered, so a changed terms_file is seen by the next process. Raises ConfigError
    if a library is missing.
    """
    missing = set()
    for kind in config.detect:
        needed = NEEDS.get(kind)
        if needed is not None and importlib.util.find_spec(needed) is None:
            missing.add(needed)
    if missing:
        raise ConfigError(
            f"detect: {', '.join(sorted(missing))} can't be imported: install CoWest's extra "
            "`privacy` (README, Install)"
        )
    return tuple((kind, _finder(kind, config)) for kind in dict.fromkeys(config.detect))


def _finder(kind: Kind, config: Detection) -> Finder:
    if kind == "phone":
        return phones.finder(config.regions)
    if kind == "term":
        return words.finder(config.all_terms())
    return FINDERS[kind]


FINDERS: dict[Kind, Finder] = {
    "email": places.emails,
    "card": numbers.cards,
    "iban": numbers.accounts,
    "national_id": numbers.national_ids,
    "secret": secrets.secrets,
    "ip": places.addresses,
}
"""The finders that need no settings."""


def _merged(found: list[Finding]) -> list[Finding]:
    """Joins findings that overlap, so that nothing of any of them is left in a masked text."""

    def order(finding: Finding) -> tuple[int, int, int]:
        # The longest first of those that begin together, then the kind named first.
        return finding.start, -finding.end, KINDS.index(finding.kind)

    merged: list[Finding] = []
    longest = 0  # length of the finding that gave the last one in `merged` its kind
    for finding in sorted(found, key=order):
        length = finding.end - finding.start
        if not merged or finding.start >= merged[-1].end:
            merged.append(finding)
            longest = length
            continue
        last = merged[-1]
        kind = finding.kind if length > longest else last.kind
        merged[-1] = Finding(kind, last.start, max(last.end, finding.end))
        longest = max(longest, length)
    return merged
