"""Decodes local models: blocks of consecutive queries, token by token.

A block (`Request.block`) is decoded as one unit, since rounding may depend on what is decoded
beside a row: in equal blocks a row's bytes are equal, wherever a run or a shard began.

Within a block nothing is read twice. Each distinct prompt is read once, however many samples it
has, and the beginning that all prompts share (the shots) is read once for all of them. After that
every sample is a row of its own. A sample's random numbers come from its call's key, so they
depend on nothing beside it.

An architecture that keeps a state of all that it read, and not keys and values per token, or that
can't be told positions, can't have its cache shared or padded. Each of its rows reads its whole
prompt, and only rows whose prompts are equally long are decoded at once.
"""

import math
import re
import sys
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from cowest.batched import batched
from cowest.config import Sampling, digest
from cowest.errors import ModelError
from cowest.ledger import account, store
from cowest.models import architecture
from cowest.models.chat import Chat, ends_of
from cowest.models.drawing import drawn, uniform
from cowest.models.prefixes import alike
from cowest.models.sequences import Prefix, Sequences
from cowest.models.writing import Growing, Writing, context_of
from cowest.protocols import Completion, Request

if TYPE_CHECKING:
    import torch

PARTING = 1000
"""Tokens that must be saved for a part of a block to be decoded on its own.

This is about what the part's own passes through the model cost (measured on two cores).
"""
ENDED = 0.125
"""Share of the rows from which on those that have ended are left out.

To leave rows out copies the cache of the others, about what a token does.
"""
SECOND = "~2"
"""Mark of the second version of this decoder in the name that calls are keyed by."""
THIRD = "~3"
"""Mark of the third version, in place of that of the second.

The call store keeps answers for good, so a decoder that answers otherwise needs another name. The
first version has no mark, and a later one marks only those calls that those before may have
answered otherwise; all others are found again. The versions are

1. the one without a mark;
2. an answer also ends with the token that the chat template ends it with (`Chat.adds_an_end`);
   caches that can't be shared are not (`architecture.shares_its_cache`); stop texts of more bytes
   than the first version looked at are seen (`_outgrows`); marks around thoughts that are control
   tokens are kept (`thoughts.MARKS`);
3. a template that asks the time is told the same on any day (`Chat.dated`); markers of turns that
   the tokenizer doesn't call special stay text in messages (`Chat.breaks_more_up`); padding changes
   no answer of models with other windows or without positions (`architecture.answered_otherwise`).
"""
MARKED = re.compile(rf"(?:{SECOND}|{THIRD})(?=:|$)")


def unmarked(name: str) -> str:
    """Returns the name of a model, or of a judge that asks it, without the decoder's mark."""
    return MARKED.sub("", name)


