"""vLLM itself, in the environment that `make test-vllm` makes: small, so that it runs on a CPU.

Starting it takes minutes on a busy machine, so tests share what is open: the tiny model without
and with an adapter, and the embedded one. Each takes some 2 GB of memory.
"""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cowest.models.vllm import VLLMConfig, VLLMModel
from cowest.models.vllm_process import surroundings
from tests import lines, tiny
from tests.servers import free_port

EMBEDDED = "smollm2-135m-instruct"

_open = ExitStack()
_held: dict[str, VLLMModel] = {}
atexit.register(_open.close)


@functools.cache
def tiny_model() -> Path:
    """The tiny model with heads of 32, since vLLM's kernel for CPUs has none of 16."""
    folder = Path(tempfile.mkdtemp(prefix="cowest-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return tiny.make_model(folder / "tiny", heads=2)


@functools.cache
def adapter() -> Path:
    """An adapter of that model that moves its answers."""
    return tiny.make_adapter(tiny_model().parent / "adapter", of=tiny_model())


def python() -> str:
    """The interpreter of that environment."""
    found = os.environ.get("COWEST_VLLM", str(lines.ROOT / ".bench" / "vllm" / "bin" / "python"))
    if not Path(found).exists():
        pytest.fail(f"{found} is not there: run make test-vllm")
    return found


def config(model: Path | str, **settings: Any) -> VLLMConfig:
    """A model in vLLM, started quickly."""
    small: dict[str, Any] = {"rows": 32, "cache": 1, "eager": True, "context": 512, **settings}
    return VLLMConfig(model=str(model), python=python(), **small)


def held(wanted: VLLMConfig, adapter: Path | None = None) -> VLLMModel:
    """The model of these settings, open until all are let go or the tests end."""
    name = f"{wanted.model_dump_json()} {adapter}"
    if name not in _held:
        _held[name] = _open.enter_context(wanted.open(adapter=adapter))
    return _held[name]


def let_go() -> None:
    """Ends what is held, so that its memory is free."""
    _held.clear()
    _open.close()


@contextmanager
def server(model: Path, name: str, *more: str) -> Iterator[tuple[str, int]]:
    """vLLM's own server, which may load adapters at run time: its URL, and its process group."""
    port = free_port()
    environment = {**surroundings(os.environ), "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    line = [
        *[python(), "-I", "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)],
        *["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)],
        *["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(2**30), *more],
    ]
    process = subprocess.Popen(
        line,
        env=environment,
        process_group=0,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 1800
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < until, "it does not start"
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
