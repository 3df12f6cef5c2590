"""Which language a text is in, by py3langid: character n-grams and naive Bayes, trained on 97 languages.

Short texts are unreliable: "Welches Land?" is German to it with a probability of 0.2, "Oslo" is Norwegian. So a text of few letters
is in no language that counts, nor one of which it is not sure.
"""

from collections.abc import Callable, Collection
from typing import Literal

from cowest.errors import ConfigError

LETTERS = 40
"""A shorter text is not judged."""
SURE = 0.9
"""The probability from which on its word is taken."""

Verdict = Literal["expected", "foreign", "unsure"]


def reader(expected: Collection[str]) -> Callable[[str], Verdict]:
    """A function that says of a text whether it is in one of these languages (ISO 639-1 codes).

    Raises ConfigError for a code it does not know.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = {code for code, _ in identifier.rank("x")}
    if unknown := sorted(set(expected) - known):
        raise ConfigError(
            f"languages: {', '.join(unknown)}: not known; codes are of two letters, as in en, de, zh"
        )

    def verdict(text: str) -> Verdict:
        if sum(letter.isalpha() for letter in text) < LETTERS:
            return "unsure"
        code, probability = identifier.classify(text)
        return "unsure" if probability < SURE else "expected" if code in expected else "foreign"

    return verdict
