"""The chat template of a local model: how conversations become tokens, to be asked or learned.

A policy is asked with the beginning of a conversation and learns from whole ones. The two agree
only if a finished answer begins with the very tokens that ask for it, ends with a token that ends
what is generated, and if no text in it is read as a control token in one place and as plain text
in the other. All of that is settled here, for training, decoding and the pre-flight alike.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from cowest.errors import ModelError
from cowest.models.embedded import CHATML
from cowest.models.template import CLOCK, written
from cowest.records import Message
from cowest.thoughts import MARKS

MARK = "cowest"
"""Stands for an answer where the template is tried."""
THOUGHT = "</think>"
"""Ends a thought, in the templates that know thoughts."""
FAULTS = (
    TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, SyntaxError
)  # fmt: skip
"""Errors of templates that are no errors of Jinja's: some are met in what it makes of them."""
TRIED = (Message(role="user", content="?"),)
"""A prompt that any template should take."""


class Chat:
    """A tokenizer's chat template, and the tokens that end an answer under it."""

    def __init__(self, model: str, tokenizer: Any, ends: Iterable[int | None]) -> None:
        """Takes the name that messages call the model by, and the ends of its own settings."""
        self._model = model
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = [token.content for token in added.values() if token.special]
        named: list[str] = list(dict.fromkeys([*tokenizer.all_special_tokens, *special]))
        template = tokenizer.get_chat_template()
        self._markers = _markers(tokenizer, template)
        self.control = [token for token in [*named, *self._markers] if len(token) > 1]
        """Texts that the tokenizer reads as control tokens wherever they stand."""
        self._openings = {token[0] for token in self.control}
        self.dated = CLOCK in template
        """True if the template asks the time: it was once told that of the day (`template`)."""

        settings = {*ends, tokenizer.eos_token_id} - {None}
        self._ending: str | None = self._after_an_answer()
        self._closing: int | None = self._closing_token(set(added))
        # A base model ends at its end of text, and its template ends a turn with another token,
        # which is what training teaches: drafts would all run to their limit.
        self.adds_an_end = self._closing is not None and self._closing not in settings
        """True if the template ends an answer with a token that the model's settings don't name."""
        self.ends = frozenset({*settings, self._closing} - {None})
        """Tokens that end an answer."""
        self._own = self._of_answers({added[end].content for end in self.ends if end in added})

    def asked(self, messages: Iterable[Message]) -> list[int]:
        """Returns the tokens of a prompt, up to where the answer begins. Raises ModelError."""
        return self._tokens(self._written(self.messages(messages), True))

    def learned(self, prompt: Sequence[Message], answer: str) -> list[int]:
        """Returns the tokens of a prompt with its answer, as training reads them.

        Raises ModelError if the answer does not begin as it is asked for, or nothing ends it.
        """
        said = self.messages([*prompt, Message(role="assistant", content=answer)], answered=True)
        asked = self._written(said[:-1], True)
        whole = self._written(said, False)
        start, tokens = self._tokens(asked), self._tokens(whole)
        begun = whole[len(asked) :].lstrip().startswith(said[-1]["content"].strip())
        # A template may drop a thought that stands before an answer: the answer itself is learned.
        begun = begun or THOUGHT in answer
        if tokens[: len(start)] != start or not begun:
            raise ModelError(self._otherwise(asked, whole, begun))
        if not self.ends & set(tokens[len(start) :]) and not self._ending:
            eos = self._tokenizer.eos_token or "an end token"
            raise ModelError(
                f"{self._model}: its chat template writes nothing after an answer, so that no end "
                f"is learned and drafts run to their limit: {self._mend(f'writes {eos} there')}"
            )
        return tokens

    def ends_at(self, stop: Sequence[str]) -> None:
        """Raises ModelError if what ends an answer in training ends no draft.

        `stop` are the stop texts of drafting, the only ends where the template writes no token.
        """
        self.learned(TRIED, MARK)
        ending = self.textual_end()
        if ending is not None and not any(text in ending for text in stop):
            eos = self._tokenizer.eos_token or "an end token"
            raise ModelError(
                f"{self._model}: its chat template ends an answer with {ending!r}, which ends no "
                "draft: name that text in draft.sampling.stop and evaluate.drafting.stop, or "
                f"{self._mend(f'writes {eos} after an answer')}"
            )

    def messages(self, messages: Iterable[Message], answered: bool = False) -> list[dict[str, str]]:
        """Returns messages as templates take them, their control tokens broken up.

        `answered` says that the last one is an answer of the policy. It keeps what the policy wrote
        as tokens: the marks of its thoughts, and what the tokenizer doesn't call special.
        """
        taken = list(messages)
        said = [{"role": one.role, "content": self._plain(one.content)} for one in taken]
        if answered:
            parts = self._own.split(taken[-1].content)
            parts[::2] = map(self._plain, parts[::2])
            said[-1]["content"] = "".join(parts)
        return said

    def breaks_more_up(self, messages: Iterable[Message]) -> bool:
        """Says whether texts hold markers (`_markers`) that once began a turn in them."""
        texts = "\0".join(message.content for message in messages)
        return any(marker in texts for marker in self._markers)

    def _of_answers(self, ends: set[str]) -> re.Pattern[str]:
        """Finds the control tokens that an answer of the policy may hold, and that don't end it."""
        thoughts = [re.escape(token) for token in self.control if token in MARKS]
        others = [re.escape(token) for token in self._markers if token not in ends]
        # One in backticks is spoken of, as for all that reads thoughts.
        marks = f"(?<!`)(?:{'|'.join(thoughts) or '(?!)'})"
        # The tokenizer takes the longest, too.
        return re.compile("|".join([f"({marks}", *sorted(others, key=len, reverse=True)]) + ")")

    def textual_end(self) -> str | None:
        """Returns what the template ends an answer with, where that is text and no token."""
        return self._ending if self._closing is None else None

    def control_in(self, texts: Iterable[str]) -> str | None:
        """Returns a control token that one of the texts holds, if there is any."""
        for text in texts:
            for token in self._held_by(text):
                return token
        return None

    def _plain(self, text: str) -> str:
        """Breaks up control tokens in a text, so that it can't end a turn and begin another.

        The chat template writes messages as text, and the tokenizer would read `<|im_end|>` in a
        message as the token. With a zero-width space after the first character it stays text.
        """
        for token in self._held_by(text):
            text = text.replace(token, f"{token[0]}\N{ZERO WIDTH SPACE}{token[1:]}")
        return text

    def _held_by(self, text: str) -> list[str]:
        # Some vocabularies have thousands of control tokens, which all begin alike.
        if self._openings.isdisjoint(text):
            return []
        return [token for token in self.control if token in text]

    def _written(self, said: list[dict[str, str]], to_be_answered: bool) -> str:
        """Returns a conversation as the template writes it. Raises ModelError."""
        import jinja2

        try:
            return str(
                self._tokenizer.apply_chat_template(
                    said, add_generation_prompt=to_be_answered, tokenize=False
                )
            )
        # A template is a program of the model's maker, and its faults are those of programs.
        except (jinja2.TemplateError, *FAULTS) as error:
            reason = " ".join(str(error).split())[:200]
            roles = ", ".join(message["role"] for message in said)
            mend = "give another as `chat_template`"
            if said and said[0]["role"] == "system":
                mend = f"leave `system` out of the prompts for this model, or {mend}"
            raise ModelError(
                f"{self._model}: its chat template refuses a conversation of {roles} ({reason}): "
                f"{mend}"
            ) from None

    def _tokens(self, text: str) -> list[int]:
        """Returns the tokens of a text that the template wrote, its control tokens among them."""
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens

    def _after_an_answer(self) -> str | None:
        """Returns what the template writes after an answer; None if that can't be told."""
        try:
            tried = self.messages([*TRIED, Message(role="assistant", content=MARK)])
            text = self._written(tried, False)
        except ModelError:
            return None
        _, found, after = text.rpartition(MARK)
        return after if found else None

    def _closing_token(self, added: set[int]) -> int | None:
        """Returns the token that the template writes first after an answer, if it is a control."""
        tokens = self._tokens((self._ending or "").lstrip())
        if tokens and (tokens[0] in added or tokens[0] in self._tokenizer.all_special_ids):
            return tokens[0]
        return None

    def _otherwise(self, asked: str, whole: str, begun: bool) -> str:
        """Says that an answer begins otherwise in training than it is asked for."""
        parting = 0
        while asked[parting : parting + 1] == whole[parting : parting + 1] != "":
            parting += 1
        # A little of what they share shows where they part.
        shown = max(parting - 24, 0)
        taught = "and teaches another beginning than drafting asks with"
        if begun and parting == len(asked):
            taught = "where the tokenizer may make one token of both"
        return (
            f"{self._model}: its chat template asks for an answer with ...{asked[shown:]!r} and "
            f"writes a finished one as ...{whole[shown : parting + 40]!r}, {taught}: "
            f"{self._mend('begins both alike, up to a line break or a control token')}"
        )

    def _mend(self, wanted: str) -> str:
        """Says what to do, with a template where one is known that fits this vocabulary."""
        mend = f"give a `chat_template` that {wanted}"
        if {"<|im_start|>", "<|im_end|>"} <= set(self.control):
            mend += f", such as {CHATML!r}"
        return mend


def _markers(tokenizer: Any, template: str) -> list[str]:
    """Returns the tokens that a template writes, and that the tokenizer doesn't call special.

    Some makers add the markers of turns so. Of what else is added, white space and words are
    ordinary text, and marks of thoughts begin no turn: a policy writes them itself.
    """
    text = written(template)
    listed = getattr(tokenizer, "chat_control_tokens", None) or ()
    found = []
    for token in tokenizer.added_tokens_decoder.values():
        content = token.content
        ordinary = content.isspace() or content.isalnum() or content in MARKS
        if token.special or ordinary or len(content) < 2:
            continue
        if content in text or content in listed:
            found.append(content)
    return found


def ends_of(settings: Any) -> list[int | None]:
    """Returns the tokens that a model's generation settings end an answer at: several, or none."""
    eos = settings.eos_token_id
    return eos if isinstance(eos, list) else [eos]
