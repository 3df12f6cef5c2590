"""The settings of a table: `prepare.table` in params.yaml says which column holds what."""

from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from cowest.config import Config, digest
from cowest.domains.cells import Lists, needed, possible_columns
from cowest.raw.csv_rows import Quotes
from cowest.raw.files import Row
from cowest.raw.intake import Unfit
from cowest.raw.snapshots import hidden
from cowest.raw.tables import Format
from cowest.records import Split
from cowest.sametext import caseless

SPLITS: tuple[Split, ...] = get_args(Split)
VALUES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation"),
    "test": ("test", "testing"),
}
SHARES: dict[Split, float] = {"train": 0.7, "dev": 0.1, "test": 0.2}
CHOICES = "choices"
"""`{choices}` in a template shows the options of the row, one per line: `A. Oslo`."""


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


ColumnNames = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One column, or several."""


class Splits(Config):
    """The split of each row: trained on (train), tuned on (dev) or judged on (test)."""

    column: str | None = None
    """The column that says which split a row is in. Set it if your data has splits already;
    without it, `shares` decides."""
    values: dict[Split, tuple[str, ...]] = Field(default_factory=lambda: dict(VALUES))
    """With a column: the values that stand for each split, in upper or lower case. Set it if the
    column uses other words, as in {train: [a], test: [b]}."""
    leave_out: tuple[str, ...] = ()
    """With a column: values whose rows are not used, as in [unlabelled]. A value that is named
    neither here nor under `values` is an error."""
    shares: dict[Split, float] = Field(default_factory=lambda: dict(SHARES))
    """Without a column: the share of the groups in each split; together they are 1. A group stays
    in its split, whatever rows come or go."""
    seed: int = 0
    """Without a column: another seed draws other splits. Change it if a split comes out empty."""

    def model_post_init(self, _: Any) -> None:
        shares = self.shares.values()
        if any(share < 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"shares: {self.shares} should be 0 or more each, and 1 together")
        useless = sorted(self.model_fields_set & {"shares", "seed"})
        if self.column is not None and useless:
            raise ValueError(
                f"{' and '.join(useless)}: the column {self.column!r} says the split, so these "
                "have no use: leave them out"
            )
        named = [caseless(value) for value in chain(*self.values.values(), self.leave_out)]
        if len(set(named)) < len(named):
            raise ValueError(
                "values: one value is named twice, here or in leave_out, whatever its case: name "
                "each once"
            )

    def of(self, row: Row, group: str) -> Split | None:
        """The split of a row; None if the row is to be left out. Raises Unfit and NoColumn."""
        if self.column is None:
            return self.drawn(group)
        said = needed(row, self.column)
        value = caseless(said)
        if value in map(caseless, self.leave_out):
            return None
        for split, values in self.values.items():
            if value in map(caseless, values):
                return split
        known = ", ".join(chain(*self.values.values()))
        raise Unfit(
            f"column {self.column!r} says the split {said[:40]!r}, which is none of {known}: set "
            "splits.values or leave_out"
        )

    def drawn(self, group: str) -> Split:
        """The split of a group, drawn by a digest of its name, so that it never moves."""
        point = _point(self.seed, group)
        for split in SPLITS:
            point -= self.shares.get(split, 0.0)
            if point < 0:
                return split
        # Rounding may leave a little over 0 after the last share.
        return max(self.shares, key=self.shares.__getitem__)

    def wanted(self) -> list[Split]:
        """The splits that should have rows."""
        if self.column is not None:
            return []
        return [split for split in SPLITS if self.shares.get(split, 0.0) > 0]


@lru_cache(maxsize=2**16)
def _point(seed: int, group: str) -> float:
    """Maps a group to a point from 0 to below 1, evenly."""
    # 13 hex digits are 52 bits, which a float holds exactly.
    return int(digest([seed, group])[:13], 16) / 16**13


class Corpus(Config):
    """The examples that the policy learns in SFT, before anything is aligned."""

    completion: str
    """The text that the policy learns to say: a column, or a template over columns. Rows in which
    it is empty are left out."""
    prompt: str | None = None
    """The question that goes with it: a column, or a template over columns. By default the
    query's."""
    file: str | None = None
    """Another table in the raw folder, such as an archive of replies, all of whose rows are
    learned. By default the training rows of the table itself are."""


