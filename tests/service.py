"""The service as a process of its own, over the champion of a project."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests import tiny
from tests.servers import free_port


class Server:
    """A server on a free port of this machine, with an empty call store: its models have to
    answer for themselves.
    """

    def __init__(
        self,
        project: Path,
        scratch: Path,
        python: str = sys.executable,
        around: Mapping[str, str] | None = None,
        words: Sequence[str] = ("cowest_serving", "serve"),
    ) -> None:
        self.port = free_port()
        self.log = scratch / "log"
        environment = {
            **(tiny.surroundings() if around is None else around),
            "COWEST_STORE": str(scratch / "calls.sqlite"),
            "BENTOML_HOME": str(scratch / "bentoml"),
        }
        command = [python, "-m", *words, "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=project, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def get(self, path: str, body: Any = None) -> tuple[int, str]:
        """Status and text; (0, reason) where nobody answers yet."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait(self, path: str, seconds: int = 120) -> list[tuple[int, str]]:
        """Asks until it is answered with 200; all answers by the way."""
        seen = [self.get(path)]
        ends = time.monotonic() + seconds
        while seen[-1][0] != 200:
            assert self.process.poll() is None and time.monotonic() < ends, (
                f"{path}: {seen[-1]}\n{self.log.read_text()[-4000:]}"
            )
            time.sleep(0.1)
            seen.append(self.get(path))
        return seen

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
