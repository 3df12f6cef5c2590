"""Counts what the egress filter finds of planted items, and its false alarms on ordinary prose.

    python -m tests.bench.egress [--seed 7] [--data FOLDER] [--write]

The items come from sources other than the detectors: phonenumbers' example numbers of 20 regions
in national writing, the examples in python-stdnum's documentation, mailboxes as RFC 5321 and
RFC 3696 have them, and the key formats that providers document. An item is found if findings cover
all of it. The filter has its default settings, so that the phone numbers are of no region that it
was told of.

The prose is drawn here (numbers, dates, versions, prices, ISBNs); with --data, the passages of
IfQA, the explanations of MedMCQA and the two models' answers to it count too. With --write, the
result goes into docs/egress-found.md.
"""

import argparse
import doctest
import importlib
import json
import math
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cowest.detectors import Detection, find
from tests.lines import ROOT

PAGE = ROOT / "docs" / "egress-found.md"
ALNUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
HEX = "0123456789abcdef"


class Planted(NamedTuple):
    """An item in a sentence."""

    kind: str
    item: str
    text: str


PHRASES = {
    "DE": ("Telefon: {}", "Rufen Sie uns an unter {}."),
    "FR": ("Appelez le {} demain.", "Tél. : {}"),
    "GB": ("Call me on {} tonight.", "My phone number is {}."),
    "AT": ("Tel.: {}", "Mobil: {}"),
    "CH": ("Telefon {}", "Tél. {}"),
    "IT": ("Telefono: {}", "Mi chiami al {}."),
    "ES": ("Teléfono: {}", "Llame al {} por la tarde."),
    "NL": ("Telefoon: {}", "Bel {} voor een afspraak."),
    "BE": ("Gsm: {}", "Téléphone : {}"),
    "SE": ("Telefon: {}", "Ring mig på {}."),
    "NO": ("Tlf. {}", "Ring {} i morgen."),
    "DK": ("Tlf.: {}", "Ring til {}."),
    "FI": ("Puhelin: {}", "Soita numeroon {}."),
    "PL": ("Tel. {}", "Proszę dzwonić pod numer {}."),
    "CZ": ("Telefon: {}", "Volejte {} po šesté."),
    "IN": ("Mobile: {}", "Please call her at {}."),
    "JP": ("電話: {}", "携帯は{}です。"),
    "BR": ("Telefone: {}", "Ligue para {}."),
    "MX": ("Tel. {}", "Mi celular es {}."),
    "AU": ("Phone {}", "Text me at {}."),
}
"""Sentences in which people of a region give a number."""

IDS = {
    "at.vnr": "SVNR {}",
    "ar.dni": "DNI {}",
    "ar.cuit": "CUIT: {}",
    "au.tfn": "TFN {}",
    "be.nn": "Rijksregisternummer {}",
    "bg.egn": "ЕГН {}",
    "br.cpf": "CPF {}",
    "ca.sin": "SIN {}",
    "ch.ssn": "AHV-Nummer {}",
    "cl.rut": "RUT {}",
    "cn.ric": "身份证 {}",
    "cz.rc": "rodné číslo {}",
    "de.idnr": "Steuer-ID {}",
    "dk.cpr": "CPR {}",
    "do.cedula": "cédula {}",
    "ec.ci": "cédula {}",
    "ee.ik": "isikukood {}",
    "es.dni": "DNI {}",
    "es.nie": "NIE {}",
    "fi.hetu": "henkilötunnus {}",
    "fr.nir": "numéro de sécurité sociale {}",
    "fr.nif": "numéro fiscal {}",
    "gb.nhs": "NHS number {}",
    "gb.utr": "my UTR is {}",
    "gr.amka": "ΑΜΚΑ {}",  # noqa: RUF001 (Greek)
    "hr.oib": "OIB {}",
    "id.nik": "NIK {}",
    "ie.pps": "PPS number {}",
    "il.idnr": "תעודת זהות {}",
    "in_.aadhaar": "Aadhaar {}",
    "in_.pan": "PAN card {}",
    "is_.kennitala": "kennitala {}",
    "it.codicefiscale": "codice fiscale {}",
    "jp.in_": "マイナンバー {}",
    "kr.rrn": "주민등록번호 {}",
    "lt.asmens": "asmens kodas {}",
    "mx.curp": "CURP {}",
    "mx.rfc": "RFC {}",
    "my.nric": "MyKad {}",
    "nl.bsn": "BSN {}",
    "no.fodselsnummer": "fødselsnummer {}",
    "nz.ird": "IRD number {}",
    "pe.cui": "DNI {}",
    "pk.cnic": "CNIC {}",
    "pl.pesel": "PESEL {}",
    "pt.nif": "NIF {}",
    "ro.cnp": "CNP {}",
    "se.personnummer": "personnummer {}",
    "si.emso": "EMŠO {}",
    "sk.rc": "rodné číslo {}",
    "th.pin": "เลขประจำตัวประชาชน {}",
    "tr.tckimlik": "T.C. kimlik no {}",
    "ua.rntrc": "ІПН {}",
    "us.itin": "ITIN {}",
    "us.ssn": "SSN {}",
    "za.idnr": "ID number {}",
}
"""Modules of python-stdnum for numbers of people, each with a name that people give the number."""

