"""The process that runs vLLM, in an environment of its own: token ids in, token ids out.

`models.vllm` starts this file with the interpreter of that environment, where nothing of CoWest is
installed, so it imports nothing of CoWest. It may be a process on the same machine only: messages
go over its standard input and output.

A message is a frame: 4 bytes that say how many bytes follow (big-endian), and JSON in UTF-8. To the
worker:

    {"load": {...}}    settings of the engine, once and first
    {"ask": [...]}     requests, each {id, prompt, max_tokens, temperature, top_p, seed, ends, stop}

From the worker, after its first message:

    {"ready": {...}}   the engine is loaded: its version
    {"told": [...]}    answers, each {id, tokens, logprobs}, or {id, failed} with a reason
    {"broken": "..."}  the reason why it does not load, or can't go on; it is the last message

The end of its input ends the worker, so that it never outlives who started it.
"""

import json
import os
import queue
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Protocol

LARGEST = 64 * 2**20
"""Bytes of a frame at most."""
HEAD = struct.Struct(">I")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM makes room for."""
WORDS = 2000
"""Characters of a reason that are sent at most."""


class FrameError(Exception):
    """Bytes that are no frame, or more of them than a frame may have."""


class CutError(FrameError):
    """The stream ended within a frame."""


class Engine(Protocol):
    """Decodes requests, several of them at once."""

    version: str

    def add(self, request: dict[str, Any]) -> None:
        """Takes a request. Raises ValueError for one that can't be decoded."""
        ...

    def step(self) -> Iterable[dict[str, Any]]:
        """Decodes on, and returns the answers that are finished now."""
        ...

    def busy(self) -> bool:
        """Says whether any request is under way."""
        ...


