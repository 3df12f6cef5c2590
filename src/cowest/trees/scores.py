"""The log-probabilities of drafts that lie in rows, and their gradient, as if each lay alone."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

LOGITS = 2**24
"""Logits that are held at once (64 MiB in float32)."""
TIMES = ("logit_scale", "output_multiplier", "lm_head_multiplier")
"""Settings of architectures that multiply their logits."""


def drafts(model: Any, head: Any, inputs: Mapping[str, Any]) -> Any:
    """Returns the log-probability of each packed draft after its prompt; shape (drafts,)."""
    return tokens(model, head, inputs).sum(1)


def tokens(model: Any, head: Any, inputs: Mapping[str, Any], temperature: float = 1.0) -> Any:
    """Returns the log-probabilities of the tokens of each packed draft, filled up with 0.

    Its shape is (drafts, tokens of the longest). `inputs` are `trainer.tensors`; `head` is the
    module that the model makes its logits with. Only what is scored goes through the head.
    `temperature` is that of sampling, which divides the logits.
    """
    more: dict[str, Any] = {}
    if "branches" in inputs:
        # Attention has all that it needs there, and transformers is to make no mask of its own.
        hidden = inputs["input_ids"].new_ones((1, 1, 1, 1)).bool()
        more = {"branches": inputs["branches"], "attention_mask": hidden}
    elif "ends" in inputs:
        more = {"attention_mask": mask(inputs["ends"], _additive(model))}
    if "position_ids" in inputs:
        more["position_ids"] = inputs["position_ids"]
    # A row that holds one text, filled up behind, needs neither mask nor positions.
    with _caught(head) as found:
        model(input_ids=inputs["input_ids"], use_cache=False, **more)
    # After the last norm: shape (rows, width, hidden).
    (states,) = found
    before = states.flatten(0, 1)[inputs["before"]]
    piece = max(LOGITS // _bare(model).config.get_text_config().vocab_size, 1)
    logits = _logits(model, head, temperature)
    each = _log_probabilities().apply(before, inputs["scored"], logits, piece)
    places = inputs["places"]
    return each[places.clamp(min=0)].masked_fill(places < 0, 0)


def mask(ends: Any, dtype: Any = None) -> Any:
    """Returns what each token of a row may see: itself and the tokens that it follows.

    `ends` has shape (rows, width), the mask (rows, 1, width, width). It is of booleans, or of a
    dtype whose lowest number is added where nothing is seen.
    """
    import torch

    place = torch.arange(ends.shape[1], device=ends.device)
    seen = (place[:, None] >= place) & (place[:, None] < ends[:, None, :])
    if dtype is None:
        return seen[:, None]
    hidden = torch.zeros(seen.shape, dtype=dtype, device=ends.device)
    return hidden.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


@contextmanager
def _caught(head: Any) -> Iterator[list[Any]]:
    """Catches what goes into a head, and lets one token of each row through."""
    found: list[Any] = []

    def catch(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        found.append(given[0])
        return (given[0][:, :1], *given[1:])

    hook = head.register_forward_pre_hook(catch)
    try:
        yield found
    finally:
        hook.remove()


def _additive(model: Any) -> Any:
    """Returns the dtype of a mask that is added; None for attention that takes booleans."""
    config = _bare(model).config
    return _bare(model).dtype if config._attn_implementation == "eager" else None


def _bare(model: Any) -> Any:
    """Returns the model without the wrapper that several processes put around it."""
    return getattr(model, "module", model)


def _logits(model: Any, head: Any, temperature: float) -> Callable[[Any], Any]:
    """Returns the function from what goes into the head to logits, as the model computes them."""
    import torch

    config = _bare(model).config.get_text_config()
    factor = 1.0
    for name in TIMES:
        factor *= getattr(config, name, None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    cap = getattr(config, "final_logit_softcapping", None)

    def logits(states: Any) -> Any:
        found = head(states).float() * (factor / divisor)
        if cap is not None:
            found = torch.tanh(found / cap) * cap
        return found / temperature

    return logits


@cache
def _log_probabilities() -> Any:
    """Returns the function from states and the tokens after them to log-probabilities.

    Logits of all tokens at once would take most of the memory. So they are computed for `piece`
    tokens at a time, with their gradient while they are at hand: that of a token depends on its
    own state alone, and is only multiplied in the backward pass.
    """
    import torch

    class LogProbabilities(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(
            context: Any, states: Any, tokens: Any, logits: Callable[[Any], Any], piece: int
        ) -> Any:
            wanted = context.needs_input_grad[0]
            found, slopes = [], []
            for start in range(0, len(tokens), piece):
                with torch.set_grad_enabled(wanted):
                    state = states[start : start + piece].detach().requires_grad_(wanted)
                    scores = logits(state)
                    after = tokens[start : start + piece, None]
                    each = scores.gather(1, after)[:, 0] - scores.logsumexp(1)
                    if wanted:
                        each.sum().backward()
                        slopes.append(state.grad)
                found.append(each.detach())
            context.save_for_backward(*slopes)
            return torch.cat(found)

        @staticmethod
        def backward(context: Any, weights: Any) -> tuple[Any, None, None, None]:
            slopes = torch.cat(context.saved_tensors)
            return (weights[:, None] * slopes).to(slopes.dtype), None, None, None

    return LogProbabilities
