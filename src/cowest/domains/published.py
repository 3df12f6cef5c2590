"""Published data sets: their files, their splits, and no query or near copy of one in two splits.

A folder with two or more of train, dev (or valid, validation) and test, as .jsonl or .json, has its splits as published; one file, by
itself or alone in its folder, is parted by its rows' groups, whose digests say where they go.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowest import io
from cowest.config import digest
from cowest.errors import ContractError, InputError
from cowest.records import Demonstration, Query, Split

NAMES: dict[str, Split] = {"test": "test", "dev": "dev", "valid": "dev", "validation": "dev", "train": "train"}
"""The held-out first: train gives way to them."""
STOP = frozenset(
    ["a", "about", "all", "an", "and", "are", "as", "at", "be", "by", "except", "false", "following", "for", "from", "in", "is", "most",
     "not", "of", "on", "or", "that", "the", "to", "true", "was", "were", "what", "which", "who", "with"]
)  # fmt: skip
"""Words that do not tell two questions apart."""
FEW = 3
"""Words that a key needs at least."""


@dataclass(frozen=True, slots=True)
class Row:
    """A raw row in its split."""

    where: str
    split: Split
    group: str
    fields: dict[str, Any]


def rows(raw: Path, fields: set[str], keys: Callable[[dict[str, Any]], Iterable[str]]) -> Iterator[Row]:
    """The rows of all splits, test and dev before train. `keys` gives a row's group, and then the texts that it may share.

    A row that shares a text with a row of another split is left out, and counted in a line at the end: it would tell the policy
    what it is to be judged by. Memory: about 150 bytes a text.
    """
    seen: dict[bytes, Split] = {}
    left_out: Counter[Split] = Counter()
    for path, published in files(raw).items():
        for where, row in io.raw_rows(path, fields):
            group, *texts = keys(row)
            name = digest([published, group])[:20]
            split = published or _part(name)
            if any([seen.setdefault(bytes.fromhex(digest(text)[:24]), split) != split for text in texts]):
                left_out[split] += 1
            else:
                yield Row(where, split, name, row)
    for split, count in left_out.items():
        print(f"prepare: {count} rows of {split} left out: they share a text with another split", file=sys.stderr)


def files(raw: Path) -> dict[Path, Split | None]:
    """The files of a data set with their splits; None for the one that is all there is. Raises InputError where there is none."""
    if raw.is_file():
        return {raw: None}
    there = sorted(path for path in raw.glob("*.json*") if path.suffix in (".json", ".jsonl")) if raw.is_dir() else []
    named: dict[Path, Split | None] = {path: NAMES[name] for name in NAMES for path in there if path.stem == name}
    if len(named) == 1 or (not named and len(there) == 1):
        return {(next(iter(named)) if named else there[0]): None}
    if not named:
        raise InputError(f"{raw}: no data set here: expected train, dev and test as .jsonl or .json, or one such file")
    if len(set(named.values())) < len(named):
        raise InputError(f"{raw}: two files for one split: {', '.join(path.name for path in named)}")
    return named


def same(text: str, more: str = "") -> str:
    """A key that a text shares with its near copies: its words in order of the alphabet, whatever their case, number and punctuation.

    Where fewer than three words are left that tell texts apart, those of `more` are added.
    """
    words = {word for word in re.findall(r"\w+", text.casefold()) if word not in STOP}
    return " ".join(sorted(words if len(words) >= FEW or not more else words | set(re.findall(r"\w+", more.casefold()))))


def once(queries: Iterable[Query]) -> Iterator[Query]:
    """Each query once: a row that is published twice is one, and the rest are counted in a line at the end."""
    seen: set[str] = set()
    again = 0
    for query in queries:
        if query.id in seen:
            again += 1
        else:
            seen.add(query.id)
            yield query
    if again:
        print(f"prepare: {again} rows left out: the same question with the same answers was there before", file=sys.stderr)


def demonstrations(queries: Iterable[Query]) -> Iterator[Demonstration]:
    """The corpus: the ideal drafts of the training queries, where they are known. Raises ContractError where none is."""
    count = 0
    for query in queries:
        if query.split == "train" and query.ideal is not None:
            count += 1
            yield Demonstration(prompt=query.prompt, completion=query.ideal, source=query.source)
    if not count:
        raise ContractError("prepare: no training row says what its answer rests on: set draft to direct, or give the data that do")


def _part(group: str) -> Split:
    """A tenth is test, a tenth dev; by content, so that no seed and no order of rows moves a row."""
    tenth = int(group, 16) % 10
    return "test" if tenth == 0 else "dev" if tenth == 1 else "train"
