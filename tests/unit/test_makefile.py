"""The Makefile's words before a long wait, with a Python that only writes down what it is asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import lines

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

PYTHON = """\
#!/bin/sh
case "$*" in
  *"import torch"*) exit 1 ;;
  *"index versions torch"*) echo "Available versions: 99.0.0, {listed}" ;;
  *"pip install"*) echo "pip install" ;;
esac
"""
SET = "TORCH_INDEX=https://download.pytorch.org/whl/cpu"
TORCH = next(
    line.removeprefix("torch==")
    for line in (lines.ROOT / "constraints.txt").read_text().splitlines()
    if line.startswith("torch==")
)


def make(folder: Path, listed: str, *goals: str) -> str:
    """The output of make in a folder whose package index has these versions of torch."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "src/cowest/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lines.ROOT / name, folder / name)
    for name, text in {
        "python": PYTHON.format(listed=listed),
        "cowest": '#!/bin/sh\necho "cowest $*"\n',
        "uname": "#!/bin/sh\necho Linux x86_64\n",
    }.items():
        tool = folder / "venv" / "bin" / name
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text(text)
        tool.chmod(0o755)
    command = ["make", "VENV=venv", "PYTHON=venv/bin/python", *goals]
    # `make test` hands its own flags down to a make that a test starts.
    around = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    ran = subprocess.run(
        command,
        cwd=folder,
        env=around,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return ran.stdout


def test_a_cuda_build_is_named_before_it_is_downloaded(tmp_path: Path) -> None:
    said = make(tmp_path, TORCH, "install")
    assert f"make install {SET}" in said
    assert said.index(SET) < said.index("pip install\n")


@pytest.mark.parametrize(
    ("listed", "goals"),
    [(f"{TORCH}+cpu, {TORCH}", ["install"]), (TORCH, ["install", SET])],
    ids=["the index has a CPU build", "the index is set"],
)
def test_no_word_of_cuda_without_a_cuda_build(
    tmp_path: Path, listed: str, goals: list[str]
) -> None:
    assert "CUDA" not in make(tmp_path, listed, *goals)


def test_the_demo_says_first_what_it_does_and_only_until_a_turn_was_begun(tmp_path: Path) -> None:
    said = make(tmp_path, TORCH, "demo")
    assert said.startswith("make demo: one turn of the wheel")
    assert "10 to 60 minutes on two cores" in said
    assert said.index("10 to 60 minutes") < said.index("pip install\n") < said.index("cowest turn")
    (tmp_path / "mlflow.db").touch()
    assert "10 to 60 minutes" not in make(tmp_path, TORCH, "demo")
