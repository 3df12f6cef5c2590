"""Published data sets: their files, their splits, and no query or near copy of one in two splits.

A folder with two or more of train, dev (or valid, validation) and test, as .jsonl, .json or .parquet, has its splits as published;
one file, by itself or alone in its folder, is parted by its rows' groups, whose digests say where they go.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowest.config import digest
from cowest.errors import ContractError, InputError
from cowest.raw import tables
from cowest.raw.intake import Intake, Unfit
from cowest.records import Demonstration, Query, Split

NAMES: dict[str, Split] = {
    "test": "test",
    "dev": "dev",
    "valid": "dev",
    "validation": "dev",
    "train": "train",
}
"""The held-out first: train gives way to them."""
ENDINGS = (".jsonl", ".json", ".parquet")
PART = re.compile(r"-\d+-of-\d+$")
STOP = frozenset(
    ["a", "about", "all", "an", "and", "are", "as", "at", "be", "by", "except", "false", "following", "for", "from", "in", "is", "most",
     "not", "of", "on", "or", "that", "the", "to", "true", "was", "were", "what", "which", "who", "with"]
)  # fmt: skip
"""Words that do not tell two questions apart."""
FEW = 3
"""Words that a key needs at least."""


class Unlabelled(Exception):
    """Why a row that is sound is left out: nobody published what is right."""


@dataclass(frozen=True, slots=True)
class Row:
    """A raw row in its split."""

    where: str
    """`file:line`, of no other row: `file:line.2` is the second on its line."""
    split: Split
    group: str
    fields: dict[str, Any]


def queries(
    raw: Path,
    fields: set[str],
    keys: Callable[[dict[str, Any]], Iterable[str]],
    make: Callable[[Row], Query],
    intake: Intake,
) -> Iterator[Query]:
    """What `make` makes of the rows of all splits, test and dev before train, each query once.

    `keys` gives a row's group, and then the texts that it may share. A row that shares a text with a row of another split is left
    out: it would tell the policy what it is to be judged by. So is a query that was there before, and a row for which `make` raises
    Unlabelled; one for which it raises Unfit goes into quarantine. Memory: about 150 bytes a text.
    """
    texts: dict[bytes, Split] = {}
    seen: set[bytes] = set()
    for path, published in files(raw).items():
        last = nth = 0
        for number, fields_of in tables.raw_rows(path, fields, intake):
            last, nth = (
                number,
                nth + 1 if number == last else 1,
            )  # a JSON list may have many rows on a line
            group, *shared = keys(fields_of)
            name = digest([published, group])[:20]
            row = Row(
                f"{path.name}:{number}{f'.{nth}' if nth > 1 else ''}",
                published or _part(name),
                f"g{name}",
                fields_of,
            )
            if any(
                [
                    texts.setdefault(bytes.fromhex(digest(text)[:24]), row.split) != row.split
                    for text in shared
                ]
            ):
                intake.leave_out(f"of {row.split}, shares a text with another split")
                continue
            try:
                query = make(row)
            except Unlabelled as error:
                intake.leave_out(str(error))
                continue
            except Unfit as error:
                intake.quarantine(path, number, str(error), fields_of)
                continue
            if (key := bytes.fromhex(query.id)) in seen:
                intake.leave_out("the same question with the same answers was there before")
                continue
            seen.add(key)
            intake.used += 1
            yield query


def files(raw: Path) -> dict[Path, Split | None]:
    """The files of a data set with their splits; None for the one that is all there is. Raises InputError where there is none.

    A split may be in parts, `train-00000-of-00002.parquet`, read in the order of their names.
    """
    if raw.is_file():
        return {raw: None}
    there = (
        sorted(path for path in raw.iterdir() if path.is_file() and path.suffix.lower() in ENDINGS)
        if raw.is_dir()
        else []
    )
    named: dict[Path, Split | None] = {
        path: NAMES[name] for name in NAMES for path in there if PART.sub("", path.stem) == name
    }
    found = {PART.sub("", path.stem) + path.suffix.lower() for path in named}
    if len(found) == 1 or (not named and len(there) == 1):
        return dict.fromkeys(named or there, None)
    if not named:
        raise InputError(
            f"{raw}: no data set here: expected train, dev and test as {', '.join(ENDINGS)}, or one such file"
        )
    if len({NAMES[PART.sub("", path.stem)] for path in named}) < len(found):
        raise InputError(
            f"{raw}: two files for one split: {', '.join(path.name for path in named)}"
        )
    return named


def same(text: str, more: str = "") -> str:
    """A key that a text shares with its near copies: its words in order of the alphabet, whatever their case, number and punctuation.

    Where fewer than three words are left that tell texts apart, those of `more` are added.
    """
    words = {word for word in re.findall(r"\w+", text.casefold()) if word not in STOP}
    return " ".join(
        sorted(
            words
            if len(words) >= FEW or not more
            else words | set(re.findall(r"\w+", more.casefold()))
        )
    )


def taught(queries: Iterable[Query], raw: Path, fields: str) -> Iterator[Query | Demonstration]:
    """Each query, and after it what the policy learns of it: the ideal draft of a training query, where it is known.

    `fields` are those of a raw row that say it, in words. Raises ContractError where none does, or there are no training rows.
    """
    train = count = 0
    for query in queries:
        yield query
        train += query.split == "train"
        if query.split == "train" and query.ideal is not None:
            count += 1
            yield Demonstration(
                prompt=query.prompt, completion=query.ideal, source=query.source, of_query=True
            )
    if not train:
        raise ContractError(
            f"prepare: {raw} has no training row, so there is nothing to learn: it needs a file named train, or more rows"
        )
    if not count:
        raise ContractError(
            f"prepare: none of the {train} training rows of {raw} says what its answer rests on (under {fields}): "
            "set `draft: direct` beside prepare's domain, or give the files that do"
        )


def demonstrations(rows: Iterable[Query | Demonstration]) -> Iterator[Demonstration]:
    """What the policy learns, alone."""
    return (row for row in rows if isinstance(row, Demonstration))


def _part(group: str) -> Split:
    """A tenth is test, a tenth dev; by content, so that no seed and no order of rows moves a row."""
    tenth = int(group, 16) % 10
    return "test" if tenth == 0 else "dev" if tenth == 1 else "train"
