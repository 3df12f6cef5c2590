"""Raw rows that `cowest harvest` makes of served answers and people's verdicts.

They lie beside a table, in a file of a fixed name, and a table reads them without a setting.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from cowest.config import complaints, query_id
from cowest.errors import InputError
from cowest.raw import tables
from cowest.raw.files import Bad, Row
from cowest.records import Message, Record

NAME = "cowest-harvest.jsonl"
"""The file, in the raw folder."""
RowSource = Literal["better", "approved", "unclear"]
"""The origin of a target's words.

better: they are a person's. approved: they are an answer of ours, which a person called good or
kept. unclear: a person gave them when our answer was gone, so they may be either's. The policy
learns to say a person's alone; the others are targets and no more.
"""


class Harvested(Record):
    """A conversation that was served, with the right answer that a person gave or approved."""

    id: str = Field(default="", pattern=r"^[0-9a-f]{20}$")
    """The id of its query: the digest of prompt, targets and choices; filled in if left out."""
    prompt: tuple[Message, ...] = Field(min_length=1)
    targets: tuple[str, ...] = Field(min_length=1)
    choices: tuple[str, ...] = ()
    """The options that the prompt shows, of a multiple choice."""
    source: RowSource
    answer: str
    """Id of the answer that the verdict was on."""
    sample: int = Field(ge=0)
    """Number of that answer among those of its request."""
    version: int
    """The policy's version that answered."""
    at: float
    """Time of the verdict, in seconds since 1970."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        found = query_id(self.prompt, self.targets, self.choices)
        if not self.id:
            # As in `Query`: the row is frozen, so the id is written past pydantic.
            self.__dict__["id"] = found
            self.__pydantic_fields_set__.add("id")
        elif self.id != found:
            raise ValueError("id is not the digest of prompt, targets and choices: it was edited")
        return self


def read(path: Path) -> Iterator[tuple[int, Harvested | Bad]]:
    """Yields the rows with their lines. Raises InputError for a file that can't be read on."""
    for number, row in tables.json_rows(path):
        yield number, row if isinstance(row, Bad) else _made(row)


def read_own(path: Path) -> list[Harvested]:
    """Returns the rows of a file that `cowest harvest` wrote; none if there is no file.

    Raises InputError for any other file, since harvest would write over it.
    """
    if not path.exists():
        return []
    found = []
    for number, row in read(path):
        if isinstance(row, Bad):
            raise InputError(
                f"{path}:{number} is no row that harvest wrote ({row.reason}), and harvest writes "
                "over nothing else: move the file away, or name another with --out"
            )
        found.append(row)
    return found


def _made(row: Row) -> Harvested | Bad:
    try:
        return Harvested.model_validate(row)
    except ValidationError as error:
        return Bad(complaints(error), row)
