"""Hostile folders: each is refused by name before anything in it is loaded."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cowest.errors import ModelError
from cowest.models.audit import audit, audit_adapter

CONFIG = {"model_type": "llama", "hidden_size": 2, "num_hidden_layers": 1, "vocab_size": 3}
LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "auto_mapping": None,
    "base_model_name_or_path": "somewhere/else",
    "modules_to_save": None,
    "layers_pattern": "",
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "loftq_config": {},
    "use_qalora": False,
}


def safetensors(tensors: dict[str, list[int]], **changes: Any) -> bytes:
    """A whole file of 32-bit zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    reached = 0
    for name, shape in tensors.items():
        size = 4
        for count in shape:
            size *= count
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [reached, reached + size],
            **changes,
        }
        reached += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(reached)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"special_tokens_map_file": "/etc/x.json"})
    )
    (folder / "model.safetensors").write_bytes(safetensors({"embed": [3, 2], "layer": [2, 2]}))
    (folder / "README.md").write_text("# A model")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    (folder / "adapter_model.safetensors").write_bytes(
        safetensors({"m.q_proj.lora_A.weight": [2, 4], "m.q_proj.lora_B.weight": [4, 2]})
    )
    return folder


def put(name: str, content: bytes | str | dict[str, Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = json.dumps(content) if isinstance(content, dict) else content
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return change


def link(name: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(target)


WHOLE = safetensors({"embed": [3, 2], "layer": [2, 2]})

HOSTILE = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no *.safetensors"),
    "weights in a subfolder alone": (
        lambda folder: (folder / "model.safetensors").rename(folder / "README.md"),
        "no *.safetensors",
    ),
    "pickle": (put("pytorch_model.bin", pickle.dumps(print)), "pytorch_model.bin: may be a pickle"),
    "pickle below": (put("sub/optimizer.PT", b""), "sub/optimizer.PT: may be a pickle"),
    "a pickle called safetensors": (
        put("more.safetensors", pickle.dumps({"a": 1})),
        "more.safetensors: not safetensors",
    ),
    "python": (put("modeling_evil.py", "import os"), "modeling_evil.py: code"),
    "shared object": (put("kernel.so.1", b"\x7fELF"), "kernel.so.1: code"),
    "hidden python": (put(".hooks/a.pyc", b""), ".hooks/a.pyc: code"),
    "auto_map": (
        put("config.json", {**CONFIG, "auto_map": {"AutoModel": "modeling_evil.Model"}}),
        "code of its own",
    ),
    "auto_map deep": (
        put("config.json", {**CONFIG, "text_config": {"auto_map": {"AutoConfig": "a--b.C"}}}),
        "code of its own",
    ),
    "auto_map of the tokenizer": (
        put("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}),
        "tokenizer_config.json: asks",
    ),
    "a file elsewhere": (
        put("tokenizer_config.json", {"tokenizer_file": "../../etc/passwd"}),
        "names a file elsewhere",
    ),
    "link out": (link("vocab.txt", "/etc/passwd"), "vocab.txt: a link that leaves the folder"),
    "link up": (link("vocab.txt", "../secret.txt"), "vocab.txt: a link that leaves"),
    "link to nothing": (link("vocab.txt", "nothing.txt"), "not there"),
    "link to a folder": (link("all", "."), "all: a link to a folder"),
    "pipe": (lambda folder: os.mkfifo(folder / "merges.txt"), "not an ordinary file"),
    "broken settings": (put("config.json", '{"model_type": "lla'), "config.json: broken JSON"),
    "settings too deep": (put("config.json", "[" * 100_000), "config.json: broken JSON"),
    "settings of another kind": (put("config.json", "[1]"), "model_type"),
    "cut tokenizer": (
        put("tokenizer.json", '{"a": "' + "x" * 5 * 2**20),
        "tokenizer.json: broken JSON",
    ),
    "cut weights": (put("model.safetensors", WHOLE[:-1]), "cut short"),
    "weights with a tail": (put("model.safetensors", WHOLE + b"\0"), "corrupt or cut short"),
    "empty weights": (put("model.safetensors", b""), "not safetensors, or cut short"),
    "endless header": (
        put("model.safetensors", (2**63).to_bytes(8, "little") + b"{}"),
        "not safetensors, or cut short",
    ),
    "header that is none": (
        put("model.safetensors", (2).to_bytes(8, "little") + b"[]"),
        "no JSON object",
    ),
    "overlap": (
        put("model.safetensors", safetensors({"a": [2], "b": [2]}, data_offsets=[0, 8])),
        "a gap or an overlap",
    ),
    "shape that lies": (
        put("model.safetensors", safetensors({"a": [2]}, shape=[2**40])),
        "its shape asks for",
    ),
    "negative shape": (
        put("model.safetensors", safetensors({"a": [2]}, shape=[-1, -2])),
        "are no counts",
    ),
    "unknown dtype": (
        put("model.safetensors", safetensors({"a": [2]}, dtype="PICKLE")),
        "not one of a tensor",
    ),
    "shard that is not there": (
        put("model.safetensors.index.json", {"weight_map": {"a": "model-2.safetensors"}}),
        "which is not there",
    ),
    "shard elsewhere": (
        put("model.safetensors.index.json", {"weight_map": {"a": "../x.safetensors"}}),
        "which is not there",
    ),
    "larger than its weights": (
        put("config.json", {**CONFIG, "num_hidden_layers": 10**9}),
        "speaks of a model",
    ),
    "size that is none": (put("config.json", {**CONFIG, "vocab_size": "many"}), "is no count"),
    "adapter inside": (put("adapter_config.json", LORA), "keep the two apart"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_model_is_refused(model: Path, case: str) -> None:
    change, said = HOSTILE[case]
    change(model)
    with pytest.raises(ModelError) as refused:
        audit(model)
    assert said in str(refused.value)
    assert str(model) in str(refused.value)


HOSTILE_ADAPTERS = {
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "no adapter_model.safetensors",
    ),
    "weights as a pickle": (put("adapter_model.bin", b""), "may be a pickle"),
    "training arguments": (put("training_args.bin", b""), "may be a pickle"),
    "another method": (
        put("adapter_config.json", {**LORA, "peft_type": "XLORA"}),
        "is not of a LoRA adapter",
    ),
    "a library to import": (
        put("adapter_config.json", {**LORA, "auto_mapping": {"parent_library": "antigravity"}}),
        "sets auto_mapping",
    ),
    "a backend to import": (
        put("adapter_config.json", {**LORA, "megatron_config": {"a": 1}}),
        "sets megatron_config",
    ),
    "whole layers": (
        put("adapter_config.json", {**LORA, "modules_to_save": ["lm_head"]}),
        "sets modules_to_save",
    ),
    "layers multiplied": (
        put("adapter_config.json", {**LORA, "layer_replication": [[0, 10**6]]}),
        "sets layer_replication",
    ),
    "a pattern": (
        put("adapter_config.json", {**LORA, "target_modules": "(a+)+$"}),
        "should be a list",
    ),
    "a pattern of layers": (
        put("adapter_config.json", {**LORA, "layers_pattern": ["(a+)+$"]}),
        "sets layers_pattern",
    ),
    "base changed": (
        put("adapter_config.json", {**LORA, "init_lora_weights": "pissa"}),
        "changes the base",
    ),
    "rank that lies": (put("adapter_config.json", {**LORA, "r": 10**9}), "no LoRA weight of rank"),
    "other tensors": (
        put("adapter_model.safetensors", safetensors({"m.lm_head.weight": [2, 2]})),
        "no LoRA weight",
    ),
    "code": (put("__init__.py", ""), "code"),
    "broken": (put("adapter_config.json", "{"), "broken JSON"),
}


@pytest.mark.parametrize("case", HOSTILE_ADAPTERS)
def test_a_hostile_adapter_is_refused(adapter: Path, case: str) -> None:
    change, said = HOSTILE_ADAPTERS[case]
    change(adapter)
    with pytest.raises(ModelError) as refused:
        audit_adapter(adapter)
    assert said in str(refused.value)


def test_whole_folders_pass(model: Path, adapter: Path) -> None:
    audit(model)
    audit_adapter(adapter)
    (model / "same.json").symlink_to("config.json")
    audit(model)


def test_each_is_refused_in_the_place_of_the_other(model: Path, adapter: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        audit(adapter)
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        audit_adapter(model)
    with pytest.raises(ModelError, match="no such folder"):
        audit(model / "nowhere")


def test_the_hub_cache_may_link_to_its_own_blobs_and_no_further(
    tmp_path: Path, model: Path
) -> None:
    cached = tmp_path / "models--x--y"
    snapshot = cached / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (cached / "blobs").mkdir()
    for path in model.iterdir():
        path.rename(cached / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    audit(snapshot)
    (tmp_path / "models--x--z").mkdir()
    (tmp_path / "models--x--z" / "vocab.txt").write_text("")
    (snapshot / "vocab.txt").symlink_to("../../../models--x--z/vocab.txt")
    with pytest.raises(ModelError, match="leaves the folder"):
        audit(snapshot)


def test_all_that_is_wrong_is_listed_at_once(model: Path) -> None:
    put("a.py", "")(model)
    put("b.pkl", b"")(model)
    (model / "config.json").unlink()
    with pytest.raises(ModelError) as refused:
        audit(model)
    assert all(part in str(refused.value) for part in ("a.py", "b.pkl", "no config.json"))


@pytest.mark.parametrize("where", ["of its own", "named from .dvc", "named in config.local"])
def test_links_into_the_cache_of_dvc_are_files_and_others_are_not(
    tmp_path: Path, adapter: Path, where: str
) -> None:
    project = tmp_path / "project"
    settings = project / ".dvc"
    settings.mkdir(parents=True)
    place = settings / "cache"
    if where == "named from .dvc":
        place = tmp_path / "shared"
        (settings / "config").write_text("[cache]\n    dir = ../../shared\n    type = symlink\n")
    if where == "named in config.local":
        place = tmp_path / "disk 2"
        (settings / "config.local").write_text(f"[cache]\n    dir = {place}\n")
    tracked = project / "models" / "policy" / "adapter"
    tracked.mkdir(parents=True)
    for number, path in enumerate(sorted(adapter.iterdir())):
        cached = place / "files" / "md5" / f"{number:02x}" / ("0" * 30)
        cached.parent.mkdir(parents=True)
        path.rename(cached)
        (tracked / path.name).symlink_to(cached)
    audit_adapter(tracked)
    # Beside the files that DVC keeps by their MD5 there may be others.
    other = place / "files" / "md5" / "00" / "notes.txt"
    other.write_text("")
    (tracked / "notes.txt").symlink_to(other)
    with pytest.raises(ModelError, match=r"notes\.txt: a link that leaves the folder"):
        audit_adapter(tracked)
    # Nor may a folder bring a cache of its own, in which anything may lie.
    (tracked / "notes.txt").unlink()
    (tmp_path / "elsewhere").mkdir()
    moved = tracked.rename(tmp_path / "elsewhere" / "adapter")
    with pytest.raises(ModelError, match="leaves the folder"):
        audit_adapter(moved)
