"""Normal forms in which two texts count as the same, each for its own purpose. Pure.

Two texts are the same for a purpose when their normal forms for it are equal. From the form that
folds least to the form that folds most:

    spaced          white space
    unadorned       punctuation and articles
    caseless        case and white space
    unpunctuated    punctuation too; digits and signs stay
    normalise       punctuation and articles; what a number or a symbol says stays
    comparable      forms of a letter and letters that can't be seen, beside what normalise folds
    words_only      all that is no letter, digit or `_`
    keywords        stop words and the order of words too

Scores, splits, pairs and the ids of groups rest on what these functions return, so none of them
may change: tests/unit/test_sametext.py pins each on a table of difficult texts.
"""

import re
import unicodedata

WORD = re.compile(r"\w+")

PUNCTUATION = re.compile(
    r"[.,;:!?\"'`()\[\]{}_\u2010-\u201f\u2026\u3001\u3002\u00ab\u00bb\uff0c\uff1f\uff01]"
)
"""Marks that `unpunctuated` takes out; +, *, /, = and their like are no punctuation there."""

OPENING = r"\"'(\[*_\u201c\u2018"
ARTICLE = re.compile(
    rf"(?<![^\s{OPENING}])(?i:an|a|the)\s+(?=[{OPENING}]*\w)(?!(?:is|are|was|were|and|or)\b)"
)
"""An article stands before another word; before these words it is a name: `A is right`."""
JOINING = re.compile(r"['\u2019]|(?<=[^\W\d_])\.(?=[^\W\d_])|(?<=\d),(?=\d{3}(?!\d))")
"""Marks inside a word or number, which go without leaving a space: `don't`, `U.S.`, `1,000`."""
PARTING = re.compile(
    r"(?P<kept>(?<=\d)\.(?=\d)|(?<![^\W_])[-\u2212](?=\.?\d)|(?<=[^\W\d_])[+#]+(?![^\W_]))"
    r"|[^\w\s]|_"
)
"""Marks between words. The group `kept` matches those that belong to a word: `3.5`, `-5`, `C++`."""

UNSEEN = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5"
    r"\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Letters that can't be seen: control characters, and Unicode's Default_Ignorable_Code_Point (soft
hyphens, zero-width spaces and joiners, byte order marks, variation selectors)."""
RAISED = "\u00b2\u00b3\u00b9\u2070\u2071\u2074-\u207f"
"""Raised digits and signs."""
UNIT = re.compile(rf"(?<=[^\W\d_{RAISED}])[{RAISED}]+")
"""Raised digits after a letter, which say the same as others there (`m\u00b2`). After a digit they
are a power: 10\u00b2 is not 102."""
KEPT_FORM = re.compile(rf"([{RAISED}\u2122\u2120\u00aa\u00ba]+)")
"""Letters whose other form says something else: powers, and marks such as \u2122."""
FRACTION = re.compile("[\u00bc-\u00be\u2150-\u215e\u2189]")
NO_SPACES = re.compile(
    r"[\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf"
    r"\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    r"\u0e01-\u0e4f\u0e81-\u0ecf\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17df]"
)
"""Letters of scripts that put no space between words: Chinese, Japanese, Thai, Lao, Burmese and
Khmer."""

STOP = frozenset(
    ["a", "about", "all", "an", "and", "are", "as", "at", "be", "by", "except", "false",
     "following", "for", "from", "in", "is", "most", "not", "of", "on", "or", "that", "the", "to",
     "true", "was", "were", "what", "which", "who", "with"]
)  # fmt: skip
"""Words that do not tell two questions apart."""
FEW = 3
"""Words that keywords need at least."""


def spaced(text: str) -> str:
    """Folds white space alone: `CO` and `Co` are two texts.

    Used for drafts of one query (`preferences`), and for options and targets of a table
    (`domains.options`, `domains.table`).
    """
    return " ".join(text.split())


def unadorned(text: str) -> str:
    """Folds what `normalise` folds except case.

    Used for the two sides of a pair (`expectations.pairs`).
    """
    return _without_marks(unicodedata.normalize("NFC", text))


def caseless(text: str) -> str:
    """Folds case and white space, and keeps everything else, punctuation too.

    Used for options and split values of a table (`domains.table`), names of groups made from
    prompts, and questions in two splits (`expectations.queries`).
    """
    return " ".join(text.casefold().split())


def unpunctuated(text: str) -> str:
    """Folds case, white space and punctuation; keeps words, digits and the signs of mathematics.

    Used to find near copies (`expectations.near`), where `3 * 4` and `3 + 4` are two questions.
    A text of nothing but punctuation keeps it.
    """
    folded = text.casefold()
    return " ".join(PUNCTUATION.sub(" ", folded).split()) or folded.strip()


def normalise(text: str) -> str:
    """Folds case, punctuation, articles and white space as SQuAD does, but spoils no short answer.

    Used by the scorers that compare texts and for the targets of a table. SQuAD's rule (Rajpurkar
    et al. 2016) spoils short answers, so these stay: the decimal point and the minus sign of a
    number, `+` and `#` after a letter (C++, Na+), and `a` where it is an answer and no article
    (vitamin A). Hyphens and slashes part words; apostrophes, and points between letters, join them
    (U.S. is us). A text of nothing but punctuation keeps it.
    """
    return _without_marks(unicodedata.normalize("NFC", text).lower())


def comparable(text: str) -> str:
    """Folds other forms of letters and letters that can't be seen, beside what `normalise` folds.

    Used by the scorers of `rule: 2`. The forms are those of NFKC with case folding (full width,
    ligatures, signs of units), except that a power stays one and 1\u00bd is 1 1/2. Every letter of
    a script without spaces is a word of its own, as the published measures for such languages
    count (MLQA, Lewis et al. 2020; CMRC 2018, Cui et al. 2019).
    """
    folded = unicodedata.normalize("NFC", visible(text).casefold())
    return by_letter(_without_marks(folded)) or " ".join(text.split())


def visible(text: str) -> str:
    """Drops letters that can't be seen, and gives the others their usual form; case stays."""
    parts = []
    seen = UNIT.sub(_usual, UNSEEN.sub("", text).replace("\u00b4", "'"))
    for number, part in enumerate(KEPT_FORM.split(FRACTION.sub(_fraction, seen))):
        # Every second part is one that keeps its form.
        parts.append(part if number % 2 else unicodedata.normalize("NFKC", part))
    return "".join(parts)


