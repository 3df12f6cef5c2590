"""Published data sets: their files and splits, with no query or near copy of one in two splits.

A folder with two or more of train (or training), dev (or val, valid, validation) and test (or
testing), as .jsonl, .json or .parquet, has its splits as published. One file, by itself or alone in
its folder, is split by the groups of its rows: a digest of the group says where a row goes.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cowest.config import digest
from cowest.errors import ContractError, InputError
from cowest.raw import tables
from cowest.raw.files import Bad
from cowest.raw.intake import Intake, Unfit
from cowest.records import Demonstration, Query, Split

NAMES: dict[str, Split] = {
    "test": "test",
    "testing": "test",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "train": "train",
    "training": "train",
}
"""Names of files in small letters, and the split that each holds. Held-out splits are read first,
and of rows that share a text the one read first stays: train gives way to dev, and dev to test."""
HELD_OUT = ("test", "dev")
ENDINGS = (".jsonl", ".json", ".parquet")
PART = re.compile(r"-(\d+)-of-(\d+)$")
"""The end of a part's name: its number, counted from 0 or 1, and the number of all parts."""
NAMED = 8
"""Number of files that an error message names."""


class Unlabelled(Exception):
    """Says why a sound row is left out: nobody published which answer is right."""


@dataclass(frozen=True, slots=True)
class SplitRow:
    """A raw row in its split."""

    where: str
    """The row's place, `file:line`. It is unique: `file:line.2` is the second row on its line."""
    split: Split
    group: str
    fields: dict[str, Any]


def queries(
    raw: Path,
    fields: set[str],
    keys: Callable[[dict[str, Any]], Iterable[str]],
    make: Callable[[SplitRow], Query],
    intake: Intake,
) -> Iterator[Query]:
    """The queries that `make` makes of the rows of all splits, test and dev before train.

    `keys` gives the group of a row, and then the texts that other rows may share with it. A row is
    left out if it shares a text with a row of another split, because it would tell the policy what
    the policy is judged on; if its query was there before; or if `make` raises Unlabelled. If
    `make` raises Unfit, the row goes into quarantine. Memory: about 150 bytes per text.

    A query of a published test or dev split that was there before is kept, so that figures are
    over as many rows as those of papers.
    """
    texts: dict[bytes, Split] = {}
    seen: set[bytes] = set()
    found_files = files(raw)
    intake.unread += [path.name for path in _tables(raw) if path not in found_files]
    for path, published in found_files.items():
        last = nth = 0
        for number, found in tables.raw_rows(path, fields):
            if isinstance(found, Bad):
                intake.quarantine(path, number, found.reason, found.raw)
                continue
            # A JSON list may have several rows on one line, and a place must name one row.
            nth = nth + 1 if number == last else 1
            last = number
            where = f"{path.name}:{number}" if nth == 1 else f"{path.name}:{number}.{nth}"
            group, *shared = keys(found)
            name = digest([published, group])[:20]
            row = SplitRow(where, published or _part(name), f"g{name}", found)
            if _shares_with_another_split(shared, row.split, texts):
                intake.leave_out(f"of {row.split}, shares a text with another split")
                continue
            try:
                query = make(row)
            except Unlabelled as error:
                intake.leave_out(str(error))
                continue
            except Unfit as error:
                intake.quarantine(path, number, str(error), found)
                continue
            if published in HELD_OUT:
                query = _told_apart(query, seen)
            key = bytes.fromhex(query.id)
            if key in seen:
                intake.leave_out("the same question with the same answers was there before")
                continue
            seen.add(key)
            intake.used += 1
            yield query


def _told_apart(query: Query, seen: set[bytes]) -> Query:
    """The query itself, or a copy with an id of its own if `seen` has its id.

    The id is a digest of prompt, targets and choices. The copy names its last target once more,
    which changes no score and none of what is asked.
    """
    while bytes.fromhex(query.id) in seen:
        fields = {**vars(query), "targets": (*query.targets, query.targets[-1])}
        del fields["id"]
        query = Query(**fields)
    return query


def _shares_with_another_split(
    shared: Iterable[str], split: Split, texts: dict[bytes, Split]
) -> bool:
    """Notes each text's first split in `texts`; true if one was noted with another split."""
    found = False
    for text in shared:
        # 12 bytes of a digest in place of the text, of which there may be millions. Every text is
        # noted, also those of a row that will be left out.
        first = texts.setdefault(bytes.fromhex(digest(text)[:24]), split)
        found = found or first != split
    return found


