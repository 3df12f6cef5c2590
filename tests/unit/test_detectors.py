"""What the detectors find, what they leave alone, and how masks are undone."""

import json
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowest.config import parse
from cowest.detectors import (
    KINDS,
    Detection,
    Finding,
    find,
    find_together,
    mask,
    mask_all,
    places,
    unmask,
)
from cowest.errors import ConfigError
from tests.private_texts import HEX, POSITIVES

ROOT = Path(__file__).parents[2]
ALL = Detection(
    detect=KINDS,
    terms=("Project Falcon", "acme", "C++", "アクメ", "Müller"),
    regions=("US", "GB", "DE", "FR"),
)

NEGATIVES = f"""
    On 2024-01-15 at 10:30:45 we met; 15.01.2024, 01/02/2023, 2024/12/31, 20240115, 20240115103045.
    2024-01-15T10:30:45.123456+00:00
    Between 1990 and 2005, 1990-2005, 1914-1918, 1939\u20131945, the years 1999 2000 2001 2002 2003.
    It costs 1,299.99 USD, EUR 1.234.567,89, $12 345 678, 19.99-29.99.
    Item 4711-0815, SKU 123-456-789, part AB-1234-5678, code X12345678, serial SN-4111111111111112.
    EAN 4006381333931, ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISSN 0317-8471, DOI 10.1000/182.
    CAS 7732-18-5 is water and 58-08-2 caffeine.
    UUID 123e4567-e89b-12d3-a456-426614174000 and 4f1c2a7e-5b2d-4064-9111-411111111111.
    sha256 {HEX}, commit 788bf87a1b2c3d4e5f60718293a4b5c6d7e8f901, md5 d41d8cd98f00b204e9800998ecf8427e.
    Version 1.2.3, v10.20.30.40, version 2.0.0.1, firmware 4.3.2.1, numpy==1.26.4, section 1.2.3.4.
    1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20
    12 45 67 89 23 45 67 12 90 34 56 78
    [[0.2236068, 0.80622577], [0.24617575 0.29571802]], 0.3176591;
    3.14159265358979323846, 6.02214076e23, 0.1234567890123456, 1e-10, 299792458 m/s, 12345678901234567890.
    The order number is 1234567890123456 and the invoice 9876543210.
    Timestamps 1700000000, 1700000000000, 1700000000000000000.
    Call 911 or 112. Room 415, 555 seats, 2671 rows. It is 555-0123.
    Use npm install react@18.2.0 or @types/node@20.1.0, icon@2x.png, git@github.com:acm/repo.git, @someone, a@b.
    A@B and x @ y; meet @ 10:30; user@localhost
    IDs: id 12345, customer 123456789, ticket #987654321, order 100200300.
    The password is required. Enter your password: it must be long. The secret: mixing slowly. token: none.
    password = os.environ["PASSWORD"]; api_key = "YOUR_API_KEY_HERE"; secret: ${{SECRET}}; token=<token>; key: ********.
    sk-learn-is-a-very-long-css-class-name and a task-force-of-many-people-in-a-row
    the key is 3f, keyboard: qwertyuiop, monkey: banana, the token was spent, a secret garden
    https://example.com:8080/path?x=1@2 and http://localhost:3000/ask
    00:1A:2B:3C:4D:5E is a MAC; std::vector<int>, a::b::c, 10:30:45, 127.0.0.1, 255.255.255.0, 0.0.0.0.
    Lat 52.5200 N, lon 13.4050 E; 40.7128, -74.0060; scores 21-19 21-17; ratio 16:9; tel
    acmes, pacme, projectfalcon, project the falcon, C+, Müllerin
    M8x1.25, 2x4, A4, RJ45, H2O, IPv4, 5G, 802.11ax, ISO 9001:2015, RFC 9110, EN 60601-1-2
    Call 1-800-555-0199 or +1 888 555 0123, toll-free; premium rate: phone 1-900-555-0123.
    Phone model 3310, phones 12 and 13, telephone exchange 1878, the tax was 25 percent of 123 456.
    GB12 3456 is a plate, DE12 a road, AB12 CD34 EF56 GH78 IJ90 a key of a game
    0123456789 abcdefghij, 9876543210987, 1111 2222 3333 4444
"""  # noqa: E501 (as people write)


