"""Checks model folders and adapters, which are hostile until they have passed.

A folder is judged by names, sizes and headers alone. Nothing is loaded, imported or unpickled,
and of weights only the header is read. A folder that passes holds safetensors that are whole,
settings that are plain JSON and ask for no code, and nothing that leads out of it.
"""

import configparser
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cowest.errors import ModelError

PICKLES = {
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".h5",
    ".hdf5", ".keras",
}  # fmt: skip
"""Endings of files that Python libraries unpickle, which runs whatever code the file asks for."""
CODE = {
    ".py", ".pyc", ".pyo", ".pyd", ".pyw", ".ipynb", ".so", ".dll", ".dylib", ".exe", ".sh", ".egg",
    ".whl",
}  # fmt: skip
VOCABULARIES = {"tokenizer.json", "vocab.json"}
"""Large files that the tokenizers library reads as data alone. Only their two ends are checked."""
JSON_LIMIT = 128 * 2**20
"""Bytes of a JSON file."""
HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors header: the format's own limit."""
FILES_LIMIT = 1_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
"""Bits per number, by dtype."""
NAMES_CODE = {"auto_map", "custom_pipelines", "custom_generate", "trust_remote_code"}
"""Settings by which a Hugging Face folder asks for code of its own to be run."""
LORA = {
    "task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "r", "target_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias",
    "use_rslora", "use_dora", "init_lora_weights", "layers_to_transform", "qalora_group_size",
    "megatron_core",
}  # fmt: skip
"""Settings that an adapter may have. Any other must be off.

Through others PEFT imports modules by name (`auto_mapping`, `megatron_config`), puts whole layers
in place of the base's (`modules_to_save`), multiplies layers (`layer_replication`), or matches a
regular expression, which may take for ever (`layers_pattern`).
"""

Shapes = dict[str, list[int]]
"""Shapes of tensors, by their names."""


def audit(folder: Path) -> None:
    """Raises ModelError that lists all that is wrong with a model's folder."""
    _refuse(folder, adapter=False, wanted="config.json and *.safetensors, or fetch the model first")


def audit_adapter(folder: Path) -> None:
    """Raises ModelError that lists all that is wrong with the folder of a LoRA adapter.

    The adapter's `base_model_name_or_path` must never be followed (`AutoPeftModel` and
    `AutoModel` do): the base comes from params.yaml.
    """
    _refuse(folder, adapter=True, wanted="adapter_config.json and adapter_model.safetensors")


def _refuse(folder: Path, adapter: bool, wanted: str) -> None:
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder: name one with {wanted}")
    problems = []
    for name, wrong in _problems(folder, adapter):
        problems.append(f"{name}: {wrong}" if name else wrong)
    if problems:
        shown = problems[:10]
        if len(problems) > 10:
            shown.append(f"and {len(problems) - 10} more")
        raise ModelError(f"{folder} is not loaded, and nothing in it was run: {'; '.join(shown)}")


def _problems(folder: Path, adapter: bool) -> Iterator[tuple[str, str]]:
    """Yields each problem with the file that has it; the file is "" for a problem of the folder."""
    # First by name and kind: a file that is no ordinary file of a harmless kind is never opened.
    files: list[Path] = []
    for path, wrong in _entries(folder):
        if wrong:
            yield path.relative_to(folder).as_posix(), wrong
        else:
            files.append(path)

    # Then what the files say, one by one.
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
                shapes |= found
                bits += held
        except ValueError as error:
            yield name, str(error)

    # Then what they say about each other.
    names = {path.relative_to(folder).as_posix() for path in files}
    yield from _settings(documents, names)
    if adapter:
        yield from _adapter(documents.get("adapter_config.json"), shapes, names)
    else:
        yield from _model(documents.get("config.json"), bits, names)


