"""Finds numbers that belong to a person or an account.

A number counts if the rules that are known of it hold: its form, its length and its check digits,
by the libraries phonenumbers and python-stdnum. Where these are too weak, a word beside it must
say what the number is.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache

from cowest.detectors import words
from cowest.detectors.plain import ASKED, Span

BEFORE, AFTER = 48, 16
"""Characters before and after a number in which a word may say what the number is."""
DIGITS = re.compile(r"\d+")
GROUPS = re.compile(r"(?<!\d)\d+(?:[ .-]\d+)*")
EDGES = re.compile(rf"[^\W{words.ALONE}]|[.,+/-]")
JOINED = re.compile(rf"[^\W{words.ALONE}]|[.,/-]\d")
"""Characters directly before (EDGES) or after (JOINED) a run of digits that make it part of
something longer, such as a version or a path."""
CARD = re.compile(
    r"card|credit|debit|visa|amex|maestro|diners|discover|unionpay|jcb|karte|carte|tarjeta"
    rf"|{words.BEFORE}(?:cc|pan){words.AFTER}",
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
LETTER = rf"[^\W_{words.ALONE}]"
ACCOUNT = re.compile(
    rf"(?<!{LETTER})(?=([A-Za-z]{{2}}\d{{2}}(?:[ -]?[A-Za-z0-9]){{11,30}})({LETTER})?)"
)
"""An account number (group 1), and the letter in which it would break off a word (group 2)."""
PAN = re.compile(rf"{words.BEFORE}(?:PAN|Pan|pan){words.AFTER}")
LONGEST = 24
"""Characters of the longest national number as it is written."""
SHORTEST_ACCOUNT = 15
"""Characters of the shortest account number: Norway's."""
OF_BANKS = re.compile(
    rf"{words.BEFORE}(?:sort[ -]?codes?"
    r"|(?:account|acct\.?|a/c|routing|transit)[ -](?:no\b\.?|number|nr\b\.?)"
    r"|kontonummer|konto-?nr\.?)"
    rf"(?:\s?[:=#]|{ASKED})?(?: is)?\s{{0,2}}"
    r"((?:\d{2}[ -]){2}\d{2}|\d{6,12})"
    rf"{words.AFTER}(?![.,-]\d)",
    re.IGNORECASE,
)
"""A number of a bank or an account (group 1) directly after its name."""
SIX = re.compile(r"\d(?:\D{0,4}\d){5}")
"""A text without six digits near each other has no phone number, no card and no national id.

Most texts have none, and are done with after this one search.
"""
IDENTITY = re.compile(
    r"social security|social insurance"
    rf"|{words.BEFORE}(?:"
    r"ssn|itin|nino|sin|tfn|tin|ird|utr|bsn|cpf|pesel|aadhaar|aadhar|pan|dni|nie|nif|nir"
    r"|cnp|egn|pps|ahv|avs|hetu|cpr|rut|cui[lt]|rfc|curp|svnr|sv-nr|oib|amka|emšo|nik|cnic|nric"
    rf"|mykad){words.AFTER}"
    rf"|{words.BEFORE}(?:nhs|tckn|t\.?c\.? kimlik|kimlik no|id (?:no|number|card)){words.AFTER}"
    r"|national (?:id|insur|reg|ident|n)|insurance n|identi(?:ty|fi|t[àé]|ta|da)|passport"
    r"|tax (?:id|no|n|ref|file|code|payer)|taxpayer|citizen|personal (?:code|n)|steuer-?(?:id|n)"
    r"|ausweis|sozialversicherung|versicherungsn|sécurité|fiscale?|personnummer|personnumer"
    r"|fødselsn|henkilötunnus|kennitala|burgerservice|rijksregister|rodné|rodne|r\. ?č\."
    r"|birth n|isikukood|asmens kod|cédula|cedula|документ|егн|іпн|инн|αμκα|αφμ|תעודת|ת\.ז"
    r"|ประจำตัว|身份|주민|マイナンバー|個人番号",
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
    (r"\d{7}[A-W][A-IWT]?", "ie.pps", NEEDS_WORD),
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
    (r"9\d{2}-?\d{2}-?\d{4}", "us.itin", NEEDS_WORD),
    (r"\d{10}", "gb.utr", NEEDS_WORD),
    (r"(?:PT ?)?\d{3} ?\d{3} ?\d{3}", "pt.nif", NEEDS_WORD),
    (r"\d{4}\.\d{2}\.\d{3}", "nl.bsn", NEEDS_WORD),
    (r"\d{2}[ .]?\d{2}[ .]?\d{2}[ -]?\d{3}[ .]?\d{2}", "be.nn", NEEDS_WORD),
    (r"(?:\d{2})?\d{10}", "se.personnummer", NEEDS_WORD),
    (r"\d{13}", "fr.nif", NEEDS_WORD),
    (r"\d{13}", "kr.rrn", NEEDS_WORD),
    (r"[A-Z&Ñ]{4}[ -]?\d{6}(?:[ -]?[A-Z0-9]{3})?", "mx.rfc", NEEDS_WORD),
    (r"(?:CL ?)?\d{7,9}[\dK]", "cl.rut", NEEDS_WORD),
    (r"CL ?\d{7,8}-[\dK]", "cl.rut", NEEDS_WORD),
    (r"\d{4} ?\d{6}", "at.vnr", NEEDS_WORD),
    (r"\d{6}/\d{4}", "cz.rc", SURE),
    (r"\d{6}/?\d{3,4}", "cz.rc", NEEDS_WORD),
    (r"\d{2}-\d{8}-\d", "ar.cuit", SURE),
    (r"\d{11}", "ar.cuit", NEEDS_WORD),
    (r"\d{1,2}\.\d{3}\.\d{3}|\d{7,8}", "ar.dni", NEEDS_WORD),
    (r"\d{6} ?\d{3} ?\d", "bg.egn", NEEDS_WORD),
    (r"\d{11}", "ee.ik", NEEDS_WORD),
    (r"\d{11}", "lt.asmens", NEEDS_WORD),
    (r"(?:HR ?)?\d{11}", "hr.oib", NEEDS_WORD),
    (r"\d{11}", "gr.amka", NEEDS_WORD),
    (r"\d{8}-?\d", "il.idnr", NEEDS_WORD),
    (r"\d{7}-?\d", "il.idnr", NEEDS_WORD),
    (r"\d{6}-?\d{4}", "is_.kennitala", NEEDS_WORD),
    (r"\d{6}-?\d{2}-?\d{4}", "my.nric", NEEDS_WORD),
    (r"\d-?\d{4}-?\d{5}-?\d{2}-?\d", "th.pin", NEEDS_WORD),
    (r"\d{9}-?\d", "ec.ci", NEEDS_WORD),
    (r"\d{3}-?\d{7}-?\d", "do.cedula", NEEDS_WORD),
    (r"\d{10}", "ua.rntrc", NEEDS_WORD),
    (r"\d{13}", "si.emso", NEEDS_WORD),
    (r"(?:NZ ?)?\d{2}-?\d{3}-?\d{3}|\d{7,8}-?\d", "nz.ird", NEEDS_WORD),
    (r"\d{8}-?[\dA-K]", "pe.cui", NEEDS_WORD),
    (r"\d{16}", "id.nik", NEEDS_WORD),
    (r"\d{5}-?\d{7}-?\d", "pk.cnic", NEEDS_WORD),
)
"""A form, the module of python-stdnum that checks it ("" for none), and if it needs a word."""


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
    digits = re.sub("[ .-]", "", text[start:end])
    if not (ISSUER.fullmatch(digits) and luhn.is_valid(digits)):
        return False
    # Undivided numbers of other lengths are often something else, and one in ten passes Luhn.
    is_usual = len(shape) == 1 and len(digits) in (15, 16)
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    # In a table, commas stand around a card number. One between digits may be a decimal point.
    if is_usual and before == "," and text[max(0, start - 2) : start - 1].isdigit():
        alone = after != "," or text[end + 1 : end + 2].isspace()
        if alone and not named(CARD, text, start, end):
            return False
    elif not (is_usual and before == ",") and EDGES.search(before):
        return False
    if not (is_usual and after == ",") and JOINED.match(text, end):
        return False
    return len(shape) > 1 or is_usual or named(CARD, text, start, end)


