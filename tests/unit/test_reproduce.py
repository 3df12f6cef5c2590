"""A turn ends with what it began: DVC, and the stage that DVC began.

DVC is one that dies of SIGTERM and leaves its stage to itself, as the real one does.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DVC = """\
import subprocess, sys

sys.exit(subprocess.run([sys.executable, "stage.py"]).returncode)
"""
STAGE = """\
import os, pathlib, signal, sys, time

def end(number, _):
    pathlib.Path("said").open("a").write(f"{signal.Signals(number).name} ")
    if pathlib.Path("stubborn").exists():
        return
    time.sleep(2)
    pathlib.Path("settled").touch()
    sys.exit(130)

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, end)
pathlib.Path("pid").write_text(str(os.getpid()))
pathlib.Path("begun").touch()
for _ in range(600):
    time.sleep(0.1)
"""
TURN = """\
import sys
from cowest.commands import interruptible, reproduce

reproduce.PATIENCE = int(sys.argv[1])
try:
    with interruptible(), open("lock", "a") as lock:
        reproduce.reproduce(False, lock.fileno())
except KeyboardInterrupt:
    sys.exit(130)
"""


def begun(folder: Path, patience: int = 40) -> "subprocess.Popen[bytes]":
    """A turn whose stage has begun."""
    (folder / "dvc").mkdir()
    (folder / "dvc" / "__init__.py").touch()
    (folder / "dvc" / "__main__.py").write_text(DVC)
    (folder / "stage.py").write_text(STAGE)
    (folder / "turn.py").write_text(TURN)
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "turn.py", str(patience)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
    )
    until = time.monotonic() + 60
    while not (folder / "begun").exists() and time.monotonic() < until:
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_turn_that_is_ended_waits_for_its_stage(tmp_path: Path, number: int) -> None:
    process = begun(tmp_path)
    process.send_signal(number)
    time.sleep(0.3)
    # As a shell does that closes with its terminal.
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=30) == 130
    assert (tmp_path / "settled").exists(), "the stage was left to itself"
    assert (tmp_path / "said").read_text() == "SIGTERM ", "it is told once"


def test_a_stage_that_does_not_end_is_killed(tmp_path: Path) -> None:
    (tmp_path / "stubborn").touch()
    process = begun(tmp_path, patience=1)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130
    assert time.monotonic() - started > 1
    stage = int((tmp_path / "pid").read_text())
    listed = subprocess.run(
        ["ps", "-o", "args=", "-p", str(stage)], capture_output=True, text=True, check=False
    )
    assert "stage.py" not in listed.stdout
