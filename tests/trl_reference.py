"""The tiny policy with an adapter, and TRL's trainers beside which our steps are laid."""

import contextlib
from types import SimpleNamespace
from typing import Any

from cowest.trees import trainer
from cowest.trees.plan import Tokens, Tree
from tests import tiny


def adapted(model: Any, targets: str | list[str] = "all-linear", **more: Any) -> Any:
    """A model with an adapter that is not zero, as SFT leaves it."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    shape = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": targets, **more}
    model = get_peft_model(model, LoraConfig(**shape))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def policy(dropout: float = 0.0) -> Any:
    """The tiny model with an adapter, and with dropout in both."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        tiny.model(), attn_implementation="sdpa", attention_dropout=dropout
    )
    return adapted(base, lora_dropout=dropout)


def moved(model: Any) -> None:
    """Takes a model a step away from its reference."""
    import torch

    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if weight.requires_grad and ".default." in name:
            weight.data += 0.02 * torch.randn_like(weight)


def gradients(model: Any) -> dict[str, Any]:
    found = {}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            found[name] = weight.grad.clone()
    model.zero_grad()
    return found


def reference_of(model: Any, trees: list[Tree]) -> list[list[float]]:
    import torch

    alone = SimpleNamespace(
        process_index=0,
        num_processes=1,
        device=torch.device("cpu"),
        autocast=contextlib.nullcontext,
    )
    made = SimpleNamespace(model=model, accelerator=alone, together=False, branches=True)
    return trainer.reference_of(made, trees)


def log_probability(model: Any, prompt: Tokens, draft: Tokens) -> float:
    """A draft's log-probability after its prompt, of a text that is computed alone."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *draft]])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(draft) - 1)
    return sum(logits[at, token].item() for at, token in zip(places, draft, strict=True))


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys() and len(one) > 20
    for name, slope in one.items():
        assert (slope - other[name]).norm() <= 1e-4 * slope.norm(), name


def tokenized(trainer: type[Any]) -> type[Any]:
    """A trainer of TRL's whose rows are tokens already."""

    class Tokenized(trainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    return Tokenized