def accounts(text: str) -> Iterator[Span]:
    """Finds IBANs, and sort codes, routing numbers and account numbers after their names."""
    if not PAIR.search(text):
        return
    yield from ibans(text)
    for match in OF_BANKS.finditer(text):
        yield match.span(1)


def ibans(text: str) -> Iterator[Span]:
    """Finds IBANs: the country's length and form, and the check digits (ISO 13616)."""
    from stdnum import iban

    for match in ACCOUNT.finditer(text):
        for end in _ends(text, match):
            if iban.is_valid(match[1][:end], check_country=False):
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
    if not match[2]:
        ends.append(len(run))
    return ends[::-1]


def national_ids(text: str) -> Iterator[Span]:
    """Finds numbers that states give to people."""
    # India's PAN has four digits, all others have six or more.
    if not SIX.search(text) and not PAN.search(text):
        return
    has_word = _has_word(text)
    for pattern, module, needs_word in _national():
        if needs_word and not has_word:
            continue
        for match in pattern.finditer(text):
            # The cheap test first: most numbers of nine digits have no such word near them.
            if needs_word and not named(IDENTITY, text, *match.span()):
                continue
            if not module or _valid(module, match[0]):
                yield match.span()


def _has_word(text: str) -> bool:
    """Says whether a word of IDENTITY may have a national number near it.

    Most texts have none, and are searched for the strong forms alone.
    """
    if PAN.search(text):
        return True
    for number in SIX.finditer(text):
        first = max(0, number.start() - LONGEST - BEFORE)
        if IDENTITY.search(text, first, number.end() + LONGEST + AFTER):
            return True
    return False


@cache
def _national() -> tuple[tuple[re.Pattern[str], str, bool], ...]:
    """Compiles NATIONAL; a number must stand alone, and not inside a longer one."""
    compiled = []
    for form, module, needs_word in NATIONAL:
        ignored = re.IGNORECASE if needs_word else re.NOFLAG
        pattern = re.compile(
            rf"{words.BEFORE}(?<![./+-])(?:{form}){words.AFTER}(?![./+-]\w)", ignored
        )
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


def named(names: re.Pattern[str], text: str, start: int, end: int) -> bool:
    """Says whether a word near a number says what the number is."""
    before = names.search(text, max(0, start - BEFORE), start)
    return bool(before or names.search(text, end, end + AFTER))