class HFModel:
    """A ChatModel over loaded weights."""

    def __init__(self, name: str, model: Any, tokenizer: Any, rows: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._rows = rows
        self._halved = False
        self.chat = Chat(name, tokenizer, ends_of(model.generation_config))
        self.writing = Writing(name, tokenizer, self.chat, context_of(model.config))
        self._shares = architecture.shares_its_cache(model)
        self._joins = architecture.joins_its_rows(model)
        if self.chat.dated or architecture.answered_otherwise(model):
            self.writing.name += THIRD
        elif self.chat.adds_an_end or not self._shares or self.writing.keeps_marks:
            self.writing.name += SECOND
        self.name = self.writing.name

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yields one completion per request, in order.

        A block with any call that the store can't answer is decoded whole, so that a block's
        bytes are the same after an interruption as without one.
        """
        return account.counted(self._completions, requests)

    def tokens(self, request: Request) -> list[int]:
        """Returns the prompt's tokens, up to where the answer begins."""
        return self.writing.tokens(request)

    def greedy(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """Returns the likeliest answer to each prompt, as tokens, with the one that ended it.

        The call store is not asked: what these weights answer now is what is looked at.
        """
        import torch

        # A cache that can't be padded holds one prompt.
        at_once = self._rows if self._shares else 1
        answers = []
        with torch.no_grad():
            for some in batched(prompts, at_once):
                rows = torch.arange(len(some)) if self._shares else None
                suffixes = [tuple(prompt) for prompt in some]
                pad = self.tokenizer.pad_token_id
                state = Sequences(self.model, suffixes, Prefix([], None), rows, pad)
                answers += self._greedy(state, len(some), sampling)
        return answers

    def _greedy(self, state: Sequences, rows: int, sampling: Sampling) -> list[list[int]]:
        """The likeliest tokens of each row, up to an end, a stop text or the limit."""
        answers: list[list[int]] = [[] for _ in range(rows)]
        finished = [False] * rows
        for step in range(sampling.max_tokens):
            chosen = state.logits.float().argmax(-1).cpu()
            for row, token in enumerate(chosen.tolist()):
                if finished[row]:
                    continue
                answers[row].append(token)
                stopped = self.writing.stopped(answers[row], sampling.stop)
                finished[row] = stopped or token in self.chat.ends
            if all(finished):
                break
            if step + 1 < sampling.max_tokens:
                state.advance(chosen)
        return answers

    def key(self, request: Request) -> str:
        """Returns the key of a call under the name of the decoder that answers it."""
        name = self.name
        if self.chat.breaks_more_up(request.messages) and not name.endswith(THIRD):
            return request.key(name.removesuffix(SECOND) + THIRD)
        if _outgrows(request.sampling.stop) and not name.endswith((SECOND, THIRD)):
            name += SECOND
        return request.key(name)

    def _completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        answered = store.open_store()
        for _, block in groupby(requests, key=attrgetter("block")):
            keyed = [(self.key(request), request) for request in block]
            found = answered.get([key for key, _ in keyed])
            # Equal calls of a block have one key, so they are decoded once.
            asked = dict(keyed)
            if len(found) < len(asked):
                decoded = self._answered(asked, found)
                answered.put(decoded)
                # The first answer of a key wins, since rows may have been written from it.
                found = {**{one.key: one.completion for one in decoded}, **found}
            for key, _ in keyed:
                yield found[key]

    def _answered(
        self, asked: dict[str, Request], found: Container[str]
    ) -> list[store.StoredAnswer]:
        """Decodes a block; returns the answers that the store did not have."""
        started = time.monotonic()
        decoded = self._decode(asked)
        seconds = (time.monotonic() - started) / len(asked)
        new = []
        for key, answer in decoded.items():
            if key not in found:
                new.append(store.StoredAnswer(key, answer, seconds))
        return new

    def _decode(self, asked: dict[str, Request]) -> dict[str, Completion]:
        """Answers every distinct call of a block; those that don't fit the model's context fail."""
        answers: dict[str, Completion] = {}
        prompts: dict[str, list[int]] = {}
        for key, request in asked.items():
            tokens = self.tokens(request)
            unfit = self.writing.unfit(tokens, request.sampling)
            if unfit is not None:
                answers[key] = unfit
            else:
                prompts[key] = tokens
        for keys in _parts(prompts):
            answers |= self._decode_part(keys, asked, prompts)
        return answers

    def _decode_part(
        self, keys: list[str], asked: dict[str, Request], prompts: dict[str, list[int]]
    ) -> dict[str, Completion]:
        """Answers calls whose prompts share a beginning, up to `rows` of them at once."""

        def decoding(key: str) -> Sampling:
            # Settings of one completion, however many are asked of a prompt.
            return asked[key].sampling.model_copy(update={"n": 1})

        def order(key: str) -> tuple[str, int, list[int], int]:
            return digest(decoding(key)), len(prompts[key]), prompts[key], asked[key].sample

        def together(key: str) -> tuple[Sampling, int]:
            # Sequences of a model whose cache can't be padded have prompts of one length.
            return decoding(key), 0 if self._shares else len(prompts[key])

        longest = max(asked[key].sampling.max_tokens for key in keys)
        prefix = self._prefix([prompts[key] for key in keys], longest)
        answers: dict[str, Completion] = {}
        # Prompts of similar length stand together, so that little is padded. The order does not
        # depend on the order of the requests, and so neither does what is decoded beside a row.
        for (sampling, _), same in groupby(sorted(keys, key=order), key=together):
            waiting = list(same)
            while waiting:
                some = waiting[: self._rows]
                own = [prompts[key] for key in some]
                try:
                    answers |= self._decode_rows(some, own, sampling, prefix)
                except (RuntimeError, MemoryError) as error:
                    self._halve(len(some), error)
                else:
                    del waiting[: len(some)]
        return answers

    def _halve(self, rows: int, error: Exception) -> None:
        """Goes on with half as many sequences at once, after memory ran out; does so once.

        Raises ModelError if that was done before, or can't be; raises the error if it is another.
        """
        if not _is_out_of_memory(error):
            raise error
        if self._halved or rows == 1:
            raise ModelError(
                f"{self.name}: memory ran out with {rows} sequences at once: lower `rows` of this "
                "model, or the tokens of its prompts and answers"
            ) from None
        self._halved = True
        self._rows = math.ceil(rows / 2)
        print(
            f"{self.name}: memory ran out with {rows} sequences at once: from here on "
            f"{self._rows} are decoded at once (`rows: {self._rows}` of this model asks for that)",
            file=sys.stderr,
        )

    def _prefix(self, prompts: list[list[int]], to_come: int) -> "Prefix":
        """Reads the beginning that all prompts share.

        Each prompt keeps at least one token of its own. `to_come` is the largest number of tokens
        that any of them may be continued by.
        """
        import torch

        # A sliding window counts places and not tokens: padding behind a prefix would push the
        # prefix out of it. So where a sequence may outgrow the window nothing is shared, and all
        # padding is on the left, where it leaves every window first.
        window = architecture.window(self.model.config)
        outgrown = window and max(map(len, prompts)) + to_come > window
        if outgrown or not self._shares:
            return Prefix([], None)

        # The last token of a prompt is read with its own row, since its logits begin the answer.
        first = prompts[0]
        shared = min(min(alike(first, prompt), len(prompt) - 1) for prompt in prompts)
        if not shared:
            return Prefix([], None)
        tokens = torch.tensor([first[:shared]], device=self.model.device)
        with torch.no_grad():
            out = self.model(tokens, use_cache=True, logits_to_keep=1)
        return Prefix(first[:shared], out.past_key_values)

    def _decode_rows(
        self, keys: list[str], prompts: list[list[int]], sampling: Sampling, prefix: "Prefix"
    ) -> dict[str, Completion]:
        """Answers calls that are decoded alike, all at once."""
        import torch

        # `rows[n]` says which of the distinct prompts call n continues. Without sharing, each row
        # reads a prompt of its own.
        distinct = list(map(tuple, prompts))
        rows = None
        if self._shares:
            distinct = list(dict.fromkeys(distinct))
            rows = torch.tensor([distinct.index(tuple(prompt)) for prompt in prompts])
        suffixes = [prompt[len(prefix.tokens) :] for prompt in distinct]
        with torch.no_grad():
            state = Sequences(self.model, suffixes, prefix, rows, self.tokenizer.pad_token_id)
            sequences = self._sample(state, keys, sampling)
        answers = {}
        for row, key in enumerate(keys):
            answers[key] = self.writing.completion(sequences[row], prompts[row], sampling)
        return answers

    def _sample(self, state: Sequences, keys: list[str], sampling: Sampling) -> list[Growing]:
        """Decodes token by token until each row has met an end, a stop text or its limit.

        Rows that have met theirs are left out, once they are ENDED of those that are computed.
        """
        import torch

        sequences = [Growing() for _ in keys]
        numbers = None
        if sampling.temperature:
            # One number per row and step, drawn before the first step: (rows, max_tokens).
            numbers = torch.stack([uniform(key, sampling.max_tokens) for key in keys])
        computed = list(range(len(keys)))  # the place in `keys` of each row that is computed
        for step in range(sampling.max_tokens):
            scores = logprobs(state)
            if numbers is None:
                chosen = scores.argmax(-1)
            else:
                chosen = drawn(scores, sampling, numbers[computed, step])
            gained = scores.gather(1, chosen[:, None])[:, 0].tolist()
            for place, token, logprob in zip(computed, chosen.tolist(), gained, strict=True):
                # Nothing is kept of a row that has ended and is computed on with the others.
                if not sequences[place].ended:
                    self.writing.grow(sequences[place], token, logprob, sampling.stop)
            going = [row for row, place in enumerate(computed) if not sequences[place].ended]
            # The last token needs no pass: nothing is decoded after it.
            if not going or step + 1 == sampling.max_tokens:
                break
            if self._joins and len(going) <= (1 - ENDED) * len(computed):
                state.keep(going)
                chosen = chosen[going]
                computed = [computed[row] for row in going]
            state.advance(chosen)
        return sequences


def logprobs(state: Sequences) -> "torch.Tensor":
    """The log-probabilities of each row's next token, on the CPU: (rows, vocabulary).

    Logits are widened to float32, whatever the model's dtype, and the choice is made on the CPU, so
    that it is the same code for every device.
    """
    import torch

    return torch.log_softmax(state.logits.float(), dim=-1).cpu()


def _is_out_of_memory(error: Exception) -> bool:
    """Says whether memory ran out: of a GPU, or of the machine, for which torch has no class."""
    import torch

    lacks = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return lacks or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _parts(prompts: dict[str, list[int]]) -> list[list[str]]:
    """Parts a block's calls where their prompts begin differently.

    Calls with a draft and calls without have different shots, say. A part of its own costs passes
    through the model, and saves each prompt in it from reading the rest of the longer common
    beginning: that pays from PARTING tokens on.
    """
    parts: list[list[str]] = []
    shared = 0  # tokens that the prompts of the last part have in common
    # Sorted by tokens, prompts that begin alike are neighbours: one pass finds the parts.
    for tokens, key in sorted((tokens, key) for key, tokens in prompts.items()):
        if parts:
            part = parts[-1]
            common = alike(prompts[part[-1]], tokens)
            lost = (shared - common) * len(part)
            if lost <= PARTING:
                part.append(key)
                shared = min(shared, common)
                continue
        parts.append([key])
        shared = len(tokens)
    return parts


def _outgrows(stop: tuple[str, ...]) -> bool:
    """Says whether a stop text may take more tokens than the first decoder looked at.

    It looked at as many as the longest has characters, and four. A token may be a single byte.
    """
    seen = max(map(len, stop), default=0) + 4
    return any(len(text.encode()) > seen for text in stop)
