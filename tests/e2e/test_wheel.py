"""A wheel of the repository in an environment of its own: a project needs nothing else of us."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from cowest.stages import STAGES
from tests import lines, tiny
from tests.scaffolds import asked
from tests.service import Server
from tests.tables import write

PACKAGES = {
    "cowest": "src/cowest",
    "cowest_components": "components",
    "cowest_pipelines": "pipelines",
    "cowest_profiles": "infra/profiles",
    "cowest_serving": "serving",
}
"""The folders of the repository that travel in the wheel, by package."""
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")
WHERE = """
import importlib, json, sys
names = ["cowest", "cowest_components", "cowest_pipelines", "cowest_serving"]
print(json.dumps([importlib.import_module(name).__file__ for name in names]))
"""
RULES = (
    r'[{match: "Notes, which may be wrong:\\n\\W*[A-Ma-m]", replies: ["Ada"]},'
    r' {match: "", replies: ["no idea"]}]'
)
"""The strong model knows the answer from a draft that begins with such a letter: so some drafts
help, and others do not."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves its folders beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(lines.ROOT / name, source)
    for folder in {Path(place).parts[0] for place in PACKAGES.values()}:
        shutil.copytree(lines.ROOT / folder, source / folder, ignore=LEFT_OUT)
    building = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), str(source)]
    run(source, os.environ, sys.executable, "-m", "pip", *building)
    (built,) = out.glob("cowest-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; it borrows the dependencies that are installed here."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(folder.parent, os.environ, sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run(folder.parent, os.environ, *pip, "install", "-q", "--no-deps", "--no-index", str(wheel))
    # A folder named in a .pth file is searched, but its own .pth files are not read: so our
    # editable install, which is one, stays out.
    (site,) = folder.glob("lib/python3*/site-packages")
    borrowed = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "borrowed.pth").write_text("".join(f"{place}\n" for place in borrowed))
    return folder


def test_it_holds_every_file_of_its_folders(wheel: Path) -> None:
    expected = set()
    for package, place in PACKAGES.items():
        for path in (lines.ROOT / place).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(f"{package}/{path.relative_to(lines.ROOT / place)}")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


@pytest.mark.minutes
def test_a_project_needs_no_copy_of_the_repository(installed: Path, tmp_path: Path) -> None:
    python, cowest = str(installed / "bin" / "python"), str(installed / "bin" / "cowest")
    around = surroundings(installed)
    for place in json.loads(run(tmp_path, around, python, "-c", WHERE)):
        assert Path(place).is_relative_to(installed)

    write(tmp_path / "qa.jsonl", asked()[20:])
    run(tmp_path, around, cowest, "init", "qa.jsonl", "--out", "project")
    project = tmp_path / "project"
    settle(project / "params.yaml")
    assert "version 1 was promoted" in run(project, around, cowest, "turn")

    compiling = [python, "-m", "cowest_pipelines", "compile", "--out", "flywheel.yaml"]
    image = {"COWEST_IMAGE": "registry.example/cowest-cpu:0123abc"}
    said = run(project, {**around, **image}, *compiling, "--profile", "cpu")
    assert "the turn in 4 shards, on image registry.example/cowest-cpu:0123abc" in said
    pipeline = yaml.safe_load((project / "flywheel.yaml").read_text().split("\n---\n")[0])
    tasks = set()
    for component in pipeline["components"].values():
        for task in component.get("dag", {"tasks": {}})["tasks"].values():
            tasks.add(task["taskInfo"]["name"])
    assert set(STAGES) - {"register"} <= tasks

    server = Server(project, tmp_path, python, around)
    try:
        server.wait("/readyz")
        status, text = server.get("/ask", {"question": "Who made engine 3?"})
    finally:
        server.stop()
    assert status == 200, text
    answer = json.loads(text)
    assert answer["version"] == 1
    assert answer["answer"] in ("Ada", "no idea")

    home = tmp_path / "home"
    packing = [python, "-m", "cowest_serving", "bento", "--bake"]
    said = run(project, {**around, "BENTOML_HOME": str(home)}, *packing)
    (bento,) = (home / "bentos" / "cowest").glob("*/")
    assert f"cowest:{bento.name}" in said.splitlines()
    assert {"params.yaml", "models", "version"} <= {path.name for path in (bento / "src").iterdir()}
    (packed,) = (bento / "env" / "python" / "wheels").iterdir()
    with zipfile.ZipFile(packed) as archive:
        assert {"cowest/cli.py", "cowest_serving/server.py"} <= set(archive.namelist())


def settle(params: Path) -> None:
    """Tiny models in place of those that `init` names, and gates that ask for nothing."""
    changes = {
        "strong: &strong {provider: hf, model: smollm2-135m-instruct}": (
            f"strong: &strong {{provider: scripted, rules: {RULES}}}"
        ),
        "model: smollm2-135m-instruct}": f"model: {tiny.model()}, dtype: float32}}",
        "per_query: 2}": "per_query: 2, allow_cut: true}",
        "better_by: 0.005": "no_worse_by: 1",
        "compare:\n": "compare:\n  min_groups: 1\n  guards: false\n",
        "n: 6, max_tokens: 48": "n: 4, max_tokens: 48",
        "max_tokens: 48": "max_tokens: 12",
        "epochs: 3": "epochs: 1",
    }
    text = params.read_text()
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    params.write_text(text)


def surroundings(installed: Path) -> Mapping[str, str]:
    """The environment of a process that has the wheel and knows nothing of the repository."""
    known = dict(tiny.surroundings(PATH=f"{installed / 'bin'}{os.pathsep}{os.defpath}"))
    del known["PYTHONPATH"]
    return known


def run(folder: Path, around: Mapping[str, str], *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=around,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-6000:]}"
    return done.stdout
