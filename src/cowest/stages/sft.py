"""The policy is specialised on the corpus: a LoRA adapter is trained on the public base.

It is trained in the first turn, and whenever base, corpus or settings changed. Otherwise the
stage hands on the adapter of `start`.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from cowest import io, training, version
from cowest.config import Config, digest, file_digest
from cowest.domains import DomainPrompts
from cowest.errors import ConfigError, ContractError
from cowest.models import hf
from cowest.models.hf import HFConfig
from cowest.ports import In, Out
from cowest.records import Demonstration
from cowest.training import Lora, Optimiser


class SFTConfig(Config):
    """Settings of SFT."""

    policy: HFConfig
    """The base model."""
    prompts: DomainPrompts
    """The prompts that the policy will be asked with. They are stored with the version."""
    lora: Lora = Lora()
    training: Optimiser


def main(corpus: In, start: In, policy: Out, config: SFTConfig) -> None:
    """Writes a version of the policy. Raises ContractError for an empty corpus."""
    base = config.policy.base_name(config.policy.folder())
    # Equal inputs train an equal adapter, so training is not repeated while this digest stays.
    rests_on = digest(
        [base, file_digest(corpus), config.lora, config.training, config.prompts.draft]
    )
    known = version.read(start)
    with io.replacing_folder(policy) as folder:
        if known is not None and known.trained == rests_on:
            print(
                "sft: base, corpus and settings are those of the version "
                "that the turn starts from: it is handed on",
                file=sys.stderr,
            )
            shutil.copytree(start / "adapter", folder / "adapter")
        else:
            _train(list(io.read(corpus, Demonstration)), folder, base, config)
        version.write(folder, base=base, prompts=config.prompts, trained=rests_on)


def _train(corpus: list[Demonstration], folder: Path, base: str, config: SFTConfig) -> None:
    if not corpus:
        raise ContractError(
            "sft: the corpus is empty: there is nothing to specialise the policy on. "
            "It comes from the domain's `corpus`"
        )
    import datasets
    import torch
    import transformers
    import trl
    from peft import LoraConfig, get_peft_model

    training.score_completions_only()
    torch.manual_seed(config.training.seed)
    dtype = training.number_format(config.training, config.policy, "sft")
    model, tokenizer = hf.load(config.policy, dtype)
    examples = [_example(row, config) for row in corpus]
    conversations = []
    for row, example in zip(corpus, examples, strict=True):
        conversations.append((row.source, [*example["prompt"], *example["completion"]]))
    training.fit(tokenizer, conversations, config.training.max_length, "sft")
    lora = LoraConfig(task_type="CAUSAL_LM", **_shape(config.lora))
    _known(model, config.lora)
    arguments = training.arguments(config.training, config.policy, folder, dtype)
    trainer = trl.SFTTrainer(
        model=get_peft_model(model, lora),
        args=trl.SFTConfig(
            **arguments, completion_only_loss=True, train_sampling_strategy="group_by_length"
        ),
        train_dataset=datasets.Dataset.from_list(examples),
        processing_class=tokenizer,
        callbacks=[training.curves(folder / "curves.jsonl", "sft")],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    training.check(trainer.state.log_history, "sft")
    training.save(trainer, folder, base)


def _example(row: Demonstration, config: SFTConfig) -> dict[str, Any]:
    """Returns a row in TRL's conversational prompt-completion format.

    The prompt is rendered as the policy will see it, so that training and drafting agree.
    """
    prompt = [message.model_dump() for message in config.prompts.draft.render(row.prompt)]
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": row.completion}]}


def _known(model: Any, lora: Lora) -> None:
    """Raises ConfigError for a target that the model has not: PEFT ignores one if another fits."""
    if isinstance(lora.targets, str):
        return
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    wrong = [target for target in lora.targets if target not in names]
    if wrong:
        raise ConfigError(f"sft.lora.targets: no layer of the policy has {', '.join(wrong)}")


def _shape(lora: Lora) -> dict[str, Any]:
    """Returns the adapter's shape as arguments of PEFT's LoraConfig."""
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    layers = list(range(*lora.layers)) if lora.layers else None
    return {
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "target_modules": targets,
        "layers_to_transform": layers,
    }
