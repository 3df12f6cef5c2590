"""Questions of benchmarks, which must not be learned: a score on learned questions says nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cowest.batched import batched
from cowest.config import Config
from cowest.errors import InputError, RecordError
from cowest.expectations import near
from cowest.expectations.columns import AT_ONCE
from cowest.raw import tables
from cowest.raw.snapshots import hidden


class Benchmark(Config):
    """Questions that no query may be: a JSONL file in the raw folder."""

    file: Path
    """Path below `turn.raw`, so that a turn's key and its version of the data cover the file."""
    column: str = "text"
    """Field that holds the question."""

    def model_post_init(self, _: object) -> None:
        if self.file.is_absolute() or ".." in self.file.parts:
            raise ValueError(f"{self.file}: name a file in the raw folder, by its path below that")
        if hidden(self.file):
            raise ValueError(f"{self.file} is hidden, so that no turn would know its version")


def known(benchmarks: Sequence[Benchmark], raw: Path, least: float | None) -> near.Known:
    """Returns the questions of the benchmarks, with their places.

    Raises InputError for a file that is missing or empty, RecordError for a row without a question.
    """
    found = near.Known(least)
    for part in batched(_questions(benchmarks, raw), AT_ONCE):
        found.add(part)
    return found


def _questions(benchmarks: Sequence[Benchmark], raw: Path) -> Iterator[tuple[str, str]]:
    for benchmark in benchmarks:
        path = raw / benchmark.file
        if raw.is_file():
            raise InputError(
                f"contamination: {benchmark.file}: turn.raw is one file, {raw}: make it a folder, "
                "and put both into it"
            )
        count = 0
        for line, row in tables.sound(path, tables.json_rows(path)):
            text = row.get(benchmark.column)
            if not isinstance(text, str) or not text.strip():
                raise RecordError(
                    f"{path}:{line} has no text under {benchmark.column!r}: name its field, "
                    "`column`"
                )
            count += 1
            yield f"{path}:{line}", text
        if not count:
            raise InputError(f"{path} has no rows")