def _entries(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yields every file below `folder` with what is wrong with its name or kind."""
    inside = _inside(folder)
    count = 0
    # os.walk does not follow links to folders, which could lead anywhere, or in a circle.
    for root, folders, files in os.walk(folder):
        for name in sorted(folders):
            if Path(root, name).is_symlink():
                yield Path(root, name), "a link to a folder"
        for name in sorted(files):
            count += 1
            # Without a limit, a folder such as / or a hostile archive would keep us busy for hours.
            if count > FILES_LIMIT:
                yield Path(root), f"more than {FILES_LIMIT} files: this is no model folder"
                return
            yield Path(root, name), _kind(Path(root, name), inside)


def _inside(folder: Path) -> Path:
    """Returns the folder in which links must end.

    This is the folder itself. In a Hugging Face cache it is the folder of all that belongs to the
    model, since the files of a snapshot are links to `blobs/` there.
    """
    real = folder.resolve()
    snapshots, model = real.parent, real.parent.parent
    if snapshots.name == "snapshots" and model.name.startswith("models--"):
        return model
    return real


def _kind(path: Path, inside: Path) -> str | None:
    """Returns what is wrong with a file's name or kind, without opening it."""
    if path.is_symlink():
        # A link could make any file of this machine part of a model, and so part of a version
        # that is registered and shared.
        target = path.resolve()
        if not target.is_relative_to(inside) and not _in_dvc_cache(target, inside):
            return "a link that leaves the folder"
        if not target.exists():
            return "a link to a file that is not there: fetch the model again"
    # Reading a pipe or a device might wait for ever, or have effects.
    if not stat.S_ISREG(path.stat().st_mode):
        return "not an ordinary file"
    # All endings count for code, since a shared object may be called kernel.so.1.
    suffixes = {suffix.lower() for suffix in path.suffixes}
    if suffixes & CODE:
        return "code, and a model needs none: take it out"
    # A library that finds no safetensors, or prefers the other file, would unpickle it.
    if path.suffix.lower() in PICKLES:
        return "may be a pickle, which runs code when it is read: keep the *.safetensors alone"
    return None


def _in_dvc_cache(target: Path, inside: Path) -> bool:
    """True if a target lies in DVC's cache of the project around the folder `inside`.

    With `dvc config cache.type symlink`, the files of a stage are links to there.
    """
    named = "".join(target.parts[-2:])
    if not re.fullmatch(r"[0-9a-f]{32}", named) or not target.is_file():
        return False
    # Not the folder itself: a stranger's may bring settings of its own.
    for folder in inside.parents:
        if (folder / ".dvc").is_dir():
            places = [cache.resolve() / "files" / "md5" for cache in _dvc_caches(folder / ".dvc")]
            return target.parent.parent in places
    return False


def _dvc_caches(settings: Path) -> Iterator[Path]:
    """Yields the folders that may be DVC's cache: its own, and those that its settings name."""
    yield settings / "cache"
    users = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    for file in (settings / "config", settings / "config.local", users / "dvc" / "config"):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue
        # DVC writes a relative place as it is from the file's own folder.
        if parser.has_option("cache", "dir"):
            yield file.parent / parser.get("cache", "dir").strip('"')


def _document(path: Path) -> Any:
    """Parses a settings file; returns None for a vocabulary that begins and ends as JSON does.

    Raises ValueError.
    """
    size = path.stat().st_size
    # JSON takes several times its size in memory.
    if size > JSON_LIMIT:
        raise ValueError(
            f"{size / 2**20:.0f} MiB of JSON, "
            f"over the {JSON_LIMIT // 2**20} MiB that any model needs"
        )
    if path.name in VOCABULARIES and size > 128:
        with path.open("rb") as file:
            first = file.read(64).lstrip()[:1]
            file.seek(-64, os.SEEK_END)
            last = file.read().rstrip()[-1:]
        if (first, last) != (b"{", b"}"):
            raise ValueError("broken JSON: cut short?")
        return None
    try:
        return json.loads(path.read_bytes())
    # Lists in lists, a hundred thousand deep, are valid JSON and exhaust the parser's stack.
    except (ValueError, RecursionError):
        raise ValueError("broken JSON: cut short?") from None


def _safetensors(path: Path) -> tuple[Shapes, int]:
    """Returns the shapes of a file's tensors and the bits that they hold, from the header alone.

    The format is 8 bytes of header length, little-endian; a JSON object `name: {dtype, shape,
    data_offsets}`; then the tensors without gaps. https://huggingface.co/docs/safetensors
    Raises ValueError if the header does not fit the file's size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        # Checked before the header is read, since its length is whatever the file says.
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > HEADER_LIMIT or 8 + length > size:
            raise ValueError(
                f"not safetensors, or cut short: {size} bytes can't hold "
                "the header that it speaks of"
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
    # In order of their places the tensors must fill the file from the header to its end.
    # Overlapping tensors would claim more weights than there are, and a gap or a tail could hide
    # anything.
    reached = 0
    for start, end in sorted(spans):
        if start != reached:
            raise ValueError(f"corrupt: a gap or an overlap at byte {reached} of its tensors")
        reached = end
    told = 8 + length + reached
    if told != size:
        raise ValueError(
            f"corrupt or cut short: its header speaks of {told} bytes, it has {size}: "
            "fetch it again"
        )
    return shapes, 8 * reached


def _tensor(name: str, tensor: Any) -> tuple[int, int, list[int]]:
    """Returns first byte, end and shape of a tensor by its entry in a header. Raises ValueError."""
    # Names are cut in messages: they come from the file, and may be a million characters long.
    name = f"{name[:80]!r}"
    try:
        bits, shape, (start, end) = BITS[tensor["dtype"]], tensor["shape"], tensor["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"corrupt: the header's entry of {name} is not one of a tensor") from None
    # `type(n) is int`, since True is an int for isinstance.
    if not isinstance(shape, list) or not all(
        type(n) is int and n >= 0 for n in [*shape, start, end]
    ):
        raise ValueError(f"corrupt: shape or offsets of {name} are no counts")
    # A shape that asks for more than the bytes there are would have us allocate it.
    wanted = math.prod(shape) * bits
    if wanted != (end - start) * 8:
        raise ValueError(
            f"corrupt: {name} has {end - start} bytes, and its shape asks for {wanted // 8}"
        )
    return start, end, shape


def _settings(documents: dict[str, Any], names: set[str]) -> Iterator[tuple[str, str]]:
    """Yields each setting, in any JSON of the folder, that asks for code or for files elsewhere."""
    for name, document in documents.items():
        for key, value in _walk(document):
            # We load with trust_remote_code=False; another tool that is given the same folder may
            # not.
            if key in NAMES_CODE and value:
                yield name, f"asks for code of its own to be run ({key})"
            # A path here would have the tokenizer read any file of this machine.
            if _names_a_file(key) and isinstance(value, str) and Path(value).name != value:
                yield name, f"names a file elsewhere ({key})"
        if name.endswith(".safetensors.index.json"):
            missing = _missing_shard(document, names)
            if missing is not None:
                yield name, f"speaks of {missing[:80]!r}, which is not there: fetch the model again"


def _names_a_file(key: str) -> bool:
    # Older tokenizers carry their maker's path as `special_tokens_map_file`, and transformers
    # does not read it.
    return key.endswith("_file") and key != "special_tokens_map_file"


def _missing_shard(index: Any, names: set[str]) -> str | None:
    """Returns a file that an index of weights names and that is not in the folder."""
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict):
        return None
    missing = {str(file) for file in weights.values()} - names
    return min(missing, default=None)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields all keys and values of a document, at any depth."""
    # A list of what is left instead of recursion: the depth is the file's choice.
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _model(config: Any, bits: int, names: set[str]) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with a model folder as a whole."""
    if "config.json" not in names:
        yield "", "no config.json: this is no model folder"
    elif not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        yield "config.json", "does not say its model_type"
    else:
        yield from _sizes(config, bits)
    if "adapter_config.json" in names:
        # transformers loads an adapter that lies beside a model without being asked to.
        wrong = (
            "an adapter inside a model folder, which would be loaded with it: keep the two apart"
        )
        yield "adapter_config.json", wrong
    if not any(name.endswith(".safetensors") and "/" not in name for name in names):
        yield "", "no *.safetensors: weights are taken in no other form"


def _sizes(config: dict[str, Any], bits: int) -> Iterator[tuple[str, str]]:
    """Yields a problem if the config speaks of far more weights than there are.

    Loading allocates what the config says. The count here is a lower bound, and even at one bit per
    weight it must fit what the files hold.
    """
    text = config.get("text_config")
    if not isinstance(text, dict):
        text = config
    hidden = text.get("hidden_size", 0)
    layers = text.get("num_hidden_layers", 0)
    words = text.get("vocab_size", 0)
    if not all(type(count) is int and count >= 0 for count in (hidden, layers, words)):
        yield "config.json", "hidden_size, num_hidden_layers or vocab_size is no count"
        return
    # Embeddings, and one square matrix per layer.
    weights = hidden * (words + layers * hidden)
    if weights > bits > 0:
        yield (
            "config.json",
            f"speaks of a model of {weights:.1e} weights or more, "
            f"and the files hold {bits / 8:.1e} bytes",
        )


def _adapter(config: Any, shapes: Shapes, names: set[str]) -> Iterator[tuple[str, str]]:
    """Yields what keeps an adapter from being a plain LoRA adapter, as we train them."""
    if "adapter_model.safetensors" not in names:
        yield "", "no adapter_model.safetensors: adapters are taken in no other form"
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        yield "adapter_config.json", "is not of a LoRA adapter (peft_type)"
        return
    # A list of what is allowed, and not of what is dangerous: PEFT gets new settings with every
    # release.
    on = []
    for key, value in config.items():
        if key not in LORA and value not in (None, False, {}, [], ""):
            on.append(key)
    if on:
        said = ", ".join(sorted(on))
        yield "adapter_config.json", f"sets {said[:200]}: only plain LoRA is loaded"
    # PEFT takes a text for a regular expression, and one may take for ever to match.
    if not isinstance(config.get("target_modules"), list):
        yield "adapter_config.json", "target_modules should be a list of names"
    if config.get("init_lora_weights") not in (True, False, None, "gaussian"):
        yield "adapter_config.json", "init_lora_weights changes the base's weights"
    # PEFT allocates matrices of the rank that the settings say before it reads the weights. A
    # tensor that is no LoRA weight could stand in for one of the base's.
    rank = config.get("r")
    for name, shape in shapes.items():
        if ".lora_" not in name or (".lora_A." in name and shape[:1] != [rank]):
            wrong = f"{name[:80]!r} is no LoRA weight of rank {str(rank)[:20]}"
            yield "adapter_model.safetensors", wrong
            return
