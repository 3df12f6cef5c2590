"""Questions of benchmarks, of which nothing may be learned: what is reported on them would be measured on what was trained on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cowest.config import Config
from cowest.errors import InputError, RecordError
from cowest.expectations import near
from cowest.expectations.columns import parts
from cowest.raw import tables


class Benchmark(Config):
    """Questions that no query may be: a JSONL file in the raw folder."""

    file: Path
    """Below `turn.raw`, so that a turn's key and its version of the data cover it."""
    column: str = "text"
    """The field that holds the question."""

    def model_post_init(self, _: object) -> None:
        if self.file.is_absolute() or ".." in self.file.parts:
            raise ValueError(f"{self.file}: name a file in the raw folder, by its path below that")


def known(benchmarks: Sequence[Benchmark], raw: Path, least: float | None) -> near.Known:
    """The questions of the benchmarks. Raises InputError and RecordError for files that are not there or hold none."""
    found = near.Known(least)
    for part in parts(_questions(benchmarks, raw)):
        found.add([place for place, _ in part], [text for _, text in part])
    return found


def _questions(benchmarks: Sequence[Benchmark], raw: Path) -> Iterator[tuple[str, str]]:
    for benchmark in benchmarks:
        path = raw / benchmark.file
        if raw.is_file():
            raise InputError(
                f"contamination: {benchmark.file}: turn.raw is one file, {raw}: make it a folder, and put both into it"
            )
        count = 0
        for line, row in tables.json_rows(path):
            text = row.get(benchmark.column)
            if not isinstance(text, str) or not text.strip():
                raise RecordError(
                    f"{path}:{line} has no text under {benchmark.column!r}: name its field, `column`"
                )
            count += 1
            yield f"{path}:{line}", text
        if not count:
            raise InputError(f"{path} has no rows")
