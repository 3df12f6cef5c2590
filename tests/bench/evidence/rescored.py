"""Answers that are kept, scored by both rules of a scorer: what moved.

    python -m tests.bench.evidence.rescored FILE ...

A FILE is the trials.jsonl of a run of the evidence, or of a turn. MedMCQA's published completions
are counted by `python -m tests.bench.medmcqa_parsing --rules`.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cowest.protocols import Scorer
from cowest.records import Query
from cowest.scorers.contains import ContainsConfig

SCORED = {"refinement": "refinements", "solo": "strong model alone", "draft": "drafts alone"}
Row = dict[str, Any]


def main(files: list[Path]) -> None:
    """Prints, of each file, the answers of each kind, and those whose score another rule changes.

    With candidates, the other answers are all targets of the file.
    """
    for file in files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        targets = sorted({target for row in rows for target in row["targets"]})
        for candidates in ((), tuple(targets)):
            with ContainsConfig().open() as old, _second(candidates).open() as new:
                for name, what in SCORED.items():
                    counts = moved(rows, name, old, new)
                    told = ", ".join(f"{key}: {n}" for key, n in sorted(counts.items()))
                    print(f"{file}, {len(candidates)} candidates, {what}: {told}")


def _second(candidates: tuple[str, ...]) -> ContainsConfig:
    return ContainsConfig(rule=2, candidates=candidates)


def moved(rows: list[Row], name: str, old: Scorer, new: Scorer) -> Counter[str]:
    """Counts the answers of one kind, and the changes of score, such as `1 to 0`."""
    counts: Counter[str] = Counter()
    before = old.score(_answers(rows, name))
    after = new.score(_answers(rows, name))
    for one, other in zip(before, after, strict=True):
        counts["answers"] += 1
        if one.value != other.value:
            counts[f"{one.value:g} to {other.value:g}"] += 1
    return counts


def _answers(rows: list[Row], name: str) -> Iterator[tuple[Query, str]]:
    for row in rows:
        if row[name] is not None:
            known = {field: row[field] for field in Query.model_fields if field in row}
            yield Query(**known), row[name]


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
