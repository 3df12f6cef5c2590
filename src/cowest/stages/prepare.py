"""Raw rows, as published, become queries and the corpus that specialises the policy."""

from typing import Any

from pydantic import model_validator

from cowest import io
from cowest.config import Config
from cowest.domains import AnyDomain
from cowest.ports import In, Out
from cowest.progress import watch


class PrepareConfig(Config):
    """Which data set it is; the domain's own settings stand beside its name."""

    domain: AnyDomain
    """One of `cowest.domains`, and its settings: `{domain: medmcqa, draft: knowledge}`."""

    @model_validator(mode="before")
    @classmethod
    def _beside(cls, values: Any) -> Any:
        return {"domain": values} if isinstance(values, dict) and isinstance(values.get("domain"), str) else values


def main(raw: In, queries: Out, corpus: Out, config: PrepareConfig) -> None:
    """Writes every query of every split, and every demonstration."""
    io.write(queries, watch(config.domain.load(raw), "prepare queries"))
    io.write(corpus, watch(config.domain.corpus(raw), "prepare corpus"))
