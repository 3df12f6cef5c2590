"""A table of your own: its columns are mapped in params.yaml, without code (docs/your-data.md).

    {"question": "Where is the Comet pump made?", "a": "Oslo", "b": "Rome", "answer": "A",
     "product": "Comet pump"}

    prepare:
      domain: table
      table: {prompt: "{question}\\n{choices}", choices: [a, b], targets: answer, keyed: letter,
              group: product}

A row that does not fit stops `prepare`, which names the first few with file and line and says how
many there are, unless `prepare.max_bad` lets that many go into quarantine.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from string import ascii_uppercase
from typing import TypeVar

from cowest.config import key
from cowest.domains import harvested
from cowest.domains.cells import (
    Lists,
    NoColumn,
    entries,
    filled,
    in_object,
    labels_beside,
    needed,
    oddity,
    parted_by,
    possible_columns,
    reading,
    text_of,
)
from cowest.domains.mapping import CHOICES, Table
from cowest.domains.options import Keyed, bare_label, option_of
from cowest.errors import ContractError, InputError
from cowest.raw import tables
from cowest.raw.files import Bad, Row
from cowest.raw.harvested import NAME as HARVEST
from cowest.raw.intake import Intake, Unfit, build
from cowest.records import Demonstration, Message, Query, Split
from cowest.sametext import caseless, spaced

NAMED = 5
"""Number of files that an error message names."""
NO_COMPLETION = "no training row has a completion: does prepare.table.corpus name the right column?"

LISTS_READ = {
    "list": (
        "{name!r} holds the text of a list, which is read as several right answers: say "
        "`lists: read` in prepare.table if it is one, `lists: text` if not"
    ),
    "text": (
        "{name!r} looks like a list or an object, and is taken as one text: say `lists: read` in "
        "prepare.table if it is a list, name `{name}.PART` in an object, or `lists: text` if it is "
        "meant so"
    ),
}
"""Notes on texts that look like lists, by the way in which they are read."""
PARTED = (
    "{name!r} holds {mark!r}, and is taken as one right answer: set `separator: {mark!r}` in "
    "prepare.table if it holds several"
)
"""Note on texts in which several right answers seem to stand."""

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Queries and corpus of a table."""

    table: Table

    def rows(self, raw: Path, intake: Intake) -> Iterator[Query | Demonstration]:
        """Queries, each followed by what the policy learns of it, then the corpus's own file.

        Nothing is learned from a held-out row. Raises InputError for a file that can't be read or
        lacks a column, and if there is nothing to learn; ContractError for a split without rows.
        """
        path = file_of(raw, self.table.file)
        corpus = self._corpus_file(raw, path)
        replies: Iterable[Demonstration] = ()
        if corpus is not None:
            replies = self._replies(corpus, intake)
            # A wrong column there stops before the first query is read.
            first = list(islice(replies, 1))
            if not first and not intake.bad:
                raise InputError(f"{corpus}: {NO_COMPLETION}")
            replies = chain(first, replies)
        learned = trained = 0
        for row in chain(self._all_queries(raw, path, intake, learn=corpus is None), replies):
            learned += isinstance(row, Demonstration)
            trained += isinstance(row, Query) and row.split == "train"
            yield row
        # With bad rows this may be their fault, and the intake has the better message.
        if learned or intake.bad:
            return
        if corpus is None and not trained:
            raise InputError(
                f"{path}: no row is of train, so there is nothing to learn: see `values` (or "
                "`shares`) in prepare.table.splits"
            )
        raise InputError(f"{path}: {NO_COMPLETION}")

    def load(self, raw: Path, intake: Intake | None = None) -> Iterator[Query]:
        """The rows as queries. Without an intake, a bad row raises RecordError."""
        path = file_of(raw, self.table.file)
        found = self._all_queries(raw, path, intake or Intake(), learn=False)
        return (row for row in found if isinstance(row, Query))

    def corpus(self, raw: Path) -> Iterator[Demonstration]:
        """Yields the examples for SFT: training rows, or all rows of the corpus's own file."""
        return (row for row in self.rows(raw, Intake()) if isinstance(row, Demonstration))

    def _corpus_file(self, raw: Path, path: Path) -> Path | None:
        """The file that the corpus has to itself; None if it is made of the table's rows."""
        given = self.table.corpus
        if given is None or given.file is None:
            return None
        own = file_of(raw, given.file)
        return None if own.samefile(path) else own

    def _all_queries(
        self, raw: Path, path: Path, intake: Intake, learn: bool
    ) -> Iterator[Query | Demonstration]:
        """The table's queries, and then those that `cowest harvest` laid beside it."""
        beside = harvested.beside(raw, path)
        held: set[str] = set()
        for row in self._queries(path, intake, learn):
            if beside is not None and isinstance(row, Query) and row.split != "train":
                held.add(harvested.asked(row.prompt))
            yield row
        if beside is not None:
            # An answer is no draft, and what is learned of a table may be something else.
            said = learn and self.table.corpus is None and self.table.ideal is None
            yield from harvested.rows(beside, held, intake, said)

    def _queries(self, path: Path, intake: Intake, learn: bool) -> Iterator[Query | Demonstration]:
        table = self.table
        ids: set[int] = set()
        found: Counter[Split] = Counter()

        def make(source: str, row: Row) -> tuple[Query | None, Demonstration | None]:
            if table.id is not None:
                _once(needed(row, table.id), table.id, ids)
            query = self._query(source, row)
            self._note_targets(row, intake)
            if query is None or not learn or query.split != "train":
                return query, None
            return query, self._learned(row, query)

        rows = self._rows(path, intake, table.columns(corpus=learn))
        for query, demonstration in _fitting(path, rows, make, intake):
            if query is None:
                intake.leave_out(f"its {table.splits.column!r} is one of splits.leave_out")
                continue
            intake.used += 1
            found[query.split] += 1
            yield query
            if demonstration is not None:
                yield demonstration
        empty = [split for split in table.splits.wanted() if not found[split]]
        if empty:
            groups = "questions" if table.group is None else f"values of {table.group!r}"
            raise ContractError(
                f"{path}: no row falls into {' or '.join(empty)}: there are too few {groups} for "
                "these shares: set other shares, or another seed, in prepare.table.splits"
            )

    def _replies(self, path: Path, intake: Intake) -> Iterator[Demonstration]:
        """Every row of the corpus's own file."""
        given = self.table.corpus
        assert given is not None, "it names the file"
        completion = given.completion
        asked = self.table.prompt if given.prompt is None else given.prompt
        columns = possible_columns(asked) | possible_columns(completion)
        # The file is looked at before the first query is read, so that a wrong one stops at once.
        rows = tables.rows(path, None, self.table.delimiter, columns, self.table.quotes)

        def make(source: str, row: Row) -> Demonstration | None:
            said = filled(row, completion, optional=True)
            if said is None:
                return None
            prompt = _message(_asked(row, asked, {}))
            return _demonstration(source, prompt, said, of_query=False)

        return _counted(_fitting(path, rows, make, intake), intake)

    def _rows(
        self, path: Path, intake: Intake, columns: set[str]
    ) -> Iterator[tuple[int, Row | Bad]]:
        """The rows of the table, of these columns.

        At the end, raises InputError if a column that may be empty was empty in every row.
        """
        table = self.table
        unseen = set(table.tags)
        if table.ideal is not None:
            unseen.add(table.ideal)
        rows = tables.rows(path, table.format, table.delimiter, columns, table.quotes)
        for number, row in rows:
            if unseen and not isinstance(row, Bad):
                unseen = {name for name in unseen if not _says(row, name)}
            yield number, row
        if unseen and not intake.bad:
            raise InputError(
                f"{path}: no row has anything under {', '.join(map(repr, sorted(unseen)))}: is "
                "the column named so?"
            )

    def _learned(self, row: Row, query: Query) -> Demonstration | None:
        """The example that a training row gives; None if its completion is empty."""
        given = self.table.corpus
        if given is None:
            said = query.ideal or query.targets[0]
            return _demonstration(query.source, query.prompt, said, of_query=True)
        own = _own(query.choices)
        completion = filled(row, given.completion, own, optional=True)
        prompt = query.prompt
        if given.prompt is not None:
            prompt = _message(_asked(row, given.prompt, own))
        if completion is None:
            return None
        return _demonstration(query.source, prompt, completion, of_query=True)

    def drawn_by(self, query: Query) -> str:
        """The name by which `splits.shares` draw the split of one of this table's queries."""
        # The group of a table without a column for it is a digest, with a letter before it.
        return query.group if self.table.group else query.group.removeprefix("g")

    def _query(self, source: str, row: Row) -> Query | None:
        """The row as a query; None if it is to be left out."""
        table = self.table
        choices = self._choices(row)
        own = _own(choices)
        prompt = _asked(row, table.prompt, own)
        group = key(caseless(prompt))[:16] if table.group is None else needed(row, table.group)
        split = table.splits.of(row, group)
        if split is None:
            return None
        for choice in choices:
            # A model can't choose from what it does not see.
            if choice not in prompt:
                raise Unfit(
                    f"the prompt does not show the option {choice[:40]!r}: put {{choices}} into "
                    "prepare.table.prompt"
                )
        tags = []
        for name in table.tags:
            value = text_of(row, name, optional=True)
            if value is not None:
                tags.append(f"{name}: {value}")
        targets = self._targets(row, choices)
        ideal = None
        if table.ideal is not None:
            ideal = filled(row, table.ideal, own, optional=True)
        return build(
            Query,
            group=group if table.group else f"g{group}",
            split=split,
            prompt=_message(prompt),
            targets=targets,
            choices=choices,
            ideal=ideal,
            tags=tuple(tags),
            source=source,
        )

    def _note_targets(self, row: Row, intake: Intake) -> None:
        """Notes right answers that may not say what was meant."""
        for name in self.table.targets:
            odd = oddity(row, name)
            if odd is not None:
                intake.note(f"{name!r} {odd}")
            # A setting says how lists are meant.
            if "lists" not in self.table.model_fields_set:
                how = reading(row, name, self.table.lists)
                if how is not None:
                    intake.note(LISTS_READ[how].format(name=name))
                    continue
            # A target among options names one of them, whatever marks stand in it.
            if self.table.separator is None and not self.table.choices:
                mark = parted_by(row, name)
                if mark is not None:
                    intake.note(PARTED.format(name=name, mark=mark))

    def answers(self, row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The options of a row and its right answers. Raises Unfit and NoColumn."""
        choices = self._choices(row)
        return choices, self._targets(row, choices)

    def _choices(self, row: Row) -> tuple[str, ...]:
        names = self.table.choices
        if not names:
            return ()
        if len(names) == 1 and in_object(row, names[0]):
            choices = tuple(in_object(row, names[0]).values())
        elif len(names) == 1:
            # One text is no multiple choice, so that the text of a list can only be the list.
            lists: Lists = "text" if self.table.lists == "text" else "read"
            choices = tuple(entries(row, names[0], self.table.separator, lists))
        else:
            choices = tuple(needed(row, name) for name in names)
        if not 2 <= len(choices) <= len(ascii_uppercase):
            raise Unfit(
                f"column {', '.join(names)!r} has {len(choices)} options: a multiple choice has 2 "
                f"to {len(ascii_uppercase)}"
            )
        # Options that differ in case alone are two: CO and Co.
        if len({spaced(choice) for choice in choices}) < len(choices):
            raise Unfit("two options say the same")
        return choices

    def _targets(self, row: Row, choices: tuple[str, ...]) -> tuple[str, ...]:
        table = self.table
        if not choices:
            found = self._named(row, table.lists)
            return tuple(found)
        labels = self._labels(row, choices)
        keyed: Keyed = "label" if table.labels is not None else table.keyed
        try:
            # An option may look like a list itself.
            found = self._named(row, "text")
            options = [option_of(target, choices, keyed, labels) for target in found]
        except Unfit:
            lists: Lists = "text" if table.lists == "text" else "read"
            found = self._named(row, lists)
            options = [option_of(target, choices, keyed, labels) for target in found]
        return tuple(dict.fromkeys(options))

    def _named(self, row: Row, lists: Lists) -> list[str]:
        """What the columns of targets say. Raises Unfit if that is nothing."""
        found: list[str] = []
        for name in self.table.targets:
            found += entries(row, name, self.table.separator, lists)
        if not found:
            raise Unfit(f"there is no target: {', '.join(self.table.targets)} is empty")
        return found

    def _labels(self, row: Row, choices: tuple[str, ...]) -> list[str]:
        """The labels that the data gives to the options; empty if it gives none."""
        table = self.table
        if table.labels is None:
            if len(table.choices) > 1:
                return []
            named = in_object(row, table.choices[0])
            return list(named) or labels_beside(row, table.choices[0])
        labels = entries(row, table.labels, table.separator, "read")
        if len(labels) != len(choices):
            raise Unfit(
                f"{table.labels!r} has {len(labels)} labels, and there are {len(choices)} options"
            )
        if len(set(map(bare_label, labels))) < len(labels):
            raise Unfit(f"{table.labels!r} gives two options the same label")
        return labels


def file_of(raw: Path, name: str | None) -> Path:
    """The table's file: `raw` itself, the one that is named, or the only table in the folder.

    Raises InputError.
    """
    if raw.is_file():
        if name is not None and name != raw.name:
            raise InputError(
                f"{raw}: prepare.table.file asks for {name}: name the folder that it is in"
            )
        return raw
    if name is not None:
        path = raw / name
        if not path.is_file():
            problem = "is a folder" if path.is_dir() else "no such file"
            raise InputError(f"{path}: {problem}: prepare.table.file names it")
        return path
    found = []
    if raw.is_dir():
        for part in sorted(raw.iterdir()):
            # Hidden files are none of ours: a Mac lays `._name.csv` beside `name.csv`. Harvested
            # rows are beside the table, whatever its name.
            hidden = part.name.startswith(".") or part.name == HARVEST
            if part.is_file() and part.suffix.lower() in tables.ENDINGS and not hidden:
                found.append(part)
    # A .json file beside a table may be notes on it, such as a schema.
    plain = [part for part in found if part.suffix.lower() != ".json"]
    if len(found) == 1 or len(plain) == 1:
        return (plain or found)[0]
    there = "no table"
    if found:
        names = ", ".join(part.name for part in found[:NAMED])
        there = f"{len(found)} tables ({names})"
    raise InputError(
        f"{raw} has {there}: name one in prepare.table.file; endings are "
        f"{', '.join(tables.ENDINGS)}"
    )


def _fitting(
    path: Path,
    rows: Iterator[tuple[int, Row | Bad]],
    make: Callable[[str, Row], T],
    intake: Intake,
) -> Iterator[T]:
    """Yields what `make` makes of each row and its place, `file:line`.

    A row for which `make` raises Unfit goes into quarantine, and so does a bad one.
    """
    first = True
    for number, row in rows:
        if isinstance(row, Bad):
            intake.quarantine(path, number, row.reason, row.raw)
            continue
        try:
            made = make(f"{path.name}:{number}", row)
        except NoColumn as error:
            # A column that the first row lacks is a wrong setting, and not a bad row.
            if first:
                raise InputError(f"{path}:{number}: {error}") from None
            intake.quarantine(path, number, str(error), row)
        except Unfit as error:
            intake.quarantine(path, number, str(error), row)
        else:
            yield made
        first = False


def _counted(made: Iterable[Demonstration | None], intake: Intake) -> Iterator[Demonstration]:
    """Passes demonstrations on, and counts them; None is a row without a completion."""
    for demonstration in made:
        if demonstration is None:
            intake.leave_out("its completion is empty")
        else:
            intake.used += 1
            yield demonstration


def _once(value: str, column: str, seen: set[int]) -> None:
    """Raises Unfit for a value that was there before."""
    # 64 bits of SipHash in place of the text: a million texts need not be kept.
    number = hash(value)
    if number in seen:
        raise Unfit(f"{column} {value[:40]!r} comes twice")
    seen.add(number)


def _own(choices: tuple[str, ...]) -> dict[str, str]:
    """The places that templates have beside the columns."""
    if not choices:
        return {}
    options = zip(ascii_uppercase, choices, strict=False)
    return {CHOICES: "\n".join(f"{letter}. {choice}" for letter, choice in options)}


def _asked(row: Row, text: str, own: dict[str, str]) -> str:
    asked = filled(row, text, own)
    if asked is None or not asked.strip():
        raise Unfit(f"{text[:60]!r} is empty")
    return asked


def _says(row: Row, text: str) -> bool:
    """True if a column or template has any text in this row."""
    try:
        return filled(row, text, {CHOICES: " "}, optional=True) is not None
    except Unfit:
        # Whoever uses the row says what is wrong with it.
        return True


def _demonstration(
    source: str, prompt: tuple[Message, ...], completion: str, *, of_query: bool
) -> Demonstration:
    return build(
        Demonstration, prompt=prompt, completion=completion, source=source, of_query=of_query
    )


def _message(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)
