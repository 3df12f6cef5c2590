"""Personal data, secrets and a user's own terms: where they are in a text, and how they are taken out of it and put back.

What is looked for has a form that can be checked: a number with its check digits, a key with its issuer's prefix. Names of
people and places have none, and are found only as `terms`. A text takes time in proportion to its length, whatever is in it:
every pattern begins at the left edge of a run of characters and looks no further than a fixed length.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import field_validator

from cowest.config import Config
from cowest.detectors import numbers, places, secrets, words
from cowest.detectors.plain import Span, plain
from cowest.errors import ConfigError

Kind = Literal["email", "card", "iban", "national_id", "secret", "phone", "ip", "term"]
"""Of two that are found in the same place, the one named first."""
KINDS: tuple[Kind, ...] = get_args(Kind)
PLACEHOLDER = re.compile(r"\[(?:EMAIL|PHONE|CARD|IBAN|NATIONAL_ID|SECRET|IP|TERM)_\d{1,9}\]")

NEEDS = {"phone": "phonenumbers", "card": "stdnum", "iban": "stdnum", "national_id": "stdnum"}
"""What checks a kind's numbers."""


class Finding(NamedTuple):
    """One place in a text."""

    kind: Kind
    start: int
    end: int
    """The first character after it."""


class Detection(Config):
    """What is looked for."""

    detect: tuple[Kind, ...] = ("email", "phone", "card", "iban", "national_id", "secret", "term")
    """Kinds: email, phone, card, iban, national_id, secret, ip, term. (ip is off: versions of four numbers look the same.)"""
    terms: tuple[str, ...] = ()
    """Words and phrases of one's own: in any case, whole words, with any white space between them."""
    terms_file: Path | None = None
    """A text file with more of them, one a line; # begins a remark."""
    regions: tuple[str, ...] = ("US",)
    """Countries (ISO 3166, two letters) whose phone numbers are found as they are written at home; those that begin with +
    or 00 always are."""

    @field_validator("regions")
    @classmethod
    def _are_countries(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [region for region in regions if not re.fullmatch("[A-Za-z]{2}", region)]:
            raise ValueError(f"{', '.join(wrong)}: two letters name a country (US, GB, DE)")
        return tuple(region.upper() for region in regions)

    @field_validator("terms")
    @classmethod
    def _say_something(cls, terms: tuple[str, ...]) -> tuple[str, ...]:
        if any(not words.split(term) for term in terms):
            raise ValueError("an empty term would be found everywhere")
        return terms

    def all_terms(self) -> tuple[str, ...]:
        """The terms of the settings and of the file. Raises ConfigError for a file that can't be read."""
        if self.terms_file is None:
            return self.terms
        try:
            lines = self.terms_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(f"terms_file {self.terms_file} can't be read: {said}") from None
        return (
            *self.terms,
            *(line for line in lines if words.split(line) and not line.lstrip().startswith("#")),
        )


def find(text: str, config: Detection) -> list[Finding]:
    """What is in a text, in order. Findings that overlap are one, of the longest one's kind."""
    shadow, starts = plain(text)
    found = [Finding(kind, *span) for kind, finder in _finders(config) for span in finder(shadow)]
    merged = _merged(found)
    return (
        merged
        if starts is None
        else [Finding(f.kind, starts[f.start], starts[f.end]) for f in merged]
    )


def mask(text: str, findings: Sequence[Finding]) -> tuple[str, dict[str, str]]:
    """The text with placeholders ([EMAIL_1]) in place of its findings, and what each stands for; equal texts have one."""
    (masked,), originals = mask_all([text], [findings])
    return masked, originals


def mask_all(
    texts: Sequence[str], findings: Sequence[Sequence[Finding]]
) -> tuple[list[str], dict[str, str]]:
    """The same for texts that belong together: numbered through them all, in the order in which they are met.

    A placeholder that one of the texts says by itself is never given.
    """
    taken = {said for text in texts for said in PLACEHOLDER.findall(text)}
    given: dict[tuple[str, str], str] = {}
    counts: dict[str, int] = {}

    def placeholder(kind: str, original: str) -> str:
        while (kind, original) not in given:
            counts[kind] = counts.get(kind, 0) + 1
            if (name := f"[{kind.upper()}_{counts[kind]}]") not in taken:
                given[kind, original] = name
        return given[kind, original]

    masked = []
    for text, its in zip(texts, findings, strict=True):
        parts, end = [], 0
        for finding in its:
            parts += [
                text[end : finding.start],
                placeholder(finding.kind, text[finding.start : finding.end]),
            ]
            end = finding.end
        masked.append("".join([*parts, text[end:]]))
    return masked, {name: original for (_, original), name in given.items()}


def unmask(text: str, originals: dict[str, str]) -> str:
    """A text with what its placeholders stand for put back; one that is not known stays."""
    return (
        PLACEHOLDER.sub(lambda match: originals.get(match[0], match[0]), text)
        if originals
        else text
    )


@lru_cache(maxsize=32)
def _finders(config: Detection) -> tuple[tuple[Kind, Callable[[str], Iterator[Span]]], ...]:
    """What finds each kind that is asked for. A changed terms_file is seen by the next process."""
    if missing := sorted(
        {
            NEEDS[kind]
            for kind in config.detect
            if kind in NEEDS and importlib.util.find_spec(NEEDS[kind]) is None
        }
    ):
        raise ConfigError(
            f"detect: {', '.join(missing)} can't be imported: pip install 'cowest[privacy]'"
        )
    made: dict[Kind, Callable[[], Callable[[str], Iterator[Span]]]] = {
        "email": lambda: places.emails,
        "phone": lambda: numbers.phones(config.regions),
        "card": lambda: numbers.cards,
        "iban": lambda: numbers.ibans,
        "national_id": lambda: numbers.national_ids,
        "secret": lambda: secrets.secrets,
        "ip": lambda: places.addresses,
        "term": lambda: words.finder(config.all_terms()),
    }
    return tuple((kind, made[kind]()) for kind in dict.fromkeys(config.detect))


def _merged(found: list[Finding]) -> list[Finding]:
    merged: list[Finding] = []
    longest = 0
    for finding in sorted(found, key=lambda f: (f.start, -f.end, KINDS.index(f.kind))):
        length = finding.end - finding.start
        if merged and finding.start < merged[-1].end:
            last = merged[-1]
            kind = finding.kind if length > longest else last.kind
            merged[-1], longest = (
                Finding(kind, last.start, max(last.end, finding.end)),
                max(longest, length),
            )
        else:
            merged.append(finding)
            longest = length
    return merged
