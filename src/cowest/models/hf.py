"""Local models in Hugging Face format: their settings, how they are loaded, and their identity.

A model is a folder, a hub name or an embedded model, with or without a LoRA adapter. `decoding`
answers with it. Nothing in a folder is loaded before `audit` has passed it, and nothing is ever
downloaded here.
"""

import asyncio
import gc
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cowest import environment, io
from cowest.config import Config, digest, file_digest
from cowest.errors import ModelError
from cowest.models import architecture, audit, embedded
from cowest.models.chat import Chat, ends_of
from cowest.models.decoding import HFModel
from cowest.models.hf_async import AsyncHFModel
from cowest.models.template import steady
from cowest.models.writing import Writing, context_of

IDENTITY = {".json", ".safetensors", ".jinja", ".model", ".txt"}
"""File endings that make up a model's identity: its answers may depend on such files."""


class HFConfig(Config):
    """A local model that runs in this process."""

    provider: Literal["hf"] = "hf"
    model: str
    """A folder (relative to params.yaml), the name of an embedded model (`cowest fetch`), or the
    name of a Hugging Face model that is in the local cache."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    """Number format in which the model answers. bfloat16 is faster and takes half the memory, but
    less exact: by rounding, an answer may depend on what is decoded beside it."""
    device: str = "cpu"
    """The device that torch runs the model on: cpu, cuda, or one of several GPUs, as cuda:1."""
    chat_template: str | None = None
    """A Jinja template instead of the tokenizer's own. A base model has none: give it one. That of
    a policy must begin a finished answer as it asks for one, and end it; SFT says where it does
    not."""
    rows: int = Field(default=64, ge=1)
    """Sequences decoded at once. If memory runs out, half as many are, once, and it is said; raise
    it to use a larger GPU."""

    @contextmanager
    def open(self, adapter: Path | None = None) -> Iterator[HFModel]:
        """Loads the model, and frees it afterwards.

        Raises ModelError before anything unsafe is read.
        """
        folder = self.folder()
        name = self.base_name(folder)
        # Checked before torch is imported and the base is loaded, which may take minutes.
        if adapter is not None:
            audit.audit_adapter(adapter)
            same_base(adapter, name)
        import torch

        model, tokenizer = load(self)
        if adapter is not None:
            name += f"+{file_digest(adapter)[:12]}"
            model = _with_adapter(model, adapter)
        model = model.to(getattr(torch, self.dtype)).to(self.device)
        yield HFModel(name, model, tokenizer, self.rows)

    @asynccontextmanager
    async def open_async(self, adapter: Path | None = None) -> AsyncIterator[AsyncHFModel]:
        """Loads the model for people who wait, and frees it afterwards. Raises ModelError.

        It loads on another thread, so that others can be answered meanwhile.
        """
        with ExitStack() as stack:
            loaded = await asyncio.to_thread(stack.enter_context, self.open(adapter))
            model = AsyncHFModel(loaded, self.rows)
            try:
                yield model
            finally:
                await model.close()

    def folder(self) -> Path:
        """Finds the model's folder, and checks that nothing in it runs. Raises ModelError."""
        folder = embedded.resolve(self.model)
        if folder is None and Path(self.model).exists():
            folder = Path(self.model)
        if folder is None:
            folder = _from_hub(self.model)
        audit.audit(folder)
        return folder

    def base_name(self, folder: Path) -> str:
        """Returns the base's identity: its name, and a digest of its files, dtype and template."""
        content = digest([_folder_digest(folder), self.dtype, self.chat_template])
        return f"{Path(self.model).name}@{content[:12]}"


def load(config: HFConfig, dtype: str = "float32") -> tuple[Any, Any]:
    """Loads the model and the tokenizer of a base, the weights in `dtype`. Raises ModelError."""
    import torch
    import transformers

    environment.hush()
    folder = config.folder()
    if config.device != "cpu" and not torch.cuda.is_available():
        raise ModelError(
            f"device {config.device}: torch sees no GPU here (is it a CPU build?): "
            "set device: cpu, or run where there is one"
        )
    kind = architecture.check(folder)
    tokenizer = load_tokenizer(config, folder)
    with architecture.reading(f"{folder} does not load as a model"):
        # The weights are read as data and never as code, and nothing is fetched: this holds even
        # for a folder that the audit should not have passed.
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=architecture.attention(kind),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    return model.eval(), tokenizer