class Table(Config):
    """The role of each column. A column inside another is named with a point: `answers.text`."""

    file: str | None = None
    """The table's file in the raw folder. Needed if the folder has more than one table."""
    format: Format | None = None
    """jsonl, json, csv or parquet. Needed if the file's ending does not say it."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1, pattern='^[^"\\r\\n]$')
    """The character between two fields of CSV, no quote and no line end. By default a comma, or a
    tab in a .tsv file."""
    quotes: Quotes | None = None
    """With CSV: read, if a field that begins with a quote goes on to the next one, or none, if a
    quote is a letter like any other. By default they are read, and a row between tabs that looks as
    if a lone quote had swallowed others is bad."""
    prompt: str
    """The question: a column, or a template over columns, as in "{passage}\\n\\n{question}". In a
    template `{choices}` shows the options, one per line, and {{ and }} are braces."""
    targets: ColumnNames = Field(min_length=1)
    """The right answers: columns that hold one each, or a list. Any of the answers is right."""
    choices: ColumnNames = ()
    """The options of a multiple choice: one column per option, or one column with the list."""
    keyed: Literal["text", "letter", "from_0", "from_1"] = "text"
    """With choices: how a target names its option. By the option's text, by its letter (A, B, ...),
    or by its number, counted from 0 or from 1. Labels that lie beside the options, as
    `choices.label` beside `choices.text`, say which letter or number is whose."""
    labels: str | None = None
    """With choices: a column with the list of the options' labels, in their order, by which targets
    name them. Set it where the labels lie in a column of their own."""
    separator: str | None = Field(default=None, min_length=1)
    """The text between the entries of a list that is written as one text: "|" for
    "Oslo|Kristiania"."""
    lists: Lists = "quoted"
    """Texts of lists under `targets`, such as "['Oslo', 'Kristiania']" in CSV, that are read as
    lists: quoted (lists of texts in quotes), read (those of numbers too), or text (none)."""
    id: str | None = None
    """A column whose values must differ. Set it to have repeated rows refused."""
    group: str | None = None
    """A column that says which rows belong together: one product, one document, one customer. A
    group stays in one split, and confidence intervals resample whole groups. By default rows that
    ask the same are a group."""
    splits: Splits = Splits()
    """The split of each row: trained on, tuned on or judged on."""
    ideal: str | None = None
    """The best draft that could be given, such as an explanation: a column, or a template over
    columns. It sets the ceiling of collaboration, and may be empty in some rows."""
    tags: tuple[str, ...] = ()
    """Columns by whose values the report is broken down, such as the topic."""
    corpus: Corpus | None = None
    """The examples that the policy learns in SFT. By default the training rows, each with its ideal
    draft, or else with its first target."""

    @field_validator("file")
    @classmethod
    def _stays_inside(cls, name: str | None) -> str | None:
        return inside(name)

    @field_validator("corpus")
    @classmethod
    def _corpus_stays_inside(cls, corpus: Corpus | None) -> Corpus | None:
        if corpus is not None:
            inside(corpus.file)
        return corpus

    def model_post_init(self, _: Any) -> None:
        for name in ("keyed", "labels"):
            if name in self.model_fields_set and not self.choices:
                value = getattr(self, name)
                if value not in ("text", None):
                    raise ValueError(
                        f"{name}: {value} has a meaning with `choices` alone: name the columns of "
                        f"the options in `choices`, or leave {name} out"
                    )
        if self.labels is not None and self.keyed in ("from_0", "from_1"):
            raise ValueError(
                f"labels: {self.labels} and keyed: {self.keyed} both say how a target names its "
                "option: leave one of them out"
            )

    def columns(self, corpus: bool) -> set[str]:
        """Every column that a setting names; those of the corpus if it is made of this table."""
        templates = [self.prompt, self.ideal]
        if corpus and self.corpus is not None:
            templates += [self.corpus.completion, self.corpus.prompt]
        named: set[str] = set()
        for template in templates:
            if template is not None:
                named |= possible_columns(template)
        # In a template `{choices}` is a place of our own, whatever columns the table has.
        named.discard(CHOICES)
        named.update(self.targets, self.choices, self.tags)
        for name in (self.id, self.group, self.splits.column, self.labels):
            if name is not None:
                named.add(name)
        return named


def inside(name: str | None) -> str | None:
    """Returns the name of a file in the raw folder.

    Raises ValueError for a file outside of it, and for one that is hidden.
    """
    if name is None:
        return None
    path = PurePosixPath(name)
    # A turn knows the version of its raw folder, and of nothing beside it.
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"file: {name} is not inside the raw data, so that no turn would know its version"
        )
    if hidden(Path(name)):
        raise ValueError(f"file: {name} is hidden, so that no turn would know its version")
    return name
