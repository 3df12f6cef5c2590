"""Draws tokens by numbers that come from the call's key, the same on every machine."""

from typing import TYPE_CHECKING

from cowest.config import Sampling

if TYPE_CHECKING:
    import torch


def drawn(scores: "torch.Tensor", sampling: Sampling, numbers: "torch.Tensor") -> "torch.Tensor":
    """Draws the next token of each row (rows,) by the inverse of the cumulative distribution.

    `scores` are log-probabilities (rows, vocabulary), `numbers` uniform in [0, 1) (rows,). The same
    number and the same distribution give the same token, on any machine and in any company.
    """
    import torch

    probabilities = torch.softmax(scores / sampling.temperature, dim=-1)
    order = None
    if sampling.top_p < 1:
        # The likeliest first. A token stays if those before it hold less than top_p together, so
        # that the likeliest always stays. Stable, so that equal probabilities keep the
        # vocabulary's order.
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    # In float64: a running sum in float32 over a large vocabulary would swallow unlikely tokens.
    mass = probabilities.double().cumsum(-1)
    # The first token whose cumulative mass is above the number. The number is scaled by the whole
    # mass, which is below 1 after top_p. Rounding may still lead one past the end: hence the clamp.
    place = torch.searchsorted(mass, numbers[:, None] * mass[:, -1:], right=True)
    place = place.clamp(max=scores.shape[-1] - 1)
    if order is not None:
        place = order.gather(1, place)
    return place[:, 0]


def uniform(key: str, count: int) -> "torch.Tensor":
    """Returns `count` numbers in [0, 1) that depend on the call's key alone."""
    import torch

    generator = torch.Generator().manual_seed(int(key[:15], 16))
    return torch.rand(count, generator=generator, dtype=torch.float64)
