"""Raw rows, as published, become queries and the corpus that specialises the policy."""

from typing import Any, Literal

from cowest import io
from cowest.config import Config
from cowest.domains import DomainName, domain
from cowest.domains.table import Source, Table
from cowest.ports import In, Out
from cowest.progress import watch


class PrepareConfig(Config):
    """Which data set it is."""

    domain: DomainName | Literal["table"]
    """One of `cowest.domains`, or `table`: one of your own."""
    table: Table | None = None
    """The columns of a table of your own: docs/your-data.md."""

    def model_post_init(self, _: Any) -> None:
        if (self.table is None) == (self.domain == "table"):
            raise ValueError("`table` has the columns of `domain: table`, and neither goes without the other")


def main(raw: In, queries: Out, corpus: Out, config: PrepareConfig) -> None:
    """Writes every query of every split, and every demonstration."""
    source = domain(config.domain) if config.table is None else Source(config.table)
    io.write(queries, watch(source.load(raw), "prepare queries"))
    io.write(corpus, watch(source.corpus(raw), "prepare corpus"))
