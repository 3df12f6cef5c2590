"""The list of what a bento installs: whole, and in the versions of constraints.txt."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import lines


def needed(names: Iterable[str]) -> set[str]:
    """These packages and all that they need, as their metadata say it here."""
    found, left = set[tuple[str, str]](), [(name, "") for name in names]
    while left:
        name, extra = one = left.pop()
        if one in found:
            continue
        found.add(one)
        try:
            requires = distribution(name).requires or ()
        except PackageNotFoundError:
            continue
        for asked in map(Requirement, requires):
            if asked.marker is None or asked.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(asked.name), more) for more in ("", *asked.extras)]
    return {name for name, _ in found}


def test_a_bento_installs_what_is_installed_here() -> None:
    pinned = set((lines.ROOT / "constraints.txt").read_text().splitlines())
    text = (lines.ROOT / "serving" / "requirements.txt").read_text()
    wanted = {line for line in text.splitlines() if line and not line.startswith(("#", "--"))}
    (torch,) = (line for line in wanted if line.startswith("torch=="))
    assert torch.endswith("+cpu"), "PyPI's own build brings 5 GB of CUDA"
    wanted = {line.removesuffix("+cpu") for line in wanted}
    assert wanted <= pinned, "serving/requirements.txt: take the versions of constraints.txt"
    # Nothing that they need floats. (setuptools is in no such list.)
    names = {canonicalize_name(line.partition("==")[0]) for line in wanted}
    known = {canonicalize_name(line.partition("==")[0]) for line in pinned}
    assert needed(names) & known == names
    # A bento is installed by `uv pip install -r` alone: only this line says where that build is.
    assert "\n--find-links https://download.pytorch.org/whl/cpu/torch/\n" in text
