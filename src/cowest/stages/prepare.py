"""Raw rows, as published, become queries and the corpus that specialises the policy."""

from typing import Any

from pydantic import model_validator

from cowest import io
from cowest.config import Config
from cowest.domains import AnyDomain
from cowest.domains.table import Source, Table
from cowest.ports import In, Out
from cowest.progress import watch


class PrepareConfig(Config):
    """Which data set it is; the domain's own settings stand beside its name."""

    domain: AnyDomain | None = None
    """One of `cowest.domains`, and its settings: `{domain: medmcqa, draft: knowledge}`; or `table`: one of your own."""
    table: Table | None = None
    """The columns of a table of your own: docs/your-data.md."""

    @model_validator(mode="before")
    @classmethod
    def _beside(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("domain"), str):
            return values
        own = {name: value for name, value in values.items() if name != "table"}
        named = {} if values["domain"] == "table" else {"domain": own}
        return named | {name: value for name, value in values.items() if name == "table" or (not named and name != "domain")}

    def model_post_init(self, _: Any) -> None:
        if (self.table is None) == (self.domain is None):
            raise ValueError("`table` has the columns of `domain: table`, and neither goes without the other")

    @property
    def source(self) -> "AnyDomain | Source":
        """What loads the rows."""
        found = Source(self.table) if self.table is not None else self.domain
        assert found is not None, "there is one of the two"
        return found


def main(raw: In, queries: Out, corpus: Out, config: PrepareConfig) -> None:
    """Writes every query of every split, and every demonstration."""
    io.write(queries, watch(config.source.load(raw), "prepare queries"))
    io.write(corpus, watch(config.source.corpus(raw), "prepare corpus"))
