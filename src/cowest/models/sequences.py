"""Sequences that a local model decodes at once, and the cache of what it has read of them.

In the shapes below, `rows` are sequences that are decoded at once, `tokens` are places in a
sequence, padding among them, and `vocabulary` is the number of tokens that the model knows.

Keys and values are never changed in place: reading a token makes new tensors. So a prefix and the
rows that go on from it share theirs.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cowest.models import architecture

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning that prompts share, and the model's keys and values of it."""

    tokens: Sequence[int]
    cache: Any
    """Of one row, and of these tokens or more; None where nothing is shared."""

    def continued(self, rows: int) -> Any:
        """Returns a cache of `rows` rows that begin so, to be read into."""
        if self.cache is None or not architecture.is_plain(self.cache):
            cache = copy.deepcopy(self.cache)
            if cache is not None:
                cache.batch_repeat_interleave(rows)
            return cache
        made = copy.copy(self.cache)
        made.layers = list(map(copy.copy, self.cache.layers))
        length = len(self.tokens)
        for layer in made.layers:
            if layer.is_initialized:
                layer.keys = layer.keys[..., :length, :].expand(rows, -1, -1, -1)
                layer.values = layer.values[..., :length, :].expand(rows, -1, -1, -1)
            if layer.is_sliding:
                layer.cumulative_length = length
        return made


class Sequences:
    """The model in the middle of several sequences: [prefix][padding][rest of the prompt][decoded].

    `suffixes` are the distinct prompts without the prefix; `rows` (rows,) says which of them each
    row continues. None: each suffix is a row, and all are equally long.
    """

    def __init__(
        self,
        model: Any,
        suffixes: Sequence[Sequence[int]],
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
        self._model = model
        self._padded = rows is not None
        self._cache = prefix.continued(len(suffixes))
        self._mask = mask  # (rows, tokens so far)
        self._position = positions[:, -1:]  # (rows, 1): of the last token
        self.logits = self._read(tokens, positions)  # (rows, vocabulary): of the next token
        if rows is not None and rows.tolist() != list(range(len(suffixes))):
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

    def begun(self, tokens: Sequence[int]) -> Prefix:
        """Returns what was read so far, of one row without padding, as a prefix of others."""
        return Prefix(tokens, Prefix(tokens, self._cache).continued(1))

    def join(self, other: "Sequences") -> None:
        """Adds the rows of another, behind these. Both must be of a model that joins its rows."""
        import torch

        # All padding is on the left, where no position counts it, and where a sliding window
        # leaves it behind first.
        places = max(self._mask.shape[1], other._mask.shape[1])
        masks = [_widened(one._mask, places, -1) for one in (self, other)]
        self._mask = torch.cat(masks)
        self._position = torch.cat([self._position, other._position])
        self.logits = torch.cat([self.logits, other.logits])
        for mine, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            if mine.is_initialized:
                kept = max(mine.keys.shape[-2], theirs.keys.shape[-2])
                mine.keys = torch.cat([_widened(one.keys, kept, -2) for one in (mine, theirs)])
                mine.values = torch.cat([_widened(one.values, kept, -2) for one in (mine, theirs)])
            if mine.is_sliding:
                mine.cumulative_length = places

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some of the rows, at least one, without places that are padding in all."""
        import torch

        kept = torch.tensor(rows, device=self._mask.device)
        mask = self._mask[kept]
        self._position = self._position[kept]
        self.logits = self.logits[kept]
        places = mask.shape[1]
        if self._padded:
            places -= int(mask.any(0).int().argmax())
        self._mask = mask[:, -places:]
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys[kept, :, -places:]
                layer.values = layer.values[kept, :, -places:]
            if layer.is_sliding:
                layer.cumulative_length = places

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


def _widened(found: "torch.Tensor", places: int, dim: int) -> "torch.Tensor":
    """Pads a tensor with zeros at the beginning of a dimension."""
    from torch.nn import functional

    missing = places - found.shape[dim]
    # Padding is given from the last dimension on, as (before, after).
    return functional.pad(found, [0, 0] * (-1 - dim) + [missing, 0])
