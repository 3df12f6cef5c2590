"""The pages of the repository, and the commands on them."""

import re
from pathlib import Path

from tests import lines

PAGES = sorted(
    path.relative_to(lines.ROOT)
    for path in (
        *lines.ROOT.glob("*.md"),
        *lines.ROOT.glob("docs/**/*.md"),
        *lines.ROOT.glob("examples/**/*.md"),
    )
)

COMMAND = re.compile(r"(?:^[ ]*(?:\$ )?|`|&& )(cowest [^`\n]*)", re.MULTILINE)


def commands() -> list[tuple[Path, str]]:
    """Every `cowest ...` of the pages with the page that it stands on."""
    found = []
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for command in COMMAND.findall((lines.ROOT / page).read_text(encoding="utf-8")):
            found.append((page, command.partition("  #")[0].strip()))
    return sorted(set(found))
