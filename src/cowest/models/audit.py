"""Model folders and adapters are hostile until checked: what may be in one, told from names, sizes and headers alone.

Nothing is loaded, imported or unpickled; weights are not read, only their headers. A folder that passes holds safetensors
that are whole, settings that are plain JSON and name no code, and nothing that leads out of it.
"""

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cowest.errors import ModelError

PICKLES = {
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".joblib",
    ".dill",
    ".npy",
    ".npz",
    ".h5",
    ".hdf5",
    ".keras",
}
CODE = {
    ".py",
    ".pyc",
    ".pyo",
    ".pyd",
    ".pyw",
    ".ipynb",
    ".so",
    ".dll",
    ".dylib",
    ".exe",
    ".sh",
    ".egg",
    ".whl",
}
VOCABULARIES = {"tokenizer.json", "vocab.json"}
"""Large, and read by the tokenizers library as data alone: looked at by their ends."""
JSON_LIMIT = 128 * 2**20
HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors header: the format's own limit."""
FILES_LIMIT = 1_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "F16": 16, "BF16": 16, "F32": 32,
    "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
NAMES_CODE = {"auto_map", "custom_pipelines", "custom_generate", "trust_remote_code"}
"""Settings by which a Hugging Face folder asks for code of its own to be run."""
LORA = {
    "task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r", "target_modules", "lora_alpha",
    "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "use_dora", "init_lora_weights", "layers_to_transform", "layers_pattern",
    "qalora_group_size", "megatron_core",
}  # fmt: skip
"""What an adapter may set. Anything else must be off: PEFT imports modules by names in it (`auto_mapping`, `megatron_config`), puts whole
layers in place of the base's (`modules_to_save`) or multiplies them (`layer_replication`)."""

Shapes = dict[str, list[int]]


def audit(folder: Path) -> None:
    """Raises ModelError that lists all that is wrong with a model's folder; silent when it may be loaded."""
    _refuse(folder, adapter=False, wanted="config.json and *.safetensors, or fetch the model first")


def audit_adapter(folder: Path) -> None:
    """The same for the folder of a LoRA adapter.

    Its `base_model_name_or_path` is never to be followed (`AutoPeftModel` and `AutoModel` do): the base comes from params.yaml.
    """
    _refuse(folder, adapter=True, wanted="adapter_config.json and adapter_model.safetensors")


def _refuse(folder: Path, adapter: bool, wanted: str) -> None:
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder: name one with {wanted}")
    problems = [f"{name}: {wrong}" if name else wrong for name, wrong in _problems(folder, adapter)]
    if problems:
        shown = problems[:10] + ([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])
        raise ModelError(f"{folder} is not loaded, and nothing in it was run: {'; '.join(shown)}")


def _problems(folder: Path, adapter: bool) -> Iterator[tuple[str, str]]:
    files: list[Path] = []
    for path, wrong in _entries(folder):
        if wrong:
            yield path.relative_to(folder).as_posix(), wrong
        else:
            files.append(path)
    documents: dict[str, Any] = {}
    shapes: Shapes = {}
    bits = 0
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            if path.suffix == ".json":
                documents[name] = _document(path)
            elif path.suffix == ".safetensors":
                found, held = _safetensors(path)
                shapes, bits = shapes | found, bits + held
        except ValueError as error:
            yield name, str(error)
    names = {path.relative_to(folder).as_posix() for path in files}
    yield from _settings(documents, names)
    if adapter:
        yield from _adapter(documents.get("adapter_config.json"), shapes, names)
    else:
        yield from _model(documents.get("config.json"), bits, names)


