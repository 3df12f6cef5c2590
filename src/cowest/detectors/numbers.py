"""Numbers that name a person or an account: they are checked by what is known of them (phonenumbers, python-stdnum)."""

import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache

from cowest.detectors.plain import Span

BEFORE, AFTER = 48, 16
"""Characters around a number in which a word may say what it is."""
LONGEST_RUN = 80
"""Characters of digits and signs; in a longer run (a table of figures) only what begins with + is a phone."""
RUN = re.compile(r"(?<![\w+(])(?:\+|\()?\d[\d ()./+-]*")
ABROAD = re.compile(r"(?<![\w+])(?:\+|00(?=[1-9]))[\d ()./-]{7,30}")
PHONE = re.compile(
    r"phone|mobil|telefon|téléphone|teléfono"
    r"|(?<!\w)(?:tel|cell|call|fax|whatsapp|sms|text|ring|dial|appelez|handy|móvil|hotline|ph|pager)(?!\w)",
    re.IGNORECASE,
)
DECIMAL = re.compile(r"\d+(?:\.\d+)?")
"""What is a phone only where a word says so: digits alone, or a fraction."""
GROUPS = re.compile(r"(?<!\d)\d+(?:[ -]\d+)*")
EDGES, JOINED = re.compile(r"[\w.,+/-]"), re.compile(r"\w|[.,/-]\d")
"""What a number is part of something longer by: before it, and after."""
CARD = re.compile(
    r"card|credit|debit|visa|amex|maestro|diners|discover|unionpay|jcb|karte|carte|tarjeta|(?<!\w)(?:cc|pan)(?!\w)",
    re.IGNORECASE,
)
SHAPES = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3)}
"""Groups in which card numbers are printed."""
ISSUER = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720)\d{11,14}|3[47]\d{13}|3(?:0[0-5]|[689])\d{11,16}"
    r"|6(?:011|5|4[4-9])\d{12,17}|35(?:2[89]|[3-8])\d{12,15}|62\d{14,17}|(?:50|5[6-9]|6[0-9])\d{14}"
)
"""Visa, Mastercard, American Express, Diners, Discover, JCB, UnionPay, Maestro: first digits and length (ISO/IEC 7812)."""
PAIR = re.compile(r"[0-9]{2}")
ACCOUNT = re.compile(r"(?<![^\W_])(?=([A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}))")
SIX = re.compile(r"\d(?:\D{0,4}\d){5}")
"""A text without six digits near each other has no phone, no card, no national id."""
SAID = re.compile(
    r"social security|(?<!\w)(?:ssn|nino|sin|tfn|bsn|cpf|pesel|aadhaar|aadhar|dni|nie|nif|nir|cnp|egn|pps|ahv|hetu|cpr|rut)(?!\w)"
    r"|(?<!\w)(?:nhs|tckn|id (?:no|number|card))(?!\w)|national|insurance n|identi|passport|tax|citizen|personal (?:code|n)|steuer|ausweis"
    r"|sécurité|fiscale?|personnummer|burgerservice|rijksregister|身份|주민|マイナンバー",
    re.IGNORECASE,
)
"""Words that say that a number is somebody's."""

