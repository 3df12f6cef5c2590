"""The folders of trainings that were killed: which are gone on with, and which are removed."""

import os
import time
from pathlib import Path

import pytest

from cowest import checkpoints
from cowest.errors import InputError


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


def test_a_training_keeps_its_name_where_its_folder_is_not_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy of GRPO is named after it, and by that name its calls are found again."""
    monkeypatch.chdir(tmp_path)
    with checkpoints.kept("own") as first:
        with checkpoints.kept("own") as second:
            assert second != first and second.name == first.name and second.is_dir()
        assert first.is_dir() and not second.exists()
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match="does another start"), checkpoints.kept("own"):
            pass
