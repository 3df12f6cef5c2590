"""Prompts become tokens, and tokens become the texts and ends of answers, by a local tokenizer.

Whatever engine computes the tokens, a prompt is read, and an answer ends and becomes text, by the
one class here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cowest.config import Sampling
from cowest.models.chat import Chat
from cowest.protocols import Completion, Request
from cowest.thoughts import MARKS

LIMITS = ("max_position_embeddings", "max_seq_len", "n_positions")
"""Settings that say how many tokens a model reads at most."""
UNLIMITED = 1 << 30
"""Tokens of context of a model whose settings name no limit."""


@dataclass(slots=True)
class Growing:
    """An answer that is being decoded."""

    tokens: list[int] = field(default_factory=list)
    """Without the one that ended it."""
    logprob: float = 0.0
    """Sum of the tokens' log-probabilities, which are those of the model itself, before
    temperature and top_p."""
    ended: bool = False
    """Met an end or a stop text; an answer that was cut at its limit has not."""


class Writing:
    """Prompts as tokens and answers as texts, for one model."""

    def __init__(self, name: str, tokenizer: Any, chat: Chat, context: int) -> None:
        """Takes the name that completions carry, and the number of tokens that the model reads."""
        self.name = name
        self.chat = chat
        self.context = context
        self._tokenizer = tokenizer
        marks = [token for token in chat.control if token in MARKS]
        self._marks = set(tokenizer.convert_tokens_to_ids(marks))
        # Such a tokenizer takes away white space that stood in a text while more of it came. Those
        # of one kind only say so.
        tidied = tokenizer.decode(tokenizer("a .", add_special_tokens=False)["input_ids"])
        self._tidies = bool(tokenizer.clean_up_tokenization_spaces) and " ." not in tidied
        pieces = [f"<0x{number:02X}>" for number in range(256)]
        self._bytes = {*tokenizer.convert_tokens_to_ids(pieces)} - {None, tokenizer.unk_token_id}

    @property
    def keeps_marks(self) -> bool:
        """True if marks around thoughts are control tokens, which an answer's text keeps."""
        return bool(self._marks)

    def tokens(self, request: Request) -> list[int]:
        """Returns the prompt's tokens, up to where the answer begins."""
        return self.chat.asked(request.messages)

    def fits(self, prompt: Sequence[int], sampling: Sampling) -> bool:
        """Says whether a prompt and its longest answer fit the model's context."""
        return self._over(prompt, sampling) <= 0

    def unfit(self, prompt: Sequence[int], sampling: Sampling) -> Completion | None:
        """The failure of a call that can't be decoded; None for one that can."""
        over = self._over(prompt, sampling)
        if prompt and over <= 0:
            return None
        reason = (
            f"prompt of {len(prompt)} tokens and {sampling.max_tokens} to come "
            f"are {over} more than the model's context"
        )
        if not prompt:
            reason = "the chat template makes no token of this prompt, so nothing can be read"
        return Completion(None, self.name, "failed", reason, prompt_tokens=len(prompt))

    def _over(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """Tokens that a prompt and its longest answer have more than the model's context."""
        return len(prompt) + sampling.max_tokens - self.context

    def grow(self, grown: Growing, token: int, logprob: float, stop: tuple[str, ...]) -> None:
        """Adds the next token to an answer, or ends it."""
        grown.logprob += logprob
        if token in self.chat.ends:
            grown.ended = True
            return
        grown.tokens.append(token)
        grown.ended = self.stopped(grown.tokens, stop)

    def stopped(self, tokens: Sequence[int], stop: tuple[str, ...]) -> bool:
        """Says whether a stop text is among the last tokens."""
        if not stop:
            return False
        # Only the end is decoded, since decoding the whole text at every step would take quadratic
        # time. A token holds at least one byte; the four on top are for a character before the
        # stop text that is split over several tokens.
        end = tokens[-(max(len(text.encode()) for text in stop) + 4) :]
        text = self._tokenizer.decode(end)
        return any(one in text for one in stop)

    def completion(self, grown: Growing, prompt: Sequence[int], sampling: Sampling) -> Completion:
        """The completion of an answer that is decoded to its end."""
        return Completion(
            _cut(self.written(grown.tokens), sampling.stop),
            self.name,
            "stop" if grown.ended else "length",
            None,
            grown.logprob,
            len(prompt),
            len(grown.tokens),
        )

    def text(self, tokens: Sequence[int], stop: tuple[str, ...]) -> str:
        """The text of an answer, up to a stop text."""
        return _cut(self.written([one for one in tokens if one not in self.chat.ends]), stop)

    def written(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with the marks around a thought even if they are controls."""
        if not self._marks:
            return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        added = self._tokenizer.added_tokens_decoder
        special = {number for number, token in added.items() if token.special}
        hidden = special.union(self._tokenizer.all_special_ids) - self._marks
        shown = [token for token in tokens if token not in hidden]
        return str(self._tokenizer.decode(shown))

    def settled(self, tokens: Sequence[int]) -> str:
        """The text of the first tokens of an answer, as far as no later token changes it."""
        if self._tidies:
            return ""
        # Tokens of single bytes are read as one run, which is no text if any of it is not.
        end = len(tokens)
        while end and tokens[end - 1] in self._bytes:
            end -= 1
        return self.written(tokens[:end])


def context_of(config: Any) -> int:
    """Returns the tokens that a model reads at most, by its settings (transformers)."""
    # A model of pictures and texts keeps those of its texts apart.
    text = config.get_text_config()
    limits = [getattr(text, name, None) for name in LIMITS]
    limit = next((one for one in limits if isinstance(one, int) and one > 0), UNLIMITED)
    # Positions that are stretched: settings of YaRN may name the length before that as the limit.
    # Of other kinds, the factor is none of the length.
    rope = getattr(text, "rope_parameters", None) or {}
    factor, before = rope.get("factor"), rope.get("original_max_position_embeddings")
    is_yarn = rope.get("rope_type") == "yarn"
    if is_yarn and isinstance(factor, int | float) and isinstance(before, int):
        limit = max(limit, int(min(factor, UNLIMITED) * before))
    return limit


def _cut(text: str, stop: tuple[str, ...]) -> str:
    """Ends a text before the first stop text, and strips white space."""
    ends = [place for place in map(text.find, stop) if place >= 0]
    return text[: min(ends, default=len(text))].strip()
