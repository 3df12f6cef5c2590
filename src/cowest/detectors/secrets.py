"""Finds keys, tokens and passwords, by their form or by the words before them.

The forms are those that issuers publish. A string that is merely random (a digest, a UUID) is no
finding. (We tried detect-secrets: its last release is of May 2024, it lacks most of these forms,
some of its patterns take quadratic time, and it can send a secret to its issuer to see whether it
is valid.)
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from cowest.detectors.places import NO_PORT
from cowest.detectors.plain import ASKED, BETWEEN, Span
from cowest.detectors.words import AFTER, BEFORE

FORMS = (
    # OpenAI, Anthropic, DeepSeek and OpenRouter, which begin alike.
    r"sk-[A-Za-z0-9_-]{20,250}",
    # AWS.
    r"(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16}",
    # Google.
    r"AIza[\w-]{35}", r"GOCSPX-[\w-]{28}", r"ya29\.[\w-]{20,250}",
    # GitHub and GitLab.
    r"gh[pousr]_[A-Za-z0-9]{36,250}", r"github_pat_\w{22,250}",
    r"gl(?:pat|dt|rt|ft|ptt|cbt|soat|agent)-[\w-]{20,100}",
    # Slack.
    r"xox[abeoprs]-[A-Za-z0-9-]{10,250}", r"xapp-\d-[A-Za-z0-9-]{10,250}",
    r"hooks\.slack\.com/services/T\w{6,20}/B\w{6,20}/\w{16,40}",
    # Stripe.
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,250}", r"whsec_[A-Za-z0-9+/=]{24,80}",
    # Hugging Face, Groq, xAI, Perplexity and Replicate.
    r"hf_[A-Za-z0-9]{30,40}", r"gsk_[A-Za-z0-9]{40,60}", r"xai-[A-Za-z0-9]{40,100}",
    r"pplx-[A-Za-z0-9]{40,60}", r"r8_[A-Za-z0-9]{30,40}",
    # Package registries: npm, PyPI and Docker Hub.
    r"npm_[A-Za-z0-9]{36}", r"pypi-AgE[\w-]{40,250}", r"dckr_pat_[\w-]{20,40}",
    # Mail and messages: SendGrid, Mailgun, Mailchimp, Twilio, Telegram and Discord.
    r"SG\.[\w-]{22}\.[\w-]{43}", r"key-[0-9a-f]{32}", r"[0-9a-f]{32}-us\d{1,2}", r"SK[0-9a-f]{32}",
    r"\d{8,10}:AA[\w-]{33}", r"[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,38}",
    # DigitalOcean, Databricks, Shopify and Square.
    r"do[opr]_v1_[a-f0-9]{64}", r"dapi[a-f0-9]{32}", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",
    r"sq0[a-z]{3}-[\w-]{22,43}",
    # Linear, Notion, Figma and Postman.
    r"lin_api_[A-Za-z0-9]{32,48}", r"ntn_[A-Za-z0-9]{40,60}", r"figd_[\w-]{38,60}",
    r"PMAK-[A-Za-z0-9]{20,30}-[A-Za-z0-9]{30,40}",
    # New Relic, Grafana, HashiCorp Vault and age.
    r"NRAK-[A-Z0-9]{27}", r"gl(?:c|sa)_[\w+/=]{30,250}", r"hv[sb]\.[\w-]{20,250}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{58}",
    # Models and data for them: NVIDIA, Fireworks, Cerebras, Pinecone, LangSmith and Tavily.
    r"nvapi-[\w-]{40,100}", r"fw_[A-Za-z0-9]{20,40}", r"csk-[a-z0-9]{40,60}",
    r"pcsk_[A-Za-z0-9]{4,8}_[A-Za-z0-9]{40,80}", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}",
    r"tvly-(?:dev-|prod-)?[A-Za-z0-9]{20,50}",
    # Clouds and hosts: Alibaba, Atlassian, Netlify, Heroku, Supabase and PlanetScale.
    r"LTAI[A-Za-z0-9]{12,20}",
    r"ATATT3[\w=-]{150,250}", r"nfp_[A-Za-z0-9]{36,40}", r"HRKU-[\w-]{36,80}",
    r"sbp_[a-f0-9]{40}", r"sb_secret_[\w-]{20,60}", r"pscale_(?:tkn|pw|oauth)_[\w.=-]{32,64}",
    # Tools: Sentry, Doppler, Airtable, Pulumi, RubyGems, Buildkite and Brevo.
    r"sntryu_[a-f0-9]{64}", r"sntrys_[\w+/=]{40,250}", r"dp\.(?:pt|st|ct|sa)\.[\w.-]{40,60}",
    r"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}", r"pul-[a-f0-9]{40}",
    r"rubygems_[a-f0-9]{48}", r"bkua_[a-f0-9]{40}",
    r"xkeysib-[a-f0-9]{64}-[A-Za-z0-9]{16}",
)  # fmt: skip
"""Forms of keys and tokens, by issuer."""
FORM = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(FORMS)})(?![A-Za-z0-9])")
WITHOUT_PREFIX = (
    # Storage keys of Azure, secrets of its directory (Entra), and tokens of Terraform.
    ("==", re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==")),
    ("Q~", re.compile(r"(?<![\w.~-])[\w.~-]{3}\dQ~[\w.~-]{31,34}(?![\w~-])")),
    (".atlasv1.", re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{60,70}")),
)
"""Forms that don't begin with a sign of their own, each with what must be in the text."""
FORTY = re.compile(rf"{BEFORE}(?<![/+.=@-])[A-Za-z0-9/+]{{40}}{AFTER}(?![/+=@-])")
"""As long as the secret access keys of AWS, which have no other form."""
LONG = re.compile(r"[\w./:+=-]{15}")
"""A run of characters as long as the shortest of the forms."""
_PART = "[A-Za-z0-9_-]"
TOKEN = re.compile(
    rf"{BEFORE}(?<!-)eyJ{_PART}{{10,4000}}\.eyJ{_PART}{{2,8000}}(?:\.{_PART}{{0,4000}})?"
)
"""JSON Web Token (RFC 7519)."""
BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?)-----")
LONGEST_BLOCK = 20_000
IN_URL = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/:@?#]{0,64}:"
    rf"{NO_PORT}([^\s/@]{{1,200}})@[\w.\[-]"
)
NAMED = re.compile(
    # A name that may stand in a longer one (db.user_password): that of a password, or of a key.
    r"(?<![A-Za-z])(?:[A-Za-z0-9]{1,30}[_.-]){0,5}"
    r"(?:(pass(?:word|wd|phrase|code)?|pwd|passwort|kennwort|contrase[ñn]a|mot de passe)"
    r"|(?:api|access|auth|secret|private|account|signing|encryption|client|storage|shared)"
    r"[ _.-]?(?:key|token|secret)(?:[ _.-]id)?"
    r"|secret|token|credential)s?"
    # A sign or word that says that the value follows.
    r"[\"'`\])*]{0,3}\s{0,3}(?:=>|:=|==?|:|(?<=\s)-(?=\s)"
    r"|\b(?:is|was|to|ist|war|lautet|est|était|es|era)\b(?:\s{0,2}:)?"
    rf"|{ASKED})[*]{{0,2}}\s{{0,3}}"
    # The value.
    r"(?:bearer\s|basic\s)?[\"'`]{0,3}([^\s\"'`,;<>]{6,250})",
    re.IGNORECASE,
)
"""A password or key with its name. Group 1 is the name of a password, group 2 the value."""
WORDS = ("pass", "pwd", "kennwort", "contrase", "mot de", "key", "token", "secret", "credential")
"""Parts of words, one of which is in every name that NAMED looks for."""
BEARER = re.compile(
    r"(?<![A-Za-z])(?:bearer|basic)\s{1,3}([A-Za-z0-9._~+/=-]{16,250})", re.IGNORECASE
)
WORDLIKE = re.compile(r"[a-z]{8}")
TEMPLATE = re.compile(
    r"x{4}|\.{3}|\*{3}|^(?:your|my|the|an?)[_-]|environ|getenv|https?://"
    r"|\$[({]|\{\{|\{[^{}]{0,40}[A-Za-z_][^{}]{0,40}\}|%\(\w{1,40}\)|\(\?"
    r"|^%[-+.\d]{0,4}[a-z](?!\w)",
    re.IGNORECASE,
)
"""Signs of a placeholder anywhere in a value: your_key_here, ${KEY}, {key}, %(key)s, ***; and of a
pattern that passwords must match."""
PLACEHOLDER = re.compile(
    # $KEY, $$KEY, $USER:$KEY, $row[ and $this-> (which ends at its >), %KEY%, <key>, [key], (key
    r"(?:\${1,2}[a-z_]\w*(?:[^\w$]\$\w+)*(?:[\[{(].*|-)?|%\w+%|<[^<>]*>|\[.*|\([^)]*\)?)"
    # the end of what it stands in: {"key":$KEY}
    r"[}\])]*"
    # in the query of a URL
    r"(?:&\w+=.*)?"
    # an amount of money
    r"|[A-Z]{0,3}[$€£]\d[\d.]*[km]?(?:[/-]\w+)*"
    # a formula: $y=Wx+b$, $2n-1$, $\alpha
    r"|\$(?!\w*[a-z]{4})[^$]*[=^_{}+*/-][^$]*\$|\$\\.*",
    re.IGNORECASE,
)
"""A value that is nothing else. A password may hold the same signs, as in P@$$w0rd and 100%Mine."""
CALL = re.compile(
    r"[A-Za-z_\\][\w.:\\]{0,100}(?:(?<=[a-z_])!)?"
    r"(?:\([^)]{0,200}\)|\[[^\]]{0,200}\]|[(\[](?:[\s\"'`]|$))"
)
"""Code that stands in a secret's place: read_key("db"), Hash::make($word), row[3]."""
SIGNS = "!@#^&+=~|?"
"""Signs that make a password of a word."""
LAST = re.compile(r"[^\w@#^&+=~|$%]+$")
"""Marks at the end of a word of an ordinary answer: Certainly!"""


