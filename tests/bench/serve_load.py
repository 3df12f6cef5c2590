"""The open load and the servers of `tests.bench.serve`: started, asked, watched and ended."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench.calls import HERE, endpoint
from tests.servers import free_port

ROOT = HERE.parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 20.0
"""Seconds from its intended start after which a request counts as failed."""
QUESTION = "Which country makes the Phoenix fan?"
GATEWAY = """
model_list:
  - model_name: cowest/strong
    litellm_params: {{model: openai/large, api_base: "{strong}", api_key: none}}
"""


@dataclass
class Server:
    """A server under measurement."""

    name: str
    url: str
    process: subprocess.Popen[bytes]

    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """MiB that it holds in memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20


@dataclass
class Taken:
    """One load: seconds from each request's intended start to its end, or to its first text."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    refused: list[float] = field(default_factory=list)
    """Seconds to each refusal that said when to come again; it counts as failed, too."""
    cpu: float = 0.0
    """CPU seconds of the server per request."""

    def quantile(self, part: float) -> float:
        """A quantile in ms. A failed request counts as one that took for ever."""
        everyone = sorted([*self.seconds, *[PATIENCE] * self.failed])
        return everyone[min(len(everyone) - 1, int(part * len(everyone)))] * 1000

    @property
    def median(self) -> float:
        return statistics.median([*self.seconds, *[PATIENCE] * self.failed]) * 1000


def gateway_python() -> Path:
    """The Python of the gateway's environment, which is made where it is not there."""
    folder = Path(os.environ.get("COWEST_PEERS") or ROOT / ".bench").absolute() / "gateway"
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = str(HERE / "peers_gateway.txt")
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", "-r", wanted], check=True)
    return folder / "bin" / "python"


def command(name: str, port: int, policy: str, strong: str, folder: Path) -> list[str]:
    """The command line of a server."""
    if name != "litellm":
        return [sys.executable, "-m", "tests.bench.serve_servers", name, str(port), policy, strong]
    config = folder / "gateway.yaml"
    config.write_text(GATEWAY.format(strong=strong))
    start = "from litellm import run_server; run_server()"
    words = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    return [str(gateway_python()), "-c", start, *words, "--telemetry", "False"]


@contextmanager
def started(
    names: list[str], folder: Path, policy: str, strong: str
) -> Iterator[dict[str, Server]]:
    """Starts servers over an endpoint that answers in these ways, and ends them."""
    with ExitStack() as stack:
        base = stack.enter_context(endpoint())
        servers = {}
        for name in names:
            place = folder / f"{name}-{policy}-{strong}"
            place.mkdir(exist_ok=True)
            port = free_port()
            line = command(name, port, f"{base}/{policy}/v1", f"{base}/{strong}/v1", place)
            servers[name] = stack.enter_context(_running(name, line, place, port))
        for server in servers.values():
            path = "/health/liveliness" if server.name == "litellm" else "/readyz"
            _wait(server, path, folder)
        yield servers


@contextmanager
def of_project(project: Path) -> Iterator[Server]:
    """Starts the service of a project, and ends it."""
    port = free_port()
    line = [sys.executable, "-m", "cowest_serving", "serve", "--port", str(port)]
    with _running("cowest", line, project, port) as server:
        _wait(server, "/readyz", project.parent)
        yield server


@contextmanager
def _running(name: str, line: list[str], place: Path, port: int) -> Iterator[Server]:
    """Starts a process in a folder, and ends it."""
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            line, cwd=place, env=_surroundings(name, place), stdout=log, stderr=log
        )
        try:
            yield Server(name, f"http://127.0.0.1:{port}", process)
        finally:
            _end(process)


def _surroundings(name: str, place: Path) -> dict[str, str]:
    given = {**os.environ, "COWEST_STORE": str(place / "calls.sqlite")}
    if name == "litellm":
        given.pop("PYTHONPATH", None)
        # It has no key to check, as the others have none; and it fetches nothing.
        given["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
        return {**given, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    path = [str(ROOT), *filter(None, [given.get("PYTHONPATH")])]
    return {**given, "PYTHONPATH": os.pathsep.join(path), "BENTOML_HOME": str(place / "bentoml")}


def _wait(server: Server, path: str, folder: Path) -> None:
    """Waits until a server is ready. Exits with its log if it never is."""
    ends = time.monotonic() + 150
    while True:
        try:
            with urllib.request.urlopen(server.url + path, timeout=5):
                return
        except OSError as error:
            if server.process.poll() is not None or time.monotonic() > ends:
                logs = [log.read_text()[-3000:] for log in folder.glob(f"{server.name}-*/log")]
                raise SystemExit(f"{server.name} did not start: {error}\n{logs}") from None
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def load(server: Server, model: str, rate: float, seconds: float, stream: bool = False) -> Taken:
    """Asks at a fixed rate, whatever becomes of the requests before."""
    return _runner().run(_load(server, model, rate, seconds, stream))


def _runner() -> Any:
    try:
        import uvloop
    except ImportError:
        return asyncio
    return uvloop


def until_version(server: Server, number: int) -> float:
    """Asks until a version answers; the seconds that this takes. Exits if it never does."""
    began = time.monotonic()
    body = json.dumps(_body("cowest", number, stream=False)).encode()
    head = {"content-type": "application/json"}
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", body, head)
    while True:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            seconds = time.monotonic() - began
            if answer.headers["x-cowest-version"] == str(number):
                return seconds
        if seconds > 10 * PATIENCE:
            raise SystemExit(f"version {number} was not taken up in {seconds:.0f} s")
        time.sleep(0.05)


async def _load(server: Server, model: str, rate: float, seconds: float, stream: bool) -> Taken:
    taken, running = Taken(), []
    before = server.cpu()
    connections = aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(connector=connections, timeout=patience) as client:
        began = time.monotonic() + 0.05
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            one = _ask(client, server.url, _body(model, number, stream), due, taken)
            running.append(asyncio.create_task(one))
        await asyncio.gather(*running)
    taken.cpu = (server.cpu() - before) / max(1, len(running))
    return taken


def _body(model: str, number: int, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{QUESTION} ({number})"}]
    return {"model": model, "messages": messages, **({"stream": True} if stream else {})}


async def _ask(
    client: aiohttp.ClientSession, url: str, body: dict[str, Any], due: float, taken: Taken
) -> None:
    try:
        async with client.post(f"{url}/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                taken.failed += 1
                if answer.status == 429 and "retry-after" in answer.headers:
                    taken.refused.append(time.monotonic() - due)
                return
            if "stream" not in body:
                await answer.read()
                taken.seconds.append(time.monotonic() - due)
                return
            seen = b""
            async for piece in answer.content.iter_any():
                # The first texts are looked for, and the stream is read to its end.
                if seen is not None:
                    seen += piece
                    if b'"content":"An' in seen:
                        taken.seconds.append(time.monotonic() - due)
                        seen = None
    except (aiohttp.ClientError, TimeoutError):
        taken.failed += 1
