"""A training that asks while it trains, killed and started again: no answered call is made again,
and the challenger is, byte for byte, that of a training in one piece.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import config
from tests import tiny
from tests.aligning import GRPO, answers, make_policy, settings
from tests.servers import ChatServer, chat_server

pytestmark = pytest.mark.minutes

KILLS = int(os.environ.get("COWEST_KILLS", "1"))
"""Moments at which each training is killed."""


def start(place: Path, challenger: str, store: str) -> subprocess.Popen[str]:
    """The stage `dpo` in a process group of its own, in the working folder."""
    flags = ["--pairs", place / "pairs.jsonl", "--feedback", place / "feedback.jsonl"]
    flags += ["--policy", place / "policy", "--challenger", challenger]
    surroundings = tiny.surroundings(COWEST_STORE=str(Path(store).absolute()))
    command = [sys.executable, "-m", "cowest.cli", "dpo", *map(str, flags)]
    return subprocess.Popen(
        command, env=surroundings, process_group=0, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=500)[1]
    assert process.returncode == 0, said
    return said


def kill(process: subprocess.Popen[str], server: ChatServer, calls: int) -> None:
    """Kills the group when the server was called so often."""
    until = time.monotonic() + 500
    while server.calls < calls and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, f"it was not killed half way: {said}"


@pytest.mark.parametrize(
    ("first", "last", "more"),
    [
        (12, 45, {"align": "grpo", "grpo": GRPO}),
        # The first round asks nobody.
        (5, 30, {"rounds": 2}),
    ],
    ids=["grpo", "rounds"],
)
def test_a_killed_training_makes_no_answered_call_again(
    first: int, last: int, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_policy(tmp_path / "made")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    luck = random.Random(6)
    with chat_server(otherwise=answers([], [])) as server:
        given = settings(server, checkpoint_minutes=0, **more)
        Path("params.yaml").write_text(yaml.safe_dump({"dpo": given.model_dump(mode="json")}))
        moments = sorted(luck.sample(range(first, last), KILLS))
        for calls in moments:
            kill(start(made, "cut", "cut.sqlite"), server, calls)
            assert not Path("cut").exists()
        finish(start(made, "cut", "cut.sqlite"))
        asked = server.asked()
        assert sum(asked.values()) > last
        # One call is under way at a time, and a killed one may be made again.
        assert sum(asked.values()) - len(asked) <= KILLS, "an answered call was made again"
        finish(start(made, "whole", "whole.sqlite"))
        assert server.asked().keys() == asked.keys(), "other calls than those of one piece"
    assert config.file_digest(Path("cut")) == config.file_digest(Path("whole"))
