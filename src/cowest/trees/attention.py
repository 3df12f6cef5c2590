"""Attention of a row of branches, segment by segment: no branch is multiplied with another."""

from collections.abc import Mapping
from typing import Any

NAME = "cowest_branches"
"""The name that transformers knows it by."""


def register() -> None:
    """Makes it known to transformers, whose models take an implementation by its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    branches: Mapping[str, Any],
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Any, None]:
    """Returns what a layer's attention gives; shape (1, tokens, heads, numbers).

    `query`, `key` and `value` have shape (1, heads, tokens, numbers). `branches` are the groups
    and the places of `packing.groups`, as tensors. A model that hands no such thing down to its
    layers ends with a TypeError.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    repeats = query.shape[1] // key.shape[1]
    parts = []
    for queries, keys, seen in branches["groups"]:
        found = scaled_dot_product_attention(
            _taken(query, queries),
            _taken(key, keys).repeat_interleave(repeats, 1),
            _taken(value, keys).repeat_interleave(repeats, 1),
            attn_mask=seen,
            scale=scaling,
        )
        # Shape (segments, heads, tokens, numbers): now token by token.
        parts.append(found.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).index_select(0, branches["places"])[None], None


def _taken(states: Any, places: Any) -> Any:
    """Takes tokens out of a row; shape (segments, heads, tokens of a segment, numbers)."""
    found = states[0].index_select(1, places.flatten())
    return found.unflatten(1, places.shape).transpose(0, 1)