def send(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Writes one frame. Raises FrameError for a message that is too large, and OSError."""
    content = json.dumps(message, separators=(",", ":")).encode()
    if len(content) > LARGEST:
        raise FrameError(f"a message of {len(content):,} bytes")
    stream.write(HEAD.pack(len(content)) + content)
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """Reads one frame; None at the end of the stream. Raises FrameError."""
    head = _whole(stream, HEAD.size)
    if not head:
        return None
    (size,) = HEAD.unpack(head)
    if size > LARGEST:
        raise FrameError(f"a message of {size:,} bytes")
    content = _whole(stream, size)
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        raise FrameError(f"{size:,} bytes that are not JSON") from None
    if not isinstance(message, dict):
        raise FrameError("a message that is no object")
    return message


def _whole(stream: BinaryIO, size: int) -> bytes:
    """Reads so many bytes; none at the end of the stream. Raises CutError for an end within."""
    found = b""
    while len(found) < size:
        piece = stream.read(size - len(found))
        if not piece:
            break
        found += piece
    if found and len(found) < size:
        raise CutError("a message that was cut")
    return found


class VLLMEngine:
    """vLLM's engine, with at most one adapter."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Loads the model, and the adapter. Raises whatever vLLM raises."""
        import vllm
        from vllm import EngineArgs, LLMEngine, exceptions
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        self.version = str(vllm.__version__)
        self._params = vllm.SamplingParams
        self._final = RequestOutputKind.FINAL_ONLY
        # Older versions have no class for what is wrong with a request alone.
        self._refusal: type[Exception] = getattr(exceptions, "VLLMClientError", ValueError)
        adapter = settings["adapter"]
        more: dict[str, Any] = {}
        if adapter is not None:
            room = [rank for rank in RANKS if rank >= adapter["rank"]]
            if not room:
                raise ValueError(
                    f"an adapter of rank {adapter['rank']}, and vLLM takes {RANKS[-1]}"
                )
            more = {"enable_lora": True, "max_loras": 1, "max_lora_rank": room[0]}
        args = EngineArgs(
            model=settings["model"],
            dtype=settings["dtype"],
            max_model_len=settings["context"],
            max_num_seqs=settings["rows"],
            gpu_memory_utilization=settings["gpu_memory"],
            kv_cache_memory_bytes=settings["cache"],
            tensor_parallel_size=settings["tensor_parallel"],
            enforce_eager=settings["eager"],
            enable_prefix_caching=True,
            # Weights are data and never code. Ends and sampling are ours, whatever the folder says.
            load_format="safetensors",
            trust_remote_code=False,
            generation_config="vllm",
            disable_log_stats=True,
            **more,
        )
        self._engine: Any = LLMEngine.from_engine_args(args)
        self._adapter: Any = None
        if adapter is not None:
            self._adapter = LoRARequest("policy", 1, adapter["path"])
            self._engine.add_lora(self._adapter)

    def add(self, request: dict[str, Any]) -> None:
        """Takes a request. Raises ValueError for one that can't be decoded."""
        stop = request["stop"]
        params = self._params(
            temperature=request["temperature"],
            top_p=request["top_p"],
            max_tokens=request["max_tokens"],
            seed=request["seed"],
            ignore_eos=True,
            stop_token_ids=request["ends"],
            stop=stop,
            # Only a stop text is looked for in the text, which CoWest makes of the tokens itself.
            detokenize=bool(stop),
            skip_special_tokens=False,
            logprobs=0,
            output_kind=self._final,
        )
        prompt = {"prompt_token_ids": request["prompt"]}
        number = str(request["id"])
        try:
            self._engine.add_request(number, prompt, params, lora_request=self._adapter)
        except self._refusal as error:
            raise ValueError(str(error)) from None

    def step(self) -> Iterable[dict[str, Any]]:
        """Decodes on, and returns the answers that are finished now."""
        told = []
        for output in self._engine.step():
            if output.finished:
                answer = output.outputs[0]
                tokens = list(answer.token_ids)
                # Of each token, the log-probability of the model itself, before temperature.
                scores = zip(tokens, answer.logprobs, strict=True)
                logprobs = [float(found[token].logprob) for token, found in scores]
                told.append({"id": int(output.request_id), "tokens": tokens, "logprobs": logprobs})
        return told

    def busy(self) -> bool:
        """Says whether any request is under way."""
        return bool(self._engine.has_unfinished_requests())


def serve(
    source: BinaryIO, sink: BinaryIO, load: Callable[[dict[str, Any]], Engine] = VLLMEngine
) -> None:
    """Answers until the input ends."""
    try:
        first = receive(source)
        if first is None:
            return
        engine = load(first["load"])
        send(sink, {"ready": {"version": engine.version}})
        _answer(source, sink, engine)
    # Whatever happens in an engine is said to who waits for it, and ends the worker.
    except Exception as error:
        send(sink, {"broken": _reason(error)})
        raise


def _answer(source: BinaryIO, sink: BinaryIO, engine: Engine) -> None:
    """Takes requests as they come, and tells each answer as soon as it is finished."""
    arrived: queue.Queue[dict[str, Any] | None] = queue.Queue()
    # Read on a thread of its own, so that neither side waits for the other to read.
    threading.Thread(target=_listen, args=(source, arrived), daemon=True).start()
    while True:
        told = []
        while not arrived.empty() or not engine.busy():
            message = arrived.get()
            if message is None:
                return
            for request in message["ask"]:
                try:
                    engine.add(request)
                except ValueError as error:
                    told.append({"id": request["id"], "failed": _reason(error)})
            if told:
                break
        if engine.busy():
            told += engine.step()
        if told:
            send(sink, {"told": told})


def _listen(source: BinaryIO, arrived: "queue.Queue[dict[str, Any] | None]") -> None:
    """Puts messages into the queue, and None at their end."""
    try:
        while (message := receive(source)) is not None:
            arrived.put(message)
    finally:
        arrived.put(None)


def _reason(error: BaseException) -> str:
    """An error and what it came from, in one line."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split())
        said.append(f"{type(cause).__name__}: {text}" if text else type(cause).__name__)
        context = None if cause.__suppress_context__ else cause.__context__
        cause = cause.__cause__ or context
    return "; from ".join(said)[:WORDS]


def main(load: Callable[[dict[str, Any]], Engine] = VLLMEngine) -> None:
    """Serves on standard input and output."""
    source = sys.stdin.buffer
    # Libraries print. What they print must not come between the frames.
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(source, sink, load)


# vLLM starts processes that import this file again.
if __name__ == "__main__":
    main()
