"""Looks how a model computes drafts as branches of a row, as it computes them alone."""

import math
from collections.abc import Sequence
from typing import Any

from cowest.models import architecture
from cowest.trees import scores, trainer
from cowest.trees.plan import Tree

APART = {"float32": 1e-3, "bfloat16": 0.1}
"""Nats per token that the two may differ by, by dtype. That of bfloat16 is a judgement."""


def reason_against(made: Any, trees: Sequence[Tree]) -> str | None:
    """Says why trees can't be computed with a trainer's model; None if they can.

    What an architecture makes of a mask can't be read from its settings, so it is tried: with the
    longest tree, of which the drafts that stand first and last are also computed alone, and beside
    it the one that takes the most tokens. A trainer is left as it works: attention by segments if
    the model hands them down to its layers, else by a mask.
    """
    model = made.model
    longest = max(trees, key=Tree.longest)
    reason = architecture.not_branched(model.get_base_model(), longest.longest())
    if reason is not None:
        return reason
    model.eval()
    tree = longest._replace(drafts=tuple(sorted(longest.drafts)))
    # Some models (GPT-Neo) have a mask of their own, of no more places than a text may have.
    tried = [tree, max(trees, key=Tree.size)]
    alone = _alone(model, tree)
    if not all(map(math.isfinite, alone.values())):
        return "the base alone gives no number for its longest text"
    for together in _ways(model):
        trainer.attends_to_branches(model, together)
        reason = _tried(model, tried, alone, together)
        if reason is None:
            made.together = together
            return None
    return reason


def _ways(model: Any) -> tuple[bool, ...]:
    """Returns the ways to try. A model with attention of its own has more than segments in it."""
    kind = type(model.get_base_model())
    return (True, False) if architecture.attention(kind) == "sdpa" else (False,)


def _tried(
    model: Any, trees: Sequence[Tree], alone: dict[int, float], together: bool
) -> str | None:
    """Says what is wrong with the branches that a model computes; None if nothing is.

    `alone` is of the first tree.
    """
    import torch
    from accelerate.utils import send_to_device

    try:
        with torch.no_grad():
            inputs = send_to_device(trainer.tensors(trees, together), model.device)
            found = scores.drafts(model, model.get_output_embeddings(), inputs).tolist()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        return f"it takes no mask that says which tokens a token follows ({said})"
    limit = APART[str(model.dtype).removeprefix("torch.")]
    for place, expected in alone.items():
        apart = abs(found[place] - expected) / len(trees[0].drafts[place])
        # NaN is not above a limit either.
        if not apart <= limit:
            return f"log-probabilities of branches are {apart:.2g} nats per token from those alone"
    return None


def _alone(model: Any, tree: Tree) -> dict[int, float]:
    """Returns the log-probabilities of the first and the last draft, each after its prompt."""
    import torch

    found = {}
    with torch.no_grad():
        for place in {0, len(tree.drafts) - 1}:
            draft = tree.drafts[place]
            tokens = torch.tensor([tree.prompt + draft], device=model.device)
            logits = model(input_ids=tokens, use_cache=False).logits[0, -len(draft) - 1 : -1]
            each = logits.float().log_softmax(-1).gather(1, tokens[0, -len(draft) :, None])
            found[place] = each.sum().item()
    return found
