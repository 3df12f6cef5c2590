"""Finds numbers that belong to a person or an account.

A number counts if the rules that are known of it hold: its form, its length and its check digits,
by the libraries phonenumbers and python-stdnum. Where these are too weak, a word beside it must
say what the number is.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache

from cowest.detectors.plain import Span

BEFORE, AFTER = 48, 16
"""Characters before and after a number in which a word may say what the number is."""
LONGEST_RUN = 80
"""Characters of digits and signs. In a longer run, such as a table of figures, only a number that
begins with + or 00 counts as a phone number."""
RUN = re.compile(r"(?<![\w+(])(?:\+|\()?\d[\d ()./+-]*")
ABROAD = re.compile(r"(?<![\w+])(?:\+|00(?=[1-9]))[\d ()./-]{7,30}")
PHONE = re.compile(
    r"phone|mobil|telefon|téléphone|teléfono"
    r"|(?<!\w)(?:tel|cell|call|fax|whatsapp|sms|text|ring|dial|appelez|handy|móvil|hotline"
    r"|ph|pager)(?!\w)",
    re.IGNORECASE,
)
DECIMAL = re.compile(r"\d+(?:\.\d+)?")
"""Digits alone, or a fraction: a phone number only if a word says so."""
DIGITS = re.compile(r"\d+")
GROUPS = re.compile(r"(?<!\d)\d+(?:[ -]\d+)*")
EDGES, JOINED = re.compile(r"[\w.,+/-]"), re.compile(r"\w|[.,/-]\d")
"""Characters directly before (EDGES) or after (JOINED) a run of digits that make it part of
something longer, such as a version or a path."""
CARD = re.compile(
    r"card|credit|debit|visa|amex|maestro|diners|discover|unionpay|jcb|karte|carte|tarjeta"
    r"|(?<!\w)(?:cc|pan)(?!\w)",
    re.IGNORECASE,
)
SHAPES = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3)}
"""Groups in which card numbers are printed."""
MOST_GROUPS = 5
"""Groups of the longest of these shapes."""
ISSUER = re.compile(
    r"4(?:\d{15}|\d{18})"
    r"|(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720)\d{11,14}"
    r"|3[47]\d{13}"
    r"|3(?:0[0-5]|[689])\d{11,16}"
    r"|6(?:011|5|4[4-9])\d{12,17}"
    r"|35(?:2[89]|[3-8])\d{12,15}"
    r"|62\d{14,17}"
    r"|(?:50|5[6-9]|6[0-9])\d{14}"
)
"""First digits and length of Visa, Mastercard, American Express, Diners, Discover, JCB, UnionPay
and Maestro, in this order (ISO/IEC 7812)."""
PAIR = re.compile(r"[0-9]{2}")
ACCOUNT = re.compile(r"(?<![^\W_])(?=([A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}))")
SHORTEST_ACCOUNT = 15
"""Characters of the shortest account number: Norway's."""
SIX = re.compile(r"\d(?:\D{0,4}\d){5}")
"""A text without six digits near each other has no phone number, no card and no national id.

Most texts have none, and are done with after this one search.
"""
IDENTITY = re.compile(
    r"social security"
    r"|(?<!\w)(?:ssn|nino|sin|tfn|bsn|cpf|pesel|aadhaar|aadhar|dni|nie|nif|nir|cnp|egn|pps|ahv|hetu"
    r"|cpr|rut)(?!\w)"
    r"|(?<!\w)(?:nhs|tckn|id (?:no|number|card))(?!\w)"
    r"|national|insurance n|identi|passport|tax|citizen|personal (?:code|n)|steuer|ausweis"
    r"|sécurité|fiscale?|personnummer|burgerservice|rijksregister|身份|주민|マイナンバー",
    re.IGNORECASE,
)
"""Words that say that a number is somebody's national id."""

