"""The code keeps the limits of `tests/shape.py`, and one name means one thing."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from tests import shape

SHIPPED = shape.measure([shape.ROOT / name for name in shape.SHIPPED])
SAMPLE = '''"""A sample."""

# The first line of a sentence
# ends on the second.
def one(a, b: int) -> None:
    # no sentence
    x = [i for row in a for i in row]  # Not on a line of its own.
    # noqa: E501
    if (y := lambda: x) and b:
        print(y if x else b)
    """Whether it is."""
    """Nobody asks."""
'''


@pytest.mark.parametrize("limit", shape.LIMITS, ids=lambda limit: limit.name)
def test_the_code_keeps_its_limits(limit: shape.Limit) -> None:
    value = SHIPPED.values()[limit.name]
    assert limit.holds(value), f"{value:.1f}: python -m tests.shape --places says where"


def test_counts_are_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "ROOT", tmp_path)
    (tmp_path / "sample.py").write_text(SAMPLE + "z = 1  " + "#" * 100 + "\n")
    found = shape.measure([tmp_path])
    assert (found.comprehensions, len(found.nested), found.conditionals) == (1, 1, 1)
    assert (found.walruses, found.lambdas, found.comments) == (1, 1, 2)
    assert found.long_lines == ["sample.py:13"]
    assert (found.annotated, found.parameters) == (2, 3)
    assert max(found.functions.values()) == 8
    assert (found.docstrings, found.questions) == (3, ["sample.py:11"])


def test_one_public_name_means_one_thing() -> None:
    """A class or an alias of a type has its name for itself in all of the shipped code."""
    places: dict[str, list[str]] = defaultdict(list)
    for name in shape.SHIPPED:
        for path in (shape.ROOT / name).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                for named in public_types(node):
                    places[named].append(path.relative_to(shape.ROOT).as_posix())
    twice = {named: where for named, where in places.items() if len(where) > 1}
    assert not twice


def public_types(node: ast.stmt) -> list[str]:
    """Public names that a statement of a module gives to a class or an alias of a type."""
    if isinstance(node, ast.ClassDef):
        found = [node.name]
    elif isinstance(node, ast.Assign):
        found = [target.id for target in node.targets if isinstance(target, ast.Name)]
    else:
        found = []
    # TypeVars have one letter; constants are in capitals.
    return [one for one in found if one[0].isupper() and not one.isupper() and len(one) > 2]
