"""Shared by SFT and DPO: the settings of training, the arguments for TRL, the log of the curves."""

import json
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from cowest import checkpoints
from cowest.batched import batched
from cowest.config import Config
from cowest.errors import ConfigError, ContractError
from cowest.models.chat import Chat
from cowest.models.hf import HFConfig
from cowest.models.writing import Writing
from cowest.progress import Bar
from cowest.records import Message

X86 = ("x86_64", "AMD64")
SLOW_IN_BFLOAT16 = ("DEFAULT", "AVX2")
"""Capabilities of x86 CPUs on which torch multiplies bfloat16 matrices in scalar code: 0.8 GFLOP/s
per core against 57 in float32 (torch 2.13, measured on AVX2)."""


class Lora(Config):
    """Shape of the LoRA adapter."""

    r: int = Field(default=32, ge=1)
    """Rank of the adapter's matrices. A higher rank can learn more, and takes more memory."""
    alpha: int = Field(default=64, ge=1)
    """Scale: what the adapter adds is multiplied by alpha / r. Keep the ratio when you change r."""
    targets: str | tuple[str, ...] = "all-linear"
    """Linear layers that get an adapter: `all-linear`, or a list of their names, such as q_proj."""
    layers: tuple[int, int] | None = None
    """Train only the layers from the first number up to the second, not included; null trains all.
    Below the first no gradient is computed, so that training a few upper layers is faster."""

    @field_validator("targets")
    @classmethod
    def _names_layers(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        # PEFT takes any other text for a pattern, and an adapter with a pattern is never loaded.
        if isinstance(targets, str) and targets != "all-linear":
            raise ValueError(
                f"should be all-linear or a list of layers' names, such as [{targets}]"
            )
        if not targets:
            raise ValueError("names no layer: leave it out for all-linear")
        return targets


class Optimiser(Config):
    """Settings of a training run."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate, after the warm-up. Lower it if the loss rises or is not finite."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the rows; may be a fraction."""
    batch_size: int = Field(default=16, ge=1)
    """Rows (of DPO: pairs) per step, of all processes together."""
    warmup_steps: int = Field(default=10, ge=0)
    """Steps in which the learning rate rises from 0 to learning_rate."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Learning rate after the warm-up: it falls to 0 (linear, cosine), or it stays (constant)."""
    max_length: int = Field(default=1024, ge=8)
    """Most tokens of a prompt with its completion. A longer row stops the stage before training,
    since TRL would cut it without a word. Raise it for long rows; memory grows with the
    longest."""
    seed: int = 0
    """Seed of all randomness in training: the adapter's first weights, the order of the rows."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the base's weights and of the arithmetic in training. bfloat16 takes half
    the memory. The adapter itself is kept in float32 in any case. A CPU that would compute
    bfloat16 one number at a time trains in float32, and the stage says so."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Parts that a step is computed in, one after the other. Raise it if memory runs out: it falls
    with every part, and the step stays the same."""
    activation_checkpointing: bool = False
    """Compute activations a second time instead of keeping them (gradient checkpointing). It takes
    much less memory and more time: turn it on if memory runs out in spite of
    gradient_accumulation."""

    @model_serializer(mode="wrap")
    def _as_before_parts(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves settings of memory out where they are unset.

        So settings keep the digest that they had before there were any, and a policy that rests on
        them is not trained again.
        """
        found: dict[str, Any] = fields(self)
        for name in ("gradient_accumulation", "activation_checkpointing"):
            if found.get(name) == type(self).model_fields[name].default:
                del found[name]
        return found


def number_format(optimiser: Optimiser, model: HFConfig, stage: str) -> str:
    """Returns the dtype that training computes in, and says so where it is not the one set."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    if optimiser.dtype == "float32" or model.device != "cpu" or is_fast_in_bfloat16(capability):
        return optimiser.dtype
    print(
        f"{stage}: this CPU ({capability}) has no fast bfloat16 arithmetic: "
        "training computes in float32, which takes twice the memory",
        file=sys.stderr,
    )
    return "float32"


def is_fast_in_bfloat16(capability: str, machine: str = platform.machine()) -> bool:
    """Returns True for a CPU that multiplies bfloat16 matrices about as fast as float32 ones.

    `capability` is torch's word for the CPU's vector instructions.
    """
    return machine not in X86 or capability not in SLOW_IN_BFLOAT16


def arguments(optimiser: Optimiser, model: HFConfig, folder: Path, dtype: str) -> dict[str, Any]:
    """Returns the arguments that TRL's SFTConfig and DPOConfig share.

    The trainer itself saves, reports and shows nothing. Raises ConfigError where it would spread
    over several GPUs by threads, which no trainer here can.
    """
    import torch

    if model.device != "cpu" and torch.cuda.device_count() > 1 and checkpoints.processes() == 1:
        raise ConfigError(
            f"{torch.cuda.device_count()} GPUs are visible, and training takes one per process: "
            f"set COWEST_NPROC={torch.cuda.device_count()}, or name one in CUDA_VISIBLE_DEVICES"
        )
    rows = math.ceil(
        optimiser.batch_size / optimiser.gradient_accumulation / checkpoints.processes()
    )
    return {
        "output_dir": str(folder),
        "learning_rate": optimiser.learning_rate,
        "num_train_epochs": optimiser.epochs,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": optimiser.gradient_accumulation,
        "warmup_steps": optimiser.warmup_steps,
        "lr_scheduler_type": optimiser.schedule,
        "max_length": optimiser.max_length,
        "seed": optimiser.seed,
        "weight_decay": 0.0,
        "adam_beta2": 0.99,
        "max_grad_norm": 1.0,
        "bf16": dtype == "bfloat16",
        "use_cpu": model.device == "cpu",
        "gradient_checkpointing": optimiser.activation_checkpointing,
        # A loss that is not a number is to be seen, and ends the stage.
        "logging_nan_inf_filter": False,
        "logging_steps": 5,
        "logging_first_step": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": model.device != "cpu",
        "ddp_find_unused_parameters": False,
    }


def deal(trainer: Any, optimiser: Optimiser) -> None:
    """Has processes, and the parts of `gradient_accumulation`, share each step that one would take.

    Left to itself, the library has each process make up batches of its own, of other rows, and
    fills the last step of an epoch up with rows of its first. Of a batch that the parts don't
    divide it makes a larger one.
    """
    count, parts = checkpoints.processes(), optimiser.gradient_accumulation
    if count * parts == 1:
        return
    from accelerate.utils import synchronize_rng_states
    from torch.utils.data import DataLoader

    rows = optimiser.batch_size
    whole = trainer.get_train_dataloader

    class Batches:
        """The rows of this process, part by part of all steps of an epoch."""

        def __init__(self, sampler: Any) -> None:
            self.sampler = sampler

        def __len__(self) -> int:
            return math.ceil(len(self.sampler) / rows) * parts

        def __iter__(self) -> Iterator[list[int]]:
            if count > 1:
                # Every process draws the same order.
                synchronize_rng_states(["torch"])
            for step in batched(self.sampler, rows):
                dealt = shares(step, count * parts)
                yield from dealt[trainer.args.process_index :: count]

    def dataloader() -> Any:
        loader = whole()
        batches = Batches(_sampler(trainer, loader.dataset, rows))
        return DataLoader(loader.dataset, batch_sampler=batches, collate_fn=loader.collate_fn)

    trainer.get_train_dataloader = dataloader


def _sampler(trainer: Any, rows: Any, batch: int) -> Any:
    """Returns what draws the rows: of about the same length within a batch."""
    arguments = trainer.args
    was = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    # The library takes their product for the batch.
    arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps = batch, 1
    try:
        return trainer._get_train_sampler(rows)
    finally:
        arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps = was


def shares(step: list[int], count: int) -> list[list[int]]:
    """Deals the rows of a step out in `count` parts, none of them empty.

    The loss of a step is the mean over its tokens. So of fewer rows than parts every part gets all,
    which leaves the mean as it is.
    """
    if len(step) < count:
        return [list(step)] * count
    return [step[number::count] for number in range(count)]


def score_completions_only() -> None:
    """Keeps TRL from scoring the prompt's positions: over half of an SFT step on a CPU.

    TRL 1.16 leaves these positions out only if Triton is installed, though its PyTorch path takes
    either form, and the losses are the same. The name is private: if a later TRL does not have
    it, training is slower and otherwise equal.
    """
    import trl.trainer.utils

    if hasattr(trl.trainer.utils, "_use_triton"):
        trl.trainer.utils._use_triton = lambda *_, **__: True


class Lesson(NamedTuple):
    """A conversation that is learned: a prompt, and one answer to it."""

    name: str
    """The name that messages call it by: of its row, or of its place in the raw data."""
    prompt: tuple[Message, ...]
    answer: str


def check_lessons(base: Writing, lessons: Sequence[Lesson], most: int, stage: str) -> None:
    """Raises an error for what could not be learned as it is asked later; called before training.

    A ModelError speaks of the model's chat template, a ContractError of rows. Rows of more than
    `most` tokens are refused too: TRL would cut them without a word. So are rows of more than the
    model reads: it has no positions for them, or none that it is ever asked with.
    """
    limit = min(most, base.context)
    long = []
    for lesson in lessons:
        size = len(base.chat.learned(lesson.prompt, lesson.answer))
        if size > limit:
            long.append((size, lesson.name))
    if long:
        size, name = max(long, key=itemgetter(0))
        which = f"{stage}: {len(long)} of {len(lessons)} rows have more than {limit} tokens"
        longest = f"(the longest, {name}, has {size})"
        if limit < most:
            raise ContractError(
                f"{which}, which is all that the model reads {longest}: leave such rows out, or "
                "name a model with a longer context"
            )
        raise ContractError(
            f"{which} and would be cut {longest}: "
            f"raise {stage}.training.max_length, or leave such rows out"
        )


def refuse_control(chat: Chat, lessons: Sequence[Lesson], stage: str) -> None:
    """Raises ContractError if a row holds one of the model's control tokens, such as `<|im_end|>`.

    A policy is never asked with one, since they are broken up in prompts, and must not learn to
    write one in an answer.
    """
    held = []
    for lesson in lessons:
        texts = [*(message.content for message in lesson.prompt), lesson.answer]
        found = chat.control_in(texts)
        if found is not None:
            held.append((lesson.name, found))
    if held:
        name, token = held[0]
        raise ContractError(
            f"{stage}: {len(held)} of {len(lessons)} rows hold control tokens of the policy "
            f"({name} holds {token!r}), which are no text to it: take them out of these rows, "
            "or leave the rows out"
        )


def save(trainer: Any, folder: Path, base: str) -> None:
    """Writes the adapter as `folder/adapter`. Equal weights are equal files, on any machine."""
    adapter = folder / "adapter"
    trainer.model.save_pretrained(adapter, selected_adapters=["default"])
    (adapter / "README.md").unlink(missing_ok=True)
    settings = adapter / "adapter_config.json"
    described = json.loads(settings.read_text(encoding="utf-8"))
    # PEFT writes the path that the base had on this machine. The digest must not depend on it,
    # and the base's name tells what the adapter belongs to.
    described["base_model_name_or_path"] = base
    # PEFT writes a set, whose order differs from process to process.
    if isinstance(described["target_modules"], list):
        described["target_modules"] = sorted(described["target_modules"])
    settings.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    # Weights are saved for their owner alone, and a registry may serve them to others.
    for path in adapter.iterdir():
        path.chmod(0o644)


LEFT_OUT = ("train_", "num_tokens")
"""Rows of the log that are no curves: a training's sums, and TRL's count of tokens, which begins
anew in a training that goes on after a kill."""


def curves(path: Path, stage: str) -> Any:
    """Returns a Trainer callback that appends the curves to `path` and shows the progress.

    `path` gets one JSON object per line.
    """
    from transformers import TrainerCallback

    class Curves(TrainerCallback):  # type: ignore[misc]
        bar: Bar
        first = 0
        """Steps of the rounds before, whose rows the file has already."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = Bar(f"{stage} steps", state.max_steps, state.global_step)
            self.first = _last_step(path)
            # Of a training that goes on, the folder that a kill left is gone.
            for logs in state.log_history:
                self.write(state, logs["step"], logs)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.step()

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
        ) -> None:
            self.write(state, state.global_step, logs or {})

        def write(self, state: Any, step: int, logs: dict[str, Any]) -> None:
            row: dict[str, Any] = {"stage": stage, "step": self.first + step}
            # Sorted, as a checkpoint has them.
            for name, value in sorted(logs.items()):
                if isinstance(value, int | float) and not name.startswith(LEFT_OUT):
                    row[name] = value
            # The trainer's last log is a summary of the run, without a loss of its own.
            if "loss" in row and state.is_world_process_zero:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return Curves()


def _last_step(path: Path) -> int:
    """The step of the last row of a file of curves; 0 if there is none."""
    if not path.is_file():
        return 0
    *_, last = path.read_text(encoding="utf-8").splitlines()
    return int(json.loads(last)["step"])


def check(trainer: Any, stage: str) -> None:
    """Raises ContractError if a loss or a weight is not finite.

    So no useless model goes on to evaluation. Only some steps are logged; the mean loss of all, and
    the weights after the last, tell of the others.
    """
    found = []
    for row in trainer.state.log_history:
        for name in ("loss", "train_loss"):
            if name in row:
                found.append(float(row[name]))
    weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    if not all(map(math.isfinite, found)) or not all(map(_is_finite, weights)):
        raise ContractError(diverged(stage))


def diverged(stage: str) -> str:
    """Returns the words for a training whose loss or weights are not finite."""
    return (
        f"{stage}: the loss or a weight is not a finite number: lower "
        f"{stage}.training.learning_rate"
    )


def _is_finite(weight: Any) -> bool:
    return bool(weight.isfinite().all())
