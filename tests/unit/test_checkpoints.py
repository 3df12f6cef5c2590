"""The folders of trainings that were killed: which are gone on with, and which are removed."""

import os
import time
from pathlib import Path

import pytest

from cowest import checkpoints


def aged(folder: Path) -> None:
    """Makes a folder look as if it were left eight days ago."""
    then = time.time() - 8 * 24 * 3600
    os.utime(folder, (then, then))


def test_an_old_training_is_removed_unless_it_goes_on_or_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with checkpoints.kept("own") as own:
        folder = own
    folder.mkdir()
    (folder / "checkpoint-5").mkdir()
    left, stray = folder.with_name("left"), folder.with_name("stray.txt")
    left.mkdir()
    stray.write_text("")
    with checkpoints.kept("another") as running:
        for path in (folder, left, stray, running):
            aged(path)
        with checkpoints.kept("own") as again:
            assert again == folder and (folder / "checkpoint-5").is_dir(), "a week is no end"
        assert running.is_dir(), "another process trains there"
    assert not left.exists() and not folder.exists() and stray.exists()
