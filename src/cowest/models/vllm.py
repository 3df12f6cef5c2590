"""A local model that vLLM runs, for batches: many sequences at once, on a GPU or a CPU.

vLLM pins other versions of the libraries that training needs, so it has an environment of its own,
and runs in a process of its own (`vllm_process`, `vllm_worker`). That process is given token ids
and gives token ids back: a prompt becomes tokens, and an answer ends and becomes text, by the class
that `provider: hf` uses (`writing`).

A completion's seed comes from its call's key, so a sample asked alone is the same, apart from
rounding in near ties: vLLM's arithmetic depends on what is decoded beside it.
"""

import json
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cowest.batched import batched
from cowest.config import Config, Sampling, file_digest
from cowest.errors import ConfigError, ModelError
from cowest.ledger import account, store
from cowest.models import audit, hf
from cowest.models.decoding import THIRD
from cowest.models.hf import HFConfig
from cowest.models.vllm_process import Worker, WorkerAnswer
from cowest.models.writing import Growing, Writing
from cowest.protocols import BLOCK, AsyncChatModel, Completion, Request

LOOK = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
MARK = "~vllm"
"""Mark in a model's name: vLLM draws other samples than `hf` does."""


class VLLMConfig(Config):
    """A local model that vLLM runs, in an environment and a process of its own."""

    provider: Literal["vllm"] = "vllm"
    model: str
    """A folder (relative to params.yaml), the name of an embedded model (`cowest fetch`), or the
    name of a Hugging Face model that is in the local cache."""
    python: str = Field(min_length=1)
    """Python interpreter of the environment in which vLLM is installed, such as
    `/opt/vllm/bin/python`. A path with a slash is relative to params.yaml; a name without one is
    looked up in PATH."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    """Number format in which the model answers. An adapter is loaded only on the base and in the
    number format that it was trained with."""
    chat_template: str | None = None
    """A Jinja template instead of the tokenizer's own, as for `provider: hf`."""
    context: int | None = Field(default=None, ge=2)
    """Most tokens of a prompt with its answer; null takes the model's context length. Lower it if
    vLLM says that its cache can't hold one sequence."""
    rows: int = Field(default=256, ge=1)
    """Sequences decoded at once. Lower it if memory runs out."""
    gpu_memory: float = Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory that vLLM reserves while the stage drafts. It is given back
    after."""
    cache: float | None = Field(default=None, gt=0)
    """Memory for keys and values (KV cache), in GiB; null takes what gpu_memory leaves. Set it on a
    CPU."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that the model is spread over."""
    eager: bool = False
    """Decode without compiling the model first. vLLM then starts in a fraction of the time and
    decodes slower; set it for small batches."""
    timeout: float = Field(default=1800, gt=0)
    """Seconds that vLLM may take to load the model, or stay silent while calls wait. Raise it for
    large models on slow disks."""

    @contextmanager
    def open(self, adapter: Path | None = None) -> Iterator["VLLMModel"]:
        """Starts vLLM with the model and its adapter, and ends it afterwards.

        Its memory is free again then. Raises ModelError before anything unsafe is read, and for a
        model that vLLM does not load; ConfigError for an interpreter that is not there.
        """
        base = self.base()
        folder = base.folder()
        name = base.base_name(folder)
        settings = self._settings(folder, None)
        if adapter is not None:
            audit.audit_adapter(adapter)
            hf.same_base(adapter, name)
            name += f"+{file_digest(adapter)[:12]}"
            settings = self._settings(folder, adapter)
        interpreter = self.interpreter()
        writing = hf.open_writing(base, name + MARK)
        if writing.chat.dated:
            writing.name += THIRD
        writing.context = min(writing.context, self.context or writing.context)
        with Worker(interpreter, settings, self.timeout, self.model) as worker:
            yield VLLMModel(writing, worker, self.rows)

    def open_async(
        self, adapter: Path | None = None
    ) -> AbstractAsyncContextManager[AsyncChatModel]:
        """Raises ModelError: this provider can't serve; a vLLM server or `provider: hf` can."""
        raise ModelError(
            f"{self.model}: provider vllm answers batches, and nobody who waits: serve with "
            "provider hf, or with a vLLM server as provider openai (adapters_of)"
        )

    def base(self) -> HFConfig:
        """The base as `provider: hf` has it: its files, its identity, its chat template."""
        return HFConfig(model=self.model, dtype=self.dtype, chat_template=self.chat_template)

    def interpreter(self) -> str:
        """The interpreter's path or name. Raises ConfigError if nothing there can be started."""
        # A link must not be followed: by its own place an environment's interpreter knows its
        # packages.
        found = shutil.which(self.python)
        if found is None:
            raise ConfigError(
                f"{self.model}: python: {self.python} is no program that can be started: name the "
                "interpreter of the environment that vLLM is installed in (docs/models.md says how "
                "to make one)"
            )
        return str(Path(found).absolute())

    def has_vllm(self) -> None:
        """Raises ConfigError unless the interpreter is there and its environment has vLLM."""
        interpreter = self.interpreter()
        try:
            # It looks for the package without importing it, which takes seconds.
            looked = subprocess.run(  # noqa: S603
                [interpreter, "-I", "-c", LOOK], capture_output=True, timeout=60, check=False
            )
            missing = looked.returncode != 0
        except (OSError, subprocess.TimeoutExpired):
            missing = True
        if missing:
            raise ConfigError(
                f"{self.model}: python: the environment of {self.python} has no vllm: install it "
                "there (docs/models.md), or name another interpreter"
            )

    def _settings(self, folder: Path, adapter: Path | None) -> dict[str, Any]:
        """Returns the settings by which the worker loads the model."""
        lora = None
        if adapter is not None:
            shape = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
            lora = {"path": str(adapter.absolute()), "rank": int(shape["r"])}
        return {
            "model": str(folder.absolute()),
            "dtype": self.dtype,
            "context": self.context,
            "rows": self.rows,
            "gpu_memory": self.gpu_memory,
            "cache": None if self.cache is None else int(self.cache * 2**30),
            "tensor_parallel": self.tensor_parallel,
            "eager": self.eager,
            "adapter": lora,
        }


