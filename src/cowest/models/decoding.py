"""Decodes local models: blocks of consecutive queries, token by token.

A block (`Request.block`) is decoded as one unit, since rounding may depend on what is decoded
beside a row: in equal blocks a row's bytes are equal, wherever a run or a shard began.

Within a block nothing is read twice. Each distinct prompt is read once, however many samples it
has, and the beginning that all prompts share (the shots) is read once for all of them. After that
every sample is a row of its own. A sample's random numbers come from its call's key, so they
depend on nothing beside it.

In the shapes below, `rows` are sequences that are decoded at once, `tokens` are places in a
sequence, padding among them, and `vocabulary` is the number of tokens that the model knows.

An architecture that keeps a state of all that it read, and not keys and values per token, can't
have its cache shared or padded. Each of its rows reads its whole prompt, and only rows whose
prompts are equally long are decoded at once.
"""

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from cowest.batched import batched
from cowest.config import Sampling, digest
from cowest.ledger import account, store
from cowest.models import architecture
from cowest.models.chat import Chat, ends_of
from cowest.models.drawing import drawn, uniform
from cowest.protocols import Completion, Request
from cowest.thoughts import MARKS

if TYPE_CHECKING:
    import torch


PARTING = 1000
"""Tokens that must be saved for a part of a block to be decoded on its own.

This is about what the part's own passes through the model cost (measured on two cores).
"""
UNLIMITED = 1 << 30
"""Tokens of context of a model whose settings name no limit."""
SECOND = "~2"
"""Mark of the second version of this decoder in the name that calls are keyed by.

The call store keeps answers for good, so a decoder that answers otherwise needs another name. The
first version has no mark, and the second marks only those calls that the first may have answered
otherwise; all others are found again. The versions are

1. the one without a mark;
2. an answer also ends with the token that the chat template ends it with (`Chat.adds_an_end`);
   caches that can't be shared are not (`architecture.shares_its_cache`); stop texts of more bytes
   than the first version looked at are seen (`_outgrows`); marks around thoughts that are control
   tokens are kept (`thoughts.MARKS`).
"""


