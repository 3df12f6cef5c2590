"""The Dockerfile of the service's image, as far as it can be tried without an engine."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import lines
from tests.servers import free_port

FOLDER = lines.ROOT / "serving"


class Living(http.server.BaseHTTPRequestHandler):
    """Answers as the service does that lives."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Living)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def commands(start: str) -> list[str]:
    """The Dockerfile's instructions that begin so, each on one line."""
    whole = (FOLDER / "Dockerfile").read_text().replace("\\\n", "")
    return [line for line in whole.splitlines() if line.startswith(start)]


def test_the_health_of_the_image_is_asked_at_its_port_and_by_no_proxy(port: int) -> None:
    (check,) = commands("HEALTHCHECK")
    python, *words = json.loads(check.partition("CMD ")[2])
    assert python == "python"
    nobody = f"http://127.0.0.1:{free_port()}"
    around = {**os.environ, "HTTP_PROXY": nobody, "http_proxy": nobody, "NO_PROXY": ""}
    codes = []
    for asked in (port, free_port()):
        environment = {**around, "COWEST_LISTEN": str(asked)}
        done = subprocess.run(
            [sys.executable, *words], env=environment, capture_output=True, check=False
        )
        codes.append(done.returncode)
    assert codes == [0, 1]


@pytest.mark.parametrize(
    ("page", "expected"), [("", "torch==2"), ("https://wheels.example/torch/", "+cpu")]
)
def test_without_a_page_of_cpu_builds_torch_is_that_of_the_index(
    page: str, expected: str, tmp_path: Path
) -> None:
    """The part of the step before uv, which would look for `2.13.0+cpu` where there is none."""
    listed = tmp_path / "requirements.txt"
    listed.write_text((FOLDER / "requirements.txt").read_text())
    (step,) = (one for one in commands("RUN ") if "--find-links/d" in one)
    changes = step.removeprefix("RUN ").partition("&& /opt/tools")[0]
    changes = changes.replace("/build/requirements.txt", str(listed))
    around = {**os.environ, "TORCH_FIND_LINKS": page}
    subprocess.run(["sh", "-ec", changes], env=around, check=True)
    (torch,) = (one for one in listed.read_text().splitlines() if one.startswith("torch=="))
    assert expected in torch and ("+cpu" in torch) is bool(page)
    assert "--find-links" not in listed.read_text()