def rows(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize(
    ("kind", "row"), [(kind, row) for kind, text in POSITIVES.items() for row in rows(text)]
)
def test_finds(kind: str, row: str) -> None:
    row = row.replace("\\n", "\n")
    text = row.replace("<", "").replace(">", "")
    start, end = row.index("<"), row.index(">") - 1
    assert Finding(kind, start, end) in find(text, ALL), (
        text,
        [(f, text[f.start : f.end]) for f in find(text, ALL)],
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("text", rows(NEGATIVES))
def test_leaves_alone(text: str) -> None:
    assert [(finding.kind, text[finding.start : finding.end]) for finding in find(text, ALL)] == []


def test_every_sentence_of_the_handbook_is_left_alone() -> None:
    for file in sorted((ROOT / "data/raw/handbook").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            for value in json.loads(line).values():
                for text in [value] if isinstance(value, str) else value:
                    assert find(text, ALL) == []


def test_only_what_is_asked_for_is_found() -> None:
    text = "ann@example.com, 4111 1111 1111 1111, +49 30 901820"
    assert [f.kind for f in find(text, ALL)] == ["email", "card", "phone"]
    for kind in ("email", "card", "phone"):
        assert [f.kind for f in find(text, Detection(detect=(kind,)))] == [kind]
    assert find(text, Detection(detect=())) == []
    assert (
        find("030 12345678", Detection()) == []
        and find("030 12345678", Detection(regions=("DE",))) != []
    )


def test_overlapping_findings_are_one_of_the_longest_kind() -> None:
    config = Detection(terms=("example", "Falcon office", "office +49 30"))
    assert [f.kind for f in find("ann@example.com", config)] == ["email"]
    text = "the Falcon office +49 30 901820 is"
    (finding,) = find(text, config)
    assert text[finding.start : finding.end] == "Falcon office +49 30 901820", (
        "nothing of what was found is left over"
    )


def test_masks_are_stable_and_undone() -> None:
    text = "ann@example.com wrote to bob@example.com; ann@example.com called +49 30 901820."
    masked, originals = mask(text, find(text, ALL))
    assert masked == "[EMAIL_1] wrote to [EMAIL_2]; [EMAIL_1] called [PHONE_1]."
    assert originals == {
        "[EMAIL_1]": "ann@example.com",
        "[EMAIL_2]": "bob@example.com",
        "[PHONE_1]": "+49 30 901820",
    }
    assert (
        unmask("Tell [EMAIL_2], not [EMAIL_9] or [EMAIL_21].", originals)
        == "Tell bob@example.com, not [EMAIL_9] or [EMAIL_21]."
    )


def test_a_placeholder_that_a_text_says_itself_is_never_given() -> None:
    texts = ["ann@example.com", "What does [EMAIL_1] mean? bob@example.com"]
    masked, originals = mask_all(texts, [find(text, ALL) for text in texts])
    assert masked == ["[EMAIL_2]", "What does [EMAIL_1] mean? [EMAIL_3]"]
    assert [unmask(text, originals) for text in masked] == texts


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "ann@example.com",
                " ",
                "\n",
                "[EMAIL_1]",
                "4111 1111 1111 1111",
                "é",
                "e\u0301",
                "\u200b",
                "acme",
                "٣",
                "x",
                "-",
            ]
        )
    )
)
def test_what_is_masked_comes_back_byte_by_byte(parts: list[str]) -> None:
    text = "".join(parts)
    findings = find(text, ALL)
    assert all(a.end <= b.start for a, b in pairwise(findings))
    masked, originals = mask(text, findings)
    assert unmask(masked, originals) == text
    assert find(masked, Detection()) == [] or any(f.kind == "term" for f in find(masked, ALL))


