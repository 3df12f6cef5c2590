"""The policy is specialised on the corpus: a LoRA adapter is trained on the public base.

It is trained in the first turn, and whenever base, corpus or settings changed: from the base, or
with `start: champion` from the adapter of `start`. Otherwise the stage hands on the adapter of
`start`.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from cowest import checkpoints, io, training, version
from cowest.config import Config, digest, file_digest
from cowest.distributed.launch import elsewhere
from cowest.distributed.task import Task
from cowest.domains import DomainPrompts
from cowest.errors import ConfigError, ContractError, ModelError
from cowest.models import audit, hf
from cowest.models.chat import Chat
from cowest.models.hf import HFConfig
from cowest.ports import In, Out
from cowest.records import Demonstration, Message
from cowest.training import Lesson, Lora, Optimiser
from cowest.trees import packed
from cowest.trees.trainer import still
from cowest.version import Version


class SFTConfig(Config):
    """Settings of SFT."""

    policy: HFConfig
    """The base model."""
    prompts: DomainPrompts
    """The prompts that the policy will be asked with. They are stored with the version."""
    lora: Lora = Lora()
    """Shape of the LoRA adapter that is trained."""
    training: Optimiser
    """Epochs, batch, learning rate and seed of the training."""
    step: Literal["packed", "trl"] = "packed"
    """The way in which a step is computed. `packed` lays the rows of a step end to end, without
    padding, and computes what they begin with alike once; it gives what `trl`, TRL's SFTTrainer,
    gives without dropout. A policy that can't be computed so (a recurrent one, or one that looks
    back less far than a row) is trained with `trl`, and the stage says so."""
    start: Literal["base", "champion"] = "base"
    """The weights that training begins from when corpus or settings changed. From `base` the
    policy forgets what the champion was aligned with; from `champion` it goes on from the
    champion's adapter, as long as `lora` stays the same."""


def main(corpus: In, start: In, policy: Out, config: SFTConfig) -> None:
    """Writes a version of the policy.

    Raises ContractError for an empty corpus, ModelError for a champion of another base, and
    ConfigError if `start: champion` asks for an adapter of another shape than the champion's.
    """
    base = config.policy.base_name(config.policy.folder())
    known = version.read(start)
    if known is not None and known.base != base:
        # The champion could not be asked on this base, and the turn would end with the evaluation,
        # when all else is paid for.
        raise ModelError(
            f"sft: the champion is an adapter of {known.base}, and sft.policy is {base}: name the "
            "same base (and dtype and chat template) in every section of params.yaml; to change "
            "the base for good, begin a registry of another name"
        )
    inputs = [base, file_digest(corpus), config.lora, config.training, config.prompts.draft]
    # Equal inputs train an equal adapter, so training is not repeated while the digest stays.
    same = known is not None and known.trained == _rests_on(inputs, known.continued)
    task = Task("sft", config, {"corpus": corpus, "start": start}, {"policy": policy})
    if not same and elsewhere(task):
        return
    with checkpoints.made(policy) as folder:
        if known is not None and same:
            _say(
                "base, corpus and settings are those of the version that the turn starts from: "
                "it is handed on"
            )
            shutil.copytree(start / "adapter", folder / "adapter")
            continued = known.continued
        else:
            continued = _continued(known, config)
            adapter = start / "adapter" if continued else None
            _train(list(io.read(corpus, Demonstration)), adapter, folder, base, config)
        version.write(
            folder,
            base=base,
            prompts=config.prompts,
            trained=_rests_on(inputs, continued),
            continued=continued,
        )


def _rests_on(inputs: list[Any], continued: str | None) -> str:
    """Returns the digest of what SFT rests on; `continued` is the adapter that it went on from."""
    return digest(inputs if continued is None else [*inputs, continued])


def _continued(known: Version | None, config: SFTConfig) -> str | None:
    """Returns the digest of the adapter that training goes on from; None for the base.

    Says what becomes of the alignment of the version that the turn starts from.
    """
    if known is None:
        return None
    if config.start == "base":
        _say(
            "corpus or settings changed, so the policy is trained from the base again, and "
            "what earlier turns aligned is lost: `sft.start: champion` goes on from the champion"
        )
        return None
    _say("corpus or settings changed: training goes on from the champion's adapter")
    return known.adapter


def _say(text: str) -> None:
    print(f"sft: {text}", file=sys.stderr)


