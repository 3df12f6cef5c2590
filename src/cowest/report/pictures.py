"""The pictures of a page as files of their own, which MLflow's pages show."""

import re
from importlib.resources import files
from pathlib import Path

from cowest.io import write_text

SVG = re.compile(
    r'<svg (?P<head>[^>]*aria-labelledby="(?P<name>[\w-]+)-title [^>]*)>(?P<rest>.*?)</svg>',
    re.DOTALL,
)
"""A picture on a page (`figures._svg` writes it), with its name."""
COLOURS = re.compile(r":root \{(.*?)\}", re.DOTALL)
"""The variables of the light page, which come first in the palette."""


def write(page: Path, folder: Path) -> list[Path]:
    """Writes each picture of a page into a folder, and returns their paths."""
    sheet = (files("cowest.report") / "palette.css").read_text(encoding="utf-8")
    colours = COLOURS.search(sheet)
    assert colours is not None, "the palette names the colours of light pages"
    written = []
    for found in SVG.finditer(page.read_text(encoding="utf-8")):
        style = f"<style>svg {{{colours[1]} background: var(--paper); }}</style>"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {found["head"]}>'
        path = folder / f"{found['name']}.svg"
        write_text(path, f"{head}{style}{found['rest']}</svg>\n")
        written.append(path)
    return written
