"""The CPU image: built as `make images` does, tried as a person without rights, and a whole turn of
the Kubeflow pipeline in it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cowest import __version__
from cowest.config import file_digest, load
from cowest.registry.mlflow import RegistryConfig
from tests import containers, lines, s3, stores, tiny
from tests.containers import docker
from tests.registries import migrated_database

pytestmark = [pytest.mark.docker, pytest.mark.minutes]
RUN = """
import json, sys
from pathlib import Path
import docker
from kfp import local
from cowest.profiles import read
from cowest_pipelines.__main__ import run_here
given = json.loads(sys.argv[1])
model = docker.types.Mount(given["model"], given["model"], type="bind", read_only=True)
runner = local.DockerRunner(
    environment=given["environment"], user=given["user"], network_mode="host", mounts=[model],
    # The image's own entry point would take KFP's command.
    entrypoint=["/usr/bin/env"], cap_drop=["ALL"], security_opt=["no-new-privileges"],
)
profile = read(Path(given["profile"])).model_copy(update={"shards": 2})
inputs = {"repository": given["repository"], "revision": given["revision"], "budget_usd": "",
          "shards": 2, "force": False}
run_here(Path("params.yaml"), Path(given["root"]), profile, inputs, runner)
"""
"""Runs the pipeline of the project in the working folder, each step in a container."""


@pytest.fixture(scope="module")
def image() -> str:
    """The image, built of this tree."""
    return containers.cpu_image()


def test_a_stage_writes_the_same_bytes_with_no_network_and_no_rights(
    image: str, tmp_path: Path
) -> None:
    tiny.copy_project(tmp_path)
    ports = "--raw data/raw/handbook --queries q.jsonl --corpus c.jsonl --quarantine x.jsonl"
    mine = f"--user={os.getuid()}:{os.getgid()}"
    where = ("--network=none", f"--volume={tmp_path}:/work", mine, *containers.TIGHT)
    docker("run", "--rm", *where, image, "prepare", *ports.split())
    for name, made in {"q": "queries.raw", "c": "corpus.raw"}.items():
        there = tiny.turned() / "data" / f"{made}.jsonl"
        assert (tmp_path / f"{name}.jsonl").read_bytes() == there.read_bytes()
    # The image's own user may read the folder, and write nothing.
    tmp_path.chmod(0o755)
    refused = ("--network=none", f"--volume={tmp_path}:/work:ro", *containers.TIGHT)
    said = docker("run", "--rm", *refused, image, "prepare", *ports.split(), check=False)
    assert "Traceback" not in said and "q.jsonl" in said


def test_it_holds_git_and_dvc_and_nothing_that_builds(image: str) -> None:
    looked = (
        "id -u; git --version; dvc --version; python -c 'import kfp, boto3, psycopg'; "
        "for tool in gcc cc c++ g++ make ld as uv; do command -v $tool; done; true"
    )
    said = docker("run", "--rm", "--entrypoint=sh", image, "-c", looked).splitlines()
    assert said[0] == "10001" and said[1].startswith("git version") and len(said) == 3, said
    found = containers.image_of(image)["Config"]
    labels = {name.rpartition(".")[2]: text for name, text in found["Labels"].items()}
    assert labels["version"] == __version__ and found["User"] == "10001"
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=lines.ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert labels["revision"].removesuffix("-changed") == head
    assert not any(line.startswith(("PIP_", "UV_", "SSL_")) for line in found["Env"])


def test_a_bill_of_what_is_in_it_lies_beside_it(image: str) -> None:
    bill = json.loads((lines.ROOT / "build" / "images" / "cpu.cdx.json").read_text())
    parts = {part["name"]: part.get("version") for part in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX" and parts["cowest"] == __version__
    pinned = dict(
        line.split("==") for line in (lines.ROOT / "constraints.txt").read_text().splitlines()
    )
    for name in ("kfp", "mlflow", "dvc", "transformers"):
        assert parts[name] == pinned[name]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two databases and a bucket, which the steps of a turn share."""

    store: str
    registry: RegistryConfig
    environment: dict[str, str]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Real servers, which only this machine reaches."""
    containers.needed()
    with s3.server(tmp_path / "s3") as bucket:
        address = stores.server().database(like=migrated_database())
        # A password in params.yaml would be in the compiled pipeline.
        address = address.replace(f":{stores.QUOTED}@", "@")
        registry = RegistryConfig(
            uri=address, name="handbook", artifacts=f"{bucket.bucket}/registry"
        )
        environment = {
            **bucket.environment(),
            "AWS_ENDPOINT_URL": bucket.url,
            "MLFLOW_S3_ENDPOINT_URL": bucket.url,
            "PGPASSWORD": stores.PASSWORD,
            "COWEST_STORE": stores.server().database(),
            "OMP_NUM_THREADS": "1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield Cluster(environment["COWEST_STORE"], registry, environment)


def team(folder: Path, cluster: Cluster) -> str:
    """Makes a project a team's: data in the bucket by DVC, settings in git. Returns the commit."""
    params = load(folder / "params.yaml")
    for stage in ("pin", "register"):
        params[stage]["registry"] = cluster.registry.model_dump(mode="json")
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for words in (
        "git init -q",
        "git config user.email team@example.org",
        "git config user.name team",
        "dvc init -q",
        "dvc remote add -q -d team s3://data/dvc",
        f"dvc remote modify -q team endpointurl {cluster.environment['AWS_ENDPOINT_URL']}",
        "dvc add -q data/raw/handbook",
        "dvc push -q",
        "git add .",
        "git commit -q -m data",
    ):
        done = subprocess.run(
            words.split(),
            cwd=folder,
            env=tiny.surroundings(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr)
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True).strip()