def files(raw: Path) -> dict[Path, Split | None]:
    """The files of a data set with their splits; None as the split of a file that has no other.

    A split may be in parts, `train-00000-of-00002.parquet`, read in the order of their names.
    Raises InputError if there is no data set, or a part is missing.
    """
    if raw.is_file():
        return {raw: None}
    there = _tables(raw)
    splits: dict[Split, list[Path]] = {}
    for name, split in NAMES.items():
        for path in there:
            if _unparted(path) == name:
                splits.setdefault(split, []).append(path)
    for paths in splits.values():
        _refuse_torn(raw, paths)
    if len(splits) > 1:
        found: dict[Path, Split | None] = {}
        for split, paths in splits.items():
            found.update(dict.fromkeys(paths, split))
        return found
    if splits:
        return dict.fromkeys(next(iter(splits.values())))
    if len(there) != 1:
        raise InputError(
            f"{raw}: no data set here: expected train, dev and test as {', '.join(ENDINGS)}, or "
            "one such file"
        )
    _refuse_torn(raw, there)
    return dict.fromkeys(there)


def _tables(raw: Path) -> list[Path]:
    """The tables that lie in a folder, by name; none if there is no folder."""
    found = []
    if raw.is_dir():
        for path in sorted(raw.iterdir()):
            # A Mac lays a hidden `._train.jsonl` beside `train.jsonl`.
            hidden = path.name.startswith(".")
            if path.is_file() and path.suffix.lower() in ENDINGS and not hidden:
                found.append(path)
    return found


def _refuse_torn(raw: Path, paths: list[Path]) -> None:
    """Raises InputError if files of one split are neither one file nor all parts of one."""
    parts = [part for part in (PART.search(path.stem) for path in paths) if part is not None]
    names = ", ".join(path.name for path in paths[:NAMED])
    if len(paths) > NAMED:
        names += f" and {len(paths) - NAMED} more"
    wholes = {(_unparted(path), path.suffix.lower()) for path in paths}
    if len(wholes) > 1 or len(parts) not in (0, len(paths)):
        raise InputError(f"{raw}: two files for one split: {names}: leave one of them there")
    numbers = sorted(int(part[1]) for part in parts)
    counts = {int(part[2]) for part in parts}
    from_0 = list(range(len(parts)))
    if parts and (counts != {len(parts)} or numbers not in (from_0, [n + 1 for n in from_0])):
        alone = ""
        if len(paths) == 1:
            whole = PART.sub("", paths[0].stem) + paths[0].suffix
            alone = f", or rename it, as `{whole}`, to use it alone"
        raise InputError(
            f"{raw}: {names}: not all parts of one file, once each, counted from 0 or 1: bring "
            f"those that are missing, or take out what is of another set{alone}"
        )


def _unparted(path: Path) -> str:
    """The name of a file in small letters, without its ending and the number of its part."""
    return PART.sub("", path.stem).casefold()


def taught(queries: Iterable[Query], raw: Path, fields: str) -> Iterator[Query | Demonstration]:
    """Each query, followed by what the policy learns of it: the ideal draft of a training query.

    `fields` names, in words, the fields of a raw row that the ideal draft is made of. Raises
    ContractError if no row has them, or if there are no training rows.
    """
    train = count = 0
    for query in queries:
        yield query
        if query.split != "train":
            continue
        train += 1
        if query.ideal is not None:
            count += 1
            yield Demonstration(
                prompt=query.prompt, completion=query.ideal, source=query.source, of_query=True
            )
    if not train:
        raise ContractError(
            f"prepare: {raw} has no training row, so there is nothing to learn: it needs a file "
            "named train, or more rows"
        )
    if not count:
        raise ContractError(
            f"prepare: none of the {train} training rows of {raw} says what its answer rests on "
            f"(under {fields}): set `draft: direct` beside prepare's domain, or give the files "
            "that do"
        )


def demonstrations(rows: Iterable[Query | Demonstration]) -> Iterator[Demonstration]:
    """The demonstrations among the rows."""
    return (row for row in rows if isinstance(row, Demonstration))


def _part(group: str) -> Split:
    """The split of a group: a tenth is test, a tenth is dev.

    It is drawn by content, so that no seed and no order of rows moves a row.
    """
    tenth = int(group, 16) % 10
    if tenth == 0:
        return "test"
    return "dev" if tenth == 1 else "train"