def load_tokenizer(config: HFConfig, folder: Path) -> Any:
    """Loads the tokenizer of a base, with its chat template. Raises ModelError."""
    import transformers

    environment.hush()
    with architecture.reading(f"{folder} has no tokenizer that loads"), _uncollected():
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    template = tokenizer.chat_template
    if config.chat_template is not None:
        template = config.chat_template
    if template is None:
        raise ModelError(f"{config.model} has no chat template: give one as `chat_template`")
    if isinstance(template, dict) and "default" not in template:
        raise ModelError(
            f"{config.model} has chat templates named {', '.join(sorted(template))} and no "
            "default: give the text of one as `chat_template`"
        )
    chosen = template["default"] if isinstance(template, dict) else template
    # Set on the tokenizer, so that whatever trains with it writes the same.
    tokenizer.chat_template = steady(chosen, config.model)
    # Some tokenizers have no token for padding. Any will do: padding is masked.
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keeps Python from looking for garbage, which takes a third of the time that a tokenizer
    with many words needs: its file becomes a million objects, and all of them are in use.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def open_chat(config: HFConfig) -> Chat:
    """Loads what a base makes of conversations, without its weights. Raises ModelError."""
    return open_base(config).chat


def open_base(config: HFConfig) -> Writing:
    """Loads what makes tokens and texts of a base's, without its weights.

    Raises ModelError, also for a base whose weights would not load or can't be decoded.
    """
    architecture.check(config.folder())
    return open_writing(config, config.model)


def open_writing(config: HFConfig, name: str) -> Writing:
    """Loads what makes tokens of conversations, and texts of tokens, whatever decodes them.

    `name` is what completions call the model by. Raises ModelError.
    """
    import transformers

    folder = config.folder()
    tokenizer = load_tokenizer(config, folder)
    with architecture.reading(f"{folder}: its generation settings can't be read"):
        shape = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        settings = transformers.GenerationConfig.from_model_config(shape)
        if (folder / "generation_config.json").is_file():
            settings = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    chat = Chat(config.model, tokenizer, ends_of(settings))
    return Writing(name, tokenizer, chat, context_of(shape))


def _with_adapter(model: Any, adapter: Path) -> Any:
    """Merges an adapter into the base's weights.

    The weights are still in full precision here and are rounded afterwards, so that the merged
    model is faster than one with the adapter beside it, and as exact.
    """
    from peft import PeftModel

    with architecture.reading(f"{adapter} does not fit this model"):
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    # Merged weights require no gradient, and torch then copies the head once per row when it
    # reads a prompt, which is 10 times slower.
    return merged.eval().requires_grad_(True)


@contextmanager
def beside(config: HFConfig, adapter: Path) -> Iterator[Any]:
    """Loads the base with an adapter beside its weights, in float32: as it was trained."""
    from peft import PeftModel

    audit.audit_adapter(adapter)
    model, _ = load(config)
    with architecture.reading(f"{adapter} does not fit this model"):
        model = PeftModel.from_pretrained(model, adapter)
    yield model.eval().requires_grad_(True).to(config.device)


def same_base(adapter: Path, base: str) -> None:
    """Raises ModelError for an adapter of ours that was trained on another base.

    On another base it might load, and answer nonsense.
    """
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    # Its folder is not named: a version of the registry is laid out in a temporary one.
    trained = settings.get("base_model_name_or_path") or ""
    # Only our own adapters name their base with a digest (`name@digest`).
    if "@" in trained and trained != base:
        raise ModelError(
            f"the version's adapter was trained on {trained}, and the policy here is {base}: name "
            "the same base (and dtype) in every section of params.yaml; if the base's own files "
            "changed, or you change the base for good, begin a registry of another name"
        )


def _from_hub(name: str) -> Path:
    """Finds a model in the local cache of the Hugging Face hub. Raises ModelError."""
    if name.startswith(("/", ".", "~")):
        raise ModelError(
            f"{name}: no such folder: "
            "it should hold a model's config.json, tokenizer and *.safetensors"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise ModelError(
            f"model {name!r} is no folder, no embedded model, and not in the Hugging Face cache: "
            f"give a folder, or run `hf download {name} --include '*.safetensors' --include "
            "'*.json' --include '*.jinja' --include 'tokenizer*'` first (a stage never downloads)"
        ) from None


def _folder_digest(folder: Path) -> str:
    """Returns the digest of a model's files.

    Digests are remembered in the cache by path, size and time of change, since reading gigabytes of
    weights takes long and every stage asks.
    """
    remembered = environment.cache() / "digests.json"
    try:
        known: dict[str, str] = json.loads(remembered.read_text())
    except (OSError, ValueError):
        known = {}
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in IDENTITY:
            stat = path.stat()
            seen = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
            mark = hashlib.sha256(seen.encode()).hexdigest()
            known[mark] = known.get(mark) or file_digest(path)
            found[path.relative_to(folder).as_posix()] = known[mark]
    with suppress(OSError):
        # A cache that can't be written, as in an image, costs time and nothing else.
        io.write_text(remembered, json.dumps(known))
    return digest(found)
