"""The image that serves: made of a project by `python -m cowest_serving bento`, run as a cluster
would run it, and asked.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from cowest import __version__, io
from cowest.config import load
from cowest.online.keys import digest_of, new_key
from cowest.records import Trial
from tests import containers, lines, tiny
from tests.containers import Container

pytestmark = [pytest.mark.docker, pytest.mark.minutes]
IMAGE = f"cowest-serving:{containers.TAG}"
KEY = new_key()
PUBLISHED = (*containers.TIGHT, "--publish=127.0.0.1::3000")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after a promoted turn, whose service needs a key."""
    containers.needed()
    folder = shutil.copytree(tiny.turned(), tmp_path_factory.mktemp("container") / "project")
    params = load(folder / "params.yaml")
    params["serve"] |= {
        "keys": [{"name": "alice", "sha256": digest_of(KEY), "rate": None}],
        "drain": 4,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=team", "-c", "user.email=team@x.org", "commit", "-qm", "data")
    return folder


def git(folder: Path, *words: str) -> str:
    return subprocess.check_output(["git", *words], cwd=folder, text=True).strip()


def revision(image: str) -> str:
    """The label that says of what commit the settings are."""
    found: str = containers.image_of(image)["Config"]["Labels"]["org.opencontainers.image.revision"]
    return found


def build(project: Path, image: str, *flags: str) -> str:
    """Makes an image of the project, and returns the notes of what it needs beside it."""
    home = project.parent / "bentoml"
    command = [sys.executable, "-m", "cowest_serving", "bento", *flags, "--image", image]
    environment = tiny.surroundings(BENTOML_HOME=str(home), DOCKER_BUILDKIT="0")
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert re.fullmatch(r"cowest:\w+\n", done.stdout), "stdout is the tag alone"
    shutil.rmtree(home)
    return "\n".join(line for line in done.stderr.splitlines() if line.startswith("note:"))


@pytest.fixture(scope="module")
def image(project: Path) -> str:
    """The image with the champion in it."""
    assert not build(project, IMAGE, "--bake"), "nothing is needed beside this image"
    return IMAGE


@pytest.fixture(scope="module")
def served(image: str) -> Iterator[Container]:
    with containers.running(image, flags=PUBLISHED) as container:
        container.wait(lambda: get(container, "/readyz")[0] == 200)
        yield container


def get(container: Container, path: str, body: Any = None, key: str = KEY) -> tuple[int, str]:
    """Status and text; (0, reason) where nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{container.port(3000)}{path}"
    try:
        asked = urllib.request.Request(url, data, headers)
        with urllib.request.urlopen(asked, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def test_it_answers_what_was_judged_with_no_registry(served: Container) -> None:
    rows = io.read(tiny.turned() / "data" / "trials.jsonl", Trial)
    for row in [row for row in rows if row.system == "after"][:3]:
        status, said = get(served, "/ask", {"question": row.prompt[-1].content})
        assert status == 200, said
        answer = json.loads(said)
        given = (answer["draft"], answer["answer"], answer["policy"], answer["strong"])
        assert given == (row.draft, row.refinement, row.policy, row.strong)
        assert answer["version"] == 1
    assert get(served, "/ask", {"question": "?"}, key="wrong")[0] == 401


def test_it_runs_with_no_rights_and_writes_nowhere_else(served: Container) -> None:
    assert served.do("id", "-u") == "10001"
    for place in ("/srv/cowest/params.yaml", "/opt/cowest/x", "/etc/x", "/usr/x"):
        assert "Permission denied" in (said := served.do("touch", place, check=False)) or (
            "Read-only file system" in said
        )
    # The interaction is in the log, on the volume.
    kept = served.do("sh", "-c", "cat /data/log/answers*")
    assert '"version":1' in kept.replace(" ", "")
    environment = served.do("env")
    for quiet in (
        "BENTOML_DO_NOT_TRACK=True",
        "MLFLOW_DISABLE_TELEMETRY=true",
        "DO_NOT_TRACK=true",
    ):
        assert quiet in environment.splitlines()


def test_what_is_in_it_is_said_and_no_tool_to_build_is_left(
    served: Container, project: Path
) -> None:
    tools = "for tool in gcc cc c++ g++ make ld as pip uv; do command -v $tool; done; true"
    # Debian's own pip is a stand-in's: the official image of Python has one, too.
    assert set(served.do("sh", "-c", tools).splitlines()) <= {"/usr/bin/pip", "/usr/local/bin/pip"}
    bill = json.loads(served.do("cat", "/opt/cowest/sbom.cdx.json"))
    parts = {part["name"]: part.get("version") for part in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX" and parts["cowest"] == __version__
    assert {"bentoml", "torch", "transformers", "starlette", "uvicorn"} <= parts.keys()
    pins = (line.split("==") for line in (lines.ROOT / "constraints.txt").read_text().splitlines())
    versions = {canonicalize_name(name): version for name, version in pins}
    for name in parts.keys() - {"cowest", "setuptools"}:
        assert parts[name].partition("+")[0] == versions[canonicalize_name(name)], name
    found = containers.image_of(IMAGE)
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert revision(IMAGE) == git(project, "rev-parse", "HEAD")
    assert found["Config"]["User"] == "10001"
    # Neither where packages came from, nor a certificate of whoever built it.
    assert not re.search(r"PIP_|UV_|CERT|find-links", json.dumps(found["Config"]["Env"]))


def test_without_a_key_it_does_not_start(image: str, tmp_path: Path) -> None:
    """A project that is mounted, whose settings have no key."""
    tmp_path.chmod(0o755)
    shutil.copyfile(tiny.turned() / "params.yaml", tmp_path / "params.yaml")
    flags = (
        *containers.TIGHT,
        f"--volume={tmp_path}:/project:ro",
        "--env=COWEST_PARAMS=/project/params.yaml",
    )
    with containers.running(image, flags=flags) as container:
        assert container.ended() == 1
        assert "--host 0.0.0.0: other machines could ask there" in container.log()


def test_an_image_without_a_version_takes_that_of_a_registry(image: str, project: Path) -> None:
    """Settings, registry and models come from outside. (The other image's layers are reused.)"""
    bare = f"{image}-bare"
    with (project / "params.yaml").open("a") as file:
        file.write("# not committed\n")
    notes = build(project, bare)
    assert revision(bare) == git(project, "rev-parse", "HEAD") + "-changed"
    for needed in ("the registry sqlite:", "the policy model"):
        assert needed in notes
    # The scripted one is in its settings.
    assert "the strong model" not in notes
    flags = (
        *PUBLISHED,
        f"--volume={project}:/project",
        f"--volume={tiny.model()}:{tiny.model()}:ro",
        "--env=COWEST_PARAMS=/project/params.yaml",
        f"--user={os.getuid()}:{os.getgid()}",
    )
    with containers.running(bare, flags=flags) as container:
        container.wait(lambda: get(container, "/readyz")[0] == 200)
        status, said = get(container, "/ask", {"question": "In what country is it made?"})
        assert (status, json.loads(said)["version"]) == (200, 1)
        carried = container.do("ls", "/srv/cowest").split()
        assert "params.yaml" in carried and not {"version", "models"} & set(carried)


def test_at_its_end_it_says_so_first_and_then_ends_well(served: Container) -> None:
    stop = ("stop", "--time=60", served.id)
    stopping = threading.Thread(target=containers.docker, args=stop)
    stopping.start()
    ends = time.monotonic() + 30
    while (said := get(served, "/readyz"))[0] == 200:
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert said == (503, "the service is ending")
    # It still answers.
    assert get(served, "/ask", {"question": "Where?"})[0] == 200
    stopping.join()
    assert served.state["ExitCode"] == 0
