"""Small tables of a user's own, and how they are read."""

import csv
import json
from pathlib import Path
from typing import Any

from cowest.domains.mapping import Table
from cowest.domains.table import Source
from cowest.records import Query

QUIZ = {
    "prompt": "{question}\n{choices}",
    "choices": ["a", "b", "c"],
    "targets": "answer",
    "keyed": "letter",
}


def quiz(**more: Any) -> dict[str, Any]:
    return {"question": "Where?", "a": "Oslo", "b": "Rome", "c": "Bonn", "answer": "B", **more}


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(found), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
    return path


def load(raw: Path, **settings: Any) -> list[Query]:
    return list(Source(Table.model_validate(settings)).load(raw))


def everything(split: str = "train") -> dict[str, Any]:
    return {"splits": {"shares": {split: 1}}}
