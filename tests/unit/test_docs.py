"""The pages: links that arrive, and commands that exist with the flags that they are shown with."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from cowest import cli
from cowest.stages import STAGES as NAMES
from tests import lines
from tests.pages import PAGES, commands

STAGES = {name.partition("@")[0] for name in NAMES}
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
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


def test_a_commit_is_held_to_what_make_check_runs() -> None:
    makefile = (lines.ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^check: install\n((?:\t.+\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    hooks = yaml.safe_load((lines.ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]
    entries = [hook["entry"] for hook in hooks["hooks"]]
    assert entries == [line.strip() for line in recipe[1].splitlines()]
