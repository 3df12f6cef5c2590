"""The language of a text, by py3langid: n-grams of characters and naive Bayes, for 97 languages.

Short texts are unreliable: it takes "Welches Land?" for German with a probability of 0.2, and
"Oslo" for Norwegian. So a text of few letters, or one of which it is not sure, is not judged.
"""

from collections.abc import Callable, Collection
from typing import Literal

from cowest.errors import ConfigError

LETTERS = 40
"""A text with fewer letters is not judged."""
SURE = 0.9
"""A text is judged from this probability on."""

Verdict = Literal["expected", "foreign", "unsure"]


def reader(expected: Collection[str]) -> Callable[[str], Verdict]:
    """Returns a function that says whether a text is in one of these languages (ISO 639-1 codes).

    Raises ConfigError for a code that py3langid does not know.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = {code for code, _ in identifier.rank("x")}
    unknown = sorted(set(expected) - known)
    if unknown:
        raise ConfigError(
            f"languages: {', '.join(unknown)}: not known; codes are of two letters, as in en, de, "
            "zh"
        )

    def verdict(text: str) -> Verdict:
        if sum(letter.isalpha() for letter in text) < LETTERS:
            return "unsure"
        code, probability = identifier.classify(text)
        if probability < SURE:
            return "unsure"
        return "expected" if code in expected else "foreign"

    return verdict
