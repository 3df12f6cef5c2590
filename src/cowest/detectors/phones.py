"""Finds phone numbers, by the library phonenumbers and by the words beside them."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from cowest.detectors.numbers import SIX, named
from cowest.detectors.plain import ASKED, Span
from cowest.detectors.words import AFTER, BEFORE

LONGEST_RUN = 80
"""Characters of digits and signs. In a longer run, such as a table of figures, only a number that
begins with + or 00 counts as a phone number."""
RUN = re.compile(rf"{BEFORE}(?<![+(])(?:\+|\()?\d[\d ()./+-]*")
ABROAD = re.compile(rf"{BEFORE}(?<!\+)(?:\+|00(?=[1-9]))[\d ()./-]{{7,30}}")
PHONE = re.compile(
    r"phone|mobil|telefon|téléphone|teléfono"
    rf"|{BEFORE}(?:tel|cell|call|fax|whatsapp|sms|text|ring|dial|appelez|handy|móvil|hotline"
    rf"|ph|pager){AFTER}",
    re.IGNORECASE,
)
"""Words beside a number (numbers.BEFORE, AFTER) of the regions in the settings."""
DECIMAL = re.compile(r"\d+(?:\.\d+)?")
"""Digits alone, or a fraction: a phone number only if a word says so."""
NO_PHONE = re.compile(
    r"\W*(?:\d{1,2}([./-])\d{1,2}\1\d{2,4}|\d{4}([./-])\d{1,2}\2\d{1,2}|\d+\.\d\d?)(?!\d)"
)
"""A date or a price: no phone number, though a word for a phone stands before it."""
NEAR = 48
"""Characters before a number in which a word of SPOKEN begins."""

SPOKEN: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        r"(?:tele|cell|mobile )?phone|tel|mobile|cell|fax|whatsapp|ph|dial"
        r"|(?:call|text|ring|phone|reach) (?:me|us|him|her|them|back)|call|ring",
        ("GB", "US", "IE", "AU", "NZ", "IN", "ZA", "SG", "NG", "KE"),
    ),
    (
        r"\w{0,12}telefon|\w{0,8}tel|fon|mobil\w{0,8}|handy|fax|\w{0,6}rufnummer|durchwahl"
        r"|rufen? \w+|anruf\w*|ring|tlf|gsm|mob|telefonszám",
        ("DE", "AT", "CH", "SE", "NO", "DK", "PL", "CZ", "SK", "HU", "RO", "TR", "HR", "SI"),
    ),
    (
        r"t[ée]l[ée]phone|t[ée]l|appel\w{1,4}|portable|mobile|gsm|fixe|joindre|joignable",
        ("FR", "BE", "CH", "LU", "CA", "MA"),
    ),
    (
        r"tel[ée]fono|tel|m[óo]vil|celular|cel|llam[ea]\w{0,4}|ll[áa]me\w{0,3}|marque",
        ("ES", "MX", "AR", "CO", "CL", "PE", "EC", "UY"),
    ),
    (r"telefono|tel|cell(?:ulare)?|chiam\w{1,4}", ("IT", "CH")),
    (r"telefone|tel|telem[óo]vel|celular|lig[au]\w{0,3}|ligue", ("BR", "PT")),
    (r"telefoon\w{0,8}|tel|mobiel|gsm|bel(?:len)?", ("NL", "BE")),
    (r"puh(?:elin\w{0,6})?|gsm|soita\w{0,3}", ("FI",)),
    (r"kom(?:órka|\.)|zadzwo\w+|dzwoni\w*|kom", ("PL",)),
    (r"volejte|zavol\w+|volajte", ("CZ", "SK")),
    (r"sunați|cep|ara(?:y[\u0131i]n)?|τηλ\w*|κιν\w*", ("RO", "TR", "GR")),
    (r"тел\w{0,6}|моб\w{0,8}|звон\w+|телефону", ("RU", "UA", "BG", "KZ")),
    (r"telepon|hp|điện thoại|sđt|โทร\w{0,10}|هاتف|جوال|טלפון|נייד|फ़ोन|फोन|मोबाइल",
     ("ID", "VN", "TH", "SA", "EG", "AE", "IL", "IN")),
    (r"電話\w{0,4}|携帯\w{0,4}", ("JP", "TW", "HK")),
    (r"电话\w{0,3}|手机\w{0,3}|電話|手機", ("CN", "TW", "HK")),
    (r"전화\w{0,4}|휴대\w{0,5}|핸드폰", ("KR",)),
)  # fmt: skip
"""Words for a phone, or to call one, by language, with the countries where they are spoken."""


def _directly(words: str) -> re.Pattern[str]:
    """Returns a pattern that is found where one of the words stands directly before an end.

    Between the two, few characters may stand and none of another number or sentence; a question
    may end.
    """
    edge = rf"{BEFORE}(?:{words}){AFTER}"
    return re.compile(
        rf"{edge}(?:\W?\.?[^\d.,!?\n;$€£¥]{{0,16}}|[^\d.,!?\n;]{{0,16}}{ASKED})\Z", re.IGNORECASE
    )


def finder(regions: tuple[str, ...]) -> Callable[[str], Iterator[Span]]:
    """Returns a finder of phone numbers.

    A number must be valid, and grouped as its country groups numbers or named by a word. Directly
    after such a word, a number of the countries that speak its language will do. A number that
    anybody may call (toll-free, premium rate, a company's national number) is nobody's.
    """

    def find(text: str) -> Iterator[Span]:
        if not SIX.search(text):
            return
        for match in RUN.finditer(text):
            if len(match[0]) > LONGEST_RUN:
                for piece in ABROAD.finditer(text, *match.span()):
                    yield from _phones_in(text, *piece.span(), ())
            elif sum(letter.isdigit() for letter in match[0]) >= 7:
                yield from _phones_in(text, *match.span(), regions)

    return find


def _phones_in(text: str, start: int, end: int, regions: tuple[str, ...]) -> Iterator[Span]:
    # phonenumbers knows + as the sign of a country, and 00 only where the region dials it. A
    # space and a + are as long as the two zeros, so that places stay.
    run = re.sub(r"(?<!\d)00(?=[1-9])", " +", text[start:end])
    is_named = named(PHONE, text, start, end)
    # A number with its country's code is the same in every region: one search finds it.
    home = regions if "+" not in run else regions[:1]
    whole = False
    for region in home or (None,):
        for begins, ends in _matches(run, region, is_named):
            whole = whole or not any(sign.isdigit() for sign in run[:begins] + run[ends:])
            # The first of the two zeros became a space, which is not in the match.
            if run[begins] == "+" and text[start + begins] == "0":
                begins -= 1
            yield start + begins, start + ends
    if whole or not regions or "+" in run or NO_PHONE.match(run):
        return
    longest = (0, 0)
    for region in _spoken(text[max(0, start - NEAR) : start]):
        for begins, ends in _matches(run, region, True):
            if ends - begins > longest[1] - longest[0]:
                longest = begins, ends
    if longest[1]:
        yield start + longest[0], start + longest[1]


@lru_cache(maxsize=1024)
def _matches(run: str, region: str | None, is_named: bool) -> tuple[Span, ...]:
    """Returns the places of a region's numbers in a run of digits and signs.

    They are remembered: a number near the place where two texts meet is searched for again there.
    """
    from phonenumbers import Leniency, PhoneNumberMatcher, PhoneNumberType, number_type

    places = []
    leniency = Leniency.VALID if is_named else Leniency.STRICT_GROUPING
    for match in PhoneNumberMatcher(run, region, leniency=leniency):
        nobodys = number_type(match.number) in (
            PhoneNumberType.TOLL_FREE,
            PhoneNumberType.PREMIUM_RATE,
            PhoneNumberType.UAN,
        )
        if not nobodys and (is_named or not DECIMAL.fullmatch(match.raw_string)):
            places.append((match.start, match.end))
    return tuple(places)


def _spoken(before: str) -> list[str]:
    """Returns the countries that speak the words directly before a number, each once."""
    regions: list[str] = []
    for words, of in DIRECTLY:
        if words.search(before):
            regions += of
    return list(dict.fromkeys(regions))


DIRECTLY = tuple((_directly(words), regions) for words, regions in SPOKEN)
"""SPOKEN, compiled."""
