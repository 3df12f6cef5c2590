"""Images that the tests of two checkouts build have two tags. A script stands in for Docker."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cowest import __version__
from tests import containers, lines

DOCKER = """#!/bin/sh
echo "$@" >>"$LOG"
echo 1000000
"""


@pytest.mark.parametrize("tag", [None, containers.TAG])
def test_what_is_built_has_the_tag_that_was_asked(tag: str | None, tmp_path: Path) -> None:
    for name in ("infra/images/build.sh", "src/cowest/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(lines.ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(DOCKER.replace("$LOG", str(tmp_path / "log")))
    docker.chmod(0o755)
    environment = {
        "PATH": f"{docker.parent}{os.pathsep}{os.environ['PATH']}",
        # It needs no repository.
        "GIT_DIR": str(tmp_path / "none"),
    }
    if tag is not None:
        environment["TAG"] = tag
    subprocess.run(
        ["bash", str(tmp_path / "infra/images/build.sh"), "cpu", "draft"],
        env=environment,
        check=True,
        capture_output=True,
    )
    log = (tmp_path / "log").read_text()
    wanted = tag or __version__
    built = [line for line in log.splitlines() if line.startswith("build ")]
    assert len(built) == 2
    assert f"-t cowest-python:{wanted} -t cowest-python:{wanted}-unknown" in built[0]
    assert f"-t cowest-draft-python:{wanted} " in built[1]
    assert f"COWEST=cowest-python:{wanted} " in built[1]
    assert f"--entrypoint cat cowest-python:{wanted} " in log


def test_the_tag_is_of_this_checkout() -> None:
    assert containers.TAG.startswith(f"{__version__}-") and len(containers.TAG) > len(__version__)
