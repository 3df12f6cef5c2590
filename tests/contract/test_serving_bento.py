"""Images of the service are made by a Docker engine that answers, and show no password."""

import argparse
import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from cowest.errors import CoWestError
from cowest_serving.__main__ import pack

pytestmark = pytest.mark.slow

AWAY = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
INDEX = "https://u:s3cret@index.example/simple"


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A command `docker` that runs this script."""
    folder.mkdir()
    command = folder / "docker"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_an_engine_that_is_away_is_said_before_anything_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cowest_serving import bento

    def build(*_: Any) -> None:
        raise AssertionError("it packs for minutes")

    stand_in(tmp_path / "bin", monkeypatch, f'echo "{AWAY}" >&2; exit 1')
    monkeypatch.setattr(bento, "build", build)
    given = argparse.Namespace(image="support:1", bake=False, version=None, build_arg=[])
    with pytest.raises(
        CoWestError, match="--image needs a Docker engine, and none answers"
    ) as said:
        pack({}, given)
    assert AWAY in str(said.value)


def test_an_index_with_a_password_is_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BentoML shows its command line where Docker fails under BuildKit."""
    from cowest_serving import bento

    given: dict[str, Any] = {}

    def build(tag: str, **words: Any) -> bytes:
        given.update(words)
        return b""

    stand_in(tmp_path / "bin", monkeypatch, "exit 0")
    # Its name in `bentoml` is a stand-in that loads it later.
    monkeypatch.setattr(importlib.import_module("bentoml.container"), "build", build)
    # They are as they were after the test.
    for name in ("PIP_INDEX_URL", "TORCH_FIND_LINKS"):
        monkeypatch.setenv(name, "another")
    arguments = [f"PIP_INDEX_URL={INDEX}", "TORCH_FIND_LINKS=", "BASE"]
    bento.containerize(bento.docker(), "cowest:x", "support:1", arguments)
    assert given["build_arg"] == ("PIP_INDEX_URL", "TORCH_FIND_LINKS", "BASE")
    assert "s3cret" not in str(given)
    assert (os.environ["PIP_INDEX_URL"], os.environ["TORCH_FIND_LINKS"]) == (INDEX, "")