MAILBOXES = (
    # RFC 5321, 4.1.2: Dot-string, Quoted-string, address literals; RFC 3696, 3: its examples.
    "Jones@xyz.example.com", "smith@bar.example.org", "Brown@foo.example.net",
    "o'neil@example.com", "mary.o'hara@mail.example.ie", "d'angelo.p@example.it",
    "user+mailbox@example.com", "_somename@example.com", "$A12345@example.com",
    "!def!xyz%abc@example.com", "customer/department=shipping@example.com",
    '"Fred Bloggs"@example.com', '"Abc@def"@example.com', '"Joe.\\\\Blow"@example.com',
    "jsmith@[192.0.2.1]", "anna@[IPv6:2001:db8::1]", "x@x.example.museum",
    "a.b.c.d@sub.domain.example.co.uk", "first-last@my-host.example", "1234567890@example.com",
    "jürgen@müller.example.de", "用户@例子.example.com", "info@xn--mller-kva.xn--p1ai",
    "bob&carol@example.com", "tim#tom@example.org", "{team}@example.org", "me~you@example.net",
    "hat^hat@example.com", "UPPER.CASE@EXAMPLE.COM", "one_two-three@example.io",
    # As people write them where programs read along.
    "jane at example dot org", "jane.doe at mail dot example dot com", "jane @ example . org",
    "jane [at] example [dot] org", "jane(at)example.org", "jane (at) example (dot) com",
    "jane @ example.org", "jane AT example DOT com", "jane[at]example.de", "jane {at} example.net",
)  # fmt: skip
ABOUT_MAIL = ("Write to {} please.", "contact: {}", "({})", "E-mail {}, by Friday")

KEYS = {
    "OpenAI": "sk-proj-{alnum:64}",
    "Anthropic": "sk-ant-api03-{alnum:80}-{alnum:6}AA",
    "AWS id": "AKIA{upper:16}",
    "AWS secret": "{b64:40}",
    "Google": "AIza{alnum:35}",
    "Google OAuth": "GOCSPX-{alnum:28}",
    "GitHub": "ghp_{alnum:36}",
    "GitHub fine": "github_pat_{alnum:22}_{alnum:59}",
    "GitLab": "glpat-{alnum:20}",
    "Slack": "xoxb-{digit:12}-{digit:12}-{alnum:24}",
    "Stripe": "sk_live_{alnum:24}",
    "Hugging Face": "hf_{alpha:34}",
    "npm": "npm_{alnum:36}",
    "PyPI": "pypi-AgEIcHlwaS5vcmc{alnum:70}",
    "SendGrid": "SG.{alnum:22}.{alnum:43}",
    "Mailgun": "key-{hex:32}",
    "Twilio": "SK{hex:32}",
    "DigitalOcean": "dop_v1_{hex:64}",
    "Databricks": "dapi{hex:32}",
    "Shopify": "shpat_{hex:32}",
    "Telegram": "{digit:10}:AA{alnum:33}",
    "Azure storage": "{b64:86}==",
    "Azure AD": "{alnum:3}8Q~{alnum:34}",
    "Atlassian": "ATATT3xFfGF0{alnum:180}={upper8:8}",
    "NVIDIA": "nvapi-{alnum:64}",
    "Fireworks": "fw_{alnum:24}",
    "Pinecone": "pcsk_{alnum:6}_{alnum:63}",
    "LangSmith": "lsv2_pt_{hex:32}_{hex:10}",
    "Sentry": "sntryu_{hex:64}",
    "Supabase": "sbp_{hex:40}",
    "PlanetScale": "pscale_tkn_{alnum:43}",
    "Doppler": "dp.pt.{alnum:43}",
    "Airtable": "pat{alnum:14}.{hex:64}",
    "Pulumi": "pul-{hex:40}",
    "Terraform": "{alnum:14}.atlasv1.{alnum:67}",
    "RubyGems": "rubygems_{hex:48}",
    "Netlify": "nfp_{alnum:36}",
    "Brevo": "xkeysib-{hex:64}-{alnum:16}",
    "Alibaba": "LTAI{alnum:20}",
    "Tavily": "tvly-dev-{alnum:32}",
    "Buildkite": "bkua_{hex:40}",
    "Cohere, named": "CO_API_KEY={alnum:40}",
    "Mistral, named": "MISTRAL_API_KEY={alnum:32}",
    "Datadog, named": "DD_API_KEY: {hex:32}",
    "Cloudflare, named": "CLOUDFLARE_API_TOKEN={alnum:40}",
}
"""The form of each provider's keys, as its documentation has it."""
ALPHABETS = {
    "alnum": ALNUM,
    "alpha": ALNUM[:52],
    "upper": UPPER,
    "upper8": "0123456789ABCDEF",
    "b64": ALNUM + "+/",
    "hex": HEX,
    "digit": HEX[:10],
}
ABOUT_KEYS = ("The key is in the note: {}", "export X={}", "use {} for now", "`{}`")

