"""The shape of the code in numbers, with the limits that CI holds: `python -m tests.shape`.

The counts are per 1,000 non-blank lines of the shipped code. They say where a reader would have to
decode, and no more: where readability and a number disagree, the number is corrected here, with the
reason beside it.
"""

import argparse
import ast
import io
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("src", "components", "pipelines", "serving")
LONGEST_LINE = 100
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
QUESTIONS = ("What", "How", "Where", "Whether", "Which", "Who", "Whose", "When")
"""First words of a docstring that says less than a subject and a verb."""
MARKS = ("noqa", "type:", "fmt:", "pragma")
"""Comments for tools begin so, and are no sentences."""


@dataclass(frozen=True)
class Limit:
    """One number, the bound that it must keep, and how it is shown."""

    name: str
    bound: float
    at_least: bool = False

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


LIMITS = (
    Limit("lines over 100", 0),
    Limit("comprehensions /k", 25),
    Limit("comprehensions with a second for", 0),
    Limit("conditional expressions /k", 18),
    Limit("walruses /k", 1),
    Limit("lambdas /k", 2),
    Limit("comment lines in sentences /k", 15, at_least=True),
    Limit("longest file", 500),
    Limit("longest function", 60),
    Limit("annotated %", 98, at_least=True),
    Limit("docstrings that ask %", 3),
)


@dataclass
class Shape:
    """Sums over files."""

    lines: int = 0
    long_lines: list[str] = field(default_factory=list)
    comprehensions: int = 0
    nested: list[str] = field(default_factory=list)
    conditionals: int = 0
    walruses: int = 0
    lambdas: int = 0
    comments: int = 0
    files: dict[str, int] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    annotated: int = 0
    docstrings: int = 0
    questions: list[str] = field(default_factory=list)

    def add(self, path: Path, text: str) -> None:
        """Counts one file."""
        name = path.relative_to(ROOT).as_posix()
        every = text.splitlines()
        self.lines += sum(bool(line.strip()) for line in every)
        self.files[name] = len(every)
        for number, line in enumerate(every, 1):
            if len(line) > LONGEST_LINE:
                self.long_lines.append(f"{name}:{number}")
        self.comments += sentence_lines(text)
        for node in ast.walk(ast.parse(text)):
            self._count(name, node)

    def _count(self, name: str, node: ast.AST) -> None:
        # Those of modules, classes and functions, and those below a field or a constant.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            said = node.value.value
            if isinstance(said, str):
                self.docstrings += 1
                if said.split(maxsplit=1)[:1] and said.split()[0].rstrip(",") in QUESTIONS:
                    self.questions.append(f"{name}:{node.lineno}")
        if isinstance(node, COMPREHENSIONS):
            self.comprehensions += 1
            if len(node.generators) > 1:
                self.nested.append(f"{name}:{node.lineno}")
        elif isinstance(node, FUNCTIONS):
            self.functions[f"{name}:{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1
            self._count_annotations(node)
        self.conditionals += isinstance(node, ast.IfExp)
        self.walruses += isinstance(node, ast.NamedExpr)
        self.lambdas += isinstance(node, ast.Lambda)

    def _count_annotations(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        given = node.args
        for one in [*given.posonlyargs, *given.args, *given.kwonlyargs]:
            if one.arg not in ("self", "cls"):
                self.parameters += 1
                self.annotated += one.annotation is not None
        self.parameters += 1
        self.annotated += node.returns is not None

    def values(self) -> dict[str, float]:
        """The numbers by the names of their limits."""
        thousands = max(self.lines, 1) / 1000
        return {
            "lines over 100": len(self.long_lines),
            "comprehensions /k": self.comprehensions / thousands,
            "comprehensions with a second for": len(self.nested),
            "conditional expressions /k": self.conditionals / thousands,
            "walruses /k": self.walruses / thousands,
            "lambdas /k": self.lambdas / thousands,
            "comment lines in sentences /k": self.comments / thousands,
            "longest file": max(self.files.values(), default=0),
            "longest function": max(self.functions.values(), default=0),
            "annotated %": 100 * self.annotated / max(self.parameters, 1),
            "docstrings that ask %": (100 * len(self.questions) / max(self.docstrings, 1)),
        }

    def places(self) -> Iterator[str]:
        """Where to look: long lines, nested comprehensions, long files and functions."""
        for place in self.long_lines:
            yield f"line over {LONGEST_LINE}: {place}"
        for place in self.nested:
            yield f"second for: {place}"
        for place in self.questions:
            yield f"docstring that begins with a question: {place}"
        for name, length in self.files.items():
            if length > 500:
                yield f"file of {length} lines: {name}"
        for name, length in self.functions.items():
            if length > 60:
                yield f"function of {length} lines: {name}"


def sentence_lines(text: str) -> int:
    """Own-line comment lines in blocks that begin with a capital letter and end with a stop."""
    count = 0
    for block in comment_blocks(text):
        said = " ".join(block).strip()
        if said and (said[0].isupper() or said[0] in "`'\"") and said[-1] in ".?!:":
            count += len(block)
    return count


def comment_blocks(text: str) -> Iterator[list[str]]:
    """The words of own-line comments, those of adjacent lines together."""
    block: list[str] = []
    last = 0
    every = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if token.type != tokenize.COMMENT or every[row - 1][:column].strip():
            continue
        words = token.string.lstrip("#").strip()
        if words.startswith(MARKS):
            continue
        if block and row != last + 1:
            yield block
            block = []
        block.append(words)
        last = row
    if block:
        yield block


def measure(folders: Sequence[Path]) -> Shape:
    """The shape of all Python files below the folders."""
    shape = Shape()
    for folder in folders:
        for path in sorted(folder.rglob("*.py") if folder.is_dir() else [folder]):
            shape.add(path.resolve(), path.read_text(encoding="utf-8"))
    return shape


def table(shape: Shape) -> str:
    """A line for each number with its bound; what breaks it is marked."""
    values = shape.values()
    said = [f"{shape.lines} non-blank lines"]
    for limit in LIMITS:
        value = values[limit.name]
        mark = " " if limit.holds(value) else "!"
        sign = ">=" if limit.at_least else "<="
        said.append(f"{mark} {limit.name:<34} {value:>8.1f}  {sign} {limit.bound:g}")
    return "\n".join(said)


def main() -> int:
    """0: every limit is kept; 1: one is not."""
    parser = argparse.ArgumentParser(prog="python -m tests.shape", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="what to measure (the shipped code)")
    parser.add_argument("--places", action="store_true", help="name the places to look at")
    given = parser.parse_args()
    shape = measure(given.folders or [ROOT / name for name in SHIPPED])
    print(table(shape))
    if given.places:
        print("\n".join(shape.places()))
    values = shape.values()
    return 0 if all(limit.holds(values[limit.name]) for limit in LIMITS) else 1


if __name__ == "__main__":
    sys.exit(main())
