"""Decoding of local models: blocks of consecutive queries, token by token."""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cowest.config import Sampling, digest
from cowest.ledger import store
from cowest.protocols import Completion, Request

if TYPE_CHECKING:
    import torch


PARTING = 1000
"""Tokens that a part of a block must save to be decoded apart: about what its own passes cost (measured on two cores)."""


class HFModel:
    """A ChatModel over loaded weights."""

    def __init__(self, name: str, model: Any, tokenizer: Any, rows: int) -> None:
        self.name, self._model, self._tokenizer, self._rows = name, model, tokenizer, rows
        self._store = store.open_store()
        eos = model.generation_config.eos_token_id
        added = [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        ]
        self._control = [
            token
            for token in dict.fromkeys([*tokenizer.all_special_tokens, *added])
            if len(token) > 1
        ]
        self._eos = set(eos if isinstance(eos, list) else [eos]) | {tokenizer.eos_token_id}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions in order. A block of which any call is unanswered is decoded whole, so that its bytes are always the same."""
        return store.counted(self._completions, requests)

    def _completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for _, block in groupby(requests, key=lambda request: request.block):
            keyed = [(request.key(self.name), request) for request in block]
            found = self._store.get([key for key, _ in keyed])
            asked = dict(keyed)
            if len(found) < len(asked):
                found = self._answer(asked, found)
            yield from (found[key] for key, _ in keyed)

    def _answer(
        self, asked: dict[str, Request], found: dict[str, Completion]
    ) -> dict[str, Completion]:
        started = time.monotonic()
        decoded = self._decode(asked)
        seconds = (time.monotonic() - started) / len(asked)
        self._store.put(
            [
                store.Answer(key, answer, seconds)
                for key, answer in decoded.items()
                if key not in found
            ]
        )
        return {**decoded, **found}

    def _decode(self, asked: dict[str, Request]) -> dict[str, Completion]:
        """Every distinct call of a block."""
        answers: dict[str, Completion] = {}
        prompts: dict[str, list[int]] = {}
        for key, request in asked.items():
            tokens = self._tokens(request)
            over = len(tokens) + request.sampling.max_tokens - self._context()
            if over > 0:
                reason = f"prompt of {len(tokens)} tokens and {request.sampling.max_tokens} to come are {over} more than the model's context"
                answers[key] = Completion(
                    None, self.name, "failed", reason, prompt_tokens=len(tokens)
                )
            else:
                prompts[key] = tokens
        for keys in _runs(prompts):
            prefix = self._prefix(
                [prompts[key] for key in keys], max(asked[key].sampling.max_tokens for key in keys)
            )
            # Like lengths together, so that little is padded; the order is the same in every run.
            keys.sort(
                key=lambda key: (
                    digest(_greed(asked[key].sampling)),
                    len(prompts[key]),
                    prompts[key],
                    asked[key].sample,
                )
            )
            for sampling, alike in groupby(keys, key=lambda key: _greed(asked[key].sampling)):
                rows = list(alike)
                for start in range(0, len(rows), self._rows):
                    part = rows[start : start + self._rows]
                    answers |= self._decode_rows(
                        part, [prompts[key] for key in part], sampling, prefix
                    )
        return answers

    def _decode_rows(
        self, keys: list[str], prompts: list[list[int]], sampling: Sampling, prefix: "Prefix"
    ) -> dict[str, Completion]:
        import torch

        distinct = list(dict.fromkeys(map(tuple, prompts)))
        rows = torch.tensor([distinct.index(tuple(prompt)) for prompt in prompts])
        with torch.no_grad():
            state = _Decoding(
                self._model,
                [prompt[len(prefix.tokens) :] for prompt in distinct],
                prefix,
                rows,
                self._tokenizer.pad_token_id,
            )
            sequences, logprobs, finished = self._sample(state, keys, sampling)
        answers = {}
        for key, prompt, tokens, logprob, done in zip(
            keys, prompts, sequences, logprobs, finished, strict=True
        ):
            text = _cut(self._tokenizer.decode(tokens, skip_special_tokens=True), sampling.stop)
            answers[key] = Completion(
                text,
                self.name,
                "stop" if done else "length",
                None,
                logprob,
                len(prompt),
                len(tokens),
            )
        return answers

    def _sample(
        self, state: "_Decoding", keys: list[str], sampling: Sampling
    ) -> tuple[list[list[int]], list[float], list[bool]]:
        """Token by token until each row has met an end, a stop text or its limit."""
        import torch

        sequences: list[list[int]] = [[] for _ in keys]
        logprobs, finished = [0.0] * len(keys), [False] * len(keys)
        luck = (
            torch.stack([_uniform(key, sampling.max_tokens) for key in keys])
            if sampling.temperature
            else None
        )
        for step in range(sampling.max_tokens):
            scores = torch.log_softmax(state.logits.float(), dim=-1).cpu()
            chosen = _choose(scores, sampling, luck[:, step] if luck is not None else None)
            gained = scores.gather(1, chosen[:, None])[:, 0].tolist()
            for row, token in enumerate(chosen.tolist()):
                if finished[row]:
                    continue
                logprobs[row] += gained[row]
                if token in self._eos:
                    finished[row] = True
                    continue
                sequences[row].append(token)
                finished[row] = self._stopped(sequences[row], sampling.stop)
            if all(finished):
                break
            if step + 1 < sampling.max_tokens:
                state.advance(chosen)
        return sequences, logprobs, finished

    def _stopped(self, tokens: Sequence[int], stop: tuple[str, ...]) -> bool:
        if not stop:
            return False
        tail = self._tokenizer.decode(tokens[-(max(map(len, stop)) + 4) :])
        return any(text in tail for text in stop)

    def _tokens(self, request: Request) -> list[int]:
        messages = [
            {"role": message.role, "content": self._plain(message.content)}
            for message in request.messages
        ]
        tokens: list[int] = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return tokens

    def _plain(self, text: str) -> str:
        """What somebody wrote, so that it can't end its turn and begin another: a control token in it is text and no token."""
        for token in self._control:
            if token in text:
                text = text.replace(token, f"{token[0]}\N{ZERO WIDTH SPACE}{token[1:]}")
        return text

    def _context(self) -> int:
        return int(getattr(self._model.config, "max_position_embeddings", 1 << 30))

    def _prefix(self, prompts: list[list[int]], most: int) -> "Prefix":
        """What these prompts begin with, read once. Each keeps a token of its own at least.

        A sliding window counts places and not tokens: padding behind a prefix would push the prefix out of it. So where a
        sequence may outgrow the window, nothing is shared, and all padding is on the left, outside of every window.
        """
        import torch

        window = getattr(self._model.config.get_text_config(), "sliding_window", None)
        if window and max(map(len, prompts)) + most > window:
            return Prefix([], None)

        first = prompts[0]
        shared = min(min(_alike(first, prompt), len(prompt) - 1) for prompt in prompts)
        cache = None
        if shared:
            tokens = torch.tensor([first[:shared]], device=self._model.device)
            with torch.no_grad():
                cache = self._model(tokens, use_cache=True, logits_to_keep=1).past_key_values
        return Prefix(first[:shared], cache)


