"""Local models in Hugging Face format: a folder, a hub name or an embedded model, with a LoRA adapter or none.

Decodes in blocks of consecutive queries (`Request.block`). Within a block each distinct prompt is read once, whatever the
number of its samples, and what all prompts share (the shots) is read once for all of them. A sample's random numbers come
from its call's key, so they depend on nothing beside it.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from cowest import environment, io
from cowest.config import Config, digest, file_digest
from cowest.errors import ModelError
from cowest.models import audit, embedded
from cowest.models.decoding import HFModel

if TYPE_CHECKING:
    pass


class HFConfig(Config):
    """A model that runs in this process."""

    provider: Literal["hf"] = "hf"
    model: str
    """A folder, the name of an embedded model (`cowest fetch`), or a Hugging Face hub name that is in the local cache."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    """In which it answers. In bfloat16 an answer may depend, by rounding, on what is decoded beside it: quicker, and less exact."""
    device: str = "cpu"
    """Where torch puts it: cpu, cuda, cuda:1."""
    chat_template: str | None = None
    """A Jinja template in place of the tokenizer's own: a base model has none."""
    rows: int = Field(default=64, ge=1)
    """Sequences decoded at once: bounds memory."""

    @contextmanager
    def open(self, adapter: Path | None = None) -> "Iterator[HFModel]":
        """Loads the model; frees it afterwards. Raises ModelError before anything unsafe is read."""
        folder = self.folder()
        name = self.base_name(folder)
        if adapter is not None:
            audit.audit_adapter(adapter)
            _same_base(adapter, name)
        model, tokenizer = load(self)
        if adapter is not None:
            name += f"+{file_digest(adapter)[:12]}"
            model = _with_adapter(model, adapter)
        yield HFModel(name, model.to(_dtype(self.dtype)).to(self.device), tokenizer, self.rows)

    def folder(self) -> Path:
        """Where the model lies, checked to hold nothing that runs. Raises ModelError."""
        folder = embedded.resolve(self.model) or (
            Path(self.model) if Path(self.model).exists() else _from_hub(self.model)
        )
        audit.audit(folder)
        return folder

    def base_name(self, folder: Path) -> str:
        """Identity by content: the model's name with a digest of its files, type and template."""
        content = digest([_folder_digest(folder), self.dtype, self.chat_template])
        return f"{Path(self.model).name}@{content[:12]}"


def load(config: HFConfig, dtype: str = "float32") -> tuple[Any, Any]:
    """Model and tokenizer of a base, in `dtype`, its weights read as data and never as code."""
    import torch
    import transformers

    environment.hush()
    folder = config.folder()
    if config.device != "cpu" and not torch.cuda.is_available():
        raise ModelError(
            f"device {config.device}: torch sees no GPU here (is it a CPU build?): set device: cpu, or run where there is one"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{folder} does not load as a model: {' '.join(str(error).split())[:300]}"
        ) from None
    if config.chat_template is not None:
        tokenizer.chat_template = config.chat_template
    if tokenizer.chat_template is None:
        raise ModelError(f"{config.model} has no chat template: give one as `chat_template`")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def _with_adapter(model: Any, adapter: Path) -> Any:
    """The adapter merged into full-precision weights, before they are rounded: quicker than beside them, and as exact."""
    from peft import PeftModel

    try:
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{adapter} does not fit this model: {' '.join(str(error).split())[:300]}"
        ) from None
    # Merged weights ask for no gradient, and torch then copies the head once a row when it reads a prompt: 10 times slower.
    return merged.eval().requires_grad_(True)


def _same_base(adapter: Path, base: str) -> None:
    """An adapter of ours says which base it belongs to; on another it would load, and answer nonsense."""
    trained = (
        json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get(
            "base_model_name_or_path"
        )
        or ""
    )
    if "@" in trained and trained != base:
        raise ModelError(
            f"{adapter} was trained on {trained}, and the policy here is {base}: name the same base (and dtype) in every section of "
            "params.yaml; if the base's own files changed, or you change the base for good, begin a registry of another name"
        )


def _from_hub(name: str) -> Path:
    if name.startswith(("/", ".", "~")):
        raise ModelError(
            f"{name}: no such folder: it should hold a model's config.json, tokenizer and *.safetensors"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise ModelError(
            f"model {name!r} is no folder, no embedded model, and not in the Hugging Face cache: give a folder, or run "
            f"`hf download {name} --include '*.safetensors' '*.json' '*.jinja' 'tokenizer*'` first (a stage never downloads)"
        ) from None


def _folder_digest(folder: Path) -> str:
    """Digest of a model's files; weights are read again only when size or time changed."""
    remembered = environment.cache() / "digests.json"
    try:
        known: dict[str, str] = json.loads(remembered.read_text())
    except (OSError, ValueError):
        known = {}
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in {".json", ".safetensors", ".jinja", ".model", ".txt"}:
            stat = path.stat()
            mark = hashlib.sha256(
                f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()
            ).hexdigest()
            known[mark] = known.get(mark) or file_digest(path)
            found[path.relative_to(folder).as_posix()] = known[mark]
    io.write_text(remembered, json.dumps(known))
    return digest(found)


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)
