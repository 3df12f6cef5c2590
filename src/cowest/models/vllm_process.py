"""Starts, asks and ends the process that runs vLLM.

It is other software in another environment, so everything that it sends is checked: the size of a
frame, the type of each value, and the length of its silence.
"""

import io
import os
import re
import select
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cowest.errors import ModelError
from cowest.models import vllm_worker

FAREWELL = 10.0
"""Seconds that the worker has to end by itself."""
LAST = 40
"""Number of last lines of its standard error that are kept."""
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|^COWEST_|^PYTHON", re.IGNORECASE)
"""Variables that the worker must not see, and those that would change its Python."""
SET = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""Variables of the worker: it sends and fetches nothing over the network, and logs little."""


B = TypeVar("B", bound=BaseModel)


class WorkerAnswer(BaseModel):
    """The answer to one request: its tokens, or the reason for none."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    id: int
    tokens: list[int] = []
    """Token ids, with the one that ended the answer."""
    logprobs: list[float] = []
    failed: str | None = Field(default=None, max_length=vllm_worker.WORDS)

    def model_post_init(self, _: Any) -> None:
        if any(not 0 <= token < 2**31 for token in self.tokens):
            raise ValueError("tokens: a number that is no token id")
        if any(logprob > 1e-3 for logprob in self.logprobs):
            raise ValueError("logprobs: the logarithm of more than 1")


class Ready(BaseModel):
    """The worker's message once it has loaded."""

    model_config = ConfigDict(strict=True, extra="forbid")

    version: str = Field(max_length=100)


class Told(BaseModel):
    """A message of answers."""

    model_config = ConfigDict(strict=True, extra="forbid")

    told: list[WorkerAnswer] = Field(min_length=1)


class SilentError(Exception):
    """Nothing came in time."""


