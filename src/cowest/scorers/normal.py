"""What two texts must share to count as the same answer: case, punctuation, articles and white space are set aside.

After SQuAD's normalisation (Rajpurkar et al. 2016), which spoils short answers; so these are kept: the decimal point and the
minus sign of a number, `+` and `#` after a letter (C++, Na+), and `a` where it is an answer and no article (vitamin A).
Hyphens and slashes part words; apostrophes, and points between letters, join them (U.S. is us).
"""

import re
import unicodedata

OPENING = r"\"'(\[*_\u201c\u2018"
ARTICLE = re.compile(
    rf"(?<![^\s{OPENING}])(?:an|a|the)\s+(?=[{OPENING}]*\w)(?!(?:is|are|was|were|and|or)\b)"
)
"""An article stands before another word; before these words it is a name."""
JOINING = re.compile(r"['\u2019]|(?<=[^\W\d_])\.(?=[^\W\d_])|(?<=\d),(?=\d{3}(?!\d))")
PARTING = re.compile(
    r"(?P<kept>(?<=\d)\.(?=\d)|(?<![^\W_])[-\u2212](?=\.?\d)|(?<=[^\W\d_])[+#]+(?![^\W_]))|[^\w\s]|_"
)


def normalise(text: str) -> str:
    """The words of a text with one space between them; a text that is nothing but punctuation stays."""
    lowered = unicodedata.normalize("NFC", text).lower()
    words = PARTING.sub(_part, JOINING.sub("", ARTICLE.sub("", lowered)))
    return " ".join(words.split()) or " ".join(lowered.split())


def _part(found: re.Match[str]) -> str:
    if found["kept"]:
        return found["kept"].replace("\u2212", "-")
    # vowel signs and accents are part of their word
    return found[0] if unicodedata.category(found[0]).startswith("M") else " "


def after(answer: str, marker: str | None) -> str:
    """What follows the last `marker`, to the end of its line; the whole answer where there is none."""
    if marker is None or marker not in answer:
        return answer
    return (answer.rpartition(marker)[2].strip(" *_").splitlines() or [""])[0].strip(" *_")
