"""Goes on training the policy's adapter, on pairs of drafts or on single drafts (KTO).

The reference is the adapter before this training.

    L = -log sigmoid(beta [log pi(chosen)/ref(chosen) - log pi(rejected)/ref(rejected)])
        + nll * NLL(chosen)

(Rafailov et al. 2023, eq. 7; the second term after Pang et al. 2024, arXiv 2404.19733.
`trees.losses` has the other losses of pairs, and KTO's.)

Two implementations give the same loss and gradient for pairs, and take the same steps. `tree`
computes each prompt once per step, with all drafts of its pairs as branches; `trl` is TRL's
DPOTrainer, which computes two texts per pair. (With `gradient_accumulation` above 1, TRL averages
the averages of a step's parts, which are not of equal size.)
"""

import json
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cowest import checkpoints, io, training
from cowest.aligning.settings import DPOConfig
from cowest.errors import ConfigError, ContractError
from cowest.models import audit, hf
from cowest.models.chat import Chat
from cowest.models.writing import Writing
from cowest.records import Message, PreferencePair
from cowest.training import Lesson
from cowest.trees import losses, plan
from cowest.trees.plan import Tokens, Tree

OF_SHARES = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "train_sampling_strategy": "sequential",
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
}
"""Arguments for training on shares of steps: one by one, and all epochs in one list."""


def train(
    rows: Sequence[PreferencePair],
    adapter: Path,
    kept: Path,
    folder: Path,
    base: str,
    config: DPOConfig,
) -> list[PreferencePair]:
    """Goes on training an adapter, into `folder`. Checkpoints are in `kept`, which a kill leaves.

    Returns the rows that were learned: those that the model can read.
    """
    import torch
    import transformers

    audit.audit_adapter(adapter)
    # Checked before the weights are loaded, which may take minutes.
    writing = hf.open_base(config.policy)
    chat = writing.chat
    rows = readable(writing, rows)
    if not rows:
        raise ContractError(
            "dpo: none is left to learn from: name a model with a longer context, or lower "
            "draft.sampling.max_tokens"
        )
    training.check_lessons(writing, _lessons(rows), config.training.max_length, "dpo")
    torch.manual_seed(config.training.seed)
    dtype = training.number_format(config.training, config.policy, "dpo")
    arguments = training.arguments(config.training, config.policy, kept, dtype)
    model, tokenizer = load(config, adapter, dtype)
    arguments["callbacks"] = [training.curves(folder / "curves.jsonl", "dpo")]
    trees = _trees(writing, rows, config)
    optimiser = config.training
    steps = plan.steps(trees, optimiser.batch_size, optimiser.epochs, optimiser.seed)
    trainer = _tree_trainer(model, trees, steps, kept, config, **arguments)
    if trainer is None:
        pairs = [_example(chat, row) for row in rows]
        of_tree = plan.rows_of(tuple(chat.asked(row.prompt)) for row in rows)
        dealt = [list(chain.from_iterable(of_tree[tree] for tree in step)) for step in steps]
        trainer = _trl_trainer(model, tokenizer, pairs, dealt, config, **arguments)
    trainer.remove_callback(transformers.PrinterCallback)
    checkpoints.train(trainer, kept, config.checkpoint_minutes, "dpo")
    training.check(trainer, "dpo")
    if checkpoints.is_first():
        training.save(trainer, folder, base)
    trainer.accelerator.end_training()
    return rows


def load(config: DPOConfig, adapter: Path, dtype: str) -> tuple[Any, Any]:
    """Returns the policy with a trainable adapter, and its tokenizer."""
    from peft import PeftModel

    model, tokenizer = hf.load(config.policy, dtype)
    return PeftModel.from_pretrained(model, adapter, is_trainable=True), tokenizer