HOSTILE = {
    "a": 0,
    "@": 0,
    "a@": 0,
    "a@a.": 0,
    "a.": 0,
    "1": 0,
    "1 ": 0,
    "12-": 0,
    "4111 ": 0,
    "+1": 0,
    "(": 0,
    "1.": 0,
    "eyJ": 0,
    "sk-": 0,
    "password ": 0,
    "password: ": 0,
    "a://a:": 0,
    "a:1:": 0,
    "AB12 ": 0,
    "a_": 0,
    "bearer ": 0,
    "\u0301": 0,
    "\u200b1": 0,
    "١٢ ": 0,
    "株": 0,
    "-----BEGIN PRIVATE KEY-----": 1,
    "project ": 0,
    "password: {a": 0,
    "password is: ": 0,
    "**password": 0,
    "a://a:%40": 0,
    "\u6211a@": 0,
    "\u6211a@b.": 0,
    "4\u6211": 0,
}


@pytest.mark.parametrize("joint", ["-", "\u6211"])
def test_addresses_in_a_row_are_each_looked_at_once(joint: str) -> None:
    text = f"a@b.cc{joint}" * 20_000
    found = [text[start:end] for start, end in places.emails(text)]
    assert len(found) == 20_000 and {one.strip("-") for one in found} == {"a@b.cc"}


