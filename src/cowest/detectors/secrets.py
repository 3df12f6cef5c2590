"""Keys, tokens and passwords, by the form that their issuers give them, or by what stands before them.

The forms are those that issuers publish. A string that is merely random (a digest, a UUID) is no finding. (detect-secrets
was tried: its last release is of May 2024, it lacks most of these forms, some of its patterns take quadratic time, and it
can send what it finds to the issuer to see whether it is valid.)
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from cowest.detectors.plain import Span

FORMS = (
    r"sk-[A-Za-z0-9_-]{20,250}",  # OpenAI, Anthropic, DeepSeek, OpenRouter
    r"(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16}",  # AWS
    r"AIza[\w-]{35}", r"GOCSPX-[\w-]{28}", r"ya29\.[\w-]{20,250}",  # Google
    r"gh[pousr]_[A-Za-z0-9]{36,250}", r"github_pat_\w{22,250}", r"gl(?:pat|dt|rt|ft|ptt|cbt|soat|agent)-[\w-]{20,100}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,250}", r"xapp-\d-[A-Za-z0-9-]{10,250}", r"hooks\.slack\.com/services/T\w{6,20}/B\w{6,20}/\w{16,40}",
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,250}", r"whsec_[A-Za-z0-9+/=]{24,80}",  # Stripe
    r"hf_[A-Za-z0-9]{30,40}", r"gsk_[A-Za-z0-9]{40,60}", r"xai-[A-Za-z0-9]{40,100}", r"pplx-[A-Za-z0-9]{40,60}", r"r8_[A-Za-z0-9]{30,40}",
    r"npm_[A-Za-z0-9]{36}", r"pypi-AgE[\w-]{40,250}", r"dckr_pat_[\w-]{20,40}", r"SG\.[\w-]{22}\.[\w-]{43}", r"key-[0-9a-f]{32}",
    r"[0-9a-f]{32}-us\d{1,2}", r"SK[0-9a-f]{32}", r"\d{8,10}:AA[\w-]{33}", r"[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,38}",
    r"do[opr]_v1_[a-f0-9]{64}", r"dapi[a-f0-9]{32}", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}", r"sq0[a-z]{3}-[\w-]{22,43}",
    r"lin_api_[A-Za-z0-9]{32,48}", r"ntn_[A-Za-z0-9]{40,60}", r"figd_[\w-]{38,60}", r"PMAK-[A-Za-z0-9]{20,30}-[A-Za-z0-9]{30,40}",
    r"NRAK-[A-Z0-9]{27}", r"gl(?:c|sa)_[\w+/=]{30,250}", r"hv[sb]\.[\w-]{20,250}", r"AGE-SECRET-KEY-1[A-Z0-9]{58}",
)  # fmt: skip
FORM = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(FORMS)})(?![A-Za-z0-9])")
LONG = re.compile(r"[\w./:+=-]{15}")
"""No form is shorter."""
TOKEN = re.compile(r"(?<![\w-])eyJ[\w-]{10,4000}\.eyJ[\w-]{2,8000}(?:\.[\w-]{0,4000})?")
"""JSON Web Token (RFC 7519)."""
BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?)-----")
LONGEST_BLOCK = 20_000
IN_URL = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/:@]{0,64}:([^\s/@]{1,200})@[\w.\[-]"
)
NAMED = re.compile(
    r"(?<![A-Za-z])(?:[A-Za-z0-9]{1,30}[_.-]){0,5}(?:(pass(?:word|wd|phrase|code)?|pwd|passwort|kennwort|contraseña|mot de passe)"
    r"|(?:api|access|auth|secret|private|account|signing|encryption|client|storage|shared)[ _.-]?(?:key|token|secret)(?:[ _.-]id)?"
    r"|secret|token|credential)s?[\"'`\])]{0,2}\s{0,3}(?:=>|:=|==?|:|\bis\b|\bwas\b|\bto\b)\s{0,3}"
    r"(?:bearer\s|basic\s)?[\"'`]{0,3}([^\s\"'`,;<>]{6,250})",
    re.IGNORECASE,
)
"""What is named a password or key, and said."""
WORDS = ("pass", "pwd", "kennwort", "contraseña", "mot de", "key", "token", "secret", "credential")
"""A name of one holds one of these."""
BEARER = re.compile(
    r"(?<![A-Za-z])(?:bearer|basic)\s{1,3}([A-Za-z0-9._~+/=-]{16,250})", re.IGNORECASE
)
STANDS_FOR = re.compile(
    r"[${(\[%*]|x{4}|\.{3}|^(?:your|my|the|an?)[_-]|environ|getenv|https?://|^[\w.]+\(",
    re.IGNORECASE,
)
"""What is said in a secret's place: ${KEY}, your_key_here, ***."""


def secrets(text: str) -> Iterator[Span]:
    """Keys and passwords; of what is named, the value alone. What a pattern can't do without is looked for first: most texts have none."""
    if LONG.search(text):
        yield from (match.span() for match in FORM.finditer(text) if _random(match[0], 2.5))
    if "eyJ" in text:
        yield from (match.span() for match in TOKEN.finditer(text))
    if "-----BEGIN" in text:
        yield from _blocks(text)
    if "://" in text:
        yield from (
            match.span(1) for match in IN_URL.finditer(text) if not STANDS_FOR.search(match[1])
        )
    lower = text.lower()
    if any(word in lower for word in WORDS):
        yield from _named(text)
    if "bearer" in lower or "basic" in lower:
        yield from (match.span(1) for match in BEARER.finditer(text) if _random(match[1], 3.0))


def _blocks(text: str) -> Iterator[Span]:
    """Private keys, to their end, or as far as one may reach where there is none."""
    for match in BLOCK.finditer(text):
        ending = text.find(f"-----END {match[1]}-----", match.end(), match.end() + LONGEST_BLOCK)
        yield (
            match.start(),
            ending + len(match[1]) + 14
            if ending >= 0
            else min(len(text), match.end() + LONGEST_BLOCK),
        )


def _named(text: str) -> Iterator[Span]:
    for match in NAMED.finditer(text):
        value = match[2].rstrip(".):")
        if not STANDS_FOR.search(value) and (
            _chosen(value) if match[1] else len(value) >= 12 and _random(value, 3.0)
        ):
            yield match.start(2), match.start(2) + len(value)


def _chosen(value: str) -> bool:
    """Whether it may be a password that somebody chose: letters with digits or signs among them."""
    return any(c.isalpha() for c in value) and (
        any(c.isdigit() for c in value) or any(c in "!@#^&+=~|?" for c in value)
    )


def _random(value: str, bits: float) -> bool:
    """Whether it has digits and letters, and at least so many bits a character (Shannon, of its own frequencies)."""
    if not any(c.isdigit() for c in value) or not any(c.isalpha() for c in value):
        return False
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values()) >= bits
