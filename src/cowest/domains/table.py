"""A table of your own: JSONL, CSV or Parquet, its columns mapped in params.yaml, with no code. docs/your-data.md tells how.

    {"question": "Where is the Comet pump made?", "a": "Oslo", "b": "Rome", "answer": "A", "product": "Comet pump"}

    prepare:
      domain: table
      table: {prompt: "{question}\\n{choices}", choices: [a, b], targets: answer, keyed: letter, group: product}

A row that does not fit stops `prepare`, which names the first few with file and line and says how many there are, unless
`prepare.max_bad` lets that many go into quarantine.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, field_validator

from cowest.config import Config, digest, key
from cowest.domains.cells import NoColumn, columns_of, entries, filled, needed, plain, text_of
from cowest.errors import ContractError, InputError
from cowest.raw import tables
from cowest.raw.intake import Intake, Unfit
from cowest.raw.tables import Format, Row
from cowest.records import Demonstration, Message, Query, Split
from cowest.scorers.normal import normalise

NAMED = 5
"""Rows that an error names."""
SPLITS: tuple[Split, ...] = get_args(Split)
VALUES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation"),
    "test": ("test", "testing"),
}
SHARES: dict[Split, float] = {"train": 0.7, "dev": 0.1, "test": 0.2}
CHOICES = "choices"
"""`{choices}` in a template is the options of the row, a line each: `A. Oslo`."""

T = TypeVar("T")
Maker = Callable[[str, Row], Iterable[T]]
"""Makes records of a row and its place, `file:line`, or none; raises Unfit and NoColumn before it gives any."""

Columns = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]
"""One column, or several."""


class Splits(Config):
    """What is trained on (train), tuned on (dev) and judged on (test)."""

    column: str | None = None
    """The column that says; without one, `shares` decides."""
    values: dict[Split, tuple[str, ...]] = Field(default_factory=lambda: dict(VALUES))
    """What the column says for each split, whatever its case."""
    leave_out: tuple[str, ...] = ()
    """Values of the column whose rows are passed over."""
    shares: dict[Split, float] = Field(default_factory=lambda: dict(SHARES))
    """Without a column: how much of the groups goes where. A group stays where it is, whatever rows come or go."""
    seed: int = 0
    """Another one draws other splits."""

    def model_post_init(self, _: Any) -> None:
        if (
            any(share < 0 for share in self.shares.values())
            or abs(sum(self.shares.values()) - 1) > 1e-6
        ):
            raise ValueError(f"shares: {self.shares} should be 0 or more each, and 1 together")
        both = sorted(self.model_fields_set & {"shares", "seed"}) if self.column is not None else []
        if both:
            raise ValueError(
                f"{' and '.join(both)}: the column {self.column!r} says the split, so these have no use"
            )
        values = [
            plain(value) for found in (*self.values.values(), self.leave_out) for value in found
        ]
        if len(set(values)) < len(values):
            raise ValueError("values: one value is named twice")

    def of(self, row: Row, group: str) -> Split | None:
        """The split of a row; None where it is to be passed over."""
        if self.column is None:
            return self.drawn(group)
        said = needed(row, self.column)
        if plain(said) in map(plain, self.leave_out):
            return None
        found = next(
            (split for split, values in self.values.items() if plain(said) in map(plain, values)),
            None,
        )
        if found is None:
            known = ", ".join(value for values in self.values.values() for value in values)
            raise Unfit(
                f"column {self.column!r} says the split {said[:40]!r}, which is none of {known}: set splits.values or leave_out"
            )
        return found

    def drawn(self, group: str) -> Split:
        """The split of a group by its shares: by a digest, so that it never moves."""
        point = _point(self.seed, group)
        for split in SPLITS:
            point -= self.shares.get(split, 0.0)
            if point < 0:
                return split
        return max(self.shares, key=lambda split: self.shares[split])  # all that rounding leaves

    def wanted(self) -> list[Split]:
        """The splits that should have rows."""
        return (
            []
            if self.column is not None
            else [split for split in SPLITS if self.shares.get(split, 0.0) > 0]
        )


@lru_cache(maxsize=2**16)
def _point(seed: int, group: str) -> float:
    """Where a group lies between 0 and 1."""
    return int(digest([seed, group])[:13], 16) / 16**13


class Corpus(Config):
    """What the policy is specialised on."""

    completion: str
    """What it should say: a column, or a template over columns. Rows where it is empty are passed over."""
    prompt: str | None = None
    """What it is asked; left out, what the query asks."""
    file: str | None = None
    """Another table in the raw folder, all of whose rows are used. Left out, the training rows of the table itself are."""


class Table(Config):
    """Which column is what. A column inside another is named with a point: `answers.text`."""

    file: str | None = None
    """The table, in the raw folder; may be left out where it is the only one."""
    format: Format | None = None
    """jsonl, csv or parquet; left out, the file's ending says."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1, pattern='^[^"\\r\\n]$')
    """CSV: what stands between two fields; left out, a comma, and a tab in a .tsv."""
    prompt: str
    """What is asked: a column, or a template over columns, as in "{passage}\\n\\n{question}". `{choices}` shows the options, a line
    each; {{ and }} are braces."""
    targets: Columns = Field(min_length=1)
    """The right answers: columns with one each, or with a list."""
    choices: Columns = ()
    """The options of a multiple choice: a column each, or one column with the list."""
    keyed: Literal["text", "letter", "from_0", "from_1"] = "text"
    """With choices: how a target names its option: by its text, its letter, or its number from 0 or from 1."""
    separator: str | None = Field(default=None, min_length=1)
    """What stands between the entries of a list that is one text, as in "Oslo|Kristiania"."""
    id: str | None = None
    """A column that must not repeat."""
    group: str | None = None
    """Rows that share their luck (one product, one document): they stay in one split, and intervals resample them together. Left out,
    rows that ask the same are a group."""
    splits: Splits = Splits()
    ideal: str | None = None
    """The best draft that could be given: a column, or a template over columns. May be empty in some rows."""
    tags: tuple[str, ...] = ()
    """Columns whose values the report may show apart."""
    corpus: Corpus | None = None
    """What the policy is specialised on; left out, the training rows, with their ideal draft or else their first target."""

    @field_validator("file")
    @classmethod
    def _stays_inside(cls, name: str | None) -> str | None:
        return _inside(name)

    @field_validator("corpus")
    @classmethod
    def _corpus_stays_inside(cls, corpus: Corpus | None) -> Corpus | None:
        _inside(corpus.file if corpus else None)
        return corpus

    def model_post_init(self, _: Any) -> None:
        if self.keyed != "text" and not self.choices:
            raise ValueError(f"keyed: {self.keyed} has a meaning with `choices` alone")

    def columns(self) -> set[str]:
        """Every column of the table that is named."""
        texts = [
            self.prompt,
            self.ideal,
            *([self.corpus.completion, self.corpus.prompt] if self.corpus else []),
        ]
        named = {name for text in texts if text is not None for name in _asked_for(text)}
        single = {name for name in (self.id, self.group, self.splits.column) if name is not None}
        return (named - {CHOICES}) | single | {*self.targets, *self.choices, *self.tags}


def _inside(name: str | None) -> str | None:
    if name is not None and (
        PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    ):
        raise ValueError(
            f"file: {name} is not inside the raw data, so that no turn would know its version"
        )
    return name


def _asked_for(text: str) -> set[str]:
    """Columns that a setting may mean: `{note?}` is the column `note`, unless there is one of that very name."""
    return {name for found in columns_of(text) for name in (found, found.removesuffix("?"))}


@dataclass(frozen=True)
class Source:
    """Queries and corpus of a table."""

    table: Table

    def rows(self, raw: Path, intake: Intake) -> Iterator[Query | Demonstration]:
        """Queries, each followed by what the policy learns of it; then the file of its own that it learns, where there is one.

        None is learned from a held-out row. Raises InputError for a file that is none or lacks a column, or where nothing is to be
        learned; ContractError for a split without rows.
        """
        given, path, learned = self.table.corpus, file_of(raw, self.table.file), 0
        own = (
            given.file
            if given is not None
            and given.file is not None
            and not file_of(raw, given.file).samefile(path)
            else None
        )
        replies = self._replies(file_of(raw, own), intake) if own is not None else ()
        for row in chain(self._queries(path, intake, learn=own is None), replies):
            learned += isinstance(row, Demonstration)
            yield row
        if not learned and not intake.bad:
            raise InputError(
                f"{path}: no training row has a completion: does prepare.table.corpus name the right column?"
            )

    def load(self, raw: Path, intake: Intake | None = None) -> Iterator[Query]:
        """The rows as queries."""
        found = self._queries(file_of(raw, self.table.file), intake or Intake(), learn=False)
        return (row for row in found if isinstance(row, Query))

    def corpus(self, raw: Path) -> Iterator[Demonstration]:
        """What the policy learns: rows of the training split, or all of a file of its own."""
        return (row for row in self.rows(raw, Intake()) if isinstance(row, Demonstration))

    def _queries(self, path: Path, intake: Intake, learn: bool) -> Iterator[Query | Demonstration]:
        table, ids, found = self.table, set[int](), Counter[Split]()

        def make(source: str, row: Row) -> Iterable[Query | Demonstration]:
            if table.id is not None:
                _once(needed(row, table.id), table.id, ids)
            query = self._query(source, row)
            if query is None:
                intake.leave_out(f"its {table.splits.column!r} is one of splits.leave_out")
                return ()
            demonstration = self._learned(row, query) if learn and query.split == "train" else None
            found[query.split] += 1
            intake.used += 1
            return (query,) if demonstration is None else (query, demonstration)

        yield from _fitting(path, self._rows(path, intake), make, intake)
        empty = [split for split in table.splits.wanted() if not found[split]]
        if empty:
            groups = "questions" if table.group is None else f"values of {table.group!r}"
            raise ContractError(
                f"{path}: no row falls into {' or '.join(empty)}: there are too few {groups} for these shares: "
                "set other shares, or another seed, in prepare.table.splits"
            )

    def _replies(self, path: Path, intake: Intake) -> Iterator[Demonstration]:
        given = self.table.corpus
        assert given is not None, "it names the file"
        asked = self.table.prompt if given.prompt is None else given.prompt
        columns = _asked_for(asked) | _asked_for(given.completion)

        def make(source: str, row: Row) -> Iterable[Demonstration]:
            said = filled(row, given.completion, optional=True)
            if said is None:
                intake.leave_out("its completion is empty")
                return ()
            made = _demonstration(source, _message(_asked(row, asked, {})), said, of_query=False)
            intake.used += 1
            return (made,)

        return _fitting(
            path, tables.rows(path, None, self.table.delimiter, columns, intake), make, intake
        )

    def _rows(self, path: Path, intake: Intake) -> Iterator[tuple[int, Row]]:
        """The rows of the table. Raises InputError, at their end, for a column that may be empty and is so in all of them."""
        table = self.table
        unseen = {name for name in (table.ideal, *table.tags) if name is not None}
        found = tables.rows(path, table.format, table.delimiter, table.columns(), intake)
        for number, row in found:
            unseen = {name for name in unseen if not _says(row, name)}
            yield number, row
            if not unseen:
                yield from found
        if unseen and not intake.bad:
            raise InputError(
                f"{path}: no row has anything under {', '.join(map(repr, sorted(unseen)))}: is the column named so?"
            )

    def _learned(self, row: Row, query: Query) -> Demonstration | None:
        given = self.table.corpus
        if given is None:
            return _demonstration(
                query.source, query.prompt, query.ideal or query.targets[0], of_query=True
            )
        own = _own(query.choices)
        said = filled(row, given.completion, own, optional=True)
        asked = query.prompt if given.prompt is None else _message(_asked(row, given.prompt, own))
        return None if said is None else _demonstration(query.source, asked, said, of_query=True)

    def _query(self, source: str, row: Row) -> Query | None:
        """The row as a query; None where it is to be left out."""
        table = self.table
        choices = self._choices(row)
        own = _own(choices)
        prompt = _asked(row, table.prompt, own)
        group = key(plain(prompt))[:16] if table.group is None else needed(row, table.group)
        split = table.splits.of(row, group)
        if split is None:
            return None
        if (
            choices
            and (hidden := next((choice for choice in choices if choice not in prompt), None))
            is not None
        ):
            raise Unfit(
                f"the prompt does not show the option {hidden[:40]!r}: put {{choices}} into prepare.table.prompt"
            )
        tags = [
            f"{name}: {value}"
            for name in table.tags
            if (value := text_of(row, name, True)) is not None
        ]
        return tables.build(
            Query, group=group if table.group else f"g{group}", split=split, prompt=_message(prompt),
            targets=self._targets(row, choices), choices=choices,
            ideal=None if table.ideal is None else filled(row, table.ideal, own, optional=True),
            tags=tuple(tags), source=source,
        )  # fmt: skip

    def _choices(self, row: Row) -> tuple[str, ...]:
        names = self.table.choices
        if not names:
            return ()
        choices = tuple(
            entries(row, names[0], self.table.separator)
            if len(names) == 1
            else (needed(row, name) for name in names)
        )
        if not 2 <= len(choices) <= len(ascii_uppercase):
            raise Unfit(
                f"column {', '.join(names)!r} has {len(choices)} options: a multiple choice has 2 to {len(ascii_uppercase)}"
            )
        if len({plain(choice) for choice in choices}) < len(choices):
            raise Unfit("two options say the same")
        return choices

    def _targets(self, row: Row, choices: tuple[str, ...]) -> tuple[str, ...]:
        names, separator = self.table.targets, self.table.separator
        found = (
            entries(row, names[0], separator)
            if len(names) == 1
            else [one for name in names for one in entries(row, name, separator)]
        )
        if not found:
            raise Unfit(f"there is no target: {', '.join(self.table.targets)} is empty")
        if not choices:
            return tuple(found)
        return tuple(
            dict.fromkeys(option_of(target, choices, self.table.keyed) for target in found)
        )


def option_of(target: str, choices: tuple[str, ...], keyed: str) -> str:
    """The option that a target names, as the scorer `choice` will find it again."""
    if keyed == "text":
        number = next(
            (number for number, choice in enumerate(choices) if plain(choice) == plain(target)),
            None,
        )
    elif keyed == "letter":
        letter = target.strip().strip("().").upper()
        number = (
            ascii_uppercase.index(letter)
            if len(letter) == 1 and letter in ascii_uppercase
            else None
        )
    else:
        number = (
            int(target) - int(keyed[-1]) if re.fullmatch(r"[0-9]{1,4}", target.strip()) else None
        )
    if number is None or not 0 <= number < len(choices):
        how = {
            "text": "",
            "letter": ", named by its letter",
            "from_0": ", numbered from 0",
            "from_1": ", numbered from 1",
        }[keyed]
        raise Unfit(f"the target {target[:40]!r} is not among the {len(choices)} options{how}")
    alike = sum(normalise(choice) == normalise(choices[number]) for choice in choices) > 1
    return ascii_uppercase[number] if alike else choices[number]


def _once(value: str, column: str, seen: set[int]) -> None:
    number = hash(value)  # 64 bits of SipHash, and no need to keep a million texts
    if number in seen:
        raise Unfit(f"{column} {value[:40]!r} comes twice")
    seen.add(number)


def _own(choices: tuple[str, ...]) -> dict[str, str]:
    """What templates may show beside the columns."""
    return (
        {
            CHOICES: "\n".join(
                f"{ascii_uppercase[number]}. {choice}" for number, choice in enumerate(choices)
            )
        }
        if choices
        else {}
    )


def _asked(row: Row, text: str, own: dict[str, str]) -> str:
    asked = filled(row, text, own)
    if asked is None or not asked.strip():
        raise Unfit(f"{text[:60]!r} is empty")
    return asked


def _says(row: Row, text: str) -> bool:
    try:
        return filled(row, text, {CHOICES: " "}, optional=True) is not None
    except Unfit:  # said where the row is used
        return True


def _demonstration(
    source: str, prompt: tuple[Message, ...], completion: str, *, of_query: bool
) -> Demonstration:
    return tables.build(
        Demonstration, prompt=prompt, completion=completion, source=source, of_query=of_query
    )


def _message(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def file_of(raw: Path, name: str | None) -> Path:
    """The table among the raw data: the file itself, the one that is named, or the only one. Raises InputError."""
    if raw.is_file():
        if name is not None and name != raw.name:
            raise InputError(
                f"{raw}: prepare.table.file asks for {name}: name the folder that it is in"
            )
        return raw
    if name is not None:
        if not (raw / name).is_file():
            raise InputError(
                f"{raw / name}: {'is a folder' if (raw / name).is_dir() else 'no such file'}: prepare.table.file names it"
            )
        return raw / name
    found = (
        sorted(
            part
            for part in raw.iterdir()
            if part.is_file() and part.suffix.lower() in tables.ENDINGS
        )
        if raw.is_dir()
        else []
    )
    if len(found) != 1:
        there = (
            f"{len(found)} tables ({', '.join(part.name for part in found[:NAMED])})"
            if found
            else "no table"
        )
        raise InputError(
            f"{raw} has {there}: name one in prepare.table.file; endings are {', '.join(tables.ENDINGS)}"
        )
    return found[0]


def _fitting(
    path: Path, rows: Iterator[tuple[int, Row]], make: Maker[T], intake: Intake
) -> Iterator[T]:
    """What is made of rows. One that does not fit goes into quarantine; a first one without a column says that the mapping is wrong."""
    first, name = True, path.name
    for number, row in rows:
        try:
            yield from make(f"{name}:{number}", row)
        except NoColumn as error:
            if first:
                raise InputError(f"{path}:{number}: {error}") from None
            intake.quarantine(path, number, str(error), row)
        except Unfit as error:
            intake.quarantine(path, number, str(error), row)
        first = False