CARDS = (
    # Test numbers that Stripe, Adyen and PayPal document.
    "4242424242424242", "4000056655665556", "5555555555554444", "2223003122003222",
    "5200828282828210", "378282246310005", "371449635398431", "6011111111111117",
    "6011000990139424", "3056930009020004", "3566002020360505", "6200000000000005",
    "4111111111111111", "5105105105105100", "36227206271667", "2222400070000005",
)  # fmt: skip
ACCOUNTS = (
    # The examples of the IBAN registry (SWIFT), in groups of four, and UK and US accounts.
    "AT61 1904 3002 3457 3201", "BE68 5390 0754 7034", "CH93 0076 2011 6238 5295 7",
    "CZ65 0800 0000 1920 0014 5399", "DE89 3704 0044 0532 0130 00", "DK50 0040 0440 1162 43",
    "ES91 2100 0418 4502 0005 1332", "FR14 2004 1010 0505 0001 3M02 606",
    "GB29 NWBK 6016 1331 9268 19", "IE29 AIBK 9311 5212 3456 78", "IT60X0542811101000000123456",
    "NL91ABNA0417164300", "NO93 8601 1117 947", "PL61 1090 1014 0000 0712 1981 2874",
    "PT50 0002 0123 1234 5678 9015 4", "SE45 5000 0000 0583 9825 7466",
)  # fmt: skip
SORTED = ("Sort code: {}", "sort code {}", "Sort-Code {}")


def planted(seed: int) -> list[Planted]:
    """Returns all planted items, in an order that the seed alone decides."""
    rng = random.Random(seed)
    return [
        *_phones(rng),
        *_ids(),
        *_mails(rng),
        *_keys(rng),
        *_cards(rng),
        *_accounts(rng),
    ]


def _phones(rng: random.Random) -> Iterator[Planted]:
    """Yields phonenumbers' examples, and numbers like them with other last digits."""
    import phonenumbers as phones

    national = phones.PhoneNumberFormat.NATIONAL
    for region, phrases in PHRASES.items():
        for kind in (phones.PhoneNumberType.FIXED_LINE, phones.PhoneNumberType.MOBILE):
            example = phones.example_number_for_type(region, kind)
            assert example is not None, region
            for phrase in phrases:
                item = phones.format_number(example, national)
                yield Planted("phone", item, phrase.format(item))
                other = int(str(example.national_number)[:-3]) * 1000 + rng.randrange(1000)
                number = phones.PhoneNumber(example.country_code, other)
                if phones.is_valid_number(number):
                    item = phones.format_number(number, national)
                    yield Planted("phone", item, phrase.format(item))


def _ids() -> Iterator[Planted]:
    """Yields the valid examples in the documentation of python-stdnum's modules."""
    for name, phrase in IDS.items():
        module = importlib.import_module(f"stdnum.{name}")
        items = []
        for test in doctest.DocTestFinder().find(module):
            for example in test.examples:
                said = re.match(r"validate\('([^']+)'\)(?!.*(?:company|organ))", example.source)
                if said and not example.exc_msg and said[1] not in items:
                    items.append(said[1])
        for item in items:
            yield Planted("national_id", item, phrase.format(item))
            compact = re.sub("[ .-]", "", item)
            if compact != item and name not in ("ar.dni", "be.nn", "br.cpf", "fi.hetu"):
                yield Planted("national_id", compact, phrase.format(compact))