@pytest.mark.slow
@pytest.mark.parametrize("part", HOSTILE)
def test_takes_time_in_proportion_to_the_length(part: str) -> None:
    """A quadratic pattern would take 64 times as long for eight times the text; the bound leaves
    room for a busy machine.
    """

    def seconds(length: int) -> float:
        text = (part * (length // len(part) + 1))[:length]
        started = time.process_time()
        assert len(find(text, ALL)) == HOSTILE[part]
        return time.process_time() - started

    seconds(1000)
    small = min(seconds(8_000) for _ in range(3))
    assert seconds(64_000) < 24 * small + 1


def test_terms_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_text("# ours\nBlue Heron\n\n  Kestrel  \n", encoding="utf-8")
    config = Detection(terms_file=path, terms=("acme",))
    text = "KESTREL and blue heron of Acme"
    assert [text[f.start : f.end] for f in find(text, config)] == ["KESTREL", "blue heron", "Acme"]
    with pytest.raises(ConfigError, match=r"terms_file .*none\.txt can't be read"):
        find("x", Detection(terms_file=tmp_path / "none.txt"))


def test_ten_thousand_terms_cost_no_more_than_one() -> None:
    terms = tuple(f"name{n} surname{n}" for n in range(10_000))
    text = "somebody like name77 surname77 or name78 surname9 " * 200
    config = Detection(detect=("term",), terms=terms)
    find("x", config)
    started = time.process_time()
    assert len(find(text, config)) == 200
    assert time.process_time() - started < 1


@settings(max_examples=400, deadline=None)
@given(
    st.text("0123456789 -.+/()ABKXYZ", max_size=40),
    st.sampled_from(["", "SSN ", "phone ", "card ", "tax "]),
)
def test_no_number_breaks_it(number: str, word: str) -> None:
    for config in (Detection(regions=("US", "GB", "DE", "FR", "IN", "JP")), ALL):
        findings = find(word + number, config)
        assert all(0 <= f.start < f.end <= len(word + number) for f in findings)


def test_a_number_on_which_python_stdnum_breaks_off_is_no_finding() -> None:
    assert find("order 427104197406143413 was sent", Detection(detect=("national_id",))) == []


PASSWORDS = """
    password: <P@$$w0rd2024>
    DB_PASSWORD=<Tr0ub4dor*3>
    password: <100%Mine> and
    pwd = '<a(b[c{d1>'
    **Password**: <hunter22!>
    **Password:** <hunter22!>
    postgres://app:<p%40ssw0rd>@db.example.org/x
    amqp://app:<p$ss(w*rd>@mq.example.org/x
    My password is: <hunter22!>
    my password \u2013 <hunter22!> \u2013 is new
    Das Passwort ist <Sommer2024!>
    Das neue Passwort lautet: <Sommer2024!>
    le mot de passe est <Soleil2024!>
    le mot de passe est : <Soleil2024!>
    la contraseña es <Verano2024!>
    la contrasena era <Verano2024!>
    password: <$Winter2024$>
    password: <$Winter-2024$>
    Password: <Summer2024!(case> sensitive)
    mysqldump --pass=<my$ecret>
    DB_PASS=<secret*word>
"""
NO_PASSWORDS = """
    password: ${PASSWORD_1}; password: $PASSWORD1, pwd={{password1}} password=%PASSWORD1%
    password: {password1}, password: {cfg.pw!r}, password: ********, password: [SECRET_1]
    password = os.environ["PASSWORD"], password = read_secret("db", 1), password = config['pw1']
    $password = $_POST['password1']; $password = $this->password1; password=$(pass show db1)
    https://x.example/?password=$PASS&user=bob1 and https://x.example/?password=%s&user=%s
    postgres://app:${PW}@db.example.org/x, postgres://app:$PW@db.example.org/x
    postgres://app:{pw}@db.example.org/x, postgres://app:%s@db.example.org/x
    postgres://app:%PASSWORD%@db.example.org/x, postgres://app:<password>@db.example.org/x
    postgres://app:***@db.example.org/x, postgres://$USER:$PW@db.example.org/x
    password: **important**, the pass was *really* good, the pass is $120/person
    password: Optional[str], password: ^(?=.*[A-Z])(?=.*[0-9]), [A-Za-z0-9]{8,16}
    My password is: forgotten. Reset password - click here. mysql --password -u root1
    Das Passwort ist abgelaufen, le mot de passe est obligatoire, la contraseña es importante
    mot de passe est requis; das Kennwort war falsch; password \u2013 required
    'password' => Hash::make($request->password), 'password' => Str::random(10)
    let password = PasswordHash::new(&stored1)?; password = \\App\\Vault::read($name1)
    password = System.fetch_env!("PW1")
    The forward pass is $y=Wx+b$, the first pass is $2n-1$, the pass is $\\alpha_1 x$
    the number of passwords is $26^n-1$; the first pass: mostly%done
    {"password":$PASSWORD1}, [password=$PASSWORD1], password=$$PASSWORD1
    Ski pass: $50/day/person or \u20ac50/day
"""


@pytest.mark.parametrize("row", rows(PASSWORDS))
def test_a_password_is_found_whatever_signs_it_holds_and_however_it_is_told(row: str) -> None:
    text = row.replace("<", "").replace(">", "")
    found = [text[one.start : one.end] for one in find(text, Detection())]
    assert found == [row[row.index("<") + 1 : row.index(">")]]


@pytest.mark.parametrize("text", rows(NO_PASSWORDS))
def test_what_stands_in_a_passwords_place_is_none(text: str) -> None:
    found = find(text, Detection(detect=("secret",)))
    assert [text[one.start : one.end] for one in found] == []


TOUCHING = """
    カード番号は<4111111111111111>です
    我的身份证号是<360426199101010071>
    주민등록번호는 <971013-9019902>입니다
    我的SSN是<219099998>。
    账号是<DE89370400440532013000>谢谢
    请发到<jane@example.com>我会在3天内回复
    请发到<jane@example.com>或<john@example.org>谢谢
    메일은<jane@example.com>으로 보내세요
    Пишите на <jane@example.com>и ждите
    <用户@例子.广告> is one
    Frau <jürgen@müller.straße> auch
    令牌<eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N>是
    服务器<203.0.113.45>的
"""
FILES_OR_NOT = """
    <juan.perez@empresa.com.py>, gracias
    scrieti la <ion@primaria.md>.
    icon@2x.md, pkg@1.2.py, lib@v3.md and icon@2x.png
    Option (a) main.py and icon@styles.css
    report@2024-05.md, README@main.md, train@gpu.py, tool@latest.md
    http://localhost:3000?email=<jane@example.org>
    http://localhost:3000?next=x&email=<jane@example.org>
    https://x.example?to=mailto:<jane@example.org>
    see http://localhost:3000,<jane@example.org>
    postgres://bob:<2024#Abc>@db.example.com
    postgres://bob:<12345?xY>@db.example.com
    postgres://bob:<ab,cd>@db.example.com
"""
IN_TABLES = """
    Ann Lee,<4111111111111111>,12/29
    1,<378282246310005>,2
    0.25,4111-1111,1
    0,4532015112830366
    card 1,<4111111111111111>
    [0,4532015112830366, 0,5]
"""


@pytest.mark.parametrize("row", rows(TOUCHING + FILES_OR_NOT + IN_TABLES))
def test_what_touches_other_words_is_found_alone(row: str) -> None:
    text = row.replace("<", "").replace(">", "")
    config = Detection(detect=KINDS)
    found = [text[one.start : one.end] for one in find(text, config)]
    assert found == [part.split(">")[0] for part in row.split("<")[1:]]


@pytest.mark.parametrize(
    ("texts", "whole"),
    [
        (["What is Ann Lee's SSN?", "219099998"], "219099998"),
        (["What is Ann Lee's SSN?", "", "no", "It is 219099998."], "219099998"),
        (["219099998", "is my SSN"], "219099998"),
        (["Your phone?", "4155552671"], "4155552671"),
        (["Ihr Telefon?", "0521 550 1234"], "0521 550 1234"),
        (["Your account number?", "73841902"], "73841902"),
        (["Your password?", "hunter22!"], "hunter22!"),
        (["Your password?", "**hunter22!**"], "hunter22!**"),
        (["Your password?", "let@me?in"], "let@me?in"),
        *[
            (["How do I reset my password?", f"{word} Open Settings."], "")
            for word in ("Certainly!", "Really?", "**Certainly!**", "Hello!\U0001f44b")
        ],
        # A target that is masked is still one of the options.
        (["Your password?", "hunter22!", "x", "hunter22!", "hunter23!"], "hunter22! hunter22!"),
        (["Your SSN?", "It is 219099998", "x", "219099998"], "219099998 219099998"),
        (["Your SSN?", "It is 219099998", "It is 219099998"], "219099998 219099998"),
        (["mail a@example.org", "and SSN: 219-09-9998"], "a@example.org 219-09-9998"),
        (["Your SSN" + " and much else" * 9, "219099998"], ""),
        (["Your SSN?", "1 2 3 4 5 6 7 8 9 " * 9 + "219099998"], ""),
        (["Any order?", "219099998"], ""),
        # A key without an end is no part of the next text.
        (["-----BEGIN PRIVATE KEY-----", "MIIB"], "-----BEGIN PRIVATE KEY-----"),
    ],
)
def test_a_text_says_what_a_number_in_the_next_one_is(texts: list[str], whole: str) -> None:
    found = find_together(texts, partial(find, config=Detection()))
    said = []
    for text, findings in zip(texts, found, strict=True):
        assert all(one.end <= other.start for one, other in pairwise(findings))
        said += [text[one.start : one.end] for one in findings]
    assert " ".join(said) == whole


@pytest.mark.parametrize(
    "setting", [{"detect": ["mail"]}, {"regions": ["Germany"]}, {"terms": [" "]}, {"term": ["x"]}]
)
def test_settings_refused(setting: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigError):
        parse(Detection, setting, "test")
