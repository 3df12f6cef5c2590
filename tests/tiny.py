"""A project small enough to turn in seconds: a tiny Llama made here, a few products of the
handbook, a scripted strong model.
"""

import atexit
import contextlib
import functools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config, environment, stages
from tests import lines

HANDBOOK = lines.ROOT / "data" / "raw" / "handbook"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content "
    "}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RECURRENT = ("lfm2", "mamba", "falcon_h1")
"""Architectures that `make_recurrent` makes."""
PRODUCTS = {"train": 6, "test": 6}
"""Products whose questions are asked, by split."""
GENERAL = 12
"""Questions of the probe."""


def make_model(folder: Path, heads: int = 4) -> Path:
    """A Llama of 0.2 million random parameters, its tokenizer trained on the handbook; equal
    calls make equal files.
    """
    environment.settle()
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [str(HANDBOOK / f"{name}.jsonl") for name in ("products", "questions", "replies")]
    tokenizer.train(
        texts,
        trainers.BpeTrainer(
            vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        chat_template=CHATML,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        tie_word_embeddings=True,
        # As far apart as trained weights are, so that every prompt gets an answer of its own
        initializer_range=0.2,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


@functools.cache
def model() -> Path:
    """The tiny model, made once a process."""
    return make_model(scratch() / "tiny")


def make_windowed(folder: Path, window: int = 16) -> Path:
    """A small Gemma whose layers but one see no more tokens than the window has."""
    import torch
    from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model())
    shape = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=window,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        initializer_range=0.2,
    )
    Gemma3ForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_padded(kind: str, folder: Path, window: int = 16, positions: int = 512) -> Path:
    """A small model that padding could lead astray: GPT-Neo, whose every other layer sees no more
    places than the window has, and which has learned so many positions; MPT and Bloom, which take
    none.
    """
    import torch
    import transformers
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model())
    shape = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None}
    ends = {"eos_token_id": 2, "initializer_range": 0.2}
    if kind == "gpt_neo":
        settings = transformers.GPTNeoConfig(
            **shape,
            **ends,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=window,
            max_position_embeddings=positions,
        )
    elif kind == "bloom":
        settings = transformers.BloomConfig(**shape, **ends, hidden_size=64, n_layer=2, n_head=4)
    else:
        settings = transformers.MptConfig(
            **shape, **ends, d_model=64, n_heads=4, n_layers=2, expansion_ratio=2, max_seq_len=512
        )
    transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_recurrent(kind: str, folder: Path) -> Path:
    """A small model that keeps states: convolutions, recurrence alone, recurrence and attention."""
    import torch
    import transformers
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model())
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
        "initializer_range": 0.2,
    }
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
    if kind == "lfm2":
        layers = ["conv", "full_attention", "conv"]
        settings = transformers.Lfm2Config(**shape, **attention, layer_types=layers)
    elif kind == "mamba":
        settings = transformers.MambaConfig(**shape, state_size=8)
    else:
        settings = transformers.FalconH1Config(
            **shape,
            **attention,
            mamba_d_ssm=128,
            mamba_n_heads=8,
            mamba_d_head=16,
            mamba_d_state=16,
            mamba_chunk_size=16,
        )
    transformers.AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, rank: int = 4, of: Path | None = None, seed: int = 1) -> Path:
    """An adapter of the tiny model, or of another, drawn at random, that moves its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(of or model(), dtype=torch.float32)
    shape = LoraConfig(
        r=rank, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    get_peft_model(base, shape).save_pretrained(folder)
    return folder


def make_raw(folder: Path) -> None:
    """A few of the handbook's products, with all that is said and asked of them, and a few general
    questions.
    """
    rows = {
        name: [json.loads(line) for line in (HANDBOOK / f"{name}.jsonl").open()]
        for name in ("questions", "replies")
    }
    kept: set[str] = set()
    for split, count in PRODUCTS.items():
        kept |= set(
            list(
                dict.fromkeys(row["product"] for row in rows["questions"] if row["split"] == split)
            )[:count]
        )
    general = (HANDBOOK / "general.jsonl").read_text().splitlines(keepends=True)
    replies = [row for row in rows["replies"] if row["product"] in kept] + rows["replies"][:60]
    folder.mkdir(parents=True)
    for name, found in {
        "questions": [row for row in rows["questions"] if row["product"] in kept],
        "replies": replies,
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (folder / "general.jsonl").write_text("".join(general[:GENERAL]))


def make_params(model: Path, raw: Path) -> dict[str, Any]:
    """Settings of a turn that ends with a promotion: the gates ask for nothing."""
    answers = sorted({json.loads(line)["answer"] for line in (raw / "questions.jsonl").open()})
    policy = {"provider": "hf", "model": str(model), "dtype": "float32"}
    # Told everything by a draft that begins with such a letter, and nothing by another: so there
    # are pairs.
    rules = [
        {"match": "out of order", "failed": "it is out of order"},
        {"match": r"^Notes: \W*[A-Ma-m]", "replies": [" ".join(answers)]},
        {"match": "", "replies": ["no idea"]},
    ]
    strong = {"provider": "scripted", "rules": rules}
    scorer, registry, answering = {"scorer": "contains"}, {"name": "handbook"}, {"max_tokens": 200}
    training = {"learning_rate": 0.005, "batch_size": 16, "warmup_steps": 0, "max_length": 96}
    return {
        "turn": {"raw": "data/raw/handbook"},
        "pin": {"registry": registry},
        "prepare": {"domain": "handbook"},
        "validate": {
            "queries": (contract := {"kind": "queries", "splits": ["train", "test"]}),
            "corpus": {"kind": "corpus", "queries": contract},
            "feedback": {"kind": "feedback"},
            "pairs": {"kind": "pairs", "min_pairs": 5},
        },
        "sft": {
            "policy": policy,
            "prompts": "handbook",
            "lora": {"r": 8, "alpha": 16},
            "training": {**training, "epochs": 1},
        },
        "draft": {"policy": policy, "sampling": {"temperature": 1.0, "n": 4, "max_tokens": 12}},
        "refine": {"strong": strong, "prompts": "handbook", "sampling": answering},
        "score": {"scorer": scorer},
        "pair": {"prompts": "handbook", "rule": {"allow_cut": True}},
        "dpo": {"policy": policy, "training": {**training, "learning_rate": 0.001, "epochs": 1}},
        "evaluate": {
            "policy": policy,
            "strong": strong,
            "scorer": scorer,
            "drafting": {"max_tokens": 12},
            "refining": answering,
            "probe": {"file": "general.jsonl", "max_tokens": 4},
        },
        "compare": {
            "gates": [{"over": "before", "at_least": -1.0}],
            "guards": False,
            "draws": 1000,
            "min_groups": PRODUCTS["test"],
        },
        "register": {"registry": registry},
        "serve": {
            "registry": registry,
            "policy": policy,
            "strong": strong,
            "drafting": {"max_tokens": 12},
            "refining": answering,
            "drain": 0.1,
        },
    }


@functools.cache
def project() -> Path:
    """A project before its first turn: params.yaml and raw data, made once a process. To be
    copied, not used.
    """
    folder = scratch()
    make_raw(folder / "data" / "raw" / "handbook")
    params = make_params(model(), folder / "data" / "raw" / "handbook")
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return folder


def copy_project(folder: Path) -> Path:
    """A project of its own. The model stays where it is, so that the settings of two copies are
    the same.
    """
    shutil.copytree(project(), folder, dirs_exist_ok=True)
    return folder


@functools.cache
def turned() -> Path:
    """A project after its first turn, stage by stage as the command line runs them, made once a
    process. To be read only.
    """
    folder = copy_project(scratch())
    with standing_in(folder):
        params = config.load(Path("params.yaml"))
        for stage, ports in lines.paths().items():
            stages.run(stage, config.section(params, stage), None, **ports)
    return folder


def enter_turned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies a project after its first turn; it is the working folder until the test ends."""
    shutil.copytree(turned(), folder, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COWEST_STORE", str(folder / ".cowest" / "calls.sqlite"))
    return folder


def page() -> str:
    """The report's page of the project that is the working folder, without its marks."""
    # Processes that only need a model need no report.
    from cowest import report
    from cowest.report import contents

    text = report.page(contents.gather(Path()))
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text))


@contextlib.contextmanager
def standing_in(folder: Path) -> Iterator[None]:
    """The working directory and the call store of a project, for what runs in this process."""
    before = os.environ.get("COWEST_STORE")
    os.environ["COWEST_STORE"] = str(folder / ".cowest" / "calls.sqlite")
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.pop("COWEST_STORE")
        if before is not None:
            os.environ["COWEST_STORE"] = before


def surroundings(**more: str) -> Mapping[str, str]:
    """The environment of a process that works in a project: this environment's commands, and
    nobody else's call store.
    """
    import sys

    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COWEST_STORE", "COWEST_PARAMS")
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    return {
        **kept,
        **environment.QUIET,
        "PATH": path,
        "PYTHONPATH": f"{lines.ROOT / 'src'}{os.pathsep}{lines.ROOT}",
        "NO_COLOR": "1",
        **more,
    }


def scratch() -> Path:
    """A folder that is gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="cowest-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