def _mails(rng: random.Random) -> Iterator[Planted]:
    for item in MAILBOXES:
        for phrase in rng.sample(ABOUT_MAIL, 2):
            yield Planted("email", item, phrase.format(item))


def _keys(rng: random.Random) -> Iterator[Planted]:
    def drawn(part: re.Match[str]) -> str:
        return "".join(rng.choices(ALPHABETS[part[1]], k=int(part[2])))

    for form in KEYS.values():
        for phrase in rng.sample(ABOUT_KEYS, 2):
            item = re.sub(r"\{(\w+):(\d+)\}", drawn, form)
            text = phrase.format(item)
            yield Planted("secret", re.sub(r"^\w+(?:=|: )(?=\w)", "", item), text)


def _cards(rng: random.Random) -> Iterator[Planted]:
    for item in CARDS:
        for sign in rng.sample(["", " ", "-", "."], 3):
            size = (4, 6, 5) if len(item) == 15 else (4, 4, 4, 4)
            size = (4, 6, 4) if len(item) == 14 else size
            groups, at = [], 0
            for length in size:
                groups.append(item[at : at + length])
                at += length
            written = sign.join(groups)
            yield Planted("card", written, f"Charge {written} for the order.")


def _accounts(rng: random.Random) -> Iterator[Planted]:
    for item in ACCOUNTS:
        yield Planted("iban", item, f"Please pay to {item} by Friday.")
        joined = item.replace(" ", "")
        yield Planted("iban", joined, f"IBAN {joined}.")
    for phrase in SORTED:
        for sign in "- ":
            item = sign.join(f"{rng.randrange(10, 100)}" for _ in range(3))
            yield Planted("iban", item, f"{phrase.format(item)}, Barclays")


def prose(seed: int, count: int) -> Iterator[str]:
    """Yields sentences of ordinary prose with numbers of all kinds, as a seed draws them."""
    rng = random.Random(seed)
    for number in range(count):
        template = PROSE[number % len(PROSE)]
        yield re.sub(r"#|@\w+", lambda sign: _filled(sign[0], rng), template)


def _filled(sign: str, rng: random.Random) -> str:
    if sign == "#":
        return str(rng.randrange(10))
    if sign == "@isbn":
        digits = [9, 7, 8] + [rng.randrange(10) for _ in range(9)]
        total = sum(digit * (1 + 2 * (place % 2)) for place, digit in enumerate(digits))
        made = "".join(map(str, digits)) + str(-total % 10)
        return rng.choice([made, f"{made[:3]}-{made[3]}-{made[4:8]}-{made[8:12]}-{made[12]}"])
    if sign == "@day":
        day, month, year = rng.randrange(1, 29), rng.randrange(1, 13), rng.randrange(1900, 2030)
        forms = ("{2}-{1:02}-{0:02}", "{0}.{1}.{2}", "{0:02}/{1:02}/{2}", "{0:02}.{1:02}.{2}")
        return rng.choice(forms).format(day, month, year)
    if sign == "@price":
        whole = rng.randrange(1, 5_000_000)
        return rng.choice([f"${whole:,}.99", f"{whole:,} EUR".replace(",", "."), f"£{whole}.50"])
    if sign == "@hex":
        return "".join(rng.choices(HEX, k=40))
    return f"{rng.randrange(30)}.{rng.randrange(30)}.{rng.randrange(100)}"