class HFModel:
    """A ChatModel over loaded weights."""

    def __init__(self, name: str, model: Any, tokenizer: Any, rows: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._rows = rows
        self._store = store.open_store()
        self.chat = Chat(name, tokenizer, ends_of(model.generation_config))
        self._shares = architecture.shares_its_cache(model)
        self.name = name
        marks = [token for token in self.chat.control if token in MARKS]
        self._marks = set(tokenizer.convert_tokens_to_ids(marks))
        if self.chat.adds_an_end or not self._shares or self._marks:
            self.name += SECOND

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yields one completion per request, in order.

        A block with any call that the store can't answer is decoded whole, so that a block's
        bytes are the same after an interruption as without one.
        """
        return account.counted(self._completions, requests)

    def tokens(self, request: Request) -> list[int]:
        """Returns the prompt's tokens, up to where the answer begins."""
        return self.chat.asked(request.messages)

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
                state = _Decoding(self.model, suffixes, Prefix([], None), rows, pad)
                answers += self._greedy(state, len(some), sampling)
        return answers

    def _greedy(self, state: "_Decoding", rows: int, sampling: Sampling) -> list[list[int]]:
        """The likeliest tokens of each row, up to an end, a stop text or the limit."""
        answers: list[list[int]] = [[] for _ in range(rows)]
        finished = [False] * rows
        for step in range(sampling.max_tokens):
            chosen = state.logits.float().argmax(-1).cpu()
            for row, token in enumerate(chosen.tolist()):
                if finished[row]:
                    continue
                answers[row].append(token)
                stopped = self._stopped(answers[row], sampling.stop)
                finished[row] = stopped or token in self.chat.ends
            if all(finished):
                break
            if step + 1 < sampling.max_tokens:
                state.advance(chosen)
        return answers

    def fits(self, prompt: Sequence[int], sampling: Sampling) -> bool:
        """Says whether a prompt and its longest answer fit the model's context."""
        return self._over(prompt, sampling) <= 0

    def text(self, tokens: Sequence[int], stop: tuple[str, ...]) -> str:
        """The text of an answer, up to a stop text."""
        return _cut(self._text([one for one in tokens if one not in self.chat.ends]), stop)

    def _key(self, request: Request) -> str:
        """Returns the key of a call under the name of the decoder that answers it."""
        name = self.name
        if _outgrows(request.sampling.stop) and not name.endswith(SECOND):
            name += SECOND
        return request.key(name)

    def _completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for _, block in groupby(requests, key=attrgetter("block")):
            keyed = [(self._key(request), request) for request in block]
            found = self._store.get([key for key, _ in keyed])
            # Equal calls of a block have one key, so they are decoded once.
            asked = dict(keyed)
            if len(found) < len(asked):
                found = self._answer(asked, found)
            for key, _ in keyed:
                yield found[key]

    def _answer(
        self, asked: dict[str, Request], found: dict[str, Completion]
    ) -> dict[str, Completion]:
        """Decodes a block and stores the answers that the store did not have."""
        started = time.monotonic()
        decoded = self._decode(asked)
        seconds = (time.monotonic() - started) / len(asked)
        new = []
        for key, answer in decoded.items():
            if key not in found:
                new.append(store.StoredAnswer(key, answer, seconds))
        self._store.put(new)
        # The first answer of a key wins, since rows may have been written from it.
        return {**decoded, **found}

    def _decode(self, asked: dict[str, Request]) -> dict[str, Completion]:
        """Answers every distinct call of a block; those that don't fit the model's context fail."""
        answers: dict[str, Completion] = {}
        prompts: dict[str, list[int]] = {}
        for key, request in asked.items():
            tokens = self.tokens(request)
            to_come = request.sampling.max_tokens
            over = self._over(tokens, request.sampling)
            if over > 0:
                reason = (
                    f"prompt of {len(tokens)} tokens and {to_come} to come "
                    f"are {over} more than the model's context"
                )
                answers[key] = Completion(
                    None, self.name, "failed", reason, prompt_tokens=len(tokens)
                )
            else:
                prompts[key] = tokens
        for keys in _parts(prompts):
            answers |= self._decode_part(keys, asked, prompts)
        return answers

    def _over(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """Tokens that a prompt and its longest answer have more than the model's context."""
        context = int(getattr(self.model.config, "max_position_embeddings", UNLIMITED))
        return len(prompt) + sampling.max_tokens - context

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
            # Rows of a model whose cache can't be padded have prompts of one length.
            return decoding(key), 0 if self._shares else len(prompts[key])

        longest = max(asked[key].sampling.max_tokens for key in keys)
        prefix = self._prefix([prompts[key] for key in keys], longest)
        answers: dict[str, Completion] = {}
        # Prompts of similar length stand together, so that little is padded. The order does not
        # depend on the order of the requests, and so neither does what is decoded beside a row.
        for (sampling, _), alike in groupby(sorted(keys, key=order), key=together):
            for some in batched(alike, self._rows):
                answers |= self._decode_rows(some, [prompts[key] for key in some], sampling, prefix)
        return answers

    def _prefix(self, prompts: list[list[int]], to_come: int) -> "Prefix":
        """Reads the beginning that all prompts share.

        Each prompt keeps at least one token of its own. `to_come` is the largest number of tokens
        that any of them may be continued by.
        """
        import torch

        # A sliding window counts places and not tokens: padding behind a prefix would push the
        # prefix out of it. So where a sequence may outgrow the window nothing is shared, and all
        # padding is on the left, where it leaves every window first.
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        outgrown = window and max(map(len, prompts)) + to_come > window
        if outgrown or not self._shares:
            return Prefix([], None)

        # The last token of a prompt is read with its own row, since its logits begin the answer.
        first = prompts[0]
        shared = min(min(_alike(first, prompt), len(prompt) - 1) for prompt in prompts)
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
            state = _Decoding(self.model, suffixes, prefix, rows, self.tokenizer.pad_token_id)
            sequences, logprobs, finished = self._sample(state, keys, sampling)
        answers = {}
        for row, key in enumerate(keys):
            tokens = sequences[row]
            text = self._text(tokens)
            answers[key] = Completion(
                _cut(text, sampling.stop),
                self.name,
                "stop" if finished[row] else "length",
                None,
                logprobs[row],
                len(prompts[row]),
                len(tokens),
            )
        return answers

    def _text(self, tokens: list[int]) -> str:
        """The text of a completion, with the marks around a thought even if they are controls."""
        if not self._marks:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        added = self.tokenizer.added_tokens_decoder
        special = {number for number, token in added.items() if token.special}
        hidden = special.union(self.tokenizer.all_special_ids) - self._marks
        shown = [token for token in tokens if token not in hidden]
        return str(self.tokenizer.decode(shown))

    def _sample(
        self, state: "_Decoding", keys: list[str], sampling: Sampling
    ) -> tuple[list[list[int]], list[float], list[bool]]:
        """Decodes token by token until each row has met an end, a stop text or its limit.

        Returns each row's tokens, the sum of their log-probabilities (those of the model itself,
        before temperature and top_p), and whether the row ended before its limit.
        """
        import torch

        sequences: list[list[int]] = [[] for _ in keys]
        logprobs = [0.0] * len(keys)
        finished = [False] * len(keys)
        numbers = None
        if sampling.temperature:
            # One number per row and step, drawn before the first step: (rows, max_tokens).
            numbers = torch.stack([uniform(key, sampling.max_tokens) for key in keys])
        for step in range(sampling.max_tokens):
            # Logits are widened to float32, whatever the model's dtype, and the choice is made on
            # the CPU, so that it is the same code for every device. (rows, vocabulary).
            scores = torch.log_softmax(state.logits.float(), dim=-1).cpu()
            if numbers is None:
                chosen = scores.argmax(-1)
            else:
                chosen = drawn(scores, sampling, numbers[:, step])
            gained = scores.gather(1, chosen[:, None])[:, 0].tolist()
            for row, token in enumerate(chosen.tolist()):
                # A row that has ended is computed on with the others, and nothing is kept of it.
                if finished[row]:
                    continue
                logprobs[row] += gained[row]
                if token in self.chat.ends:
                    finished[row] = True
                    continue
                sequences[row].append(token)
                finished[row] = self._stopped(sequences[row], sampling.stop)
            if all(finished):
                break
            # The last token needs no pass: nothing is decoded after it.
            if step + 1 < sampling.max_tokens:
                state.advance(chosen)
        return sequences, logprobs, finished

    def _stopped(self, tokens: Sequence[int], stop: tuple[str, ...]) -> bool:
        """Says whether a stop text is among the last tokens."""
        if not stop:
            return False
        # Only the end is decoded, since decoding the whole text at every step would take quadratic
        # time. A token holds at least one byte; the four on top are for a character before the
        # stop text that is split over several tokens.
        end = tokens[-(max(len(text.encode()) for text in stop) + 4) :]
        text = self.tokenizer.decode(end)
        return any(one in text for one in stop)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The tokens that a part's prompts share, and the model's keys and values of them."""

    tokens: list[int]
    cache: Any
    """Of one row; None where nothing is shared."""


class _Decoding:
    """The model in the middle of several sequences: [prefix][padding][rest of the prompt][decoded].

    `suffixes` are the distinct prompts without the prefix; `rows` (rows,) says which of them each
    row continues. None: each suffix is a row, and all are equally long.
    """

    def __init__(
        self,
        model: Any,
        suffixes: list[tuple[int, ...]],
        prefix: Prefix,
        rows: "torch.Tensor | None",
        pad: int,
    ) -> None:
        import torch

        # Padding is on the left of each suffix, so that the last column holds every prompt's last
        # token, and the next token of all rows goes into the same column.
        longest = max(map(len, suffixes))
        padded, seen = [], []
        for suffix in suffixes:
            padding = longest - len(suffix)
            padded.append([pad] * padding + [*suffix])
            seen.append([1] * len(prefix.tokens) + [0] * padding + [1] * len(suffix))
        # Tokens to read and their positions are (prompts, longest). The mask is (prompts, prefix +
        # longest), since it covers what is in the cache too.
        tokens = torch.tensor(padded, device=model.device)
        mask = torch.tensor(seen, device=model.device)
        # A token's position is the number of real tokens before it, so that padding shifts nothing.
        # Padding at the very beginning would have -1; it is masked, and needs some valid number.
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, len(prefix.tokens) :]
        # The cache is written to, and other rows will continue the prefix too: each takes a copy.
        cache = copy.deepcopy(prefix.cache)
        if cache is not None:
            cache.batch_repeat_interleave(len(suffixes))
        self._model = model
        self._padded = rows is not None
        self._cache = cache
        self._mask = mask  # (rows, tokens so far)
        self._position = positions[:, -1:]  # (rows, 1): of the last token
        self.logits = self._read(tokens, positions)  # (rows, vocabulary): of the next token
        if rows is not None:
            # Each distinct prompt was read once; from here on every sample is a row of its own.
            rows = rows.to(model.device)
            self._cache.batch_select_indices(rows)
            self._mask = mask[rows]
            self._position = self._position[rows]
            self.logits = self.logits[rows]

    def advance(self, chosen: "torch.Tensor") -> None:
        """Reads one more token per row; `chosen` is (rows,)."""
        import torch

        tokens = chosen.to(self._model.device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)], dim=1)
        self._position = self._position + 1
        self.logits = self._read(tokens, self._position)

    def _read(self, tokens: "torch.Tensor", positions: "torch.Tensor") -> "torch.Tensor":
        """Reads tokens (rows, tokens) into the cache; returns the logits behind the last ones."""
        name = architecture.cache_name(type(self._model)) or architecture.CACHES[0]
        inputs = {
            "attention_mask": self._mask,
            "position_ids": positions,
            name: self._cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        if not architecture.takes_positions(type(self._model)):
            del inputs["position_ids"]
        if not self._padded:
            # Some recurrent models would multiply their state with the whole mask at every step.
            del inputs["attention_mask"]
        out = self._model(tokens, **inputs)
        self._cache = out[name]
        return out.logits[:, -1]


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
            alike = _alike(prompts[part[-1]], tokens)
            lost = (shared - alike) * len(part)
            if lost <= PARTING:
                part.append(key)
                shared = min(shared, alike)
                continue
        parts.append([key])
        shared = len(tokens)
    return parts


def _alike(one: list[int], other: list[int]) -> int:
    """Counts the tokens that two prompts have in common at their beginning."""
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return place
    return min(len(one), len(other))


def _outgrows(stop: tuple[str, ...]) -> bool:
    """Says whether a stop text may take more tokens than the first decoder looked at.

    It looked at as many as the longest has characters, and four. A token may be a single byte.
    """
    seen = max(map(len, stop), default=0) + 4
    return any(len(text.encode()) > seen for text in stop)


def _cut(text: str, stop: tuple[str, ...]) -> str:
    """Ends a text before the first stop text, and strips white space."""
    ends = [place for place in map(text.find, stop) if place >= 0]
    return text[: min(ends, default=len(text))].strip()