class Worker:
    """A worker with its model loaded, for the length of a `with` block."""

    def __init__(
        self, interpreter: str, settings: Mapping[str, Any], timeout: float, name: str
    ) -> None:
        """`name` is that of the model, for messages; `timeout` is in seconds."""
        self._command = [interpreter, "-I", str(Path(vllm_worker.__file__).absolute())]
        self._settings, self._timeout, self._name = settings, timeout, name
        self._said: deque[str] = deque(maxlen=LAST)
        self._failed: ModelError | None = None
        self.version = ""
        """Version of the worker's vLLM; empty until the model is loaded."""

    def __enter__(self) -> Self:
        """Starts it. Raises ModelError for one that does not load the model."""
        try:
            # In a group of its own: vLLM starts more processes, and all are ended as one.
            self._process = subprocess.Popen(  # noqa: S603
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=surroundings(os.environ),
                process_group=0,
                bufsize=0,
            )
        except OSError as error:
            raise ModelError(
                f"{self._name}: {self._command[0]} does not start ({error.strerror}): name the "
                "interpreter of the environment that vLLM is installed in"
            ) from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._sink = cast(BinaryIO, io.BufferedWriter(cast(io.RawIOBase, self._process.stdin)))
        self._source = _Timed(self._process.stdout.fileno(), self._timeout)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self._load()
            self.version = self._checked(Ready, self._receive().get("ready")).version
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def group(self) -> int:
        """The process group of the worker and of all that it started."""
        return self._process.pid

    def ended(self, seconds: float) -> bool:
        """Waits up to so many seconds for the worker's end, and says if it came."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def ask(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Sends requests. `told` raises for a worker that is gone, after what it still said."""
        with suppress(BrokenPipeError, ConnectionError):
            vllm_worker.send(self._sink, {"ask": requests})

    def told(self) -> list[WorkerAnswer]:
        """Returns the answers that have come; waits for the first. Raises ModelError."""
        if self._failed is not None:
            raise self._failed
        answers = self._checked(Told, self._receive()).told
        try:
            while self._source.has_more():
                answers += self._checked(Told, self._receive()).told
        except ModelError as error:
            # What came before it is kept first.
            self._failed = error
        return answers

    def broken(self, what: str) -> ModelError:
        """Makes the error for a worker that sends something invalid."""
        return ModelError(
            f"{self._name}: the worker of {self._command[0]} sent {what}: is another vLLM in that "
            "environment than CoWest is tested with (docs/models.md)? What was answered before is "
            "kept"
        )

    def _load(self) -> None:
        try:
            vllm_worker.send(self._sink, {"load": self._settings})
        except (BrokenPipeError, ConnectionError):
            # What it said last tells more than that it is gone.
            self._receive()
            raise self._gone() from None

    def _receive(self) -> dict[str, Any]:
        """Reads one message. Raises ModelError for a last one, and for anything else than one."""
        try:
            message = vllm_worker.receive(cast(BinaryIO, self._source))
        except vllm_worker.CutError:
            raise self._gone() from None
        except vllm_worker.FrameError as error:
            raise self.broken(str(error)) from None
        except SilentError:
            raise ModelError(
                f"{self._name}: vLLM said nothing in {self._timeout:g} s: raise timeout if it "
                "needs longer; what was answered before is kept"
            ) from None
        if message is None:
            raise self._gone()
        reason = message.get("broken")
        if isinstance(reason, str):
            raise ModelError(
                f"{self._name}: vLLM can't go on with this model, its adapter or these settings "
                f"({self._cause(reason[: vllm_worker.WORDS])}): mend what it names; provider hf "
                "may load what vLLM does not"
            )
        return message

    def _checked(self, kind: type[B], message: Any) -> B:
        try:
            return kind.model_validate(message)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise self.broken(f"no answer ({place}: {first['msg']})") from None

    def _gone(self) -> ModelError:
        """Makes the error for a worker that ended."""
        self.ended(FAREWELL)
        self._listener.join(1.0)
        code = self._process.returncode
        how = f"exit code {code}"
        if code is None:
            how = "its output is closed"
        elif code < 0:
            how = f"killed by signal {-code}"
        if code == -signal.SIGKILL:
            how += ", as a machine does that runs out of memory"
        said = self._cause("")
        more = f"; it said last: {said}" if said else ""
        return ModelError(
            f"{self._name}: vLLM ended in the middle ({how}{more}): what was answered before is "
            "kept; run the stage again, with lower rows, cache or gpu_memory if memory ran out"
        )

    def _cause(self, reason: str) -> str:
        """A reason, with the error that vLLM's other processes named before it."""
        lines = [line for line in self._said if re.search(r"\w(Error|Exception)\b", line)]
        # vLLM's main process only says that another one failed.
        if reason and "See root cause above" not in reason:
            return reason
        found = [line for line in lines if "See root cause" not in line] or list(self._said)
        said = " ".join(found[-1].split())[-300:] if found else ""
        return said or reason

    def _listen(self) -> None:
        """Keeps the last lines of what the worker writes for people."""
        assert self._process.stderr is not None
        with (
            suppress(OSError, ValueError),
            open(self._process.stderr.fileno(), "rb", closefd=False) as stream,
        ):
            while line := stream.readline(2000):
                text = line.decode(errors="replace").strip()
                if text:
                    self._said.append(text)

    def _end(self) -> None:
        """Ends the worker and all that it started, so that their memory is free."""
        with suppress(OSError):
            self._sink.close()
        try:
            # One that still loads reads nothing, so it does not see that its input has ended.
            self._process.wait(FAREWELL if self.version else 0.1)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(FAREWELL)
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None and self._process.stderr is not None
            self._process.stdout.close()
            self._listener.join(1.0)
            self._process.stderr.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, number)


class _Timed:
    """The output of a process, read within a time limit."""

    def __init__(self, descriptor: int, seconds: float) -> None:
        self._descriptor, self._seconds = descriptor, seconds
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN | select.POLLHUP)

    def read(self, size: int) -> bytes:
        """Reads up to so many bytes; none at the end. Raises SilentError."""
        if not self._poll.poll(self._seconds * 1000):
            raise SilentError
        return os.read(self._descriptor, min(size, 2**20))

    def has_more(self) -> bool:
        """Says whether something has come already."""
        return any(event & select.POLLIN for _, event in self._poll.poll(0))


def surroundings(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: without secrets, and with everything that phones home off."""
    kept = {name: value for name, value in given.items() if not SECRET.search(name)}
    return {**kept, **SET}