def seen(text: str) -> str:
    """Drops letters that can't be seen, and composes the others; case and punctuation stay.

    Used before the forms above where two texts are only compared (`expectations`, and
    `domains.harvested`). The name of a group or a split is made of the text as it is.
    """
    return UNSEEN.sub("", text) if text.isascii() else unicodedata.normalize("NFC", visible(text))


def by_letter(words: str) -> str:
    """Puts spaces around each letter of a script without spaces; its vowel signs stay with it."""
    if NO_SPACES.search(words) is None:
        return words
    parts: list[str] = []
    after_letter = False
    for letter in words:
        is_sign = unicodedata.category(letter).startswith("M")
        if NO_SPACES.match(letter) and not is_sign:
            parts.append(" ")
            after_letter = True
        elif after_letter and not is_sign:
            parts.append(" ")
            after_letter = False
        parts.append(letter)
    return " ".join("".join(parts).split())


def _usual(found: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", found[0])


def _fraction(found: re.Match[str]) -> str:
    """A fraction as a word of its own, so that it does not become part of the number before it."""
    return f" {unicodedata.normalize('NFKC', found[0])}"


def _without_marks(text: str) -> str:
    words = PARTING.sub(_parted, JOINING.sub("", ARTICLE.sub("", text)))
    return " ".join(words.split()) or " ".join(text.split())


def _parted(found: re.Match[str]) -> str:
    """A space for a mark that parts words; the mark itself where it belongs to a word."""
    if found["kept"]:
        return found["kept"].replace("\u2212", "-")
    # Vowel signs and accents match as marks, but are part of their word.
    if unicodedata.category(found[0]).startswith("M"):
        return found[0]
    return " "


def words_only(text: str) -> str:
    """Folds case, white space, punctuation and signs; keeps letters, digits and `_`, in order.

    Used to see whether a refinement adopts a draft (`evaluation.adoption`). `-5` and `5` are the
    same here, and a text without a word is the empty one.
    """
    return " ".join(WORD.findall(text.casefold()))


def keywords(text: str, more: str = "") -> str:
    """Folds the order and number of words, and stop words, beside what `words_only` folds.

    Used to keep rephrased copies of a published question in one split (`domains.published`).
    Where fewer than three words are left that tell texts apart, all words of `more` are added.
    """
    words = set(WORD.findall(text.casefold())) - STOP
    if more and len(words) < FEW:
        words |= set(WORD.findall(more.casefold()))
    return " ".join(sorted(words))
