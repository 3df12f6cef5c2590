"""vLLM's worker with another engine behind its seam: the real process, frames and loop, and tokens
that follow from a digest of the prompt and the seed. `python -I fake_vllm.py MODE LOG -I WORKER`
runs it; `interpreter` makes a program of that, to be named as `python:`.

The log has a line for the process, and one for each request that the engine is given.
"""

import hashlib
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def interpreter(folder: Path, mode: str = "good") -> str:
    """A program that stands in for the interpreter of an environment with vLLM."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "python"
    place.write_text(
        "#!/bin/sh\n"
        'if [ "$2" = -c ]; then exit 0; fi\n'
        f"exec {sys.executable} -I {Path(__file__).absolute()} '{mode}' {folder / 'log'} \"$@\"\n"
    )
    place.chmod(0o755)
    return str(place)


def log(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows that processes of the program wrote down."""
    place = folder / "log"
    if not place.exists():
        return []
    return [json.loads(line) for line in place.read_text().splitlines()]


class FakeEngine:
    """Decodes a token of each request at a step; an answer ends at a place that its digest says."""

    version = "fake"

    def __init__(self, mode: str, place: Path, settings: dict[str, Any]) -> None:
        print("a library says hello on the standard output", flush=True)
        self._mode, self._place, self._answers = mode, place, 0
        self._write({"pid": os.getpid(), "settings": settings, "environment": sorted(os.environ)})
        folder = Path(settings["model"])
        self._size = int(json.loads((folder / "config.json").read_text())["vocab_size"])
        self._adapter = ""
        if settings["adapter"] is not None:
            weights = Path(settings["adapter"]["path"]) / "adapter_model.safetensors"
            self._adapter = hashlib.sha256(weights.read_bytes()).hexdigest()
        self._under_way: dict[int, tuple[dict[str, Any], list[int]]] = {}
        if mode == "refuses":
            raise ValueError("no kernel for this quantisation")
        if mode == "kills itself":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "sleeps":
            time.sleep(60)

    def add(self, request: dict[str, Any]) -> None:
        self._write({"request": request})
        if self._mode == "takes none":
            raise ValueError("no room for this one")
        self._under_way[request["id"]] = (request, [])

    def busy(self) -> bool:
        return bool(self._under_way)

    def step(self) -> list[dict[str, Any]]:
        if self._mode == "hangs":
            time.sleep(60)
        told = []
        for number, (request, tokens) in list(self._under_way.items()):
            tokens.append(self._next(request, tokens))
            if tokens[-1] in request["ends"] or len(tokens) == request["max_tokens"]:
                del self._under_way[number]
                scores = [-0.25] * len(tokens)
                told.append({"id": number, "tokens": tokens, "logprobs": scores})
                self._answers += 1
        if self._mode == "dies" and self._answers >= 5:
            # Behind the frame that is sent for these.
            self._mode = "dies next"
        elif self._mode == "dies next":
            print("RuntimeError: the engine is out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        return told

    def _next(self, request: dict[str, Any], tokens: list[int]) -> int:
        seed = request["seed"] if request["temperature"] else 0
        said = json.dumps([request["prompt"], tokens, seed, self._adapter])
        number = int(hashlib.sha256(said.encode()).hexdigest()[:8], 16)
        if tokens and number % 12 == 0:
            return int(request["ends"][0])
        # The first three are control tokens of the tiny model.
        return 3 + number % (self._size - 3)

    def _write(self, line: dict[str, Any]) -> None:
        with self._place.open("a") as file:
            file.write(json.dumps(line) + "\n")


def main() -> None:
    """Runs the worker that is named last, or says what a mode that begins with `raw` says."""
    mode, place = sys.argv[1], Path(sys.argv[2])
    spec = importlib.util.spec_from_file_location("worker", sys.argv[-1])
    assert spec is not None and spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    if not mode.startswith("raw "):
        worker.main(lambda settings: FakeEngine(mode, place, settings))
        return
    # A worker that loads, and then sends bytes of a test's own in answer to the first request.
    worker.receive(sys.stdin.buffer)
    worker.send(sys.stdout.buffer, {"ready": {"version": "raw"}})
    worker.receive(sys.stdin.buffer)
    sent, _, gone = mode.removeprefix("raw ").partition(" and ")
    sys.stdout.buffer.write(bytes.fromhex(sent))
    sys.stdout.buffer.flush()
    if not gone:
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