def _entries(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Every file below `folder` with what is wrong with its name or kind. Links to folders are not followed."""
    inside = _inside(folder)
    count = 0
    for root, folders, files in os.walk(folder):
        for name in sorted(folders):
            if Path(root, name).is_symlink():
                yield Path(root, name), "a link to a folder"
        for name in sorted(files):
            count += 1
            if count > FILES_LIMIT:
                yield Path(root), f"more than {FILES_LIMIT} files: this is no model folder"
                return
            yield Path(root, name), _kind(Path(root, name), inside)


def _inside(folder: Path) -> Path:
    """Where links may lead: the folder, or in a Hugging Face cache the whole of that model, whose files are links to `blobs/`."""
    real = folder.resolve()
    cached = real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--")
    return real.parent.parent if cached else real


def _kind(path: Path, inside: Path) -> str | None:
    if path.is_symlink():
        target = path.resolve()
        if not target.is_relative_to(inside):
            return "a link that leaves the folder"
        if not target.exists():
            return "a link to a file that is not there: fetch the model again"
    if not stat.S_ISREG(path.stat().st_mode):
        return "not an ordinary file"
    suffixes = {suffix.lower() for suffix in path.suffixes}
    if suffixes & CODE:
        return "code, and a model needs none: take it out"
    if path.suffix.lower() in PICKLES:
        return "may be a pickle, which runs code when it is read: keep the *.safetensors alone"
    return None


def _document(path: Path) -> Any:
    """A settings file, parsed; None for a vocabulary that begins and ends as JSON does. Raises ValueError."""
    size = path.stat().st_size
    if size > JSON_LIMIT:
        raise ValueError(
            f"{size / 2**20:.0f} MiB of JSON, over the {JSON_LIMIT // 2**20} MiB that any model needs"
        )
    if path.name in VOCABULARIES and size > 128:
        with path.open("rb") as file:
            first = file.read(64).lstrip()[:1]
            file.seek(-64, os.SEEK_END)
            if (first, file.read().rstrip()[-1:]) != (b"{", b"}"):
                raise ValueError("broken JSON: cut short?")
        return None
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError("broken JSON: cut short?") from None


def _safetensors(path: Path) -> tuple[Shapes, int]:
    """Shapes of a file's tensors and the bits they hold, from its header, which must fit the file's size. Raises ValueError.

    Format: 8 bytes of header length, little-endian; a JSON object `name: {dtype, shape, data_offsets}`; the tensors without gaps.
    https://huggingface.co/docs/safetensors
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > HEADER_LIMIT or 8 + length > size:
            raise ValueError(
                f"not safetensors, or cut short: {size} bytes can't hold the header that it speaks of"
            )
        try:
            header = json.loads(file.read(length)).items()
        except (ValueError, RecursionError, AttributeError):
            raise ValueError("not safetensors: its header is no JSON object") from None
    spans, shapes = [], {}
    for name, tensor in header:
        if name == "__metadata__":
            continue
        start, end, shape = _tensor(name, tensor)
        spans.append((start, end))
        shapes[name] = shape
    reached = 0
    for start, end in sorted(spans):
        if start != reached:
            raise ValueError(f"corrupt: a gap or an overlap at byte {reached} of its tensors")
        reached = end
    if 8 + length + reached != size:
        raise ValueError(
            f"corrupt or cut short: its header speaks of {8 + length + reached} bytes, it has {size}: fetch it again"
        )
    return shapes, 8 * reached


def _tensor(name: str, tensor: Any) -> tuple[int, int, list[int]]:
    try:
        bits, shape, (start, end) = BITS[tensor["dtype"]], tensor["shape"], tensor["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"corrupt: the header's entry of {name[:80]!r} is not one of a tensor"
        ) from None
    if not isinstance(shape, list) or not all(
        type(n) is int and n >= 0 for n in [*shape, start, end]
    ):
        raise ValueError(f"corrupt: shape or offsets of {name[:80]!r} are no counts")
    if math.prod(shape) * bits != (end - start) * 8:
        raise ValueError(
            f"corrupt: {name[:80]!r} has {end - start} bytes, and its shape asks for {math.prod(shape) * bits // 8}"
        )
    return start, end, shape


def _settings(documents: dict[str, Any], names: set[str]) -> Iterator[tuple[str, str]]:
    """Code asked for, and files named that lie elsewhere, in any JSON of the folder."""
    for name, document in documents.items():
        for key, value in _walk(document):
            if key in NAMES_CODE and value:
                yield name, f"asks for code of its own to be run ({key})"
            # older tokenizers carry their maker's path here, and transformers does not read it
            if (
                key.endswith("_file")
                and key != "special_tokens_map_file"
                and isinstance(value, str)
                and Path(value).name != value
            ):
                yield name, f"names a file elsewhere ({key})"
        weights = (
            document.get("weight_map")
            if name.endswith(".safetensors.index.json") and isinstance(document, dict)
            else None
        )
        if isinstance(weights, dict):
            missing = sorted({str(file) for file in weights.values()} - names)
            if missing:
                yield (
                    name,
                    f"speaks of {missing[0][:80]!r}, which is not there: fetch the model again",
                )


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _model(config: Any, bits: int, names: set[str]) -> Iterator[tuple[str, str]]:
    if "config.json" not in names:
        yield "", "no config.json: this is no model folder"
    elif not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        yield "config.json", "does not say its model_type"
    else:
        yield from _sizes(config, bits)
    if "adapter_config.json" in names:
        yield (
            "adapter_config.json",
            "an adapter inside a model folder, which would be loaded with it: keep the two apart",
        )
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        yield "", "no *.safetensors: weights are taken in no other form"


def _sizes(config: dict[str, Any], bits: int) -> Iterator[tuple[str, str]]:
    """A config that speaks of far more weights than there are would have us allocate them: even at one bit each they must fit."""
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    counts = [
        text.get("hidden_size", 0),
        text.get("num_hidden_layers", 0),
        text.get("vocab_size", 0),
    ]
    if not all(type(count) is int and count >= 0 for count in counts):
        yield "config.json", "hidden_size, num_hidden_layers or vocab_size is no count"
        return
    hidden, layers, words = counts
    if hidden * (words + layers * hidden) > bits > 0:
        yield (
            "config.json",
            f"speaks of a model of {hidden * (words + layers * hidden):.1e} weights or more, and the files hold {bits / 8:.1e} bytes",
        )


def _adapter(config: Any, shapes: Shapes, names: set[str]) -> Iterator[tuple[str, str]]:
    """A LoRA adapter as we train them, its tensors of the rank that it says."""
    if "adapter_model.safetensors" not in names:
        yield "", "no adapter_model.safetensors: adapters are taken in no other form"
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        yield "adapter_config.json", "is not of a LoRA adapter (peft_type)"
        return
    on = sorted(
        key
        for key, value in config.items()
        if key not in LORA and value not in (None, False, {}, [])
    )
    if on:
        yield "adapter_config.json", f"sets {', '.join(on)[:200]}: only plain LoRA is loaded"
    if not isinstance(config.get("target_modules"), list):
        yield "adapter_config.json", "target_modules should be a list of names"
    if config.get("init_lora_weights") not in (True, False, None, "gaussian"):
        yield "adapter_config.json", "init_lora_weights changes the base's weights"
    rank = config.get("r")
    strange = [
        name
        for name, shape in shapes.items()
        if ".lora_" not in name or (".lora_A." in name and shape[:1] != [rank])
    ]
    if strange:
        yield (
            "adapter_model.safetensors",
            f"{strange[0][:80]!r} is no LoRA weight of rank {str(rank)[:20]}",
        )
