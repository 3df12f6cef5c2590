"""Direct preference optimisation: the policy's adapter is trained on, with the pairs.

The reference is the adapter as it was before.

    L = -log sigmoid(beta [log pi(chosen)/ref(chosen) - log pi(rejected)/ref(rejected)])
        + nll * NLL(chosen)

(Rafailov et al. 2023, eq. 7; the second term after Pang et al. 2024, arXiv 2404.19733.)
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from cowest import io, preferences, training, version
from cowest.config import Config
from cowest.errors import ContractError, ModelError
from cowest.models import audit, hf
from cowest.models.chat import Chat
from cowest.models.hf import HFConfig
from cowest.ports import In, Out
from cowest.records import Feedback, PreferencePair
from cowest.training import Lesson, Optimiser


class DPOConfig(Config):
    """Settings of DPO."""

    policy: HFConfig
    """The base model: the one that SFT trained on."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the KL penalty (β): higher keeps the policy closer to its reference. Raise it
    if drafts get worse in training, lower it if they hardly change."""
    nll: float = Field(default=1.0, ge=0)
    """Weight of an added NLL loss on the chosen draft, averaged per token. It keeps the chosen
    draft likely, where DPO alone may make both drafts less likely; 0 is DPO alone."""
    training: Optimiser


def main(pairs: In, feedback: In, policy: In, challenger: Out, config: DPOConfig) -> None:
    """Writes the challenger.

    The spread of the gains in `feedback` is stored with it, so that later turns can compare theirs.
    Raises ContractError if there are no pairs.
    """
    start = version.expect(policy)
    base = config.policy.base_name(config.policy.folder())
    if base != start.base:
        raise ModelError(
            f"dpo: the policy was trained on {start.base} and dpo.policy is {base}: "
            "name the same base in both (did its files change? then `cowest turn --force`)"
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
            continued=start.continued,
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
    # Checked before the weights are loaded, which may take minutes.
    chat = hf.open_chat(config.policy)
    lessons = []
    for row in rows:
        for *before, answer in (row.chosen, row.rejected):
            lessons.append(Lesson(row.id, (*row.prompt, *before), answer.content))
    training.check_lessons(chat, lessons, config.training.max_length, "dpo")
    torch.manual_seed(config.training.seed)
    dtype = training.number_format(config.training, config.policy, "dpo")
    model, tokenizer = hf.load(config.policy, dtype)
    arguments = training.arguments(config.training, config.policy, folder, dtype)
    # Given a PeftModel and no peft_config, TRL keeps a frozen copy of the adapter as the
    # reference. The reference never changes, so its log-probabilities are computed once, before
    # training.
    trainer = trl.DPOTrainer(
        model=PeftModel.from_pretrained(model, adapter, is_trainable=True),
        args=trl.DPOConfig(
            **arguments, beta=config.beta, precompute_ref_log_probs=True, **_loss(config)
        ),
        train_dataset=datasets.Dataset.from_list([_example(chat, row) for row in rows]),
        processing_class=tokenizer,
        callbacks=[training.curves(folder / "curves.jsonl", "dpo")],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    training.check(trainer.state.log_history, "dpo")
    training.save(trainer, folder, base)


def _loss(config: DPOConfig) -> dict[str, Any]:
    """Returns TRL's names for the loss of the module's formula."""
    if config.nll:
        return {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.nll]}
    return {"loss_type": ["sigmoid"]}


def _example(chat: Chat, row: PreferencePair) -> dict[str, Any]:
    """Returns a pair in TRL's conversational preference format."""
    return {
        "prompt": chat.messages(row.prompt),
        "chosen": chat.messages(row.chosen),
        "rejected": chat.messages(row.rejected),
    }