@dataclass(slots=True)
class VLLMCall:
    """A call, and its completion once there is one."""

    key: str
    sampling: Sampling
    prompt: Sequence[int] = ()
    completion: Completion | None = None


class VLLMModel:
    """A ChatModel over a worker that runs vLLM."""

    def __init__(self, writing: Writing, worker: Worker, rows: int) -> None:
        self.name = writing.name
        self.writing = writing
        self.worker = worker
        # Rows of one window wait for their turn while those of the other are decoded.
        self._window = max(2 * rows, BLOCK)
        self._under_way: dict[int, VLLMCall] = {}
        self._numbers: dict[str, int] = {}
        """Number of each call under way, by its key."""
        self._number = 0
        self._since = time.monotonic()

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yields one completion per request, in order.

        Only calls that the store can't answer are asked, each once. Calls that a stopped reader
        left under way go on, and their answers are kept.
        """
        return account.counted(self._completions, requests)

    def _completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        answered = store.open_store()
        waiting: deque[VLLMCall] = deque()
        parts = batched(requests, BLOCK)
        part: Sequence[Request] | None = ()
        while True:
            while part is not None and len(waiting) < self._window:
                part = next(parts, None)
                waiting += self._begin(part or (), answered)
            if not waiting:
                return
            while (completion := waiting[0].completion) is None:
                self._collect(answered)
            waiting.popleft()
            yield completion

    def _begin(self, requests: Sequence[Request], answered: store.CallStore) -> list[VLLMCall]:
        """Looks calls up, and sends those that are neither answered nor under way."""
        keyed = [(self._key(request), request) for request in requests]
        found = answered.get([key for key, _ in keyed])
        begun, new = [], []
        for key, request in keyed:
            number = self._numbers.get(key)
            asked = self._under_way[number] if number is not None else None
            if asked is None:
                asked = VLLMCall(key, request.sampling, completion=found.get(key))
                if asked.completion is None:
                    new += self._message(asked, request)
            begun.append(asked)
        if new:
            if len(self._under_way) == len(new):
                self._since = time.monotonic()
            self.worker.ask(new)
        return begun

    def _key(self, request: Request) -> str:
        """The key of a call, with the mark of one whose prompt became other tokens before."""
        again = self.writing.chat.breaks_more_up(request.messages)
        name = self.name
        return request.key(name + THIRD if again and not name.endswith(THIRD) else name)

    def _message(self, asked: VLLMCall, request: Request) -> list[dict[str, Any]]:
        """Returns a call in the worker's form; nothing for a call that exceeds the context."""
        asked.prompt = self.writing.tokens(request)
        asked.completion = self.writing.unfit(asked.prompt, asked.sampling)
        if asked.completion is not None:
            return []
        self._number += 1
        self._under_way[self._number] = asked
        self._numbers[asked.key] = self._number
        message = {
            "id": self._number,
            "prompt": asked.prompt,
            "max_tokens": asked.sampling.max_tokens,
            "temperature": asked.sampling.temperature,
            "top_p": asked.sampling.top_p,
            "seed": int(asked.key[:15], 16),
            "ends": sorted(self.writing.chat.ends),
            "stop": list(asked.sampling.stop),
        }
        return [message]

    def _collect(self, answered: store.CallStore) -> None:
        """Takes the answers that have come, at least one, and keeps them before they are seen."""
        told = self.worker.told()
        now = time.monotonic()
        seconds, self._since = (now - self._since) / len(told), now
        version = f"vllm {self.worker.version}"
        new = []
        for answer in told:
            asked = self._under_way.pop(answer.id, None)
            if asked is None:
                raise self.worker.broken(f"an answer to a call {answer.id} that nobody made")
            del self._numbers[asked.key]
            completion = self._completed(asked, answer)
            new.append((asked, store.StoredAnswer(asked.key, completion, seconds, version=version)))
        answered.put([stored for _, stored in new])
        for asked, stored in new:
            asked.completion = stored.completion

    def _completed(self, asked: VLLMCall, answer: WorkerAnswer) -> Completion:
        """The completion of an answer, which ends where `provider: hf` ends it."""
        if answer.failed is not None:
            return Completion(
                None, self.name, "failed", answer.failed, prompt_tokens=len(asked.prompt)
            )
        sampling = asked.sampling
        if not 1 <= len(answer.tokens) == len(answer.logprobs) <= sampling.max_tokens:
            raise self.worker.broken(
                f"{len(answer.tokens)} tokens and {len(answer.logprobs)} log-probabilities, where "
                f"{sampling.max_tokens} of each are the most"
            )
        grown = Growing()
        for token, logprob in zip(answer.tokens, answer.logprobs, strict=True):
            if not grown.ended:
                self.writing.grow(grown, token, logprob, sampling.stop)
        # vLLM may see a stop text in letters that are two tokens' together, before we do.
        grown.ended = grown.ended or len(answer.tokens) < sampling.max_tokens
        return self.writing.completion(grown, asked.prompt, sampling)