def _train(
    corpus: list[Demonstration], adapter: Path | None, folder: Path, base: str, config: SFTConfig
) -> None:
    """Trains a new adapter, or goes on with the one in a folder."""
    if not corpus:
        raise ContractError(
            "sft: the corpus is empty: there is nothing to specialise the policy on. "
            "It comes from the domain's `corpus`"
        )
    import torch
    import transformers

    # Checked before the weights are loaded, which may take minutes.
    writing = hf.open_base(config.policy)
    chat = writing.chat
    lessons = [_lesson(row, config) for row in corpus]
    training.refuse_control(chat, lessons, "sft")
    training.check_lessons(writing, lessons, config.training.max_length, "sft")
    if chat.textual_end() is not None:
        _say(
            f"the chat template ends an answer with {chat.textual_end()!r} and no token: drafts "
            "end there only if that text is among draft.sampling.stop"
        )

    torch.manual_seed(config.training.seed)
    dtype = training.number_format(config.training, config.policy, "sft")
    model, tokenizer = hf.load(config.policy, dtype)
    model = _adapted(model, adapter, config.lora)
    arguments = training.arguments(config.training, config.policy, folder, dtype)
    arguments["train_sampling_strategy"] = "group_by_length"
    callbacks = [training.curves(folder / "curves.jsonl", "sft")]
    trainer = _packed_trainer(model, chat, lessons, config, arguments, callbacks)
    if trainer is None:
        trainer = _trl_trainer(model, tokenizer, chat, lessons, arguments, callbacks)
    trainer.remove_callback(transformers.PrinterCallback)
    checkpoints.expect_all(trainer)
    training.deal(trainer, config.training)
    trainer.train()
    training.check(trainer, "sft")
    training.save(trainer, folder, base)
    trainer.accelerator.end_training()


def _packed_trainer(
    model: Any,
    chat: Chat,
    lessons: list[Lesson],
    config: SFTConfig,
    arguments: dict[str, Any],
    callbacks: list[Any],
) -> Any:
    """Returns a trainer of packed rows; None where there is to be none, which is said."""
    if config.step == "trl":
        return None
    import transformers

    texts = []
    for lesson in lessons:
        whole = chat.learned(lesson.prompt, lesson.answer)
        texts.append(packed.text(chat.asked(lesson.prompt), whole))
    own = {name: value for name, value in arguments.items() if name != "max_length"}
    settings = transformers.TrainingArguments(**own, remove_unused_columns=False)
    made = packed.make(model, texts, settings, callbacks=callbacks)
    reason = packed.reason_against(made, texts)
    if reason is not None:
        _say(
            f"{config.policy.model} is trained with padded rows, by TRL: {reason} "
            "(`sft.step: trl` asks for that)"
        )
        return None
    still(model)
    return made


def _trl_trainer(
    model: Any,
    tokenizer: Any,
    chat: Chat,
    lessons: list[Lesson],
    arguments: dict[str, Any],
    callbacks: list[Any],
) -> Any:
    """Returns TRL's trainer of padded rows."""
    import datasets
    import trl

    training.score_completions_only()
    return trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**arguments, completion_only_loss=True),
        train_dataset=datasets.Dataset.from_list([_example(chat, lesson) for lesson in lessons]),
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def _adapted(model: Any, adapter: Path | None, lora: Lora) -> Any:
    """Returns the model with an adapter to be trained: a new one, or one from a folder."""
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

    _known(model, lora)
    shape = LoraConfig(task_type="CAUSAL_LM", **_shape(lora))
    try:
        new = get_peft_model(model, shape)
    except ValueError as error:
        # Some recurrent layers compute with their weights alone, past any adapter.
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"sft.lora.targets: {reason} List the names of other layers, such as [q_proj, v_proj]"
        ) from None
    if adapter is None:
        return new
    audit.audit_adapter(adapter)
    had, asked = PeftConfig.from_pretrained(str(adapter)), new.peft_config["default"]
    differs = []
    for name in ("r", "lora_alpha", "target_modules", "layers_to_transform"):
        if getattr(had, name) != getattr(asked, name):
            differs.append(f"{name} {getattr(had, name)}, asked {getattr(asked, name)}")
    if differs:
        raise ConfigError(
            "sft.start: the champion's adapter has another shape than sft.lora "
            f"({'; '.join(differs)}): set sft.lora as it was, or `sft.start: base`"
        )
    return PeftModel.from_pretrained(new.unload(), adapter, is_trainable=True)


def _lesson(row: Demonstration, config: SFTConfig) -> Lesson:
    """Returns what a row teaches; its prompt is rendered as the policy will see it."""
    return Lesson(row.source, config.prompts.draft.render(row.prompt), row.completion)


def _example(chat: Chat, lesson: Lesson) -> dict[str, Any]:
    """Returns a lesson in TRL's conversational prompt-completion format."""
    answer = Message(role="assistant", content=lesson.answer)
    return {"prompt": chat.messages(lesson.prompt), "completion": chat.messages([answer])}


def _known(model: Any, lora: Lora) -> None:
    """Raises ConfigError for a target that the model has not, or that is no layer within it.

    PEFT ignores a name that nothing fits if another name fits something. The embeddings are no
    targets, and so neither is the head, which a model often shares with them.
    """
    if isinstance(lora.targets, str):
        return
    outside = set()
    for name, module in model.named_modules():
        if module in (model.get_input_embeddings(), model.get_output_embeddings()):
            outside.add(name.rpartition(".")[2])
    found = sorted(outside & set(lora.targets))
    if found:
        raise ConfigError(
            f"sft.lora.targets: {', '.join(found)} stands outside of the layers, and an adapter of "
            "it can't be trained here: leave it out"
        )
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