def secrets(text: str) -> Iterator[Span]:
    """Finds keys and passwords; of those with a name before them, the value alone."""
    # Each pattern runs only if the text holds what it can't do without, and most texts don't.
    if LONG.search(text):
        for match in FORM.finditer(text):
            if _random(match[0], 2.5) or match[0].startswith("hf_"):
                yield match.span()
        for sign, form in WITHOUT_PREFIX:
            for match in form.finditer(text) if sign in text else ():
                yield match.span()
        for match in FORTY.finditer(text):
            if _drawn(match[0]):
                yield match.span()
    if "eyJ" in text:
        for match in TOKEN.finditer(text):
            yield match.span()
    if "-----BEGIN" in text:
        yield from _blocks(text)
    if "://" in text:
        for match in IN_URL.finditer(text):
            if not _stands_for(match[1]):
                yield match.span(1)
    lower = text.lower()
    if any(word in lower for word in WORDS):
        yield from _named(text)
    if "bearer" in lower or "basic" in lower:
        for match in BEARER.finditer(text):
            if _random(match[1], 3.0):
                yield match.span(1)


def _blocks(text: str) -> Iterator[Span]:
    """Finds private keys, to their end line; without one, as far as a key may reach."""
    for match in BLOCK.finditer(text):
        limit = match.end() + LONGEST_BLOCK
        last = f"-----END {match[1]}-----"
        place = text.find(last, match.end(), limit)
        end = place + len(last) if place >= 0 else min(len(text), limit)
        yield match.start(), end


