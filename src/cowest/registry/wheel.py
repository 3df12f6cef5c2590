"""CoWest itself as a wheel, made of the package that runs here, and the packages it needs.

A version in the registry carries it, so that the version still loads where this CoWest can't be
had any more, such as one with a change of your own.
"""

import base64
import hashlib
import importlib.util
import zipfile
from collections.abc import Collection, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from cowest import __version__
from cowest.errors import RegistryError

NAME = "cowest"
STEM = f"{NAME}-{__version__}"
KEPT = {
    "METADATA": ("METADATA", "PKG-INFO"),
    "entry_points.txt": ("entry_points.txt",),
    "top_level.txt": ("top_level.txt",),
}
"""Files of the installation's record that go into the wheel as they are, by their name there.

A checkout whose `src` stands in PYTHONPATH is found by its egg-info, which calls METADATA PKG-INFO.
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: cowest\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of every file in the wheel, so that equal packages are equal wheels."""


def write(folder: Path) -> Path | None:
    """Writes the wheel into a folder and returns its path.

    None where CoWest is not installed, but found by PYTHONPATH: then there is no record of its
    packages.
    """
    try:
        installed = distribution(NAME)
    except PackageNotFoundError:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{STEM}-py3-none-any.whl"
    record = f"{STEM}.dist-info/RECORD"
    lines = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _content(installed):
            archive.writestr(_entry(name), content)
            checksum = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            lines.append(f"{name},sha256={checksum.decode()},{len(content)}\n")
        lines.append(f"{record},,\n")
        archive.writestr(_entry(record), "".join(lines))
    return path


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _content(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    """Yields the files of the wheel by their path in it."""
    # The packages are read where they are imported from: an installation that can be edited has
    # them in the repository, and not beside its record.
    for package in (installed.read_text("top_level.txt") or NAME).split():
        yield from _files(package)
    for name, kept in KEPT.items():
        found = [text for text in map(installed.read_text, kept) if text]
        if found:
            yield f"{STEM}.dist-info/{name}", found[0].encode()
    yield f"{STEM}.dist-info/WHEEL", WHEEL.encode()


def _files(package: str) -> Iterator[tuple[str, bytes]]:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise RegistryError(
            f"the package {package} of this CoWest can't be found, so no version can carry it: "
            "install CoWest again"
        )
    root = Path(found.submodule_search_locations[0])
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if path.is_file() and not hidden:
            yield f"{package}/{inside.as_posix()}", path.read_bytes()


def requirements(extras: Collection[str]) -> list[str]:
    """Returns what CoWest needs with these extras, each at the version that is installed here.

    A package that is not installed here is named as CoWest's metadata have it. Nothing is
    returned where CoWest is not installed.
    """
    try:
        return sorted(set(_requirements(distribution(NAME), {"", *extras})))
    except PackageNotFoundError:
        return []


def _requirements(installed: Distribution, extras: Collection[str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    for text in installed.requires or ():
        one = Requirement(text)
        marker = one.marker
        wanted = any(marker is None or marker.evaluate({"extra": extra}) for extra in extras)
        if not wanted:
            continue
        if one.name == NAME:
            # An extra that consists of another.
            yield from _requirements(installed, one.extras)
            continue
        yield pinned(one.name) or f"{one.name}{one.specifier}"


def pinned(package: str) -> str | None:
    """Returns `package==version` of what is installed here; None if it is not."""
    try:
        # A build's own mark, as in 2.9.1+cpu, is no version that an index has.
        return f"{package}=={distribution(package).version.partition('+')[0]}"
    except PackageNotFoundError:
        return None