# A number of a weak form needs a word that says what it is: an order number of nine digits passes
# the check digits of some countries one time in ten.
SURE, NEEDS_WORD = False, True
NATIONAL = (
    (r"\d{3}-\d{2}-\d{4}", "us.ssn", SURE),
    (r"\d{9}|\d{3} \d{2} \d{4}", "us.ssn", NEEDS_WORD),
    (r"[A-CEGHJ-PR-TW-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]", "", NEEDS_WORD),
    (r"[A-CEGHJ-PR-TW-Z]{2} \d{2} \d{2} \d{2} [A-D]", "", SURE),
    (r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", NEEDS_WORD),
    (r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", NEEDS_WORD),
    (r"[12] ?\d{2} ?[0-9]{2} ?\d[\dABab] ?\d{3} ?\d{3} ?\d{2}", "fr.nir", SURE),
    (r"\d{2} ?\d{3} ?\d{3} ?\d{3}", "de.idnr", NEEDS_WORD),
    (r"[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", "it.codicefiscale", SURE),
    (r"\d{8}-?[A-Z]", "es.dni", NEEDS_WORD),
    (r"[XYZ]-?\d{7}-?[A-Z]", "es.nie", NEEDS_WORD),
    (r"\d{9}", "nl.bsn", NEEDS_WORD),
    (r"\d{9}", "pt.nif", NEEDS_WORD),
    (r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", "be.nn", SURE),
    (r"756\.\d{4}\.\d{4}\.\d{2}|756\d{10}", "ch.ssn", SURE),
    (r"(?:\d{2})?\d{6}[-+]\d{4}", "se.personnummer", SURE),
    (r"\d{6}[-+A-FU-Y]\d{3}[\dA-Y]", "fi.hetu", SURE),
    (r"\d{6}-?\d{4}", "dk.cpr", NEEDS_WORD),
    (r"\d{6} ?\d{5}", "no.fodselsnummer", NEEDS_WORD),
    (r"\d{11}", "pl.pesel", NEEDS_WORD),
    (r"\d{7}[A-W][A-IW]?", "ie.pps", NEEDS_WORD),
    (r"\d{13}", "ro.cnp", NEEDS_WORD),
    (r"\d{11}", "tr.tckimlik", NEEDS_WORD),
    (r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf", SURE),
    (r"\d{11}", "br.cpf", NEEDS_WORD),
    (r"\d{1,2}\.?\d{3}\.?\d{3}-[\dK]", "cl.rut", NEEDS_WORD),
    (r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", "mx.curp", SURE),
    (r"\d{4}[ -]?\d{4}[ -]?\d{4}", "in_.aadhaar", NEEDS_WORD),
    (r"[A-Z]{5}\d{4}[A-Z]", "in_.pan", NEEDS_WORD),
    (r"\d{17}[\dXx]", "cn.ric", SURE),
    (r"\d{6}-\d{7}", "kr.rrn", SURE),
    (r"\d{4}[ -]?\d{4}[ -]?\d{4}", "jp.in_", NEEDS_WORD),
    (r"\d{13}", "za.idnr", NEEDS_WORD),
    (r"\d{3} ?\d{3} ?\d{3}", "au.tfn", NEEDS_WORD),
)
"""A form, the module of python-stdnum that checks it ("" for none), and if it needs a word."""


def phones(regions: tuple[str, ...]) -> Callable[[str], Iterator[Span]]:
    """Returns a finder of phone numbers.

    A number must be valid, and either grouped as its country groups numbers or named by a word. A
    number that anybody may call (toll-free, premium rate, a company's national number) is
    nobody's.
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
    from phonenumbers import Leniency, PhoneNumberMatcher, PhoneNumberType, number_type

    # phonenumbers knows + as the sign of a country, and 00 only where the region dials it. A
    # space and a + are as long as the two zeros, so that places stay.
    run = re.sub(r"(?<!\d)00(?=[1-9])", " +", text[start:end])
    named = _named(PHONE, text, start, end)
    leniency = Leniency.VALID if named else Leniency.STRICT_GROUPING
    # A number with its country's code is the same in every region: one search finds it.
    home = regions if "+" not in run else regions[:1]
    for region in home or (None,):
        for match in PhoneNumberMatcher(run, region, leniency=leniency):
            begins, ends = start + match.start, start + match.end
            # The first of the two zeros became a space, which is not in the match.
            if match.raw_string.startswith("+") and text[begins] == "0":
                begins -= 1
            nobodys = number_type(match.number) in (
                PhoneNumberType.TOLL_FREE,
                PhoneNumberType.PREMIUM_RATE,
                PhoneNumberType.UAN,
            )
            if not nobodys and (named or not DECIMAL.fullmatch(match.raw_string)):
                yield begins, ends


def cards(text: str) -> Iterator[Span]:
    """Finds card numbers.

    First digits and length are those of an issuer, the digits stand in printed groups or
    together, and the check digit is right (Luhn).
    """
    if not SIX.search(text):
        return
    for run in GROUPS.finditer(text):
        if run.end() - run.start() < 13:
            continue
        # A card number may stand among other numbers ("2 x 4111 ..."), so every sequence of
        # groups is tried. No sequence has more groups than a card, so that long runs take linear
        # time.
        groups = [part.span() for part in DIGITS.finditer(text, *run.span())]
        for first in range(len(groups)):
            for last in range(first, min(len(groups), first + MOST_GROUPS)):
                if _is_card(text, groups[first : last + 1]):
                    yield groups[first][0], groups[last][1]


def _is_card(text: str, groups: list[Span]) -> bool:
    from stdnum import luhn

    shape = tuple(end - start for start, end in groups)
    if not (13 <= sum(shape) <= 19 and (len(shape) == 1 or shape in SHAPES)):
        return False
    start, end = groups[0][0], groups[-1][1]
    digits = re.sub("[ -]", "", text[start:end])
    if not (ISSUER.fullmatch(digits) and luhn.is_valid(digits)):
        return False
    if EDGES.search(text[max(0, start - 1) : start]) or JOINED.match(text, end):
        return False
    # Undivided numbers of other lengths are often something else, and one in ten passes Luhn.
    return len(shape) > 1 or len(digits) in (15, 16) or _named(CARD, text, start, end)


def ibans(text: str) -> Iterator[Span]:
    """Finds account numbers: the country's length and form, and the check digits (ISO 13616)."""
    from stdnum import iban

    if not PAIR.search(text):
        return
    for match in ACCOUNT.finditer(text):
        for end in _ends(text, match):
            if iban.is_valid(match[1][:end]):
                yield match.start(), match.start() + end
                break


def _ends(text: str, match: re.Match[str]) -> list[int]:
    """Returns the lengths at which an account number may end, the longest first.

    The match goes on over spaces into the words that follow; the number ends before one of the
    spaces.
    """
    run = match[1]
    ends = []
    for place in range(SHORTEST_ACCOUNT, len(run)):
        if run[place - 1].isalnum() and not run[place].isalnum():
            ends.append(place)
    # The whole match counts only if it does not end in the middle of a word.
    after = match.end(1)
    if after >= len(text) or not text[after].isalnum():
        ends.append(len(run))
    return ends[::-1]


def national_ids(text: str) -> Iterator[Span]:
    """Finds numbers that states give to people."""
    if not SIX.search(text):
        return
    for pattern, module, needs_word in _national():
        for match in pattern.finditer(text):
            # The cheap test first: most numbers of nine digits have no such word near them.
            if needs_word and not _named(IDENTITY, text, *match.span()):
                continue
            if not module or _valid(module, match[0]):
                yield match.span()


@cache
def _national() -> tuple[tuple[re.Pattern[str], str, bool], ...]:
    """Compiles NATIONAL; a number must stand alone, and not inside a longer one."""
    compiled = []
    for form, module, needs_word in NATIONAL:
        pattern = re.compile(rf"(?<![\w./+-])(?:{form})(?!\w|[./+-]\w)")
        compiled.append((pattern, module, needs_word))
    return tuple(compiled)


@cache
def _checker(module: str) -> Callable[[str], bool]:
    found: Callable[[str], bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return found


def _valid(module: str, number: str) -> bool:
    try:
        return _checker(module)(number)
    # python-stdnum 2.2 breaks off on some numbers, such as those of no county of China.
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError):
        return False


def _named(words: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Says whether a word near a number says what the number is."""
    before = words.search(text, max(0, start - BEFORE), start)
    return bool(before or words.search(text, end, end + AFTER))
