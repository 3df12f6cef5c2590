"""Raw rows, as published, become queries and the corpus that specialises the policy."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from cowest import io
from cowest.config import Config
from cowest.domains import AnyDomain
from cowest.domains.table import Source, Table
from cowest.errors import ContractError
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.raw.intake import Intake
from cowest.records import Query


class PrepareConfig(Config):
    """Which data set it is; the domain's own settings stand beside its name."""

    domain: AnyDomain | None = None
    """One of `cowest.domains`, and its settings: `{domain: medmcqa, draft: knowledge}`; or `table`: one of your own."""
    table: Table | None = None
    """The columns of a table of your own: docs/your-data.md."""
    max_bad: int | float = Field(default=0, ge=0)
    """Raw rows that may go into quarantine because they can't be used: a count, or a share where it is below 1. A file that can't be
    read on always stops."""

    @model_validator(mode="before")
    @classmethod
    def _beside(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("domain"), str):
            return values
        if values["domain"] == "table":
            return {name: value for name, value in values.items() if name != "domain"}
        ours = {name: value for name, value in values.items() if name in ("table", "max_bad")}
        return ours | {
            "domain": {name: value for name, value in values.items() if name not in ours}
        }

    def model_post_init(self, _: Any) -> None:
        if (self.table is None) == (self.domain is None):
            raise ValueError(
                "`table` has the columns of `domain: table`, and neither goes without the other"
            )

    @property
    def source(self) -> "AnyDomain | Source":
        """What loads the rows."""
        found = Source(self.table) if self.table is not None else self.domain
        assert found is not None, "there is one of the two"
        return found

    def queries(self, raw: Path) -> Iterator[Query]:
        """What will be asked. Bad rows are passed over where some may be: whether there are too many, `main` says. Raises RecordError."""
        return self.source.load(raw, Intake(self.max_bad or None))


def main(raw: In, queries: Out, corpus: Out, quarantine: Out, config: PrepareConfig) -> None:
    """Writes every query of every split, every demonstration, and what became of every raw row; or nothing.

    Raises RecordError where more raw rows are bad than `max_bad` allows.
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
        except ContractError:  # of the whole: what is wrong with its rows says more
            intake.judge()
            raise
        intake.judge()
        intake.close()
    print(f"prepare: {intake.told()}; {asked} queries, {taught} demonstrations", file=sys.stderr)