PROSE = (
    "On @day the council met, and again on @day; ## members came.",
    "The population grew from ### ### to # ### ### between 19## and 20##.",
    "It costs @price, or @price with delivery.",
    "See ISBN @isbn, pages ##-1##, and the ISBN @isbn.",
    "Upgrade to version @version; @version and v@version are affected.",
    "The order number is ##########, the invoice #########.",
    "Call the function with ######## samples; a call takes ##.## ms.",
    "He phoned at ##:## on @day and ordered ### items of type ####-####.",
    "Die Telefonrechnung vom @day betrug @price für ## Einheiten.",
    "The phone has ## GB, #### mAh and came out on @day.",
    "Commit @hex fixes issue ####, see build ##########.",
    "The match ended ##-##, ##-##, ##-## before ## ### people.",
    "Tax revenue rose by #.# percent to ### ### ### in 20##.",
    "Look at the map at scale 1:## ### and meet at noon.",
    "The national average is ##,###.## per ### ### citizens.",
    "Dose: ### mg at ##.## h, then ## mg/kg; HR ##, BP 1##/##.",
    "In 20##, card payments reached ### ### ### ###, up from @price.",
    "The text of ## ### words was sent on @day; text ######## follows.",
    "Temperature -##.#### to +##.####, pi 3.1415926535, e #.##########.",
    "Serial ######-######, part AB-####-####, lot ############.",
    "The account was opened on @day with @price.",
    "Flight LH#### leaves at ##:##, gate ##, seat ##A, booking ########.",
    "Er wohnt seit @day in Haus ##, die Mobilfunkauktion brachte @price.",
    "GDP per head was ## ### in 19##, ## ### in 20## and #.### trillion overall.",
    "The token count was ########; the key takeaway: ## of ### runs passed.",
)


def found(item: Planted, config: Detection) -> bool:
    """Says whether findings cover the whole item, but for signs that belong to the sentence."""
    start = item.text.index(item.item)
    covered = set()
    for one in find(item.text, config):
        covered.update(range(one.start, one.end))
    places = range(start, start + len(item.item))
    return all(place in covered for place in places if item.item[place - start] not in '()"')


def wilson(right: int, of: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    share = right / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return middle - half, middle + half


def passages(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields published texts, each with the name of its source."""
    for name in ("dev", "train"):
        for row in json.loads((folder / "ifqa" / f"{name}.json").read_text(encoding="utf-8")):
            yield "IfQA passages", "\n".join(row["context"])
    for line in (folder / "medmcqa" / "dev.jsonl").read_text(encoding="utf-8").splitlines():
        yield "MedMCQA explanations", str(json.loads(line)["exp"])
    answers = folder / "medmcqa" / "strong_answers.jsonl"
    for line in answers.read_text(encoding="utf-8").splitlines():
        yield "MedMCQA answers", json.loads(line)["completion"]


def row(name: str, right: int, of: int) -> str:
    """Returns a line of a table: count, share and interval."""
    low, high = wilson(right, of)
    return f"| {name} | {right} of {of} | {right / of:.1%} | {low:.1%} to {high:.1%} |"


def page(seed: int, data: Path | None, shown: bool) -> str:
    """Measures, and returns the result as a page."""
    config = Detection()
    counts: dict[str, list[bool]] = {}
    missed = []
    for item in planted(seed):
        right = found(item, config)
        counts.setdefault(item.kind, []).append(right)
        if not right:
            missed.append(f"{item.kind}: {item.text}")
    lines = ["| planted | found | share | 95 % interval (Wilson) |", "| --- | --- | --- | --- |"]
    lines += [row(kind, sum(seen), len(seen)) for kind, seen in counts.items()]
    everything = [right for seen in counts.values() for right in seen]
    lines.append(row("all", sum(everything), len(everything)))

    alarms: dict[str, list[bool]] = {}
    texts = [("drawn prose", text) for text in prose(seed, 2000)]
    texts += passages(data) if data else []
    started = time.process_time()
    for source, text in texts:
        findings = find(text, config)
        alarms.setdefault(source, []).append(bool(findings))
        if findings and shown:
            said = [f"{one.kind} {text[one.start : one.end]!r}" for one in findings]
            print(f"alarm in {source}: {', '.join(said[:3])}")
    seconds = time.process_time() - started
    lines += ["", "| texts | with an alarm | share | 95 % interval (Wilson) |"]
    lines += ["| --- | --- | --- | --- |"]
    lines += [row(source, sum(seen), len(seen)) for source, seen in alarms.items()]
    size = sum(len(text) for _, text in texts)
    if shown:
        print("\n".join(f"missed {one}" for one in missed))
        print(f"{1e6 * seconds / size:.3f} s of a core per million characters")
    lines += ["", f"Missed: {len(missed)}.", ""]
    lines += [f"- {one}" for one in missed]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and prints; with --write, also writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    result = page(given.seed, given.data, shown=not given.write)
    print(result)
    if given.write:
        head = (
            "# What the egress filter finds\n\nMade by `python -m tests.bench.egress "
            f"--seed {given.seed} --data shared/data --write`; egress.md says what it means.\n\n"
        )
        PAGE.write_text(head + result, encoding="utf-8")


if __name__ == "__main__":
    main()