# A form, the module of python-stdnum that checks it, and whether a word must say what it is: where the form or the check
# is too weak (an order number of nine digits passes some of them one time in ten).
NATIONAL = (
    (r"\d{3}-\d{2}-\d{4}", "us.ssn", False), (r"\d{9}|\d{3} \d{2} \d{4}", "us.ssn", True),
    (r"[A-CEGHJ-PR-TW-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]", "", True), (r"[A-CEGHJ-PR-TW-Z]{2} \d{2} \d{2} \d{2} [A-D]", "", False),
    (r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", True), (r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", True),
    (r"[12] ?\d{2} ?[0-9]{2} ?\d[\dABab] ?\d{3} ?\d{3} ?\d{2}", "fr.nir", False),
    (r"\d{2} ?\d{3} ?\d{3} ?\d{3}", "de.idnr", True), (r"[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", "it.codicefiscale", False),
    (r"\d{8}-?[A-Z]", "es.dni", True), (r"[XYZ]-?\d{7}-?[A-Z]", "es.nie", True), (r"\d{9}", "nl.bsn", True), (r"\d{9}", "pt.nif", True),
    (r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", "be.nn", False), (r"756\.\d{4}\.\d{4}\.\d{2}|756\d{10}", "ch.ssn", False),
    (r"(?:\d{2})?\d{6}[-+]\d{4}", "se.personnummer", False), (r"\d{6}[-+A-FU-Y]\d{3}[\dA-Y]", "fi.hetu", False),
    (r"\d{6}-?\d{4}", "dk.cpr", True), (r"\d{6} ?\d{5}", "no.fodselsnummer", True), (r"\d{11}", "pl.pesel", True),
    (r"\d{7}[A-W][A-IW]?", "ie.pps", True), (r"\d{13}", "ro.cnp", True), (r"\d{11}", "tr.tckimlik", True),
    (r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf", False), (r"\d{11}", "br.cpf", True), (r"\d{1,2}\.?\d{3}\.?\d{3}-[\dK]", "cl.rut", True),
    (r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", "mx.curp", False), (r"\d{4}[ -]?\d{4}[ -]?\d{4}", "in_.aadhaar", True),
    (r"[A-Z]{5}\d{4}[A-Z]", "in_.pan", True), (r"\d{17}[\dXx]", "cn.ric", False), (r"\d{6}-\d{7}", "kr.rrn", False),
    (r"\d{4}[ -]?\d{4}[ -]?\d{4}", "jp.in_", True), (r"\d{13}", "za.idnr", True), (r"\d{3} ?\d{3} ?\d{3}", "au.tfn", True),
)  # fmt: skip


def phones(regions: tuple[str, ...]) -> Callable[[str], Iterator[Span]]:
    """What finds phone numbers: valid ones, grouped as their country groups them, or a word says what they are.

    A number that anybody may call (toll-free, premium rate, a company's national number) is nobody's.
    """

    def find(text: str) -> Iterator[Span]:
        for match in RUN.finditer(text) if SIX.search(text) else ():
            if len(match[0]) > LONGEST_RUN:
                for piece in ABROAD.finditer(text, *match.span()):
                    yield from _phones_in(text, *piece.span(), ())
            elif sum(letter.isdigit() for letter in match[0]) >= 7:
                yield from _phones_in(text, *match.span(), regions)

    return find


def _phones_in(text: str, start: int, end: int, regions: tuple[str, ...]) -> Iterator[Span]:
    from phonenumbers import Leniency, PhoneNumberMatcher, PhoneNumberType, number_type

    run = re.sub(r"(?<!\d)00(?=[1-9])", " +", text[start:end])  # as long as before
    told = _told(PHONE, text, start, end)
    leniency = Leniency.VALID if told else Leniency.STRICT_GROUPING
    home = regions if "+" not in run else regions[:1]
    for region in home or (None,):
        for match in PhoneNumberMatcher(run, region, leniency=leniency):
            begins, ends = start + match.start, start + match.end
            if match.raw_string.startswith("+") and text[begins] == "0":
                begins -= 1
            nobodys = number_type(match.number) in (
                PhoneNumberType.TOLL_FREE,
                PhoneNumberType.PREMIUM_RATE,
                PhoneNumberType.UAN,
            )
            if not nobodys and (told or not DECIMAL.fullmatch(match.raw_string)):
                yield begins, ends


def cards(text: str) -> Iterator[Span]:
    """Card numbers: an issuer's first digits and length, in printed groups or in one, and the check digit (Luhn)."""
    for run in GROUPS.finditer(text) if SIX.search(text) else ():
        if run.end() - run.start() < 13:
            continue
        groups = [
            (run.start() + part.start(), run.start() + part.end())
            for part in re.finditer(r"\d+", run[0])
        ]
        for first in range(len(groups)):
            for last in range(first, min(len(groups), first + 5)):
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
    return len(shape) > 1 or len(digits) in (15, 16) or _told(CARD, text, start, end)


def ibans(text: str) -> Iterator[Span]:
    """International bank account numbers: the country's length and form, and the check digits (ISO 13616)."""
    from stdnum import iban

    for match in ACCOUNT.finditer(text) if PAIR.search(text) else ():
        said, whole = match[1], match.end(1) >= len(text) or not text[match.end(1)].isalnum()
        ends = [
            place
            for place in range(15, len(said))
            if not (said[place].isalnum() and said[place - 1].isalnum())
        ]
        for end in [*([len(said)] if whole else []), *reversed(ends)]:
            if said[end - 1].isalnum() and iban.is_valid(said[:end]):
                yield match.start(), match.start() + end
                break


def national_ids(text: str) -> Iterator[Span]:
    """Numbers that states give their people."""
    if not SIX.search(text):
        return
    for pattern, module, doubtful in _national():
        for match in pattern.finditer(text):
            if (not doubtful or _told(SAID, text, *match.span())) and (
                not module or _valid(module, match[0])
            ):
                yield match.span()


@cache
def _national() -> tuple[tuple[re.Pattern[str], str, bool], ...]:
    return tuple(
        (re.compile(rf"(?<![\w./+-])(?:{form})(?!\w|[./+-]\w)"), module, doubtful)
        for form, module, doubtful in NATIONAL
    )


@cache
def _checker(module: str) -> Callable[[str], bool]:
    found: Callable[[str], bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return found


def _valid(module: str, number: str) -> bool:
    try:
        return _checker(module)(number)
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError):
        return False  # python-stdnum 2.2 breaks off on numbers that no county of China has, say


def _told(words: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Whether a word near a number says what it is."""
    return bool(
        words.search(text, max(0, start - BEFORE), start) or words.search(text, end, end + AFTER)
    )