class Prefix:
    """Tokens that a block's prompts share, and what the model keeps of having read them."""

    def __init__(self, tokens: list[int], cache: Any) -> None:
        self.tokens, self.cache = tokens, cache


class _Decoding:
    """The model in the middle of several sequences: [prefix][padding][rest of the prompt][what was decoded]."""

    def __init__(
        self,
        model: Any,
        suffixes: list[tuple[int, ...]],
        prefix: Prefix,
        rows: "torch.Tensor",
        pad: int,
    ) -> None:
        import copy

        import torch

        self._model = model
        longest = max(map(len, suffixes))
        tokens = torch.tensor(
            [[pad] * (longest - len(s)) + [*s] for s in suffixes], device=model.device
        )
        mask = torch.tensor(
            [[1] * len(prefix.tokens) + [0] * (longest - len(s)) + [1] * len(s) for s in suffixes],
            device=model.device,
        )
        cache = copy.deepcopy(prefix.cache)
        if cache is not None:
            cache.batch_repeat_interleave(len(suffixes))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, len(prefix.tokens) :]
        out = model(
            tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = out.past_key_values
        # Each distinct prompt was read once; from here on every sample is a row of its own.
        rows = rows.to(model.device)
        self._cache.batch_select_indices(rows)
        self._mask, self._position = mask[rows], positions[rows, -1:]
        self.logits = out.logits[rows, -1]

    def advance(self, chosen: "torch.Tensor") -> None:
        """One more token a row."""
        import torch

        tokens = chosen.to(self._model.device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(tokens)], dim=1)
        self._position = self._position + 1
        out = self._model(
            tokens,
            attention_mask=self._mask,
            position_ids=self._position,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache, self.logits = out.past_key_values, out.logits[:, -1]


def _runs(prompts: dict[str, list[int]]) -> list[list[str]]:
    """A block's calls parted where their prompts begin differently: those with a draft and those without have shots of their own.

    Parting costs passes of the model, and saves reading the longer common beginning once a prompt: it pays from PARTING tokens.
    """
    runs: list[list[str]] = []
    shared = 0
    for key in sorted(prompts, key=lambda key: (prompts[key], key)):
        alike = _alike(prompts[runs[-1][-1]], prompts[key]) if runs else 0
        if not runs or (shared - alike) * len(runs[-1]) > PARTING:
            runs.append([key])
            shared = len(prompts[key])
        else:
            runs[-1].append(key)
            shared = min(shared, alike)
    return runs


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return place
    return min(len(one), len(other))


def _greed(sampling: Sampling) -> Sampling:
    """How one completion is decoded, however many there are."""
    return sampling.model_copy(update={"n": 1})


def _choose(
    scores: "torch.Tensor", sampling: Sampling, luck: "torch.Tensor | None"
) -> "torch.Tensor":
    """The next token of each row, from log-probabilities (rows, vocabulary)."""
    import torch

    if luck is None:
        return scores.argmax(-1)
    probabilities = torch.softmax(scores / sampling.temperature, dim=-1)
    order = None
    if sampling.top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    mass = probabilities.double().cumsum(-1)
    place = torch.searchsorted(mass, luck[:, None] * mass[:, -1:], right=True).clamp(
        max=scores.shape[-1] - 1
    )
    return place[:, 0] if order is None else order.gather(1, place)[:, 0]


def _uniform(key: str, count: int) -> "torch.Tensor":
    """`count` numbers in [0, 1) that depend on the call's key alone."""
    import torch

    generator = torch.Generator().manual_seed(int(key[:15], 16))
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _cut(text: str, stop: tuple[str, ...]) -> str:
    ends = [place for place in map(text.find, stop) if place >= 0]
    return text[: min(ends)].strip() if ends else text.strip()