def _named(text: str) -> Iterator[Span]:
    """Finds the values of named passwords and keys."""
    for match in NAMED.finditer(text):
        value = match[2].rstrip(".):")
        if _stands_for(value) or CALL.match(text, match.start(2)):
            continue
        # People choose passwords, so these may be short and like words; machines make keys.
        if _is_password(match, value) if match[1] else _made(value):
            yield match.start(2), match.start(2) + len(value)


def _is_password(match: re.Match[str], value: str) -> bool:
    # What follows a question may be an ordinary answer to it.
    if BETWEEN in match.string[match.end(1) : match.start(2)]:
        value = LAST.sub("", value)
    # A pass may also be one over data, over a mountain, or of an exam; an option is none of these.
    is_word = match[1].lower() == "pass" and match.start(1) == match.start()
    is_bare = is_word and "=" not in match.string[match.end(1) : match.start(2)]
    return _chosen(value, SIGNS if is_bare else f"{SIGNS}$%*")


def _stands_for(value: str) -> bool:
    """Says whether a value is a placeholder in a secret's place."""
    return bool(TEMPLATE.search(value) or PLACEHOLDER.fullmatch(value))


def _chosen(value: str, signs: str) -> bool:
    """Says whether this may be a password that somebody chose: letters with digits or signs."""
    letters = any(c.isalpha() for c in value)
    # Stars around a word only emphasise it.
    return letters and any(c.isdigit() or c in signs for c in value.strip("*"))


def _made(value: str) -> bool:
    """Says whether this may be a key that a machine made."""
    return len(value) >= 12 and _random(value, 3.0)


def _drawn(value: str) -> bool:
    """Says whether 40 characters look drawn from 64: no digest in hex, no path and no name.

    Of a thousand such keys, some ten are missed.
    """
    digits = sum(c.isdigit() for c in value)
    capitals = sum(c.isupper() for c in value)
    if digits < 2 or capitals < 4 or digits + capitals > 36 or WORDLIKE.search(value):
        return False
    return _random(value, 4.2)


def _random(value: str, bits: float) -> bool:
    """Says whether a value has letters, digits, and at least so many bits per character.

    The bits are Shannon's entropy of the value's own characters.
    """
    if not any(c.isdigit() for c in value) or not any(c.isalpha() for c in value):
        return False
    entropy = 0.0
    for count in Counter(value).values():
        share = count / len(value)
        entropy -= share * math.log2(share)
    return entropy >= bits
