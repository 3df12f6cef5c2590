"""The code keeps the limits of `tests/shape.py`, and one name means one thing."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests import shape

SHIPPED = shape.measure([shape.ROOT / name for name in shape.SHIPPED])
ALLOWED = {
    "_exit", "_replace", "_request_id",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
}  # fmt: skip
"""Public in spite of their underscore: names of Python, OpenAI's client and torch's operators."""
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


def test_no_test_reaches_into_private_state() -> None:
    found = []
    for path in (shape.ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in reached(node):
                if private(name) and name not in ALLOWED:
                    found.append(f"{path.relative_to(shape.ROOT)}:{node.lineno}: {name}")
    assert not found


def test_no_two_test_files_have_one_name() -> None:
    """Pytest takes them for one module, and refuses a run of both."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in (shape.ROOT / "tests").rglob("test_*.py"):
        places[path.name].append(path.relative_to(shape.ROOT).as_posix())
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_no_test_file_imports_from_another() -> None:
    """What two of them need lies in a module of `tests/` itself."""
    found = []
    for path in (shape.ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [f"{node.module}.{one.name}" for one in node.names]
            elif isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            else:
                continue
            if re.search(r"\btests\.\w+\.test_", " ".join(names)):
                found.append(f"{path.relative_to(shape.ROOT)}:{node.lineno}")
    assert not found


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("self._own = cls._made", []),
        ("other._own", ["_own"]),
        ("self.other._own()", ["_own"]),
        ("from cowest.a import _b as b, c, __version__", ["_b"]),
        ("monkeypatch.setattr(log, '_lock', None)", ["_lock"]),
        ("monkeypatch.setattr('cowest.log._lock', None)", ["_lock"]),
        ("setattr(log, '_lock', None)", ["_lock"]),
        ("monkeypatch.setattr(log, 'lock', '_')", []),
        ("row._replace(a=1)", []),
        ("vars(a).__dict__", []),
    ],
)
def test_private_state_is_known_when_it_is_reached(line: str, names: list[str]) -> None:
    found = []
    for node in ast.walk(ast.parse(line)):
        found += [name for name in reached(node) if private(name) and name not in ALLOWED]
    assert found == names


def reached(node: ast.AST) -> list[str]:
    """Names of something else that an expression or an import reaches for."""
    if isinstance(node, ast.Attribute):
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        return [] if own else [node.attr]
    if isinstance(node, ast.ImportFrom):
        return [one.name for one in node.names]
    if isinstance(node, ast.Call) and re.search(r"(set|del|get|has)attr$", ast.unparse(node.func)):
        texts = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
        return [str(text).rpartition(".")[2] for text in texts]
    return []


def private(name: str) -> bool:
    """True for a name with one underscore before it."""
    return name.startswith("_") and not name.startswith("__")


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
