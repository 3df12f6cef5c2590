"""Direct preference optimisation: the policy's adapter is continued on the pairs, its reference the adapter as it was.

    L = -log sigmoid(beta [log pi(chosen)/ref(chosen) - log pi(rejected)/ref(rejected)]) + nll * NLL(chosen)

(Rafailov et al. 2023, eq. 7; the second term after Pang et al. 2024, arXiv 2404.19733.)
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from cowest import io, preferences, training, version
from cowest.config import Config
from cowest.errors import ContractError, ModelError
from cowest.models import audit, hf
from cowest.models.hf import HFConfig
from cowest.ports import In, Out
from cowest.records import Feedback, PreferencePair
from cowest.training import Optimiser

SIDES = ("chosen", "rejected")


class DPOConfig(Config):
    """What is aligned, and how."""

    policy: HFConfig
    """The base."""
    beta: float = Field(default=0.1, gt=0)
    """How dear it is to leave the reference."""
    nll: float = Field(default=1.0, ge=0)
    """Weight of the chosen drafts' negative log-likelihood a token."""
    training: Optimiser


def main(pairs: In, feedback: In, policy: In, challenger: Out, config: DPOConfig) -> None:
    """Writes the challenger; with it goes how the gains of `feedback` are spread, for later turns to be held against.

    Raises ContractError when there are no pairs.
    """
    start = version.expect(policy)
    base = config.policy.base_name(config.policy.folder())
    if base != start.base:
        raise ModelError(
            f"dpo: the policy was trained on {start.base} and dpo.policy is {base}: name the same base in both "
            "(did its files change? then `cowest turn --force`)"
        )
    rows = list(io.read(pairs, PreferencePair))
    if not rows:
        raise ContractError("dpo: there are no pairs to learn from")
    with io.replacing_folder(challenger) as folder:
        _train(rows, policy / "adapter", folder, base, config)
        version.write(
            folder,
            base=base,
            prompts=start.prompts,
            trained=start.trained,
            gains=preferences.spread(io.groups(feedback, Feedback)),
        )


def _train(
    rows: list[PreferencePair], adapter: Path, folder: Path, base: str, config: DPOConfig
) -> None:
    import datasets
    import torch
    import transformers
    import trl
    from peft import PeftModel

    audit.audit_adapter(adapter)
    torch.manual_seed(config.training.seed)
    model, tokenizer = hf.load(config.policy, config.training.dtype)
    examples = [_example(row) for row in rows]
    said = [
        (row.id, [*example["prompt"], *example[side]])
        for row, example in zip(rows, examples, strict=True)
        for side in SIDES
    ]
    training.fit(tokenizer, said, config.training.max_length, "dpo")
    # Given a PeftModel and no peft_config, TRL keeps a frozen copy of the adapter as the reference.
    arguments = training.arguments(config.training, config.policy, folder)
    trainer = trl.DPOTrainer(
        model=PeftModel.from_pretrained(model, adapter, is_trainable=True),
        args=trl.DPOConfig(
            **arguments, beta=config.beta, precompute_ref_log_probs=True, **_loss(config)
        ),
        train_dataset=datasets.Dataset.from_list(examples),
        processing_class=tokenizer,
        callbacks=[training.curves(folder / "curves.jsonl", "dpo")],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    training.check(trainer.state.log_history, "dpo")
    training.save(trainer, folder, base)


def _loss(config: DPOConfig) -> dict[str, Any]:
    return (
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.nll]}
        if config.nll
        else {"loss_type": ["sigmoid"]}
    )


def _example(row: PreferencePair) -> dict[str, Any]:
    return {
        side: [message.model_dump() for message in getattr(row, side)]
        for side in ("prompt", *SIDES)
    }
