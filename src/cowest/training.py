"""What SFT and DPO share: the settings of a training run, its arguments for TRL, and the log of its curves."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cowest.config import Config
from cowest.models.hf import HFConfig
from cowest.progress import Bar


class Lora(Config):
    """The adapter's shape."""

    r: int = Field(default=32, ge=1)
    """Rank."""
    alpha: int = Field(default=64, ge=1)
    """Scale: alpha / r."""
    targets: str | tuple[str, ...] = "all-linear"
    """Which linear maps, by name."""
    layers: tuple[int, int] | None = None
    """Only the layers from the first number up to the second, not included; None is all. Below the first nothing is learnt,
    and no gradient is computed."""


class Optimiser(Config):
    """How a training run goes."""

    learning_rate: float = Field(gt=0)
    epochs: float = Field(default=1, gt=0)
    batch_size: int = Field(default=16, ge=1)
    """Rows (or pairs) a step, on one device."""
    warmup_steps: int = Field(default=10, ge=0)
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    max_length: int = Field(default=1024, ge=8)
    """Tokens of prompt and completion at most; longer rows are refused before training, since TRL would cut them unsaid."""
    seed: int = 0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the base's weights and of the arithmetic while training; the adapter itself is kept in float32."""


def arguments(optimiser: Optimiser, model: HFConfig, folder: Path) -> dict[str, Any]:
    """Arguments that SFTConfig and DPOConfig share. Nothing is saved, reported or shown by the trainer itself."""
    return {
        "output_dir": str(folder),
        "learning_rate": optimiser.learning_rate,
        "num_train_epochs": optimiser.epochs,
        "per_device_train_batch_size": optimiser.batch_size,
        "warmup_steps": optimiser.warmup_steps,
        "lr_scheduler_type": optimiser.schedule,
        "max_length": optimiser.max_length,
        "seed": optimiser.seed,
        "weight_decay": 0.0,
        "adam_beta2": 0.99,
        "max_grad_norm": 1.0,
        "bf16": optimiser.dtype == "bfloat16",
        "use_cpu": model.device == "cpu",
        "gradient_checkpointing": False,
        "logging_steps": 5,
        "logging_first_step": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": model.device != "cpu",
    }


def score_completions_only() -> None:
    """Keeps TRL from scoring the prompt's positions too, where it has no Triton: more than half of an SFT step on a CPU.

    TRL 1.16 leaves them out only with Triton, though its PyTorch path takes either form; the losses are the same. The name is
    private: where a later TRL has it no more, training is slower and no different.
    """
    import trl.trainer.utils

    if hasattr(trl.trainer.utils, "_use_triton"):
        trl.trainer.utils._use_triton = lambda *_, **__: True


def fit(
    tokenizer: Any, rows: list[tuple[str, list[dict[str, str]]]], most: int, stage: str
) -> None:
    """Raises ContractError for rows (where from, conversation) of more tokens than are trained on: TRL would cut them unsaid."""
    from cowest.errors import ContractError

    sizes = [
        len(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))
        for _, messages in rows
    ]
    long = [(where, size) for (where, _), size in zip(rows, sizes, strict=True) if size > most]
    if long:
        where, size = max(long, key=lambda row: row[1])
        raise ContractError(
            f"{stage}: {len(long)} of {len(rows)} rows have more than {most} tokens and would be cut (the longest, {where}, has {size}): "
            f"raise {stage}.training.max_length, or leave such rows out"
        )


def save(trainer: Any, folder: Path, base: str) -> None:
    """Writes the adapter as `folder/adapter`. Where the base lay on this machine is left out: equal weights have an equal digest."""
    adapter = folder / "adapter"
    trainer.model.save_pretrained(adapter, selected_adapters=["default"])
    (adapter / "README.md").unlink(missing_ok=True)
    settings = adapter / "adapter_config.json"
    described = json.loads(settings.read_text(encoding="utf-8"))
    described["base_model_name_or_path"] = base
    if isinstance(
        described["target_modules"], list
    ):  # PEFT writes a set, in an order that differs from process to process
        described["target_modules"] = sorted(described["target_modules"])
    settings.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in adapter.iterdir():
        path.chmod(0o644)


def curves(path: Path, stage: str) -> Any:
    """A Trainer callback that appends what training logs to `path`, a JSON object a line, and shows its progress."""
    from transformers import TrainerCallback

    class Curves(TrainerCallback):  # type: ignore[misc]
        bar: Bar

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = Bar(f"{stage} steps", state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.step()

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
        ) -> None:
            kept = {
                name: value
                for name, value in (logs or {}).items()
                if isinstance(value, int | float) and not name.startswith("train_")
            }
            if "loss" in kept:
                with path.open("a", encoding="utf-8") as file:
                    file.write(
                        json.dumps({"stage": stage, "step": state.global_step, **kept}) + "\n"
                    )

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return Curves()


def check(losses: list[dict[str, Any]], stage: str) -> None:
    """Training that ran away is an error here and not a bad model later."""
    import math

    from cowest.errors import ContractError

    if any(not math.isfinite(float(row["loss"])) for row in losses if "loss" in row):
        raise ContractError(
            f"{stage}: the loss is not a finite number: lower {stage}.training.learning_rate"
        )
