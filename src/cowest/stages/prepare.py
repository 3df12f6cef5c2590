"""Raw rows, as published, become queries and the corpus that specialises the policy."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from cowest import io
from cowest.config import Config
from cowest.domains import AnyDomain
from cowest.domains.mapping import Table
from cowest.domains.table import Source
from cowest.errors import ContractError
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.raw.intake import Intake
from cowest.records import Query


class PrepareConfig(Config):
    """The data set. The settings of a domain stand beside its name."""

    domain: AnyDomain | None = None
    """The data set: one of `cowest.domains` with its settings, as in {domain: medmcqa, draft:
    knowledge}, or `table` for a table of your own."""
    table: Table | None = None
    """With `domain: table`: which column of your table holds what. See docs/your-data.md."""
    max_bad: int | float = Field(default=0, ge=0)
    """The number of raw rows that may be set aside because they can't be used, or their share if
    it is below 1. Raise it if a few broken rows should not stop a turn: they are kept in
    data/quarantine.jsonl. A file that can't be read on stops in any case."""

    @model_validator(mode="before")
    @classmethod
    def _beside(cls, values: Any) -> Any:
        """Gathers the settings of a domain, which stand beside its name, under `domain`."""
        if not isinstance(values, dict) or not isinstance(values.get("domain"), str):
            return values
        given = dict(values)
        if given["domain"] == "table":
            del given["domain"]
            return given
        ours: dict[str, Any] = {}
        for name in ("table", "max_bad"):
            if name in given:
                ours[name] = given.pop(name)
        return ours | {"domain": given}

    def model_post_init(self, _: Any) -> None:
        if (self.table is None) == (self.domain is None):
            raise ValueError(
                "`table` has the columns of `domain: table`, and neither goes without the other"
            )

    @property
    def source(self) -> "AnyDomain | Source":
        """The domain, or the table, that reads the rows."""
        if self.table is not None:
            return Source(self.table)
        assert self.domain is not None, "there is one of the two"
        return self.domain

    def queries(self, raw: Path) -> Iterator[Query]:
        """The queries of the raw data.

        Bad rows are passed over if any are allowed; `main` says whether they are too many. If none
        are allowed, the first one raises RecordError.
        """
        return self.source.load(raw, Intake(self.max_bad or None))


def main(raw: In, queries: Out, corpus: Out, quarantine: Out, config: PrepareConfig) -> None:
    """Writes every query, every demonstration, and what became of every raw row; or nothing.

    Raises RecordError if more raw rows are bad than `max_bad` allows.
    """
    with io.writing(queries) as ask, io.writing(corpus) as teach, io.writing(quarantine) as aside:
        intake = Intake(config.max_bad, aside)
        asked = taught = 0
        try:
            for row in watch(config.source.rows(raw, intake), "prepare"):
                if isinstance(row, Query):
                    ask(row)
                    asked += 1
                else:
                    teach(row)
                    taught += 1
        except ContractError:
            # The contract is on the whole, as when a split has no rows. Too many bad rows may be
            # the cause, and then they are the better message.
            intake.judge()
            raise
        intake.judge()
        intake.close()
    print(f"prepare: {intake.told()}; {asked} queries, {taught} demonstrations", file=sys.stderr)
    if intake.unread:
        print(f"prepare: not read, by their names: {', '.join(intake.unread)}", file=sys.stderr)
    for what, count in intake.notes.items():
        print(f"prepare: in {count} rows {what}", file=sys.stderr)
