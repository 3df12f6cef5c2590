"""A Docker engine and what is run in it. Skips with its reason; in CI that fails, unless CI's
machine can have none, as `.ci/run` says by COWEST_NO_ENGINE.
"""

import functools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from cowest import __version__
from cowest.config import digest
from tests import lines

BASES = ("python:3.11-slim-bookworm", "python:3.11-bookworm")
"""Images that the Dockerfiles begin with."""
TAG = f"{__version__}-{digest(str(lines.ROOT))[:8]}"
"""The tag of images that tests build: another in each checkout, so that none runs another's."""
TIGHT = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
"""Flags of a container that may write nowhere but to /tmp and its volumes, and has no right."""


def docker(*words: str, check: bool = True) -> str:
    """Runs the client, and returns what it printed, on both streams."""
    done = subprocess.run(
        ["docker", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        # The builder that every engine has: the other needs a plugin that Debian lacks.
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )
    assert not check or done.returncode == 0, done.stdout[-4000:]
    return done.stdout.strip()


@functools.cache
def _missing() -> str | None:
    try:
        docker("info")
        for base in BASES:
            docker("image", "inspect", base)
    except (OSError, AssertionError) as error:
        return f"no Docker engine with {' and '.join(BASES)} ({str(error)[-120:]!r})"
    return None


def needed() -> None:
    """Skips, or fails in CI, where there is no engine with the base images."""
    missing = _missing()
    if missing is None:
        return
    why = os.environ.get("COWEST_NO_ENGINE")
    if os.environ.get("CI") and not why:
        pytest.fail(f"{missing}: `infra/images/engine.sh` brings both, as in .ci/run")
    pytest.skip(f"{why or missing}: infra/images/engine.sh brings both")


def image_of(name: str) -> dict[str, Any]:
    """Returns Docker's account of an image."""
    found: list[dict[str, Any]] = json.loads(docker("image", "inspect", name))
    return found[0]


@functools.cache
def cpu_image() -> str:
    """The image that runs any stage, built of this tree as `make images` does, once a process."""
    needed()
    words = [str(lines.ROOT / "infra" / "images" / "build.sh"), "cpu"]
    environment = {**os.environ, "TAG": TAG}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return f"cowest-python:{TAG}"


class Container:
    """One that runs in the background."""

    def __init__(self, image: str, *words: str, flags: Sequence[str] = TIGHT) -> None:
        self.id = docker("run", "--detach", *flags, image, *words).splitlines()[-1]

    @property
    def state(self) -> dict[str, Any]:
        """Docker's account of how it stands."""
        found: dict[str, Any] = json.loads(docker("inspect", self.id))[0]["State"]
        return found

    def log(self) -> str:
        """Returns all that it printed."""
        return docker("logs", self.id)

    def do(self, *words: str, check: bool = True) -> str:
        """Runs a command inside."""
        return docker("exec", self.id, *words, check=check)

    def port(self, inside: int) -> int:
        """The port of this machine that leads to one of its own."""
        return int(docker("port", self.id, str(inside)).splitlines()[0].rpartition(":")[2])

    def wait(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Waits until something is so, while it runs."""
        ends = time.monotonic() + seconds
        while not condition():
            assert self.state["Running"] and time.monotonic() < ends, self.log()[-4000:]
            time.sleep(0.5)

    def ended(self, seconds: float = 120) -> int:
        """Waits for its end, and returns its exit code."""
        ends = time.monotonic() + seconds
        while self.state["Running"]:
            assert time.monotonic() < ends, self.log()[-4000:]
            time.sleep(0.2)
        code: int = self.state["ExitCode"]
        return code


@contextmanager
def running(image: str, *words: str, flags: Sequence[str] = TIGHT) -> Iterator[Container]:
    """A container, which is gone at the end with its volumes."""
    container = Container(image, *words, flags=flags)
    try:
        yield container
    finally:
        docker("rm", "--force", "--volumes", container.id, check=False)