def readable(base: Writing, rows: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Leaves out rows of more tokens than the model reads, and says so.

    A draft that filled the context has its end beyond it.
    """
    kept = []
    for row in rows:
        sizes = [len(base.chat.learned(one.prompt, one.answer)) for one in _lessons([row])]
        if max(sizes) <= base.context:
            kept.append(row)
    left_out = len(rows) - len(kept)
    if left_out and checkpoints.is_first():
        print(
            f"dpo: {left_out} of {len(rows)} rows have more than {base.context} tokens with their "
            "ends, which is all that the model reads: left out",
            file=sys.stderr,
        )
    return kept


def _lessons(rows: Sequence[PreferencePair]) -> list[Lesson]:
    lessons = []
    for row in rows:
        for side in filter(None, (row.chosen, row.rejected)):
            *before, answer = side
            lessons.append(Lesson(row.id, (*row.prompt, *before), answer.content))
    return lessons


def _trees(base: Writing, rows: Sequence[PreferencePair], config: DPOConfig) -> list[Tree]:
    if config.align != "kto":
        return plan.trees_of(_tokens(base.chat, row) for row in rows)
    drafts = (_draft(base.chat, row) for row in rows)
    most = min(config.training.max_length, base.context)
    return plan.trees_of_drafts(drafts, most, config.training.seed)


def _tree_trainer(
    model: Any,
    trees: list[Tree],
    steps: list[tuple[int, ...]],
    kept: Path,
    config: DPOConfig,
    callbacks: list[Any],
    **arguments: Any,
) -> Any:
    """Returns a trainer of whole trees; None for `step: trl`, or if trees can't be used.

    A fallback is printed with its reason. Computes the reference's log-probabilities, or reads them
    from `kept`.
    """
    if config.step == "trl":
        return None
    import transformers

    from cowest.trees import check, trainer

    optimiser = config.training
    shares = []
    for step in steps:
        count = optimiser.gradient_accumulation * checkpoints.processes()
        shares += plan.shares(trees, step, count)
    del arguments["max_length"]
    settings = transformers.TrainingArguments(**(arguments | OF_SHARES))
    lessons = trainer.Lessons(trees, shares, optimiser.epochs)
    objective = config.objective(_weights(trees))
    made = trainer.make(model, lessons, objective, settings, callbacks=callbacks)
    reason = check.reason_against(made, trees)
    if reason is not None and config.align == "kto":
        print(
            f"dpo: {config.policy.model} is trained draft by draft, which takes longer: {reason}",
            file=sys.stderr,
        )
        made.branches = False
    elif reason is not None:
        print(
            f"dpo: {config.policy.model} is trained pair by pair, with TRL, which takes longer: "
            f"{reason} (`dpo.step: trl` asks for that)",
            file=sys.stderr,
        )
        return None
    place = kept / "reference.json"
    if place.is_file():
        made.reference = json.loads(place.read_text(encoding="utf-8"))
    else:
        made.reference = trainer.reference_of(made, trees)
        if checkpoints.is_first():
            io.write_text(place, json.dumps(made.reference))
    return made


def _weights(trees: Sequence[Tree]) -> tuple[float, float]:
    """Returns KTO's weights: of drafts that helped, and of the others."""
    helped = others = 0
    for tree in trees:
        for _, did in tree.alone:
            helped += did
            others += not did
    return losses.balanced(helped, others)


def _trl_trainer(
    model: Any,
    tokenizer: Any,
    pairs: list[dict[str, Any]],
    steps: list[list[int]],
    config: DPOConfig,
    callbacks: list[Any],
    **arguments: Any,
) -> Any:
    """Returns TRL's DPOTrainer, which takes the pairs of each step together, by their numbers."""
    if checkpoints.processes() > 1:
        raise ConfigError(
            "dpo: `dpo.step: trl` trains in one process, and several were started: start one "
            "(COWEST_NPROC=1, `nproc: 1` in a profile), or set `dpo.step: tree` if this policy "
            "can be trained that way"
        )
    import datasets
    import trl

    class Stepped(trl.DPOTrainer):  # type: ignore[misc]
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            # To the Trainer all epochs are one.
            done = self.state.global_step / self.state.max_steps
            self.state.epoch = config.training.epochs * done
            super().log(logs, start_time)

    at_once = arguments["per_device_train_batch_size"]
    # Given a PeftModel and no peft_config, TRL keeps a frozen copy of the adapter as the
    # reference. The reference never changes, so its log-probabilities are computed once, before
    # training.
    made = Stepped(
        model=model,
        args=trl.DPOConfig(
            **(arguments | OF_SHARES),
            beta=config.beta,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=at_once,
            **_loss(config),
        ),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    assert len(made.train_dataset) == len(pairs), "TRL leaves no pair out"
    together = made.data_collator
    made.train_dataset = _Dealt(made.train_dataset, steps, config.training.gradient_accumulation)
    made.data_collator = lambda taken: together(taken[0])
    return made


class _Dealt:
    """Rows of a data set in the parts of steps, each computed at once."""

    def __init__(self, rows: Any, steps: Sequence[Sequence[int]], parts: int) -> None:
        self._rows = rows
        self._parts: list[Sequence[int]] = []
        for step in steps:
            for part in range(parts):
                # A step with fewer rows than parts is every part: their mean is the step's.
                self._parts.append(step if len(step) < parts else step[part::parts])

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int) -> list[Any]:
        return [self._rows[place] for place in self._parts[number]]


def _loss(config: DPOConfig) -> dict[str, Any]:
    """Returns TRL's settings for the loss above."""
    smoothing = {"label_smoothing": config.label_smoothing}
    if config.nll:
        return {"loss_type": [config.loss, "sft"], "loss_weights": [1.0, config.nll], **smoothing}
    return {"loss_type": [config.loss], **smoothing}


def _tokens(chat: Chat, row: PreferencePair) -> tuple[Tokens, Tokens, Tokens]:
    """Returns the tokens of a pair: prompt, chosen draft, rejected draft."""
    prompt = tuple(chat.asked(row.prompt))
    return prompt, _answer(chat, row, row.chosen), _answer(chat, row, row.rejected)


def _draft(chat: Chat, row: PreferencePair) -> tuple[Tokens, Tokens, bool]:
    """Returns a single draft: tokens of the prompt, tokens of the draft, and whether it helped."""
    said = _answer(chat, row, row.chosen or row.rejected)
    return tuple(chat.asked(row.prompt)), said, bool(row.chosen)


def _answer(chat: Chat, row: PreferencePair, side: Sequence[Message]) -> Tokens:
    *before, answer = side
    whole = chat.learned((*row.prompt, *before), answer.content)
    return tuple(whole[len(chat.asked(row.prompt)) :])


def _example(chat: Chat, row: PreferencePair) -> dict[str, Any]:
    """Returns a pair in TRL's conversational preference format."""
    return {
        "prompt": chat.messages(row.prompt),
        "chosen": chat.messages(row.chosen, answered=True),
        "rejected": chat.messages(row.rejected, answered=True),
    }
