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

from cowest.commands import interruptible

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
FIRST = """\
import ctypes, signal, subprocess, sys

ctypes.CDLL(None).prctl(36, 1)
turn = subprocess.Popen([sys.executable, *sys.argv[1:]])
signal.signal(signal.SIGTERM, lambda *_: turn.terminate())
sys.exit(turn.wait())
"""
"""Gets all processes that lost their parent (PR_SET_CHILD_SUBREAPER), and reaps none of them."""


def begun(
    folder: Path, patience: int = 40, beneath: tuple[str, ...] = ()
) -> "subprocess.Popen[bytes]":
    """A turn whose stage has begun."""
    (folder / "dvc").mkdir()
    (folder / "dvc" / "__init__.py").touch()
    (folder / "dvc" / "__main__.py").write_text(DVC)
    (folder / "stage.py").write_text(STAGE)
    (folder / "turn.py").write_text(TURN)
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [sys.executable, *beneath, "turn.py", str(patience)],
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


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl and /proc")
def test_a_process_that_ended_and_is_not_reaped_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(FIRST)
    process = begun(tmp_path, beneath=("first.py",))
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert (tmp_path / "settled").exists() and time.monotonic() - started < 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_cut_short_what_the_first_lets_end(number: int) -> None:
    """A scheduler may signal a whole group, of which we tell our stage too."""
    before, settled = signal.getsignal(signal.SIGTERM), False
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), number)
            time.sleep(0.1)
            settled = True
    assert settled and signal.getsignal(signal.SIGTERM) == before