@pytest.mark.cluster
def test_a_whole_turn_runs_in_containers_on_shared_servers(
    image: str, cluster: Cluster, tmp_path: Path
) -> None:
    """The steps share nothing but the servers and KFP's own folder of artifacts."""
    project = tiny.copy_project(tmp_path / "project")
    revision = team(project, cluster)
    root = tmp_path / "steps"
    root.mkdir()
    shutil.copytree(project / ".git", root / "team.git")
    # transformers writes weights for their owner alone.
    for path in tiny.model().iterdir():
        path.chmod(0o644)
    user = f"{os.getuid()}:{os.getgid()}"
    if os.getuid() == 0:
        user = "10001:10001"
        for place in (root, *root.rglob("*")):
            os.chown(place, 10001, 10001)
    given = {
        "model": str(tiny.model()),
        "environment": cluster.environment,
        "user": user,
        "profile": str(lines.ROOT / "infra" / "profiles" / "local.yaml"),
        "repository": f"file://{root}/team.git",
        "revision": revision,
        "root": str(root),
    }

    def turn() -> str:
        done = subprocess.run(
            [sys.executable, "-c", RUN, json.dumps(given)],
            cwd=project,
            env=tiny.surroundings(COWEST_IMAGE=image),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    assert "version 1 was promoted" in turn().splitlines()[-1]
    # The same rows as in one process, though drafted and scored in two shards by containers.
    (pairs,) = root.glob("flywheel-*/**/pairs")
    plain = tiny.turned()
    assert pairs.read_bytes() == (plain / "data" / "pairs.raw.jsonl").read_bytes()
    # The version lies in the bucket, and is the one that was trained in one process.
    registry = cluster.registry.open()
    assert registry.champion() == 1
    registry.fetch(1, tmp_path / "champion")
    made = file_digest(tmp_path / "champion" / "adapter")
    assert made == file_digest(plain / "models" / "challenger" / "adapter")
    # A second night finds nothing new, and pays for nothing.
    assert "nothing is new" in turn().splitlines()[-1]
