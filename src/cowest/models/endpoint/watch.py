"""What an endpoint's replies have shown so far, over all calls of a stage.

One reply is about one call. That no call will ever be answered, that answers end in a way we do not
know, or that more is billed than a call allowed, shows in several.
"""

import sys

from cowest.ledger.claims import ClaimRequest, note_overbilled, overbilled
from cowest.ledger.store import CallStore
from cowest.models.endpoint.complaints import said
from cowest.models.endpoint.responses import AgainError, Answered, PoisonError
from cowest.models.endpoint.settings import Endpoint

PAGES_AT_FIRST, PAGES_LATER = 3, 16
"""Number of rows, with no answer between them, that get a web page before we take the endpoint to
be no API: before its first answer, and after."""
EMPTY_AT_FIRST, EMPTY_LATER = 8, 64
"""The same for rows whose answer holds no word. Each is paid for."""
SAME_WORDS = 16
"""Number of rows in a row that an endpoint which never answered refuses with the same words before
we take it to refuse all. They cost nothing."""
EMPTY_RETRIES = 2
"""Maximum number of retries after answers without a word: unlike errors, they are paid for."""
MOST_NAMES = 5
"""Number of unknown finish reasons that are printed: an endpoint may make up one per answer."""
NOTHING = {
    "length": (
        "max_tokens are used up before the answer begins: raise max_tokens (sampling), or have the "
        "model think less"
    ),
    "thoughts": (
        "the model's thoughts come in a field of their own and no answer after them: turn thinking "
        "off (for vLLM `extra: {chat_template_kwargs: {enable_thinking: false}}`), or mend the "
        "server's reasoning parser"
    ),
    "a call": "the model calls tools: take `tools` out of `extra`",
    "an empty": (
        "is this a model that answers chats, and do the stop sequences (sampling.stop) not end it "
        "before its first word?"
    ),
}
"""Advice for answers without a word, by how their reason begins."""


class Watch:
    """The replies of one endpoint, seen together."""

    def __init__(self, config: Endpoint, key: str | None, store: CallStore) -> None:
        self._config, self._key, self._store = config, key, store
        self.has_answered = False
        """True once a call was answered, or refused for its content alone."""
        self._answered_before = False
        """True if the store has answers of this model to calls of this stage."""
        self._pages: set[str] = set()
        self._page = ""
        self._empty: set[str] = set()
        self._emptiness = ""
        self._refusal: PoisonError | None = None
        self._refused = 0
        self._unknown: set[str] = set()
        self._usd, self._tokens = overbilled(store, config.name)
        """The most that a bill exceeded what its call was to cost at most."""

    def remembered(self) -> None:
        """Notes that the store has an answer. A stage that is run again may ask bad rows only."""
        self._answered_before = True

    def saw(self, call: str, response: Answered | AgainError | PoisonError) -> None:
        """Notes the response to a call, by the call's key."""
        match response:
            case Answered():
                self._answered(call, response)
            case AgainError():
                self._failed(call, response)
            case PoisonError():
                self._refused_one(response)

    def hopeless(self) -> str | None:
        """Says why no call will be answered, if the replies show that."""
        known = self.has_answered or self._answered_before
        if len(self._pages) >= (PAGES_LATER if known else PAGES_AT_FIRST):
            return (
                f"answers with web pages ({said(self._page, self._key)}): base_url is not an API's "
                "(does it lack /v1?), or a proxy or login page stands in between"
            )
        if len(self._empty) >= (EMPTY_LATER if known else EMPTY_AT_FIRST):
            return self._says_nothing()
        if self._refusal is None or self.has_answered:
            return None
        advice, often = self._refusal.everyone, self._refused >= SAME_WORDS
        if advice is not None and (often or not known):
            return f"refuses every call ({self._refusal}): {advice}"
        if often and not known:
            return f"refuses each of {self._refused} calls in the same words: {self._refusal}"
        return None

    def reserved(self, claim: ClaimRequest) -> ClaimRequest:
        """Returns a claim that also holds what bills exceeded the most by, so far."""
        return ClaimRequest(claim.key, claim.usd + self._usd, claim.tokens + self._tokens)

    def billed(self, claim: ClaimRequest, usd: float, tokens: int) -> bool:
        """Compares the bill of a call with the most that it was to cost.

        An endpoint may bill thoughts beyond the token limit, or a prompt that it adds. That is
        printed once a turn, and later calls reserve as much more. True for more than any before:
        then `remember` keeps it for later stages.
        """
        more_usd, more_tokens = usd - claim.usd, tokens - claim.tokens
        # Sums of dollars are rounded.
        if more_usd < self._usd + 1e-9 and more_tokens <= self._tokens:
            return False
        if not self._usd and not self._tokens:
            self._say(
                f"bills more than its calls allow: {tokens:,} tokens (${usd:.6f}) where "
                f"{claim.tokens:,} (${claim.usd:.6f}) were the most; from now on each call "
                "reserves what the largest bill was over, so that the budget holds. Does the model "
                "think beyond max_tokens?"
            )
        self._usd, self._tokens = max(self._usd, more_usd), max(self._tokens, more_tokens)
        return True

    def remember(self) -> None:
        """Keeps in the store how much was billed over the bounds of calls."""
        note_overbilled(self._store, self._config.name, self._usd, self._tokens)

    def _answered(self, call: str, answered: Answered) -> None:
        completion = answered.completion
        if completion.text is None and completion.finish == "length":
            self._note_empty(call, "length")
            return
        self.has_answered = True
        self._pages.clear()
        if completion.text is not None:
            self._empty.clear()
        if answered.odd_ending is not None:
            self._note_ending(answered.odd_ending)

    def _failed(self, call: str, again: AgainError) -> None:
        if again.page is not None:
            self._pages.add(call)
            self._page = again.page
        if again.empty:
            self._note_empty(call, str(again))

    def _refused_one(self, poison: PoisonError) -> None:
        same = self._refusal is not None and str(self._refusal) == str(poison)
        self._refused = self._refused + 1 if same else 1
        self._refusal = poison

    def _note_empty(self, call: str, why: str) -> None:
        self._empty.add(call)
        self._emptiness = why

    def _says_nothing(self) -> str:
        advice = NOTHING["an empty"]
        for beginning, found in NOTHING.items():
            if self._emptiness.startswith(beginning):
                advice = found
        what = "no word" if self._emptiness == "length" else self._emptiness
        return f"answers {len(self._empty)} rows, one after another, with {what}: {advice}"

    def _note_ending(self, name: str) -> None:
        if name in self._unknown or len(self._unknown) >= MOST_NAMES:
            return
        self._unknown.add(name)
        self._say(f"ends answers with {name!r}, which we do not know: they are taken as whole")

    def _say(self, what: str) -> None:
        where = said(f"{self._config.model} at {self._config.base_url}", self._key)
        print(f"cowest: {where} {what}", file=sys.stderr)
