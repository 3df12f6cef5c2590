"""The pages: links that arrive, and commands that exist with the flags that they are shown with."""

import ast
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import cli
from cowest.errors import ModelError
from cowest.models.hf import HFConfig
from cowest.stages import STAGES as NAMES
from tests import lines
from tests.pages import PAGES, commands

STAGES = {name.partition("@")[0] for name in NAMES}
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
SOURCES = sorted(
    path.relative_to(lines.ROOT)
    for folder in ("src", "components", "pipelines", "serving")
    for path in (lines.ROOT / folder).rglob("*.py")
)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that a page of GitHub has, one a heading."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(kept.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_arrive(page: Path) -> None:
    text = (lines.ROOT / page).read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        place = (lines.ROOT / page).parent / path if path else lines.ROOT / page
        assert place.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(place), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_python_on_a_page_parses(page: Path) -> None:
    text = (lines.ROOT / page).read_text(encoding="utf-8")
    for block in PYTHON.findall(text):
        ast.parse(block)


def test_each_walk_of_a_newcomer_is_short() -> None:
    page = (lines.ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    between = page.partition("## Five walks\n")[2].partition("## The tree\n")[0]
    walks = [one for one in between.split("\n\n") if one.startswith("**")]
    assert len(walks) == 5
    for walk in walks:
        assert len(walk.split()) < 200, walk[:60]


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda one: str(one)[:60])
def test_commands_exist(page: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        _, name, *rest = shlex.split(command.replace("...", ""))
    except ValueError:
        pytest.fail(f"{page}: `{command}` is no command line")
    if name.startswith(("<", "-")) or not re.fullmatch(r"[a-z]+(@[a-z]+)?", name):
        return
    words = [name, *rest[:1]] if name == "data" and rest else [name]
    assert name in cli.COMMANDS or name.partition("@")[0] in STAGES, f"{page}: `{command}`"
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0, f"{page}: `{command}`"
    known = capsys.readouterr().out
    for flag in re.findall(r"--[a-z][a-z-]*", command):
        assert flag in known, f"{page}: `{command}`: {flag}"


@pytest.mark.parametrize("command", [*cli.COMMANDS, "data add", "data fetch", "data diff"])
def test_each_flag_of_a_command_is_on_a_page(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    flags = re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE)
    told = all_pages()
    flags.remove("--help")
    assert [flag for flag in flags if not re.search(rf"{flag}(?![\w-])", told)] == []


def test_each_variable_of_the_environment_is_on_a_page() -> None:
    named = set()
    for place in SOURCES:
        named |= set(re.findall(r"\b(?:COWEST|KF)_[A-Z_]+\b", text_of(str(place))))
    told = all_pages()
    assert sorted(name for name in named if not re.search(rf"{name}(?!\w)", told)) == []


def all_pages() -> str:
    return "".join(text_of(str(page)) for page in PAGES if page.name != "CHANGELOG.md")


def test_the_straight_line_names_who_reads_each_file() -> None:
    page = (lines.ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("## The straight line\n")[2].split("```")[1]
    found = {}
    # What the registry holds is at no path.
    for row in table.strip().splitlines()[1:-1]:
        file, _, _, readers = re.split(r"  +", row)[:4]
        found[file.rstrip("/").replace("data/raw/...", lines.RAW)] = set(readers.split(", "))
    expected: dict[str, set[str]] = {}
    for stage, paths in lines.paths().items():
        for port in lines.ports(stage):
            path = paths.get(port.name)
            if port.direction == "in" and port.name != "params" and path is not None:
                expected.setdefault(path, set()).add(stage)
    assert {file: readers & set(NAMES) for file, readers in found.items()} == {
        file: expected.get(file, set()) for file in found
    }
    assert expected.keys() <= found.keys()


def test_nobody_is_told_to_install_a_name_that_is_not_released() -> None:
    project = tomllib.loads((lines.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set()
    for place in (*PAGES, *SOURCES):
        text = (lines.ROOT / place).read_text(encoding="utf-8")
        # A message may go over several lines of the source.
        whole = re.sub(r'"\s+f?"', "", text)
        assert not re.search(r"install ['\"]?cowest\b", whole), place
        named |= set(re.findall(r"CoWest's extras? `(\w+)`", whole))
    assert named and named <= set(project["optional-dependencies"])
    assert "## Install\n" in text_of("README.md")


def test_the_command_that_fetches_a_model_brings_its_weights_and_no_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub.cli import download, hf

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as refused:
        HFConfig(model="org/name").folder()
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(download, "snapshot_download", lambda **given: asked.append(given) or "")
    places = [str(refused.value), *(text_of(page) for page in ("README.md", "docs/models.md"))]
    for text in places:
        (command,) = set(re.findall(r"hf (download [^`\n]+)", text))
        hf.app.main(shlex.split(command), standalone_mode=False)
    assert len(asked) == len(places)
    for given in asked:
        patterns = given["allow_patterns"]
        for name in ("model-00001-of-00002.safetensors", "config.json", "tokenizer.model"):
            assert any(fnmatch(name, pattern) for pattern in patterns), (name, patterns)
        for name in ("pytorch_model.bin", "original/consolidated.00.pth", "modeling_x.py"):
            assert not any(fnmatch(name, pattern) for pattern in patterns), (name, patterns)


def text_of(page: str) -> str:
    return (lines.ROOT / page).read_text(encoding="utf-8")


def test_a_commit_is_held_to_what_make_check_runs() -> None:
    makefile = (lines.ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^check: install\n((?:\t.+\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    hooks = yaml.safe_load((lines.ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]
    entries = [hook["entry"] for hook in hooks["hooks"]]
    assert entries == [line.strip() for line in recipe[1].splitlines()]
